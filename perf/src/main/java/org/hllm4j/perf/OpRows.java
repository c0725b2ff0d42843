package org.hllm4j.perf;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.function.ToDoubleFunction;
import java.util.stream.IntStream;
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

    /** An operation, the seconds that the peer's answer gives for it, and what of ours was checked. */
    private record Op(Runnable call, ToDoubleFunction<Peer.Answer> peer, String check) {}

    private void besideTorch() {
        int positions = quick ? 64 : 1024;
        int negatives = quick ? 1024 : 28_672;
        long items = quick ? 20_000 : 1_000_000;
        long square = quick ? 256 : 2048;
        checkInfonce();
        try (Loss loss = new Loss(positions, negatives);
                Retrieval retrieval = new Retrieval(items);
                Tensor a = random(context, square, square);
                Tensor c = context.zeros(DType.F32, square, square)) {
            Double extra = Memory.extraGb(loss::run);
            retrieval.check();
            double topk = 2.0 * 64 * items * WIDTH;
            double bytes = 4.0 * items * WIDTH;
            Map<String, Op> all = new LinkedHashMap<>();
            all.put(
                    "infonce",
                    new Op(loss::run, answer -> answer.number("infonce", "seconds"), "the loss of a small case"));
            all.put(
                    "topk",
                    new Op(
                            () -> retrieval.run(64),
                            answer -> answer.number("topk", "seconds"),
                            "the scores of one query"));
            all.put(
                    "topk1",
                    new Op(
                            () -> retrieval.run(1),
                            answer -> answer.number("topk1", "seconds"),
                            "the scores of one query"));
            all.put(
                    "matmul",
                    new Op(
                            () -> ops.matmul(c, a, a, false, false, false),
                            answer -> 2 * Math.pow(square, 3) / 1e9 / answer.number("gemm 2048", "gflops"),
                            "the products of the roofline"));
            Map<String, Timing> times = new LinkedHashMap<>();
            Map<String, Row.Comparison> comparisons = new LinkedHashMap<>();
            String[] peerMemory = {""};
            time(all, times, comparisons, peerMemory);

            double four = 8.0 * positions * negatives * WIDTH;
            session.rows.add(row(
                            "InfoNCE forward and backward",
                            positions + " x " + negatives + " x " + WIDTH,
                            "infonce",
                            times,
                            comparisons)
                    .arithmetic(Row.Rate.of(
                            four / times.get("infonce").median() / 1e9,
                            "GFLOP/s",
                            gemm(positions, 3072, WIDTH),
                            "best GEMM"))
                    .memory(extra)
                    .note("rate: four GEMMs; memory: extra, gradients included" + peerMemory[0]));
            session.rows.add(row("top 10 for 64 users", items + " x " + WIDTH, "topk", times, comparisons)
                    .arithmetic(Row.Rate.of(
                            topk / times.get("topk").median() / 1e9,
                            "GFLOP/s",
                            gemm(64, 3072, WIDTH),
                            "best GEMM at 64 rows"))
                    .useful(Row.Rate.of(64 / times.get("topk").median(), "users/s")));
            session.rows.add(row("top 10 for one user", items + " x " + WIDTH, "topk1", times, comparisons)
                    .arithmetic(Row.Rate.of(
                            bytes / times.get("topk1").median() / 1e9,
                            "GB/s",
                            session.roofline.readBytes() / 1e9,
                            Roofline.READ))
                    .useful(Row.Rate.of(1 / times.get("topk1").median(), "users/s")));
            session.rows.add(row("matrix product", square + "^3", "matmul", times, comparisons)
                    .arithmetic(Row.Rate.of(
                            2 * Math.pow(square, 3) / times.get("matmul").median() / 1e9, "GFLOP/s")));
        }
    }

    private double gemm(long m, long n, long k) {
        return session.roofline.flops(new Work.Gemm(m, n, k)) / 1e9;
    }

    private static Row row(
            String name, String size, String key, Map<String, Timing> times, Map<String, Row.Comparison> comparisons) {
        return Row.of(GROUP, name, size, times.get(key)).peer(comparisons.get(key));
    }

    /** Times all; with a peer, one run of its program after each of ours, all operations at once. */
    private void time(
            Map<String, Op> all,
            Map<String, Timing> times,
            Map<String, Row.Comparison> comparisons,
            String[] peerMemory) {
        // torch_ops.py takes every core, and its sizes are fixed.
        boolean pair = session.peer != null
                && !quick
                && session.settings.threads() == Runtime.getRuntime().availableProcessors();
        if (!pair) {
            all.forEach((key, op) -> times.put(key, Timing.of(session.settings, op.call)));
            return;
        }
        Map<String, List<Double>> ours = new LinkedHashMap<>();
        Map<String, List<Double>> theirs = new LinkedHashMap<>();
        for (int run = 0; run < session.settings.runs(); run++) {
            // The best of three, as there.
            all.forEach((key, op) -> ours.computeIfAbsent(key, k -> new ArrayList<>())
                    .add(IntStream.range(0, 3)
                            .mapToDouble(i -> Timing.once(op.call))
                            .min()
                            .getAsDouble()));
            Peer.Answer answer = session.peer.torch();
            all.forEach((key, op) ->
                    theirs.computeIfAbsent(key, k -> new ArrayList<>()).add(op.peer.applyAsDouble(answer)));
            peerMemory[0] = String.format(
                    Locale.ROOT, "; the peer's extra: %.2f GB", answer.number("infonce", "extra_peak_gb"));
        }
        all.forEach((key, op) -> {
            times.put(key, new Timing(ours.get(key)));
            comparisons.put(
                    key,
                    Row.Comparison.of(
                            Peer.TORCH,
                            ours.get(key),
                            theirs.get(key),
                            null,
                            "random inputs there; checked against double precision: " + op.check));
        });
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

        void run() {
            loss();
        }

        double loss() {
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
            double loss = small.loss();
            if (!(Math.abs(loss / expected - 1) < 1e-4)) {
                throw new HllmException("InfoNCE: the loss is " + loss + ", not " + expected);
            }
        }
    }

    private static double cosine(float[] a, int i, float[] b, int j) {
        return dot(a, i, b, j) / Math.sqrt(dot(a, i, a, i) * dot(b, j, b, j));
    }

    private static double dot(float[] a, int i, float[] b, int j) {
        return IntStream.range(0, WIDTH)
                .mapToDouble(d -> (double) a[i * WIDTH + d] * b[j * WIDTH + d])
                .sum();
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
            int part = 10_000;
            for (int begin = 0; begin < all.length; begin += part) {
                int end = Math.min(all.length, begin + part);
                float[] rows = table.rows(begin, end).toFloats();
                int first = begin;
                IntStream.range(begin, end).parallel().forEach(row -> all[row] = dot(query, 0, rows, row - first));
            }
            double[] best = Arrays.stream(all).sorted().toArray();
            float[] scored = scores.rows(63, 64).toFloats();
            for (int k = 0; k < K; k++) {
                if (!(Math.abs(scored[k] - best[best.length - 1 - k]) < 1e-4)) {
                    throw new HllmException(
                            "top-k: score " + k + " is " + scored[k] + ", not " + best[best.length - 1 - k]);
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
            Timing time = Timing.of(session.settings, () -> ops.adamw(call));
            // Four arrays are read, three of them written.
            session.rows.add(Row.of(GROUP, "AdamW", size + " parameters", time)
                    .arithmetic(Row.Rate.of(
                            28.0 * size / time.median() / 1e9,
                            "GB/s",
                            session.roofline.copyBytes() / 1e9,
                            Roofline.COPY)));
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
                Tensor dout = random(context, rows, heads * wide);
                Tensor lse = context.zeros(DType.F32, heads, rows)) {
            Tensor q = flat.columns(0, heads * wide).reshape(rows, heads, wide);
            Tensor k = flat.columns(heads * wide, (heads + kvHeads) * wide).reshape(rows, kvHeads, wide);
            Tensor v = flat.columns((heads + kvHeads) * wide, (heads + 2 * kvHeads) * wide)
                    .reshape(rows, kvHeads, wide);
            Tensor dq = gradient.columns(0, heads * wide).reshape(rows, heads, wide);
            Tensor dk = gradient.columns(heads * wide, (heads + kvHeads) * wide).reshape(rows, kvHeads, wide);
            Tensor dv = gradient.columns((heads + kvHeads) * wide, (heads + 2 * kvHeads) * wide)
                    .reshape(rows, kvHeads, wide);
            Timing forward = Timing.of(session.settings, () -> ops.attentionForward(out, lse, q, k, v, plan, scale));
            Timing backward = Timing.of(
                    session.settings,
                    () -> ops.attentionBackward(
                            dq, dk, dv, out, lse, dout.reshape(rows, heads, wide), q, k, v, plan, scale));
            // Two products over the keys that each query sees; five in the backward pass.
            double products = 2.0 * heads * wide * count * length * (length + 1) / 2;
            double best = gemm(1024, 3072, WIDTH);
            String size = count + " x " + length + " " + what;
            session.rows.add(Row.of(GROUP, "attention forward", size, forward)
                    .arithmetic(Row.Rate.of(
                            2 * products / forward.median() / 1e9, "GFLOP/s", best, "best GEMM at 1024 rows")));
            session.rows.add(Row.of(GROUP, "attention backward", size, backward)
                    .arithmetic(Row.Rate.of(
                            5 * products / backward.median() / 1e9, "GFLOP/s", best, "best GEMM at 1024 rows")));
        }
    }
}
