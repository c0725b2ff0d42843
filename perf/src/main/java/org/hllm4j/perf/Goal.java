package org.hllm4j.perf;

import java.util.List;
import java.util.function.Function;
import java.util.regex.Pattern;

/**
 * What a row is to reach.
 *
 * @param work in words
 * @param rows the rows it is measured by: those whose key matches
 * @param against what the row is compared with
 */
record Goal(String work, Pattern rows, String against, Measure measure, double target) {
    /** A figure of a row; null where the row has none. */
    enum Measure {
        RATIO("x as fast", true, row -> row.peer() == null ? null : row.peer().ratio()),
        FRACTION(
                "of it",
                true,
                row -> row.arithmetic() == null ? null : row.arithmetic().fraction()),
        MEMORY("GiB", false, row -> row.memoryGb() == null ? null : row.memoryGb() * 1e9 / (1L << 30)),
        MEMORY_RATIO(
                "x its memory",
                false,
                row -> row.memoryGb() == null || row.peerMemoryGb() == null
                        ? null
                        : row.memoryGb() / row.peerMemoryGb()),
        MILLISECONDS(
                "ms", false, row -> row.time() == null ? null : 1e3 * row.time().median()),
        MFU(
                "MFU",
                true,
                row -> row.useful().stream()
                        .filter(rate -> rate.unit().equals(Gpu.MFU))
                        .findFirst()
                        .map(Row.Rate::value)
                        .orElse(null)),
        OUTSIDE(
                "% of the time",
                false, row -> row.profile() == null ? null : 100 * row.profile().outside());

        final String unit;
        final boolean atLeast;
        final Function<Row, Double> of;

        Measure(String unit, boolean atLeast, Function<Row, Double> of) {
            this.unit = unit;
            this.atLeast = atLeast;
            this.of = of;
        }
    }

    /** @param margin 1 is the goal, 1.1 a tenth better */
    record Outcome(String goal, String row, double target, double measured, boolean reached, double margin) {}

    private static final String FIRST = "embed %s, first items, cut at 64, 512 items";
    private static final String BOTH = "(movietweetings-100k|amazon-beauty)";
    private static final String EMBED = "hf_hllm.py embed";

    static final List<Goal> ALL = List.of(
            goal("embed movietweetings", FIRST.formatted("movietweetings-100k"), EMBED, Measure.RATIO, 1.8),
            goal("embed beauty", FIRST.formatted("amazon-beauty"), EMBED, Measure.RATIO, 1.7),
            goal("arithmetic", FIRST.formatted(BOTH), "best library GEMM at these shapes", Measure.FRACTION, 0.92),
            goal("whole catalogue", "embed " + BOTH + ", whole.*", EMBED, Measure.RATIO, 1.9),
            goal("long texts", "embed amazon-industrial, first items, cut at 256.*", EMBED, Measure.RATIO, 2.1),
            goal("training step", "train .*4 users x 10 events", "hf_hllm.py train", Measure.RATIO, 4),
            goal("large training step", "train .*8 users x 20 events", "peak of the process", Measure.MEMORY, 10),
            goal("InfoNCE", "op InfoNCE.*1024 x 28672.*", "torch", Measure.RATIO, 1.8),
            goal("InfoNCE, extra memory", "op InfoNCE.*1024 x 28672.*", "torch", Measure.MEMORY_RATIO, 0.25),
            goal("top 10, 64 users", "op top 10 for 64 users, 1000000.*", "torch matmul + topk", Measure.RATIO, 2),
            // "At read bandwidth", less what a measurement of it varies.
            goal("top 10, one user", "op top 10 for one user, 1000000.*", Roofline.READ, Measure.FRACTION, 0.95),
            goal(
                    "a user's event, f32",
                    "user event and \\[USER\\], f32.*",
                    "hf_hllm.py user, cached",
                    Measure.RATIO,
                    2.6),
            goal(
                    "a user's event, bf16",
                    "user event and \\[USER\\], bf16.*",
                    "hf_hllm.py user, cached",
                    Measure.RATIO,
                    5),
            // 1 / 1.3: at most 1.3 times as long as reading the weights once.
            goal(
                    "a user's event, weights read once",
                    "user event and \\[USER\\], .*",
                    Roofline.READ,
                    Measure.FRACTION,
                    0.77),
            goal("early candidates", "user early candidates, .*", "sequences of their own", Measure.RATIO, 35),
            goal("64 users at once", "user event of each, .*", "one user after the other", Measure.RATIO, 10),
            goal("outside native operations", FIRST.formatted(BOTH), "the whole time", Measure.OUTSIDE, 3),
            goal("memory, bf16 weights", "memory .*bf16.*", "transformers process", Measure.MEMORY_RATIO, 0.5));

    private static final String TINY = "gpu (op|model) TinyLlama-1.1B ";

    /** Of a GPU: of one H100, in bf16. */
    static final List<Goal> GPU = List.of(
            goal("catalogue embedding", TINY + "catalogue embedding.*", "the card's datasheet", Measure.MFU, 0.6),
            goal("training step", TINY + "training step.*", "the card's datasheet", Measure.MFU, 0.5),
            goal(
                    "short attention",
                    TINY + "attention forward, .* x (32|64|128|256)",
                    Roofline.COPY,
                    Measure.FRACTION,
                    0.8),
            goal("InfoNCE", TINY + "InfoNCE.*", "peak GEMM", Measure.FRACTION, 0.6),
            goal("one event more", TINY + "append by graph.*", "time on the device", Measure.MILLISECONDS, 1),
            goal("top 200", TINY + "top 200.*", "time on the device", Measure.MILLISECONDS, 1.6));

    private static Goal goal(String work, String rows, String against, Measure measure, double target) {
        return new Goal(work, Pattern.compile(rows), against, measure, target);
    }

    /** In words. */
    String wanted() {
        return (measure.atLeast ? "≥ " : "≤ ") + Report.number(target) + " " + measure.unit;
    }

    /** Null where the row says nothing about this goal. */
    Outcome of(Row row) {
        Double measured = row.ok() && rows.matcher(row.key()).matches() ? measure.of.apply(row) : null;
        if (measured == null) {
            return null;
        }
        double margin = measure.atLeast ? measured / target : target / measured;
        return new Outcome(work, row.name(), target, measured, margin >= 1, margin);
    }

    /** What keeps a row from more, as far as the row shows. */
    static String limit(Row row) {
        String arithmetic = row.arithmetic() == null || row.arithmetic().fraction() == null
                ? ""
                : Report.text(
                        "%.2f of %s",
                        row.arithmetic().fraction(), row.arithmetic().roofline());
        String profile = row.profile() == null ? row.note() : row.profile().text();
        return arithmetic.isEmpty() || profile.isEmpty() ? arithmetic + profile : arithmetic + "; " + profile;
    }
}
