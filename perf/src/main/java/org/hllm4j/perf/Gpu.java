package org.hllm4j.perf;

import java.util.Locale;
import org.hllm4j.HllmException;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Event;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Weight;

/**
 * The GPU that is measured: its clock, and its limits as found in the same run. Every operation has to agree with the CPU on
 * a few rows before it is timed.
 */
final class Gpu implements AutoCloseable {
    static final String MFU = "MFU";
    private static final String PEAK = "gpu peak";
    private static final String PRODUCTS = "peak GEMM, bf16";
    private static final double SECONDS = 5e-3; // on the device between two looks at its clock
    private static final int MAX_CALLS = 1000;

    final Context context;
    final Settings settings;
    final Rows rows;
    private final Card card;
    private double products; // FLOP/s; 0: not yet measured
    private double copy; // bytes per second

    Gpu(String device, Card card, Settings settings, Rows rows) {
        this.card = card;
        this.settings = settings;
        this.rows = rows;
        context = Context.open(device);
    }

    /**
     * An operation on its inputs.
     *
     * @param flops of a run
     * @param bytes that a run has to read and write
     * @param results of the first run, float32 or bf16
     */
    record Case(Runnable run, double flops, double bytes, Tensor... results) {}

    /** Makes the same case on any device, of any number of rows. */
    interface Maker {
        Case make(Inputs inputs, int rows);
    }

    // ---- Limits -----------------------------------------------------------------------------------------------------

    /** The fastest products in float32 too, which nothing else is compared with. */
    void peaks() {
        rows.section(PEAK, "GEMM and copy", () -> {
            limits();
            try (Context f32 = Context.open(context.device(), DType.F32)) {
                gemm(f32);
            }
        });
    }

    private void limits() {
        if (products > 0) {
            return;
        }
        products = gemm(context);
        int count = settings.quick() ? 1 << 16 : 1 << 28;
        Timing time = time(context, "copy", 64, count, Gpu::copy);
        copy = 8.0 * count / time.median();
        add(Row.of(PEAK, "copy", count + " x f32", time).arithmetic(Row.Rate.of(copy / 1e9, "GB/s")));
    }

    /** FLOP/s of the fastest of some large products. */
    private double gemm(Context where) {
        String name = "GEMM " + where.activations().name().toLowerCase(Locale.ROOT);
        double best = 0;
        for (int n : settings.quick() ? new int[] {64} : new int[] {4096, 8192, 16384}) {
            Timing time = time(where, name, 64, n, Gpu::product);
            double rate = 2.0 * n * n * n / time.median();
            best = Math.max(best, rate);
            add(Row.of(PEAK, name, n + "^3", time).arithmetic(Row.Rate.of(rate / 1e12, "TFLOP/s")));
        }
        return best;
    }

    private static Case copy(Inputs inputs, int count) {
        Tensor from = inputs.floats(count);
        Tensor to = inputs.zeros(count);
        return new Case(() -> inputs.ops.convert(to, from), 0, 8.0 * count, to);
    }

    private static Case product(Inputs inputs, int n) {
        Tensor x = inputs.random(n, n);
        Tensor y = inputs.empty(n, n);
        Weight w = inputs.weight(n, n);
        return new Case(() -> inputs.ops.linearForward(y, x, w, false), 2.0 * n * n * n, 6.0 * n * n, y);
    }

    // ---- Measuring --------------------------------------------------------------------------------------------------

    /** Checks the operation at {@code few} rows, times it at {@code all}, and compares with the limit that binds it. */
    Row measure(String group, String name, String size, int few, int all, Maker maker) {
        limits();
        Case[] made = new Case[1];
        Timing time = time(context, name, few, all, (inputs, n) -> made[0] = maker.make(inputs, n));
        return rated(Row.of(group, name, size, time), made[0].flops, made[0].bytes);
    }

    /** Adds the rate of what takes longer at the card's limits, products or memory. */
    Row rated(Row row, double flops, double bytes) {
        limits();
        double seconds = row.time().median();
        return row.arithmetic(
                flops / products > bytes / copy
                        ? Row.Rate.of(flops / seconds / 1e12, "TFLOP/s", products / 1e12, PRODUCTS)
                        : Row.Rate.of(bytes / seconds / 1e9, "GB/s", copy / 1e9, Roofline.COPY));
    }

    /** Adds the model FLOP utilisation, of what the card's maker gives for it. */
    Row mfu(Row row, double flops) {
        return card.datasheet() == null
                ? row
                : row.useful(Row.Rate.of(flops / row.time().median() / card.datasheet(), MFU));
    }

    void add(Row row) {
        String clocks = Card.clocks();
        rows.add(clocks.isEmpty() ? row : row.note((row.note() + "; " + clocks).replaceFirst("^; ", "")));
    }

    private Timing time(Context where, String name, int few, int all, Maker maker) {
        check(where, name, few, maker);
        try (Inputs inputs = new Inputs(where)) {
            return time(where, maker.make(inputs, all).run);
        }
    }

    /** By the device's clock: of some calls in a row, so that it need not wait for their launches. */
    Timing time(Runnable call) {
        return time(context, call);
    }

    private Timing time(Context where, Runnable call) {
        try (Event begin = where.event();
                Event end = where.event()) {
            elapsed(where, begin, end, call, 1); // chooses algorithms, reserves memory
            int calls = (int) Math.clamp(SECONDS / elapsed(where, begin, end, call, 1), 1, MAX_CALLS);
            Timing all = Timing.ofRuns(settings, () -> elapsed(where, begin, end, call, calls));
            return new Timing(all.median() / calls, all.min() / calls, all.max() / calls, all.runs());
        }
    }

    private static double elapsed(Context where, Event begin, Event end, Runnable call, int calls) {
        begin.record(where);
        for (int i = 0; i < calls; i++) {
            call.run();
        }
        end.record(where);
        return begin.secondsTo(end);
    }

    // ---- Checking ---------------------------------------------------------------------------------------------------

    private static void check(Context where, String name, int few, Maker maker) {
        try (Context cpu = Context.open("cpu");
                Inputs theirs = new Inputs(cpu);
                Inputs ours = new Inputs(where)) {
            Case expected = maker.make(theirs, few);
            Case found = maker.make(ours, few);
            expected.run.run();
            found.run.run();
            for (int i = 0; i < expected.results.length; i++) {
                compare(name + ", result " + i, floats(ours, found.results[i]), floats(theirs, expected.results[i]));
            }
        }
    }

    private static float[] floats(Inputs inputs, Tensor tensor) {
        Tensor wide = inputs.zeros(tensor.shape());
        inputs.ops.convert(wide, tensor);
        return wide.toFloats();
    }

    /** By the norm of the difference over the norm, as in {@code golden/}. */
    static void compare(String what, float[] found, float[] expected) {
        double difference = 0;
        double square = 0;
        for (int i = 0; i < expected.length; i++) {
            difference += Math.pow(found[i] - (double) expected[i], 2);
            square += Math.pow(expected[i], 2);
        }
        double error = Math.sqrt(difference / square);
        if (!(error < 0.03)) { // inputs and results of bf16 have 8 bits; the tests are stricter
            throw new HllmException(what + " differs from the CPU's by " + error + " of its norm");
        }
    }

    @Override
    public void close() {
        context.close();
    }
}
