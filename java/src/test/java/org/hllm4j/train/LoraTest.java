package org.hllm4j.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.Stream;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.data.Dataset;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;
import org.hllm4j.model.Pooling;
import org.hllm4j.nn.Lora;
import org.hllm4j.nn.LowRank;
import org.hllm4j.nn.Parameter;
import org.hllm4j.run.Hashes;
import org.hllm4j.run.Origin;
import org.hllm4j.run.RunFolder;
import org.hllm4j.weights.ModelConfig;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Training through adapters, against the training of the weights that they add up to. */
class LoraTest {
    private static final int[][] SEQUENCES = {{1, 2, 3, 1}, {4, 5}, {6, 2, 7, 8, 9}};
    private static final int[] NEGATIVES = {10, 11, 2, 12, 12, 29};
    private static final Hllm.Trained WHOLE = new Hllm.Trained(true, true);
    private static final Hllm.Trained BOTH = WHOLE.withLora(new Lora(3, 5), new Lora(2, 4));
    private static final TrainOptions OPTIONS = new TrainOptions(
            2, 0, 8, 20, true, 1, 0, 5e-3, 0.1, 0.01, 1, 0.99, Tiny.seed(), 1000, false, 5, true, 1e-9);

    @TempDir
    Path folder;

    private Dataset data;

    @BeforeEach
    void data() {
        System.out.println("seed " + Tiny.seed());
        data = Tiny.dataset(folder, 40, 30);
    }

    @AfterEach
    void nothingIsLeft() {
        assertEquals(0, Context.liveBytes(Tiny.device()));
    }

    private static final ModelConfig BERT = ModelConfig.parse("""
            {"model_type": "bert", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
             "num_attention_heads": 3, "vocab_size": %d, "max_position_embeddings": 32, "type_vocab_size": 2,
             "initializer_range": 0.2}
            """.formatted(Tiny.VOCABULARY), "test");

    /** Adapters in the midst of a training: none of their numbers is zero. */
    private static Hllm adapted(Context context, HllmConfig config, DType storage) {
        Hllm model = random(new Hllm(context, config, BOTH, storage));
        model.randomiseAdapters(Tiny.seed());
        Random random = new Random(Tiny.seed());
        for (LowRank adapter : model.parameters().adapters()) {
            float[] up = new float[(int) adapter.up().value().elements()];
            for (int i = 0; i < up.length; i++) {
                up[i] = 0.1f * (float) random.nextGaussian();
            }
            adapter.up().value().write(up);
        }
        model.refresh();
        return model;
    }

    private static Hllm random(Hllm model) {
        model.randomise(Hllm.Side.ITEM, Tiny.seed());
        model.randomise(Hllm.Side.USER, Tiny.seed());
        model.randomiseItemToken(Tiny.seed());
        return model;
    }

    /** The same model with its adapters added to its weights, all trained. */
    private static Hllm merged(Context context, Hllm adapted) {
        Hllm model = new Hllm(context, adapted.config(), WHOLE, DType.F32);
        for (Parameter parameter : model.parameters().all()) {
            adapted.parameters()
                    .read(
                            adapted.parameters().get(parameter.name()),
                            values -> parameter.value().write(values.toFloats()));
        }
        model.refresh();
        return model;
    }

    /** Without the cosine's threshold, on either side of which rounding could put a negative. */
    private GenerativeStep.Result step(Hllm model, int maxRows) {
        try (GenerativeStep step = new GenerativeStep(model, data.tokens(), maxRows, 2, null)) {
            model.context().ops().fill(model.parameters().gradients(), 0);
            return step.run(SEQUENCES, NEGATIVES);
        }
    }

    /** For w + s up down: d(up) = s dw down^T, d(down) = s up^T dw, with dw as found where w itself is trained. */
    @TestFactory
    Stream<DynamicTest> gradientsAreThoseOfTheWeightsTheyAddUpTo() {
        return GoldenTest.Setting.tests(setting -> Stream.of(DType.F32, DType.BF16)
                .map(storage -> DynamicTest.dynamicTest(
                        setting + ", weights in " + storage, () -> gradients(setting, storage))));
    }

    private void gradients(GoldenTest.Setting setting, DType storage) {
        HllmConfig llama = Tiny.config(Pooling.TOKEN);
        HllmConfig bert = new HllmConfig(BERT, llama.user(), Pooling.TOKEN, Tiny.MAX_TEXT, Tiny.MAX_HISTORY);
        for (HllmConfig config : List.of(llama, Tiny.config(Pooling.MEAN), bert)) {
            try (Context context = setting.open();
                    Context exact = Context.open("cpu", DType.F32);
                    Hllm model = adapted(context, config, storage);
                    Hllm whole = merged(context, model);
                    Hllm oracle = merged(exact, model)) {
                double loss = step(oracle, 1000).loss();
                step(whole, 1000);
                for (int maxRows : new int[] {1000, 20}) {
                    model.recompute(maxRows == 20);
                    boolean rounds = storage == DType.BF16 || setting.dtype() == DType.BF16;
                    assertEquals(loss, step(model, maxRows).loss(), rounds ? 0.1 : 1e-4);
                    int compared = 0;
                    for (Parameter parameter : oracle.parameters().all()) {
                        Parameter of = model.parameters().fused(parameter.name());
                        if (of != null && (of.adapter() != null || of.trainable())) {
                            Gradient expected = gradient(of, oracle);
                            Gradient plain = gradient(of, whole);
                            Gradient found = gradient(of, model);
                            near(of.name(), expected.up, plain.up, found.up, rounds);
                            near(of.name(), expected.down, plain.down, found.down, rounds);
                            compared++;
                        }
                    }
                    int rest = config.pooling() == Pooling.TOKEN ? 2 : 1; // [ITEM], the logit scale
                    assertEquals(4 * 3 + rest, compared, "two layers and one, of four products each");
                }
            }
        }
        assertEquals(0, Context.liveBytes(setting.device()));
    }

    /** Of an adapter; of a parameter that has none, its own in both places. */
    private record Gradient(float[] down, float[] up) {}

    /** As the model has it, or by the rule above from that of its weights. */
    private static Gradient gradient(Parameter of, Hllm model) {
        String first = of.name().split("[+]")[0];
        Parameter own = model.parameters().fused(first);
        if (own.adapter() != null) {
            return new Gradient(
                    own.adapter().down().gradient().toFloats(),
                    own.adapter().up().gradient().toFloats());
        }
        float[] dw = own.gradient().toFloats();
        if (of.adapter() == null) {
            return new Gradient(dw, dw);
        }
        int outputs = (int) of.value().size(0);
        int inputs = (int) of.value().size(1);
        float[] down = of.adapter().down().value().toFloats();
        float[] up = of.adapter().up().value().toFloats();
        int rank = down.length / inputs;
        double[] ddown = new double[down.length];
        double[] dup = new double[up.length];
        for (int n = 0; n < outputs; n++) {
            for (int r = 0; r < rank; r++) {
                for (int k = 0; k < inputs; k++) {
                    double d = (double) of.adapter().scale() * dw[n * inputs + k];
                    ddown[r * inputs + k] += up[n * rank + r] * d;
                    dup[n * rank + r] += down[r * inputs + k] * d;
                }
            }
        }
        return new Gradient(floats(ddown), floats(dup));
    }

    /** In bf16, which a processor may also use below bf16 weights: five times the error of the weights' own gradients. */
    private static void near(String name, float[] expected, float[] plain, float[] found, boolean rounds) {
        double allowed = rounds ? 5 * Tiny.relativeError(expected, plain) + 0.05 : 1e-4;
        near(name, expected, found, allowed);
    }

    private static float[] floats(double[] values) {
        float[] floats = new float[values.length];
        for (int i = 0; i < floats.length; i++) {
            floats[i] = (float) values[i];
        }
        return floats;
    }

    private static void near(String name, float[] expected, float[] found, double tolerance) {
        double relative = Tiny.relativeError(expected, found);
        assertTrue(relative < tolerance, () -> name + ": relative error " + relative);
    }

    private record Trained(float[] values, List<Double> losses, Trainer.Summary summary) {}

    private Hllm start(Context context, DType storage) {
        Hllm model = random(new Hllm(context, Tiny.config(Pooling.TOKEN), BOTH, storage));
        model.randomiseAdapters(Tiny.seed());
        return model;
    }

    private Trainer.Summary fit(Hllm model, String name, TrainOptions options, TrainListener listener) {
        return Trainer.fit(
                model,
                data,
                options,
                RunFolder.create(folder.resolve(name)),
                new Origin(List.of("title"), "{}", Map.of("start", "test")),
                listener);
    }

    private Trained train(String name, int stopAfter) {
        StepRecorder recorder = new StepRecorder(stopAfter);
        try (Context context = Context.open(Tiny.device());
                Hllm model = start(context, DType.BF16)) {
            Trainer.Summary summary = fit(model, name, OPTIONS, recorder);
            return new Trained(model.parameters().values().toFloats(), recorder.losses(), summary);
        }
    }

    @Test
    void aResumedRunHasTheBitsOfAnUninterruptedOneAndKeepsAdaptersOnly() throws IOException {
        Trained whole = train("whole", -1);
        List<Double> losses = new ArrayList<>();
        Trained part = null;
        for (int stop : new int[] {1, 4, -1}) {
            part = train("parts", stop);
            losses.addAll(part.losses());
            if (stop == 4) {
                try (Stream<Path> files = Files.list(folder.resolve("parts"))) {
                    Path checkpoint = files.filter(f -> f.toString().contains("checkpoint"))
                            .findFirst()
                            .orElseThrow();
                    assertEquals(12L * part.values().length, Files.size(checkpoint), 2048);
                }
            }
        }
        assertArrayEquals(whole.values(), part.values());
        assertEquals(whole.losses(), losses);
        assertEquals(whole.summary(), part.summary());
    }

    @ParameterizedTest
    @EnumSource(
            value = DType.class,
            names = {"F32", "BF16"})
    void trainingLearnsAndTheWeightsBelowKeepTheirBits(DType storage) {
        try (Context context = Context.open(Tiny.device());
                Hllm start = start(context, storage);
                Hllm model = start(context, storage)) {
            StepRecorder recorder = new StepRecorder(-1);
            fit(model, "run", OPTIONS, recorder);
            List<Double> losses = recorder.losses();
            int third = losses.size() / 3;
            double before = mean(losses.subList(0, third));
            double after = mean(losses.subList(losses.size() - third, losses.size()));
            assertTrue(after < before, () -> "loss " + before + " -> " + after);
            assertEquals(Hashes.ofFrozen(start.parameters()), Hashes.ofFrozen(model.parameters()));
            List<String> trained = new ArrayList<>();
            for (Parameter parameter : model.parameters().all()) {
                float[] old = values(start, parameter.name());
                if (!Arrays.equals(old, values(model, parameter.name()))) {
                    trained.add(parameter.name());
                }
            }
            assertEquals(List.of(Hllm.ITEM_TOKEN, Hllm.LOGIT_SCALE), trained);
            for (LowRank adapter : model.parameters().adapters()) {
                float[] up = adapter.up().value().toFloats();
                assertTrue(
                        Tiny.relativeError(up, new float[up.length]) > 0,
                        adapter.up().name() + " was trained");
            }
        }
    }

    private static float[] values(Hllm model, String name) {
        float[][] found = new float[1][];
        model.parameters().read(model.parameters().get(name).bare(), values -> found[0] = values.toFloats());
        return found[0];
    }

    private static double mean(List<Double> values) {
        return values.stream().mapToDouble(d -> d).average().orElseThrow();
    }

    /** What is loaded from the run knows nothing of adapters, and computes the same. */
    @Test
    void theRunHoldsTheSum() {
        TrainOptions unvalidated = new TrainOptions(
                1, 3, 8, 20, true, 1, 0, 5e-2, 0.1, 0.01, 1, 0.99, Tiny.seed(), 1000, false, 5, false, 1000);
        try (Context context = Context.open(Tiny.device(), DType.F32);
                Hllm model = start(context, DType.F32)) {
            fit(model, "run", unvalidated, TrainListener.SILENT);
            try (Hllm loaded = new RunFolder(folder.resolve("run")).load(context, DType.F32);
                    Hllm untrained = start(context, DType.F32);
                    Tensor expected = table(model);
                    Tensor found = table(loaded);
                    Tensor before = table(untrained)) {
                assertTrue(loaded.parameters().adapters().isEmpty());
                near("item vectors", expected.toFloats(), found.toFloats(), 1e-5);
                assertTrue(Tiny.relativeError(before.toFloats(), found.toFloats()) > 1e-2, "nothing was trained");
                try (GenerativeStep step = new GenerativeStep(loaded, data.tokens(), 1000, 2, null)) {
                    assertEquals(
                            step(model, 1000).loss(),
                            step.run(SEQUENCES, NEGATIVES).loss(),
                            1e-4);
                }
            }
        }
    }

    private Tensor table(Hllm model) {
        return CatalogueEncoder.table(model, data.tokens(), 1000, null);
    }

    @Test
    void otherWeightsBelowDoNotContinueARun() {
        train("run", 2);
        try (Context context = Context.open(Tiny.device());
                Hllm model = start(context, DType.BF16)) {
            Parameter norm = model.parameters().get("item_llm.model.norm.weight");
            float[] values = norm.value().toFloats();
            values[7] = Math.nextUp(values[7]);
            norm.value().write(values);
            HllmException refused =
                    assertThrows(HllmException.class, () -> fit(model, "run", OPTIONS, TrainListener.SILENT));
            assertTrue(refused.getMessage().contains("other start weights"), refused.getMessage());
        }
        assertNotNull(train("run", -1).summary(), "the right ones do");
    }

    @Test
    void oneSideMayHaveAdaptersAndTheOtherBeTrainedOrFrozen() {
        Lora lora = new Lora(2, 4);
        for (Hllm.Trained trained : List.of(
                WHOLE.withLora(lora, null),
                WHOLE.withLora(null, lora),
                new Hllm.Trained(true, false).withLora(lora, null),
                new Hllm.Trained(false, true).withLora(null, lora))) {
            try (Context context = Context.open(Tiny.device());
                    Hllm model = random(new Hllm(context, Tiny.config(Pooling.MEAN), trained, DType.F32))) {
                model.randomiseAdapters(Tiny.seed());
                assertEquals(trained.item(), model.trains(Hllm.Side.ITEM), trained.toString());
                assertEquals(trained.user(), model.trains(Hllm.Side.USER), trained.toString());
                String below = Hashes.ofFrozen(model.parameters());
                float[] before = model.parameters().values().toFloats();
                fit(model, trained.toString(), OPTIONS, TrainListener.SILENT);
                assertEquals(below, Hashes.ofFrozen(model.parameters()));
                assertTrue(
                        Tiny.relativeError(before, model.parameters().values().toFloats()) > 0);
            }
        }
        assertThrows(IllegalArgumentException.class, () -> new Hllm.Trained(true, false).withLora(null, lora));
    }
}
