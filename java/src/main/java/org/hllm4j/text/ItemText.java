package org.hllm4j.text;

import java.util.List;
import java.util.function.Function;
import org.hllm4j.HllmException;

/**
 * The text that stands for an item: the prompt, then {@code "key: value"} for each text key that has a value, with
 * nothing in between.
 *
 * @param keys text keys in the order in which they appear, at least one
 */
public record ItemText(List<String> keys) {
    /** How every item text begins. */
    public static final String PROMPT = "Compress the following sentence into embedding: ";

    public ItemText {
        keys = List.copyOf(keys);
        if (keys.isEmpty()) {
            throw new HllmException("no text keys: all items would have the same text; name columns of items.csv");
        }
    }

    /**
     * Text of one item.
     *
     * @param fieldByKey value of a text key; null or empty is no value, anything else ("NA", "null") is text
     */
    public String of(Function<String, String> fieldByKey) {
        StringBuilder text = new StringBuilder(PROMPT);
        for (String key : keys) {
            String value = fieldByKey.apply(key);
            if (value != null && !value.isEmpty()) {
                text.append(key).append(": ").append(value);
            }
        }
        return text.toString();
    }
}
