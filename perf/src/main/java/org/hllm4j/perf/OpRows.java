package org.hllm4j.perf;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.function.ToDoubleFunction;
import java.util.stream.DoubleStream;
import org.hllm4j.HllmException;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Plan;
import org.hllm4j.engine.PlanSpec;
import org.hllm4j.engine.Tensor;
import org.hllm4j.weights.ModelConfig;

/** Single operations: the loss, retrieval, the optimiser, attention; beside {@code torch_ops.py} where there is a peer. */
final class OpRows implements AutoCloseable {
    static final String GROUP = "op";
    private static final int WIDTH = 576;
    private static final int K = 10;
    private static final int PART = 10_000; // rows copied at a time
    private static final String CHECK = "random inputs there; here a small loss, one query and the roofline's products"
            + " are checked in double precision";
    private static final int BLOCK = 1 << 18; // elements filled at a time

    private final Session session;
    private final Context context;
    private final Ops ops;
    private final boolean quick;

    OpRows(Session session) {
        this.session = session;
        context = Context.open(session.context.device()); // its scratch memory is not yet there: the loss's is measured
        ops = context.ops();
        quick = session.settings.quick();
    }

    /** Uniform in [-1, 1); the caller closes it. */
    static Tensor random(Context context, long rows, long columns) {
        Tensor tensor = context.zeros(DType.F32, rows, columns);
        float[] block = new float[BLOCK];
        for (long at = 0; at < rows * columns; at += BLOCK) {
            int count = (int) Math.min(BLOCK, rows * columns - at);
            SplittableRandom random = new SplittableRandom(rows ^ at);
            for (int i = 0; i < count; i++) {
                block[i] = random.nextInt() * 0x1p-31f;
            }
            tensor.write(at, block, 0, count);
        }
        return tensor;
    }

    @Override
    public void close() {
        context.close();
    }

    void measure() {
        session.rows.section(GROUP, "infonce topk torch_ops", this::besideTorch);
        session.rows.section(GROUP, "adamw", this::adamw);
        for (int length : quick ? new int[] {16, 64} : new int[] {16, 32, 64, 128, 256}) {
            session.rows.section(GROUP, "attention " + length + " tokens", () -> attention(length, "tokens"));
        }
        for (int length : quick ? new int[] {10} : new int[] {10, 50, 200, 1000}) {
            session.rows.section(GROUP, "attention " + length + " events", () -> attention(length, "events"));
        }
    }

    // ---- What torch_ops.py does too ---------------------------------------------------------------------------------

    /** An operation and the peer's: how long its answer says that took. */
    private record Op(
            String name,
            String size,
            Runnable call,
            ToDoubleFunction<Peer.Answer> peer,
            List<Double> ours,
            List<Double> theirs) {
        Op(String name, String size, Runnable call, ToDoubleFunction<Peer.Answer> peer) {
            this(name, size, call, peer, new ArrayList<>(), new ArrayList<>());
        }

        Row row(Settings settings) {
            if (ours.isEmpty()) {
                return Row.of(GROUP, name, size, Timing.of(settings, call));
            }
            return Row.of(GROUP, name, size, Timing.of(ours))
                    .peer(Row.Comparison.of(Peer.TORCH, ours, theirs, null, CHECK));
        }
    }

    private void besideTorch() {
        int positions = quick ? 64 : 1024;
        int negatives = quick ? 1024 : 28_672;
        long items = quick ? 20_000 : 1_000_000;
        long square = quick ? 256 : 2048;
        double cube = 2 * Math.pow(square, 3);
        checkInfonce();
        try (Loss loss = new Loss(positions, negatives);
                Retrieval retrieval = new Retrieval(items);
                Tensor a = random(context, square, square);
                Tensor c = context.zeros(DType.F32, square, square)) {
            Double extra = Memory.extraGb(loss::run);
            retrieval.check();
            String table = items + " x " + WIDTH;
            Op infonce = new Op(
                    "InfoNCE forward and backward",
                    positions + " x " + negatives + " x " + WIDTH,
                    loss::run,
                    answer -> answer.number("infonce", "seconds"));
            Op many = new Op(
                    "top 10 for 64 users", table, () -> retrieval.run(64), answer -> answer.number("topk", "seconds"));
            Op one = new Op(
                    "top 10 for one user", table, () -> retrieval.run(1), answer -> answer.number("topk1", "seconds"));
            Op product = new Op(
                    "matrix product",
                    square + "^3",
                    () -> ops.matmul(c, a, a, false, false, false),
                    answer -> cube / 1e9 / answer.number("gemm 2048", "gflops"));
            Double peerExtra = pair(List.of(infonce, many, one, product));
            Settings settings = session.settings;
            session.rows.add(infonce.row(settings)
                    .arithmetic(8.0 * positions * negatives * WIDTH, "GFLOP/s", gemm(positions), "best GEMM")
                    .memory(extra, peerExtra)
                    .note("rate: four GEMMs; memory: extra, gradients included"));
            session.rows.add(many.row(settings)
                    .arithmetic(128.0 * items * WIDTH, "GFLOP/s", gemm(64), "best GEMM at 64 rows")
                    .useful(64, "users"));
            session.rows.add(one.row(settings)
                    .arithmetic(4.0 * items * WIDTH, "GB/s", session.roofline.readBytes(), Roofline.READ)
                    .useful(1, "users"));
            session.rows.add(product.row(settings)
                    .arithmetic(cube, "GFLOP/s", gemm(square), "best GEMM at " + square + " rows"));
        }
    }

    /** FLOP/s of the best library at so many rows. */
    private double gemm(long rows) {
        return session.roofline.flops(new Work.Gemm(rows, 3072, WIDTH));
    }

    /** With a peer, runs all, its program after each of ours; returns the extra memory of its loss. */
    private Double pair(List<Op> all) {
        // torch_ops.py takes every core, and its sizes are fixed.
        boolean alike =
                !quick && session.settings.threads() == Runtime.getRuntime().availableProcessors();
        Double extra = null;
        for (int run = 0; session.peer != null && alike && run < session.settings.runs(); run++) {
            for (Op op : all) { // the best of three, as there
                op.ours.add(DoubleStream.generate(() -> Timing.once(op.call))
                        .limit(3)
                        .min()
                        .getAsDouble());
            }
            Peer.Answer answer = session.peer.torch();
            all.forEach(op -> op.theirs.add(op.peer.applyAsDouble(answer)));
            extra = answer.number("infonce", "extra_peak_gb");
        }
        return extra;
    }

    /** Loss and all gradients, in tensors made for each run: what a caller without any memory of its own needs. */
    private final class Loss implements AutoCloseable {
        final int positions;
        final int negatives;
        final Tensor u;
        final Tensor p;
        final Tensor n;
        final Tensor scale = context.of(new float[] {2.659f}, 1);

        Loss(int positions, int negatives) {
            this.positions = positions;
            this.negatives = negatives;
            u = random(context, positions, WIDTH);
            p = random(context, positions + 1L, WIDTH).rows(0, positions); // another size: other numbers
            n = random(context, negatives, WIDTH);
        }

        double run() {
            try (Tensor du = context.zeros(DType.F32, positions, WIDTH);
                    Tensor dp = context.zeros(DType.F32, positions, WIDTH);
                    Tensor dn = context.zeros(DType.F32, negatives, WIDTH);
                    Tensor dscale = context.zeros(DType.F32, 1);
                    Tensor metrics = context.zeros(DType.F32, Ops.InfoNceMetric.values().length)) {
                ops.infonce(new Ops.InfoNce(0.99f, positions, metrics, du, dp, dn, dscale, u, p, n, null, null, scale));
                return metrics.toFloats()[Ops.InfoNceMetric.LOSS.ordinal()] / (double) positions;
            }
        }

        @Override
        public void close() {
            u.close();
            p.close();
            n.close();
            scale.close();
        }
    }

    private void checkInfonce() {
        try (Loss small = new Loss(5, 33)) {
            float[] u = small.u.toFloats();
            float[] p = small.p.toFloats();
            float[] n = small.n.toFloats();
            double expected = 0;
            double scale = Math.exp(small.scale.scalar());
            for (int t = 0; t < 5; t++) {
                double target = Math.exp(scale * cosine(u, t, p, t));
                double sum = target;
                for (int j = 0; j < 33; j++) {
                    sum += cosine(p, t, n, j) > 0.99 ? 0 : Math.exp(scale * cosine(u, t, n, j));
                }
                expected -= Math.log(target / sum) / 5;
            }
            double loss = small.run();
            if (!(Math.abs(loss / expected - 1) < 1e-4)) {
                throw new HllmException("InfoNCE: the loss is " + loss + ", not " + expected);
            }
        }
    }

    private static double cosine(float[] a, int i, float[] b, int j) {
        return dot(a, i, b, j) / Math.sqrt(dot(a, i, a, i) * dot(b, j, b, j));
    }

    private static double dot(float[] a, int i, float[] b, int j) {
        double sum = 0;
        for (int d = 0; d < WIDTH; d++) {
            sum += (double) a[i * WIDTH + d] * b[j * WIDTH + d];
        }
        return sum;
    }

    /** Cosine retrieval from a normalised table. */
    private final class Retrieval implements AutoCloseable {
        final Tensor table;
        final Tensor queries;
        final Tensor scores = context.zeros(DType.F32, 64, K);
        final Tensor found = context.zeros(DType.I32, 64, K);

        Retrieval(long items) {
            table = random(context, items, WIDTH);
            queries = random(context, 64, WIDTH);
            ops.normalizeRows(table, table);
            ops.normalizeRows(queries, queries);
        }

        void run(int users) {
            ops.topk(scores.rows(0, users), found.rows(0, users), queries.rows(0, users), table, null, null);
        }

        /** The scores of one query, computed here row by row. */
        void check() {
            run(64);
            float[] query = queries.rows(63, 64).toFloats();
            double[] all = new double[(int) table.size(0)];
            for (int first = 0; first < all.length; first += PART) {
                float[] rows =
                        table.rows(first, Math.min(all.length, first + PART)).toFloats();
                for (int i = 0; i < rows.length / WIDTH; i++) {
                    all[first + i] = dot(query, 0, rows, i);
                }
            }
            Arrays.sort(all);
            float[] scored = scores.rows(63, 64).toFloats();
            for (int k = 0; k < K; k++) {
                double best = all[all.length - 1 - k];
                if (!(Math.abs(scored[k] - best) < 1e-4)) {
                    throw new HllmException("top-k: score " + k + " is " + scored[k] + ", not " + best);
                }
            }
        }

        @Override
        public void close() {
            table.close();
            queries.close();
            scores.close();
            found.close();
        }
    }

    // ---- The rest ---------------------------------------------------------------------------------------------------

    private void adamw() {
        long size = quick ? 1 << 20 : 64 << 20;
        try (Tensor parameters = random(context, 1, size);
                Tensor gradients = random(context, 1, size);
                Tensor moment1 = context.zeros(DType.F32, size);
                Tensor moment2 = context.zeros(DType.F32, size)) {
            ops.fill(moment1, 0);
            ops.fill(moment2, 0);
            Ops.AdamW call = new Ops.AdamW(
                    1e-4f,
                    0.9f,
                    0.999f,
                    1e-8f,
                    0.01f,
                    1,
                    1,
                    parameters.reshape(size),
                    gradients.reshape(size),
                    moment1,
                    moment2);
            // Four arrays are read, three of them written.
            session.rows.add(
                    Row.of(GROUP, "AdamW", size + " parameters", Timing.of(session.settings, () -> ops.adamw(call)))
                            .arithmetic(28.0 * size, "GB/s", session.roofline.copyBytes(), Roofline.COPY));
        }
    }

    /** Packed causal sequences of one length, in all 4,096 rows, with the heads of SmolLM2. */
    private void attention(int length, String what) {
        ModelConfig config = Session.SMOLLM2;
        int count = Math.max(1, (quick ? 512 : 4096) / length);
        int[] lengths = new int[count];
        Arrays.fill(lengths, length);
        long rows = (long) count * length;
        long heads = config.heads();
        long kvHeads = config.kvHeads();
        long wide = config.headDim();
        float scale = (float) (1 / Math.sqrt(wide));
        try (Plan plan = context.plan(PlanSpec.causalSequences(lengths));
                Tensor flat = random(context, rows, (heads + 2 * kvHeads) * wide);
                Tensor gradient = context.zeros(DType.F32, rows, (heads + 2 * kvHeads) * wide);
                Tensor out = context.zeros(DType.F32, rows, heads, wide);
                Tensor dflat = random(context, rows, heads * wide);
                Tensor lse = context.zeros(DType.F32, heads, rows)) {
            Tensor[] qkv = split(flat, heads, kvHeads, wide);
            Tensor[] d = split(gradient, heads, kvHeads, wide);
            Tensor dout = dflat.reshape(rows, heads, wide);
            Timing forward = Timing.of(
                    session.settings, () -> ops.attentionForward(out, lse, qkv[0], qkv[1], qkv[2], plan, scale));
            Timing backward = Timing.of(
                    session.settings,
                    () -> ops.attentionBackward(d[0], d[1], d[2], out, lse, dout, qkv[0], qkv[1], qkv[2], plan, scale));
            // Two products over the keys that each query sees; five in the backward pass.
            double products = 2.0 * heads * wide * count * length * (length + 1) / 2;
            String size = count + " x " + length + " " + what;
            String roofline = "best GEMM at 1024 rows";
            session.rows.add(Row.of(GROUP, "attention forward", size, forward)
                    .arithmetic(2 * products, "GFLOP/s", gemm(1024), roofline));
            session.rows.add(Row.of(GROUP, "attention backward", size, backward)
                    .arithmetic(5 * products, "GFLOP/s", gemm(1024), roofline));
        }
    }

    /** Queries, keys and values [T, heads, Dh], side by side in one matrix. */
    static Tensor[] split(Tensor flat, long heads, long kvHeads, long wide) {
        long rows = flat.size(0);
        long keys = heads * wide;
        long values = keys + kvHeads * wide;
        return new Tensor[] {
            flat.columns(0, keys).reshape(rows, heads, wide),
            flat.columns(keys, values).reshape(rows, kvHeads, wide),
            flat.columns(values, flat.size(1)).reshape(rows, kvHeads, wide)
        };
    }
}
