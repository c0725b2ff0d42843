package org.hllm4j.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.TreeMap;
import java.util.function.Function;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.NativeException;
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
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/**
 * Numbers of the official code (golden/README.md): embeddings, scores, loss, every gradient, five optimiser steps; on every
 * device that is there, in each type that it computes in. {@code -Dhllm.golden=DIR} names another folder of such files.
 */
class GoldenTest {
    private static final float LR = 1e-3f;

    /** Where and in what is computed. */
    record Setting(String device, DType dtype) {
        static final List<Setting> ALL = List.of(
                new Setting("cpu", DType.F32),
                new Setting("cuda-emulated", DType.F32),
                new Setting("cuda-emulated", DType.BF16),
                new Setting("cuda", DType.F32),
                new Setting("cuda", DType.BF16));

        Context open() {
            return Context.open(device, dtype);
        }

        /** The tests of every setting; one that is skipped, and says why, for a device that is not there. */
        static Stream<DynamicTest> tests(Function<Setting, Stream<DynamicTest>> of) {
            return ALL.stream().flatMap(setting -> {
                try {
                    setting.open().close();
                    return of.apply(setting);
                } catch (NativeException missing) {
                    assertEquals(NativeException.Status.UNSUPPORTED, missing.status(), missing.getMessage());
                    return Stream.of(DynamicTest.dynamicTest(
                            setting.toString(), () -> Assumptions.abort("skipped: " + missing.getMessage())));
                }
            });
        }

        @Override
        public String toString() {
            return device + " " + dtype;
        }
    }

    /** A golden file, what is allowed to differ from it, and what came nearest to that. */
    private static final class Golden implements AutoCloseable {
        private static final double FORWARD = 1e-4;
        private static final double GRADIENT = 1e-4;
        private static final double STEPS = 1e-3;

        final Safetensors file;
        private final Map<String, Double> bf16; // errors of a plain bf16 run by name; null in float32
        private double worst;
        private String worstName;

        Golden(Path path, DType dtype) {
            bf16 = dtype == DType.BF16 ? bf16Errors(path) : null;
            file = Safetensors.open(path);
        }

        private static Map<String, Double> bf16Errors(Path path) {
            Path errors = ownFolder().resolve("bf16_errors.json");
            try {
                Map<String, Map<String, Double>> all =
                        new ObjectMapper().readValue(errors.toFile(), new TypeReference<>() {});
                return Objects.requireNonNull(
                        all.get(path.getFileName().toString()), () -> path + " is not in " + errors);
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }

        /** Relative error that a tensor (or a number) of this name may have. */
        private double allowed(String name, int elements) {
            boolean forward = name.startsWith("out.");
            if (bf16 == null) {
                return forward ? FORWARD : name.startsWith("grad.") ? GRADIENT : STEPS;
            }
            // The error of one number is small by chance, and so is that of parameters after steps of AdamW, in which
            // an
            // element whose gradient is nearly 0 goes one way or the other: they are allowed that of their kind's worst
            // tensor.
            String kind = name.substring(0, name.indexOf('.') + 1);
            double error = elements > 1 && !kind.equals("after.")
                    ? bf16.get(name)
                    : bf16.entrySet().stream()
                            .filter(e -> e.getKey().startsWith(kind))
                            .mapToDouble(Map.Entry::getValue)
                            .max()
                            .orElseThrow();
            return (forward ? 2 : 5) * error;
        }

        void near(String name, double expected, double actual) {
            check(name, Math.abs(expected - actual) / Math.max(Math.abs(expected), 1e-3), allowed(name, 1));
        }

        /** Norm of the difference over the norm. */
        void near(String name, float[] expected, float[] actual) {
            assertEquals(expected.length, actual.length, name + ": length");
            assertTrue(expected.length > 0, name + ": nothing to compare");
            double difference = 0;
            double norm = 0;
            for (int i = 0; i < expected.length; i++) {
                difference += Math.pow((double) expected[i] - actual[i], 2);
                norm += Math.pow(expected[i], 2);
            }
            check(name, Math.sqrt(difference) / (Math.sqrt(norm) + 1e-12), allowed(name, expected.length));
        }

        /** Each number for itself; in bf16, where the later steps grow apart, all together. */
        void nearEach(String name, float[] expected, float[] actual) {
            if (bf16 != null) {
                near(name, expected, actual);
                return;
            }
            for (int i = 0; i < expected.length; i++) {
                near(name, expected[i], actual[i]);
            }
        }

        private void check(String name, double relative, double allowed) {
            assertTrue(relative <= allowed, () -> name + ": relative error " + relative + ", allowed " + allowed);
            if (relative / allowed >= worst) {
                worst = relative / allowed;
                worstName = name;
            }
        }

        float[] floats(String name) {
            return GoldenTest.floats(file, name);
        }

        @Override
        public void close() {
            System.out.printf(
                    "%s: %s came nearest to what is allowed, %.0f %%%n", file.origin(), worstName, 100 * worst);
            file.close();
        }
    }

    @TestFactory
    Stream<DynamicTest> everyFileOfTheFolder() throws IOException {
        Map<String, Path> files = new TreeMap<>();
        for (Path folder : folders()) {
            try (Stream<Path> list = Files.list(folder)) {
                list.filter(f -> f.getFileName().toString().matches("hllm-.*\\.safetensors"))
                        .forEach(f -> files.putIfAbsent(f.getFileName().toString(), f));
            }
        }
        assertFalse(files.isEmpty(), "no golden file hllm-*.safetensors in " + folders());
        // Chunks of 16 rows force the second encoding; 100,000 keep activations.
        return Setting.tests(setting -> files.values().stream()
                .flatMap(f -> Stream.of(100_000, 16)
                        .map(rows -> DynamicTest.dynamicTest(
                                setting + ", " + f.getFileName() + ", " + rows + " rows",
                                () -> check(setting, f, rows)))));
    }

    /** The folder of -Dhllm.golden, by default the repository's, and the larger set of -Dhllm.shared where there is one. */
    static List<Path> folders() {
        String named = System.getProperty("hllm.golden", "");
        Path own = !named.isEmpty() && !named.startsWith("${") ? Path.of(named) : ownFolder();
        Path shared = Path.of(System.getProperty("hllm.shared", ""), "golden").toAbsolutePath();
        return Files.isDirectory(shared) && !shared.equals(own.toAbsolutePath().normalize())
                ? List.of(own, shared)
                : List.of(own);
    }

    private static Path ownFolder() {
        return Files.isDirectory(Path.of("golden")) ? Path.of("golden") : Path.of("../golden");
    }

    private static void check(Setting setting, Path file, int maxRows) {
        try (Context context = setting.open();
                Golden golden = new Golden(file, setting.dtype);
                Hllm model = model(context, golden.file)) {
            int[][] tokens = items(golden.file);
            forward(golden, model, tokens, maxRows);
            training(golden, model, tokens, maxRows);
        }
        assertEquals(0, Context.liveBytes(setting.device));
    }

    private static Hllm model(Context context, Safetensors golden) {
        Map<String, String> meta = golden.metadata();
        ModelConfig llm = ModelConfig.parse(meta.get("config"), golden.origin());
        HllmConfig config = new HllmConfig(
                llm,
                llm,
                itemTokens(golden) > 0 ? Pooling.TOKEN : Pooling.MEAN,
                Integer.parseInt(meta.get("max_text_length")),
                (int) golden.info("batch.attention_mask").shape()[1]);
        Hllm model = new Hllm(context, config, new Hllm.Trained(true, true), DType.F32);
        model.load(prefixed(golden, "param."));
        return model;
    }

    private static int itemTokens(Safetensors golden) {
        return Integer.parseInt(golden.metadata().get("item_emb_token_n"));
    }

    /** Recomputing changes no bit of any gradient. */
    @TestFactory
    Stream<DynamicTest> recomputingGivesTheSameGradients() {
        return Setting.tests(setting -> Stream.of("hllm-tiny-gqa", "hllm-tiny-meanpool")
                .map(name -> DynamicTest.dynamicTest(setting + ", " + name, () -> {
                    try (Context context = setting.open();
                            Safetensors golden = Safetensors.open(ownFolder().resolve(name + ".safetensors"));
                            Hllm model = model(context, golden)) {
                        for (int maxRows : new int[] {100_000, 16}) {
                            float[] kept = gradients(golden, model, maxRows, false);
                            assertArrayEquals(kept, gradients(golden, model, maxRows, true), maxRows + " rows");
                        }
                    }
                })));
    }

    private static float[] gradients(Safetensors golden, Hllm model, int maxRows, boolean recompute) {
        model.recompute(recompute);
        model.context().ops().fill(model.parameters().gradients(), 0);
        try (GenerativeStep step = new GenerativeStep(model, items(golden), maxRows, 0.99f, null)) {
            step.run(sequences(golden), negatives(golden));
        }
        return model.parameters().gradients().toFloats();
    }

    private static void forward(Golden golden, Hllm model, int[][] tokens, int maxRows) {
        int width = model.config().width();
        try (Tensor table = CatalogueEncoder.table(model, tokens, maxRows, null)) {
            golden.near("out.catalogue_embedding", golden.floats("out.catalogue_embedding"), table.toFloats());

            // Row 0 of predict_features is the padding item; an item's number in item_seq is its row plus one.
            long[] seq = golden.file.readLongs("batch.predict_item_seq");
            int users = (int) golden.file.info("batch.predict_item_seq").shape()[0];
            int[][] histories = IntStream.range(0, users)
                    .mapToObj(u -> IntStream.range(u * seq.length / users, (u + 1) * seq.length / users)
                            .filter(i -> seq[i] > 0)
                            .map(i -> (int) seq[i] - 1)
                            .toArray())
                    .toArray(int[][]::new);
            float[] expected = golden.floats("out.predict_scores");
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
            golden.near("out.predict_scores", real, scores);
        }
    }

    private static void training(Golden golden, Hllm model, int[][] tokens, int maxRows) {
        int[][] sequences = sequences(golden.file);
        int[] negatives = negatives(golden.file);
        float[] metrics = golden.floats("out.metrics");
        float[] steps = golden.floats("out.loss_and_gradnorm_per_step");
        float[][] expected = new float[2][steps.length / 2];
        float[][] found = new float[2][steps.length / 2];
        try (GenerativeStep step = new GenerativeStep(model, tokens, maxRows, 0.99f, null);
                AdamWOptimizer optimizer = new AdamWOptimizer(model, 0.01f, 1f)) {
            for (int i = 0; i < expected[0].length; i++) {
                optimizer.zeroGradients();
                GenerativeStep.Result result = step.run(sequences, negatives);
                if (i == 0) {
                    golden.near("out.loss", metrics[0], result.loss());
                    golden.near("out.nce_samples", metrics[1], result.nceSamples());
                    golden.near("out.top1_accuracy", metrics[2], result.topK()[0]);
                    compare(golden, "grad.", model, Parameter::gradient);
                }
                expected[0][i] = steps[2 * i];
                expected[1][i] = steps[2 * i + 1];
                found[0][i] = (float) result.loss();
                found[1][i] = (float) optimizer.step(LR);
            }
            golden.nearEach("steps.loss", expected[0], found[0]);
            golden.nearEach("steps.gradient_norm", expected[1], found[1]);
        }
        compare(golden, "after.", model, Parameter::value);
    }

    /** The batch's sequences without their padding. */
    private static int[][] sequences(Safetensors golden) {
        long[] shape = golden.info("batch.attention_mask").shape();
        int history = (int) shape[1];
        long[] mask = golden.readLongs("batch.attention_mask");
        long[] positive = golden.readLongs("batch.pos_items");
        int[][] sequences = new int[(int) shape[0]][];
        for (int u = 0; u < sequences.length; u++) {
            int padding = (int) IntStream.range(u * history, (u + 1) * history)
                    .filter(i -> mask[i] == 0)
                    .count();
            sequences[u] = ints(Arrays.copyOfRange(positive, u * (history + 1) + padding, (u + 1) * (history + 1)));
        }
        return sequences;
    }

    private static int[] negatives(Safetensors golden) {
        return ints(golden.readLongs("batch.neg_items"));
    }

    private static int[] ints(long[] values) {
        return Arrays.stream(values).mapToInt(i -> (int) i).toArray();
    }

    /** Compares every golden tensor of a kind with the parameter (or its gradient) of that name. */
    private static void compare(Golden golden, String kind, Hllm model, Function<Parameter, Tensor> tensor) {
        int compared = 0;
        for (String name : golden.file.names()) {
            if (!name.startsWith(kind)) {
                continue;
            }
            String own = name.substring(kind.length());
            if (own.equals("user_llm.model.embed_tokens.weight") || own.endsWith("lm_head.weight")) {
                continue; // dropped: the User LLM has no words
            }
            Tensor found = tensor.apply(model.parameters().get(own));
            golden.near(name, golden.floats(name), found.toFloats());
            compared++;
        }
        assertTrue(compared > 0, "no tensor " + kind + "* in the golden file");
        if (kind.equals("grad.")) {
            assertEquals(model.parameters().all().size(), compared, "gradients compared");
        }
    }

    /** Token ids of the catalogue's items, without the [ITEM] place. */
    private static int[][] items(Safetensors golden) {
        long[] ids = golden.readLongs("batch.catalogue_ids");
        long[] lengths = golden.readLongs("batch.catalogue_lens");
        int[][] items = new int[lengths.length][];
        int at = 0;
        for (int i = 0; i < items.length; i++) {
            items[i] = Arrays.stream(ids, at, at + (int) lengths[i] - itemTokens(golden))
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

    static TensorSource prefixed(TensorSource source, String prefix) {
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
