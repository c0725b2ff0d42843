package org.hllm4j.data;

import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.hllm4j.HllmException;

/**
 * Which events were liked, as a column of the log says: {@code label} (a column of zeros and ones) or a comparison with a
 * number, such as {@code rating>=8}.
 *
 * @param column name of the column
 * @param comparison null: the column holds the labels themselves
 * @param bound what its values are compared with
 */
public record LabelRule(String column, Comparison comparison, double bound) {
    /** How a value is compared. */
    public enum Comparison {
        AT_LEAST(">="),
        AT_MOST("<="),
        EQUAL("=="),
        UNEQUAL("!="),
        ABOVE(">"),
        BELOW("<");

        private final String sign;

        Comparison(String sign) {
            this.sign = sign;
        }
    }

    private static final Pattern RULE = Pattern.compile("\\s*([^<>=!]+?)\\s*(?:(>=|<=|==|!=|>|<)\\s*(\\S+)\\s*)?");

    /** @throws HllmException when the text is neither a column nor a comparison with a number */
    public static LabelRule parse(String text) {
        Matcher matcher = RULE.matcher(text);
        try {
            if (matcher.matches() && matcher.group(2) == null) {
                return new LabelRule(matcher.group(1), null, 0);
            }
            if (matcher.matches()) {
                for (Comparison comparison : Comparison.values()) {
                    if (comparison.sign.equals(matcher.group(2))) {
                        return new LabelRule(matcher.group(1), comparison, Double.parseDouble(matcher.group(3)));
                    }
                }
            }
        } catch (NumberFormatException e) {
            // said below
        }
        throw new HllmException(
                "label rule \"" + text + "\": expected a column that holds 0 and 1, or a comparison with"
                        + " a number (>=, <=, ==, !=, >, <), for example \"rating>=8\"");
    }

    /**
     * 1 or 0, or NaN for an event without a value, which is history only.
     *
     * @throws HllmException when the column holds the labels themselves and the value is none
     */
    public float label(double value) {
        if (Double.isNaN(value)) {
            return Float.NaN;
        }
        if (comparison == null && value != 0 && value != 1) {
            throw new HllmException("column \"" + column + "\" holds " + value + ", which is no label: give a rule, for"
                    + " example \"" + column + ">=" + value + "\"");
        }
        boolean liked = comparison == null
                ? value == 1
                : switch (comparison) {
                    case AT_LEAST -> value >= bound;
                    case AT_MOST -> value <= bound;
                    case EQUAL -> value == bound;
                    case UNEQUAL -> value != bound;
                    case ABOVE -> value > bound;
                    case BELOW -> value < bound;
                };
        return liked ? 1 : 0;
    }

    /** The rule as {@link #parse} takes it. */
    @Override
    public String toString() {
        String number = bound == (long) bound ? Long.toString((long) bound) : Double.toString(bound);
        return comparison == null ? column : column + comparison.sign + number;
    }
}
