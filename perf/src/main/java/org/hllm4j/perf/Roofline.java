package org.hllm4j.perf;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import org.hllm4j.HllmException;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Weight;
import org.hllm4j.weights.ModelConfig;

/**
 * What the machine can do at most, measured in the same run: memory bandwidth, and of each shape the fastest matrix
 * product of ours and of every other library found. A shape that is asked for is measured once.
 */
final class Roofline {
    static final String OURS = "hllm";
    static final String READ = "read bandwidth";
    static final String COPY = "copy bandwidth";
    private static final String BF16 = "hllm, bf16 weights";

    private final Context context;
    private final Settings settings;
    private final List<Blas> libraries;
    private final int[] rows;
    private final Map<Work.Gemm, Map<String, Timing>> measured = new HashMap<>();
    private Timing read;
    private Timing copy;

    Roofline(Context context, Settings settings, List<Blas> libraries) {
        this.context = context;
        this.settings = settings;
        this.libraries = libraries;
        rows = settings.quick() ? new int[] {1, 64, 512} : new int[] {1, 8, 64, 256, 1024, 4096};
    }

    // ---- Bandwidth --------------------------------------------------------------------------------------------------

    private long bandwidthBytes() {
        return settings.quick() ? 64L << 20 : 512L << 20;
    }

    /** Bytes per second, reading. */
    double readBytes() {
        measureBandwidth();
        return bandwidthBytes() / read.median();
    }

    /** Bytes per second, those read and those written. */
    double copyBytes() {
        measureBandwidth();
        return 2.0 * bandwidthBytes() / copy.median();
    }

    private void measureBandwidth() {
        if (copy != null) {
            return;
        }
        long count = bandwidthBytes() / Float.BYTES;
        try (Tensor a = context.zeros(DType.F32, count);
                Tensor b = context.zeros(DType.F32, count);
                Tensor norm = context.zeros(DType.F32, 1)) {
            Ops ops = context.ops();
            ops.fill(a, 1); // zeros may not be memory yet
            read = Timing.of(settings, () -> ops.norm(norm, a));
            if (Math.abs(norm.scalar() / Math.sqrt(count) - 1) > 1e-5) {
                throw new HllmException("the norm of " + count + " ones is " + norm.scalar());
            }
            copy = Timing.of(settings, () -> ops.convert(b, a));
        }
    }

    void bandwidthRows(Rows into) {
        into.section("roofline", "bandwidth", () -> {
            String size = bandwidthBytes() / 1_000_000 + " MB";
            double reading = readBytes() / 1e9;
            into.add(Row.of("roofline", READ, size, read).arithmetic(Row.Rate.of(reading, "GB/s")));
            into.add(Row.of("roofline", COPY, size, copy).arithmetic(Row.Rate.of(copyBytes() / 1e9, "GB/s")));
        });
    }

    // ---- Matrix products --------------------------------------------------------------------------------------------

    /** FLOP/s of the fastest library at this shape, with the nearest measured number of rows. */
    double flops(Work.Gemm gemm) {
        int nearest = Arrays.stream(rows)
                .boxed()
                .min(Comparator.comparingDouble(m -> Math.abs(Math.log((double) m / gemm.m()))))
                .orElseThrow();
        Work.Gemm shape = gemm.rows(nearest);
        double seconds = times(shape).entrySet().stream()
                .filter(e -> !e.getKey().equals(BF16))
                .mapToDouble(e -> e.getValue().median())
                .min()
                .getAsDouble();
        return shape.flops() / seconds;
    }

    /** A row for each library, layer of the model, and number of rows. */
    void gemmRows(Rows into, String model, ModelConfig config) {
        Work.layer(config).forEach((layer, one) -> {
            for (int m : rows) {
                Work.Gemm gemm = one.rows(m);
                String name = model + " " + layer;
                into.section(
                        "gemm",
                        name + " " + m + " rows",
                        () -> times(gemm).forEach((library, time) -> {
                            Row row = Row.of("gemm", name + ", " + library, gemm.toString(), time);
                            double bytes = gemm.n() * gemm.k() * (library.equals(BF16) ? 2.0 : 4.0);
                            into.add(
                                    m == 1 // reads the weights and hardly computes
                                            ? row.arithmetic(bytes, "GB/s", readBytes(), READ)
                                            : row.arithmetic(gemm.flops(), "GFLOP/s", flops(gemm), "best GEMM f32"));
                        }));
            }
        });
    }

    private Map<String, Timing> times(Work.Gemm gemm) {
        return measured.computeIfAbsent(gemm, this::measure);
    }

    private Map<String, Timing> measure(Work.Gemm gemm) {
        Map<String, Timing> times = new LinkedHashMap<>();
        Ops ops = context.ops();
        try (Arena arena = Arena.ofShared()) {
            MemorySegment x = random(arena, gemm.m() * gemm.k(), 1);
            MemorySegment w = random(arena, gemm.n() * gemm.k(), 2);
            try (Tensor c = context.zeros(DType.F32, gemm.m(), gemm.n());
                    Tensor a = context.wrap(x.asByteBuffer(), DType.F32, gemm.m(), gemm.k());
                    Tensor b = context.wrap(w.asByteBuffer(), DType.F32, gemm.n(), gemm.k());
                    Weight weight = context.weight(b, DType.F32);
                    Weight narrow = context.weight(b, DType.BF16)) {
                times.put(OURS, time(gemm, OURS, x, w, 1e-5, () -> ops.linearForward(c, a, weight, false), c));
                times.put(BF16, time(gemm, BF16, x, w, 1e-2, () -> ops.linearForward(c, a, narrow, false), c));
            }
            MemorySegment out = arena.allocate(Float.BYTES * gemm.m() * gemm.n(), 64);
            try (Tensor c = context.wrap(out.asByteBuffer(), DType.F32, gemm.m(), gemm.n())) {
                for (Blas blas : libraries) {
                    out.fill((byte) 0);
                    times.put(
                            blas.name(), time(gemm, blas.name(), x, w, 1e-5, () -> blas.multiply(gemm, out, x, w), c));
                }
            }
        }
        return times;
    }

    /** Checks some elements of the product against double precision, then times it. */
    private Timing time(
            Work.Gemm gemm,
            String library,
            MemorySegment x,
            MemorySegment w,
            double tolerance,
            Runnable product,
            Tensor c) {
        product.run();
        SplittableRandom random = new SplittableRandom(3);
        for (int sample = 0; sample < 5; sample++) {
            long i = sample == 0 ? gemm.m() - 1 : random.nextLong(gemm.m());
            long j = sample == 0 ? gemm.n() - 1 : random.nextLong(gemm.n());
            double exact = 0;
            double magnitude = 0;
            for (long k = 0; k < gemm.k(); k++) {
                double term = (double) x.getAtIndex(ValueLayout.JAVA_FLOAT, i * gemm.k() + k)
                        * w.getAtIndex(ValueLayout.JAVA_FLOAT, j * gemm.k() + k);
                exact += term;
                magnitude += Math.abs(term);
            }
            float[] found = new float[1];
            c.read(i * gemm.n() + j, found, 0, 1);
            if (!(Math.abs(found[0] - exact) <= tolerance * magnitude)) {
                throw new HllmException(library + " computed the product " + gemm + " wrongly: element [" + i + ", " + j
                        + "] is " + found[0] + ", not " + exact);
            }
        }
        return Timing.of(settings, product);
    }

    /** Uniform in [-1, 1). */
    private static MemorySegment random(Arena arena, long count, long seed) {
        MemorySegment values = arena.allocate(Float.BYTES * count, 64);
        SplittableRandom random = new SplittableRandom(seed);
        for (long i = 0; i < count; i++) {
            values.setAtIndex(ValueLayout.JAVA_FLOAT, i, random.nextInt() * 0x1p-31f);
        }
        return values;
    }
}
