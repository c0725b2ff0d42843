package org.hllm4j.train;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;
import org.hllm4j.model.Pooling;
import org.hllm4j.model.UserEncoder;
import org.hllm4j.nn.Parameter;
import org.hllm4j.weights.ModelConfig;
import org.hllm4j.weights.Safetensors;
import org.hllm4j.weights.TensorInfo;
import org.hllm4j.weights.TensorSource;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/**
 * Numbers of the official code (golden/README.md): embeddings, scores, loss, every gradient, five optimiser steps.
 * {@code -Dhllm.golden=DIR} names another folder of such files.
 */
class GoldenTest {
    private static final double FORWARD = 1e-4;
    private static final double GRADIENT = 1e-4;
    private static final double STEPS = 1e-3;
    private static final float LR = 1e-3f;

    private record Comparison(double worst, int tensors) {}

    @TestFactory
    List<DynamicTest> everyFileOfTheFolder() throws IOException {
        List<Path> files = new ArrayList<>();
        for (Path folder : folders()) {
            try (Stream<Path> list = Files.list(folder)) {
                list.filter(f -> f.getFileName().toString().matches("hllm-.*\\.safetensors"))
                        .sorted()
                        .forEach(files::add);
            }
        }
        assertFalse(files.isEmpty(), "no golden file hllm-*.safetensors in " + folders());
        // Chunks of 16 rows force the second encoding; 100,000 keep activations.
        return files.stream()
                .flatMap(f -> Stream.of(100_000, 16)
                        .map(rows -> DynamicTest.dynamicTest(
                                f.getParent().getFileName() + "/" + f.getFileName() + ", " + rows + " rows",
                                () -> check(f, rows))))
                .toList();
    }

    /** The folder of -Dhllm.golden, by default the repository's, and the larger set of -Dhllm.shared where there is one. */
    static List<Path> folders() {
        String named = System.getProperty("hllm.golden", "");
        Path own = !named.isEmpty() && !named.startsWith("${")
                ? Path.of(named)
                : Files.isDirectory(Path.of("golden")) ? Path.of("golden") : Path.of("../golden");
        Path shared = Path.of(System.getProperty("hllm.shared", ""), "golden").toAbsolutePath();
        return Files.isDirectory(shared) && !shared.equals(own.toAbsolutePath().normalize())
                ? List.of(own, shared)
                : List.of(own);
    }

    private static void check(Path file, int maxRows) {
        try (Safetensors golden = Safetensors.open(file);
                Context context = Context.open(System.getProperty("hllm.device", "cpu"))) {
            Map<String, String> meta = golden.metadata();
            ModelConfig llm = ModelConfig.parse(meta.get("config"), file.toString());
            boolean itemToken = Integer.parseInt(meta.get("item_emb_token_n")) > 0;
            int[][] tokens = items(golden, itemToken ? 1 : 0);
            long[] shape = golden.info("batch.attention_mask").shape();
            HllmConfig config = new HllmConfig(
                    llm,
                    llm,
                    itemToken ? Pooling.TOKEN : Pooling.MEAN,
                    Integer.parseInt(meta.get("max_text_length")),
                    (int) shape[1]);
            try (Hllm model = new Hllm(context, config, new Hllm.Trained(true, true), DType.F32)) {
                model.load(prefixed(golden, "param."));
                forward(golden, model, tokens, maxRows);
                training(golden, model, tokens, maxRows);
            }
        }
        assertEquals(0, Context.liveBytes("cpu"));
    }

    private static void forward(Safetensors golden, Hllm model, int[][] tokens, int maxRows) {
        int width = model.config().width();
        try (Tensor table = CatalogueEncoder.table(model, tokens, maxRows, null)) {
            near("catalogue_embedding", floats(golden, "out.catalogue_embedding"), table.toFloats(), FORWARD);

            // Row 0 of predict_features is the padding item; an item's number in item_seq is its row plus one.
            long[] seq = golden.readLongs("batch.predict_item_seq");
            int users = (int) golden.info("batch.predict_item_seq").shape()[0];
            int[][] histories = IntStream.range(0, users)
                    .mapToObj(u -> IntStream.range(u * seq.length / users, (u + 1) * seq.length / users)
                            .filter(i -> seq[i] > 0)
                            .map(i -> (int) seq[i] - 1)
                            .toArray())
                    .toArray(int[][]::new);
            float[] expected = floats(golden, "out.predict_scores");
            int columns = expected.length / users;
            float[] scores = new float[users * tokens.length];
            Context context = model.context();
            Ops ops = context.ops();
            UserEncoder.encode(model, table, histories, null, 7, null, (first, vectors) -> {
                int count = (int) vectors.size(0);
                try (Tensor u = context.zeros(DType.F32, count, width);
                        Tensor items = context.zeros(DType.F32, tokens.length, width);
                        Tensor out = context.zeros(DType.F32, count, tokens.length)) {
                    ops.normalizeRows(u, vectors);
                    ops.normalizeRows(items, table);
                    ops.matmul(out, u, items, false, true, false);
                    System.arraycopy(out.toFloats(), 0, scores, first * tokens.length, count * tokens.length);
                }
            });
            float[] real = new float[scores.length];
            for (int u = 0; u < users; u++) {
                System.arraycopy(expected, u * columns + 1, real, u * tokens.length, tokens.length);
            }
            near("predict_scores", real, scores, FORWARD);
        }
    }

    private static void training(Safetensors golden, Hllm model, int[][] tokens, int maxRows) {
        long[] shape = golden.info("batch.attention_mask").shape();
        int users = (int) shape[0];
        int history = (int) shape[1];
        long[] mask = golden.readLongs("batch.attention_mask");
        long[] positive = golden.readLongs("batch.pos_items");
        int[][] sequences = new int[users][];
        for (int u = 0; u < users; u++) {
            int padding = (int) IntStream.range(u * history, (u + 1) * history)
                    .filter(i -> mask[i] == 0)
                    .count();
            sequences[u] = Arrays.stream(positive, u * (history + 1) + padding, (u + 1) * (history + 1))
                    .mapToInt(i -> (int) i)
                    .toArray();
        }
        int[] negatives = Arrays.stream(golden.readLongs("batch.neg_items"))
                .mapToInt(i -> (int) i)
                .toArray();

        float[] metrics = floats(golden, "out.metrics");
        double[] steps = doubles(golden, "out.loss_and_gradnorm_per_step");
        try (GenerativeStep step = new GenerativeStep(model, tokens, maxRows, 0.99f, null);
                AdamWOptimizer optimizer = new AdamWOptimizer(model, 0.01f, 1f)) {
            for (int i = 0; i < steps.length / 2; i++) {
                optimizer.zeroGradients();
                GenerativeStep.Result result = step.run(sequences, negatives);
                if (i == 0) {
                    near("loss", metrics[0], result.loss(), FORWARD);
                    near("nce_samples", metrics[1], result.nceSamples(), FORWARD);
                    near("top-1 accuracy", metrics[2], result.topK()[0], FORWARD);
                    compare(golden, "grad.", model, GRADIENT, true);
                }
                near("loss of step " + i, steps[2 * i], result.loss(), STEPS);
                near("gradient norm of step " + i, steps[2 * i + 1], optimizer.step(LR), STEPS);
            }
        }
        compare(golden, "after.", model, STEPS, false);
    }

    /** Compares every golden tensor of a kind with the parameter (or its gradient) of that name. */
    private static void compare(Safetensors golden, String kind, Hllm model, double tolerance, boolean gradient) {
        int compared = 0;
        for (String name : golden.names()) {
            if (!name.startsWith(kind)) {
                continue;
            }
            String own = name.substring(kind.length());
            float[] expected = floats(golden, name);
            if (own.equals("user_llm.model.embed_tokens.weight") || own.endsWith("lm_head.weight")) {
                continue; // dropped: the User LLM has no words
            }
            Parameter parameter = model.parameters().get(own);
            near(name, expected, (gradient ? parameter.gradient() : parameter.value()).toFloats(), tolerance);
            compared++;
        }
        assertTrue(compared > 0, "no tensor " + kind + "* in the golden file");
        if (gradient) {
            assertEquals(model.parameters().all().size(), compared, "gradients compared");
        }
    }

    private static void near(String what, double expected, double actual, double tolerance) {
        assertTrue(
                Math.abs(expected - actual) <= tolerance * Math.max(Math.abs(expected), 1e-3),
                () -> what + ": expected " + expected + ", found " + actual);
    }

    /** Norm of the difference over the norm. */
    private static void near(String what, float[] expected, float[] actual, double tolerance) {
        assertEquals(expected.length, actual.length, what + ": length");
        assertTrue(expected.length > 0, what + ": nothing to compare");
        double difference = 0;
        double norm = 0;
        for (int i = 0; i < expected.length; i++) {
            difference += Math.pow((double) expected[i] - actual[i], 2);
            norm += Math.pow(expected[i], 2);
        }
        double relative = Math.sqrt(difference) / (Math.sqrt(norm) + 1e-12);
        assertTrue(relative <= tolerance, () -> what + ": relative error " + relative + ", allowed " + tolerance);
    }

    /** Token ids of the catalogue's items, without the [ITEM] place. */
    private static int[][] items(Safetensors golden, int itemTokens) {
        long[] ids = golden.readLongs("batch.catalogue_ids");
        long[] lengths = golden.readLongs("batch.catalogue_lens");
        int[][] items = new int[lengths.length][];
        int at = 0;
        for (int i = 0; i < items.length; i++) {
            items[i] = Arrays.stream(ids, at, at + (int) lengths[i] - itemTokens)
                    .mapToInt(id -> (int) id)
                    .toArray();
            at += (int) lengths[i];
        }
        return items;
    }

    private static float[] floats(TensorSource source, String name) {
        float[] values = new float[(int) source.info(name).elements()];
        source.read(name, 0, FloatBuffer.wrap(values));
        return values;
    }

    private static double[] doubles(TensorSource source, String name) {
        float[] values = floats(source, name);
        return IntStream.range(0, values.length).mapToDouble(i -> values[i]).toArray();
    }

    private static TensorSource prefixed(TensorSource source, String prefix) {
        return new TensorSource() {
            @Override
            public String origin() {
                return source.origin();
            }

            @Override
            public Set<String> names() {
                return source.names().stream()
                        .filter(n -> n.startsWith(prefix))
                        .map(n -> n.substring(prefix.length()))
                        .collect(Collectors.toSet());
            }

            @Override
            public TensorInfo info(String name) {
                return source.info(prefix + name);
            }

            @Override
            public void read(String name, long first, FloatBuffer out) {
                source.read(prefix + name, first, out);
            }

            @Override
            public void close() {
                // the caller's
            }
        };
    }
}
