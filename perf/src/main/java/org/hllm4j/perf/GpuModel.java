package org.hllm4j.perf;

import java.util.Arrays;
import java.util.SplittableRandom;
import java.util.function.Supplier;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;
import org.hllm4j.model.Pooling;
import org.hllm4j.model.UserEncoder;
import org.hllm4j.train.AdamWOptimizer;
import org.hllm4j.train.GenerativeStep;
import org.hllm4j.weights.ModelConfig;

/**
 * Both sides of a model of TinyLlama's shape with random weights, end to end by the program's clock: packing, copies and
 * waiting included. MFU counts the matrix products of the linear layers that are really computed.
 */
final class GpuModel {
    static final ModelConfig SMALL = Session.llama(128, 256, 2, 2, 1, 512, 1e4);
    static final String GROUP = "gpu model";
    static final int K = 200;
    private static final int MAX_HISTORY = 256;

    final Gpu gpu;
    final boolean quick;
    final ModelConfig config;
    private final String name;

    GpuModel(Gpu gpu) {
        this.gpu = gpu;
        quick = gpu.settings.quick();
        name = quick ? "small" : "TinyLlama-1.1B";
        config = quick ? SMALL : Session.TINYLLAMA;
    }

    void measure() {
        GpuUsers cached = new GpuUsers(this);
        try (Loaded model = new Loaded(Hllm.Trained.NOTHING, null)) {
            for (int length : quick ? new int[] {12, 16} : new int[] {32, 64, 128, 256}) {
                section("embed " + length, () -> embed(model.get(), length));
            }
            section("evaluate retrieve", () -> evaluate(model.get()));
            for (int users : quick ? new int[] {1, 3} : new int[] {1, 8, 32, 64, 128}) {
                section("append " + users, () -> cached.append(model.get(), users));
            }
            section("recommend", () -> cached.recommend(model.get()));
        }
        for (Fusion fusion : Fusion.values()) {
            try (Loaded ranker = new Loaded(Hllm.Trained.NOTHING, fusion)) {
                section("rank " + fusion, () -> cached.rank(ranker.get()));
            }
        }
        try (Loaded model = new Loaded(new Hllm.Trained(true, true), null)) {
            section("train", () -> train(model.get()));
        }
    }

    private void section(String what, Runnable measure) {
        gpu.rows.section(GROUP, what, measure);
    }

    Row row(String what, String size, Timing time) {
        return Row.of(GROUP, name + " " + what, size, time);
    }

    /** A model that is made when it is first asked for. */
    private final class Loaded implements AutoCloseable, Supplier<Hllm> {
        private final Hllm.Trained trained;
        private final Fusion fusion; // null: no ranking head
        private Hllm model;

        Loaded(Hllm.Trained trained, Fusion fusion) {
            this.trained = trained;
            this.fusion = fusion;
        }

        @Override
        public Hllm get() {
            if (model == null) {
                DType storage = trained.item() ? DType.F32 : gpu.context.activations();
                model = new Hllm(
                        gpu.context,
                        new HllmConfig(config, config, Pooling.TOKEN, 256, MAX_HISTORY, fusion),
                        trained,
                        storage);
                model.randomise(Hllm.Side.ITEM, 1);
                model.randomise(Hllm.Side.USER, 1);
                model.randomiseItemToken(1);
                if (fusion != null) {
                    model.randomiseRanker(1, 0.5);
                }
            }
            return model;
        }

        @Override
        public void close() {
            if (model != null) {
                model.close();
            }
        }
    }

    /** Texts of one length: a prompt of 9 tokens, then tokens of a Zipf distribution. */
    private int[][] texts(int count, int length) {
        SplittableRandom random = new SplittableRandom(length);
        int[][] tokens = new int[count][length];
        for (int[] text : tokens) {
            Arrays.setAll(text, t -> t < 9 ? t + 1 : Items.popular(config.vocabSize(), random));
        }
        return tokens;
    }

    // ---- Items ------------------------------------------------------------------------------------------------------

    private void embed(Hllm model, int length) {
        int[][] tokens = texts((quick ? 64 : 1 << 17) / length, length);
        float[][] vectors = new float[tokens.length][];
        for (int at : quick ? new int[] {64} : new int[] {CatalogueEncoder.DEFAULT_ROWS, 16384}) {
            Timing time = Timing.of(
                    gpu.settings,
                    () -> CatalogueEncoder.encode(model, tokens, at, null, (items, found) -> {
                        float[] values = found.toFloats();
                        for (int i = 0; i < items.length; i++) {
                            vectors[items[i]] =
                                    Arrays.copyOfRange(values, i * config.hiddenSize(), (i + 1) * config.hiddenSize());
                        }
                    }));
            Work.Packs packs = Work.packs(config, tokens, at);
            double flops = packs.work().flops();
            String size = tokens.length + " items";
            String what = "catalogue embedding, texts of " + length + ", " + at + " rows at a time";
            gpu.add(gpu.mfu(gpu.rated(row(what, size, time), flops, 0), flops)
                    .useful(tokens.length, "items")
                    .useful(EmbedRows.inputTokens(tokens), "tokens")
                    .note(packs.rows() + " of " + EmbedRows.inputTokens(tokens) + " token rows computed"));
        }
    }

    private void train(Hllm model) {
        int users = quick ? 2 : 12;
        int events = quick ? 4 : 10;
        int rows = quick ? 4096 : 32_768; // all of them: no activation is computed again
        int[][] tokens = texts(quick ? 40 : 5000, quick ? 16 : 64);
        SplittableRandom random = new SplittableRandom(2);
        int[][] positives = new int[users][events + 1];
        for (int[] user : positives) {
            Arrays.setAll(user, e -> Items.popular(tokens.length, random));
        }
        int[] negatives =
                random.ints((long) users * (events + 1), 0, tokens.length).toArray();
        try (GenerativeStep step = new GenerativeStep(model, tokens, rows, 0.99f, null);
                AdamWOptimizer optimizer = new AdamWOptimizer(model, 0.01f, 1)) {
            GenerativeStep.Result[] last = new GenerativeStep.Result[1];
            Timing time = Timing.of(gpu.settings, () -> {
                last[0] = step.run(positives, negatives);
                optimizer.step(1e-4);
                optimizer.zeroGradients();
                gpu.context.synchronize();
            });
            double flops =
                    TrainRows.work(config, tokens, positives, negatives, rows).flops();
            String size = users + " users x " + events + " events";
            gpu.add(gpu.mfu(gpu.rated(row("training step, both sides", size, time), flops, 0), flops)
                    .useful(users, "users")
                    .useful(last[0].tokens(), "tokens")
                    .note(last[0].rows() + " of " + last[0].tokens()
                            + " rows computed, the optimiser's step included"));
        }
    }

    // ---- Users ------------------------------------------------------------------------------------------------------

    /** What evaluation consists of, users' vectors and the rank of one item each; and retrieval, their best items. */
    private void evaluate(Hllm model) {
        int users = quick ? 4 : 128;
        int items = quick ? 300 : 1_000_000;
        int best = quick ? 5 : K;
        int events = quick ? 10 : 50;
        int[][] histories = new int[users][];
        Arrays.setAll(
                histories, u -> new SplittableRandom(u).ints(events, 0, items).toArray());
        int[] targets = new SplittableRandom(1).ints(users, 0, items).toArray();
        try (Inputs inputs = new Inputs(gpu.context)) {
            Tensor table = inputs.floats(items, config.hiddenSize());
            inputs.ops.normalizeRows(table, table);
            Tensor narrow = inputs.empty(items, config.hiddenSize());
            inputs.ops.convert(narrow, table);
            Tensor queries = inputs.empty(users, config.hiddenSize());
            Tensor wanted = inputs.own(gpu.context.of(targets), Tensor::close);
            Tensor ranks = inputs.own(gpu.context.zeros(DType.I32, users), Tensor::close);
            Tensor scores = inputs.zeros(users, best);
            Tensor found = inputs.own(gpu.context.zeros(DType.I32, users, best), Tensor::close);
            Runnable encode = () -> UserEncoder.encode(
                    model, table, histories, null, users * events, null, (first, x) -> inputs.ops.convert(queries, x));
            String size = users + " users x " + events + " events, " + items + " items";
            Timing ranking = Timing.of(gpu.settings, () -> {
                encode.run();
                inputs.ops.rank(ranks, queries, narrow, wanted, null, null);
                ranks.toInts();
            });
            gpu.add(row("evaluation, full ranking", size, ranking).useful(users, "users"));
            Timing retrieval = Timing.of(gpu.settings, () -> {
                encode.run();
                inputs.ops.topk(scores, found, queries, narrow, null, null);
                found.toInts();
            });
            gpu.add(row("retrieval, best " + best, size, retrieval).useful(users, "users"));
        }
    }
}
