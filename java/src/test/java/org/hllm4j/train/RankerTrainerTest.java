package org.hllm4j.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.data.Catalogue;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Interactions;
import org.hllm4j.data.LabelRule;
import org.hllm4j.data.LabelledSequence;
import org.hllm4j.data.MissingText;
import org.hllm4j.data.Split;
import org.hllm4j.data.TimeSplit;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.eval.RankerEvaluator;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.EventScorer;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.Pooling;
import org.hllm4j.nn.Parameter;
import org.hllm4j.run.Origin;
import org.hllm4j.run.RunFolder;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

class RankerTrainerTest {
    private static final int ITEMS = 30;
    private static final Hllm.Trained ALL = new Hllm.Trained(true, true, true);
    private static final TrainOptions OPTIONS =
            new TrainOptions(3, 0, 8, 20, true, 1, 0, 2e-3, 0.1, 0.01, 1, 1, Tiny.seed(), 1000, false, 5, true, 1e-9);

    @TempDir
    Path folder;

    private Dataset data;

    /**
     * Two kinds of items, told by a word of their text. Half of the users likes one, half the other, and mostly sees what it
     * likes: only the history tells which. A tenth of the labels is missing.
     */
    @BeforeEach
    void data() throws IOException {
        Random random = new Random(Tiny.seed());
        StringBuilder items = new StringBuilder("item_id,title\n");
        for (int i = 0; i < ITEMS; i++) {
            items.append("i").append(i).append(",film\n");
        }
        StringBuilder log = new StringBuilder("item_id,user_id,timestamp,rating\n");
        for (int time = 0; time < 1000; time++) {
            int user = (int) (60 * Math.pow(random.nextDouble(), 1.5));
            int liked = 2 * random.nextInt(ITEMS / 2) + user % 2;
            int item = random.nextInt(5) > 0 ? liked : liked ^ 1;
            String rating = random.nextInt(10) == 0 ? "" : (item + user) % 2 == 0 ? "9" : "4";
            log.append("i%d,u%d,%d,%s\n".formatted(item, user, time, rating));
        }
        int[][] tokens = new int[ITEMS][];
        Arrays.setAll(tokens, i -> new int[] {1, 2, 3 + i % 2, 5 + i});
        Catalogue catalogue = Catalogue.read(Files.writeString(folder.resolve("items.csv"), items), List.of("title"));
        Interactions interactions = Interactions.read(
                Files.writeString(folder.resolve("log.csv"), log), catalogue, MissingText.ERROR, "rating");
        data = new Dataset(catalogue, interactions, tokens);
    }

    @AfterEach
    void nothingIsLeft() {
        assertEquals(0, Context.liveBytes(Tiny.device()));
    }

    private RankingOptions ranking(double lambda) {
        return new RankingOptions(LabelRule.parse("rating>=8"), TimeSplit.last(data.interactions(), 0.3), lambda, true);
    }

    private static Hllm model(Context context, Fusion fusion, Pooling pooling, Hllm.Trained trained) {
        Hllm model = new Hllm(context, Tiny.config(pooling).withFusion(fusion), trained, DType.F32);
        model.randomise(Hllm.Side.ITEM, Tiny.seed());
        model.randomise(Hllm.Side.USER, Tiny.seed());
        model.randomiseItemToken(Tiny.seed());
        model.randomiseRanker(Tiny.seed(), 0.4);
        return model;
    }

    /** A model whose logits differ before any training. */
    private static Hllm opinionated(Context context, Fusion fusion, Pooling pooling, Hllm.Trained trained) {
        Hllm model = model(context, fusion, pooling, trained);
        Parameter down = model.parameters().get("ranker.down_proj.weight");
        Random random = new Random(Tiny.seed());
        float[] values = new float[(int) down.value().elements()];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) random.nextGaussian();
        }
        down.value().write(values);
        model.refresh();
        return model;
    }

    /** Sequences with and without history, with unlabelled events, up to the longest history. */
    private static List<LabelledSequence> sequences() {
        return List.of(
                new LabelledSequence(
                        0, new int[] {1, 2, 3, 1, 7, 8, 9}, new int[] {0, 2, 3, 6}, new float[] {1, 0, 1, 1}),
                new LabelledSequence(1, new int[] {4}, new int[] {0}, new float[] {0}),
                new LabelledSequence(2, new int[] {5, 6, 2}, new int[] {1}, new float[] {0}));
    }

    private static final int[] NEGATIVES = {10, 11, 2, 12, 12, 29};

    // ---- The model --------------------------------------------------------------------------------------------------

    @ParameterizedTest
    @EnumSource(Fusion.class)
    void aFreshHeadKnowsTheBaseRateOnly(Fusion fusion) {
        try (Context context = Context.open(Tiny.device(), DType.F32);
                Hllm model = model(context, fusion, Pooling.TOKEN, Hllm.Trained.NOTHING);
                Tensor table = CatalogueEncoder.table(model, data.tokens(), 1000, null)) {
            for (float logit : EventScorer.logits(model, table, sequences(), 1000, null)) {
                assertEquals(Math.log(0.4 / 0.6), logit, 1e-6);
            }
        }
    }

    @ParameterizedTest
    @EnumSource(Fusion.class)
    void aSharedPassEqualsASequenceForEachEvent(Fusion fusion) {
        List<LabelledSequence> alone = new ArrayList<>();
        for (LabelledSequence sequence : sequences()) {
            for (int i = 0; i < sequence.places().length; i++) {
                int place = sequence.places()[i];
                int[] items = Arrays.copyOf(sequence.items(), place + 1);
                alone.add(new LabelledSequence(sequence.user(), items, new int[] {place}, new float[] {1}));
            }
        }
        try (Context context = Context.open(Tiny.device(), DType.F32);
                Hllm model = opinionated(context, fusion, Pooling.TOKEN, Hllm.Trained.NOTHING);
                Tensor table = CatalogueEncoder.table(model, data.tokens(), 1000, null)) {
            float[] shared = EventScorer.logits(model, table, sequences(), 1000, null);
            assertEquals(6, shared.length);
            assertArrayEquals(EventScorer.logits(model, table, alone, 1, null), shared, 1e-5f);
            assertTrue(Arrays.stream(new int[] {1, 2, 3, 4, 5}).noneMatch(i -> shared[i] == shared[0]));

            HllmException tooLong = assertThrows(
                    HllmException.class,
                    () -> EventScorer.logits(
                            model,
                            table,
                            List.of(new LabelledSequence(0, new int[8], new int[] {7}, new float[1])),
                            1000,
                            null));
            assertTrue(tooLong.getMessage().contains("max history of " + Tiny.MAX_HISTORY), tooLong.getMessage());
        }
    }

    /** Along its own gradient, the loss rises by the gradient's square: for every parameter, by central differences. */
    @ParameterizedTest
    @CsvSource({"LATE, 0, TOKEN", "LATE, 0.5, MEAN", "EARLY, 0, MEAN", "EARLY, 0.5, TOKEN", "LATE, 1, TOKEN"})
    void gradientsAreTheDerivatives(Fusion fusion, float lambda, Pooling pooling) {
        try (Context context = Context.open(Tiny.device(), DType.F32);
                Hllm model = opinionated(context, fusion, pooling, ALL);
                DiscriminativeStep step = new DiscriminativeStep(model, data.tokens(), 1000, 0.99f, lambda, null)) {
            context.ops().fill(model.parameters().gradients(), 0);
            step.run(sequences(), NEGATIVES);
            Map<String, float[]> gradients = new HashMap<>();
            model.parameters()
                    .all()
                    .forEach(p -> gradients.put(p.name(), p.gradient().toFloats()));
            for (Parameter parameter : model.parameters().all()) {
                float[] gradient = gradients.get(parameter.name());
                float[] start = parameter.value().toFloats();
                double norm = Math.sqrt(IntStream.range(0, gradient.length)
                        .mapToDouble(i -> gradient[i] * gradient[i])
                        .sum());
                if (parameter.name().equals(Hllm.LOGIT_SCALE) && lambda == 0) {
                    assertEquals(0, norm);
                    continue;
                }
                assertTrue(norm > 0, parameter.name());
                double h = 0.002
                        * Math.sqrt(IntStream.range(0, start.length)
                                .mapToDouble(i -> start[i] * start[i])
                                .sum());
                double[] losses = new double[4];
                for (int i = 0; i < 4; i++) {
                    double distance = new double[] {h, -h, 2 * h, -2 * h}[i];
                    float[] moved = start.clone();
                    for (int k = 0; k < moved.length; k++) {
                        moved[k] += (float) (distance * gradient[k] / norm);
                    }
                    parameter.value().write(moved);
                    model.refresh();
                    losses[i] = step.run(sequences(), NEGATIVES).loss();
                }
                parameter.value().write(start);
                model.refresh();
                // Two step sizes, extrapolated to none.
                double found = (8 * (losses[0] - losses[1]) - (losses[2] - losses[3])) / (12 * h);
                assertEquals(norm, found, 0.02 * norm + 2e-7 * losses[0] / h, parameter.name());
            }
        }
    }

    @ParameterizedTest
    @EnumSource(Fusion.class)
    void neitherChunksNorRecomputingNorUnusedNegativesChangeGradients(Fusion fusion) {
        try (Context context = Context.open(Tiny.device(), DType.F32);
                Hllm model = opinionated(context, fusion, Pooling.TOKEN, ALL)) {
            for (float lambda : new float[] {0, 0.3f}) {
                float[] whole = gradients(model, 1000, lambda, NEGATIVES);
                near("chunks", whole, gradients(model, 9, lambda, NEGATIVES));
                model.recompute(true);
                assertArrayEquals(whole, gradients(model, 1000, lambda, NEGATIVES));
                model.recompute(false);
                if (lambda == 0) {
                    assertArrayEquals(whole, gradients(model, 1000, lambda, new int[] {20, 21}));
                }
            }
        }
    }

    private float[] gradients(Hllm model, int maxRows, float lambda, int[] negatives) {
        try (DiscriminativeStep step = new DiscriminativeStep(model, data.tokens(), maxRows, 0.99f, lambda, null)) {
            model.context().ops().fill(model.parameters().gradients(), 0);
            step.run(sequences(), negatives);
            return model.parameters().gradients().toFloats();
        }
    }

    private static void near(String what, float[] expected, float[] actual) {
        double relative = Tiny.relativeError(expected, actual);
        assertTrue(relative < 1e-5, () -> what + ": relative error " + relative);
    }

    // ---- Training ---------------------------------------------------------------------------------------------------

    private record Run(float[] values, Trainer.Summary summary, List<Double> losses) {}

    private Run train(String name, Fusion fusion, double lambda, Hllm.Trained trained, TrainOptions options, int stop) {
        StepRecorder recorder = new StepRecorder(stop);
        try (Context context = Context.open(Tiny.device(), DType.F32);
                Hllm model = model(context, fusion, Pooling.TOKEN, trained)) {
            Trainer.Summary summary = Trainer.fitRanker(
                    model,
                    data,
                    options,
                    ranking(lambda),
                    RunFolder.create(folder.resolve(name)),
                    new Origin(List.of("title"), "{}", Map.of("start", "test")),
                    recorder);
            return new Run(model.parameters().values().toFloats(), summary, recorder.losses());
        }
    }

    @Test
    void aResumedRunHasTheBitsOfAnUninterruptedOne() throws IOException {
        Run whole = train("whole", Fusion.LATE, 0.1, ALL, OPTIONS, -1);
        assertTrue(whole.summary().finished());
        List<Double> losses = new ArrayList<>();
        Run part = null;
        for (int stop : new int[] {2, 7, -1}) {
            part = train("parts", Fusion.LATE, 0.1, ALL, OPTIONS, stop);
            losses.addAll(part.losses());
        }
        assertArrayEquals(whole.values(), part.values());
        assertEquals(whole.summary(), part.summary());
        assertEquals(whole.losses(), losses);
        String line = Files.readAllLines(folder.resolve("parts/steps.jsonl")).getFirst();
        assertTrue(line.contains("\"bce\"") && line.contains("\"nce\"") && line.contains("\"nce_samples\""), line);
    }

    @Test
    void anotherRuleLambdaOrFusionDoesNotContinueARun() {
        train("run", Fusion.LATE, 0.1, ALL, OPTIONS, 2);
        HllmException refused =
                assertThrows(HllmException.class, () -> train("run", Fusion.LATE, 0.2, ALL, OPTIONS, -1));
        assertTrue(refused.getMessage().contains("other options"), refused.getMessage());
        refused = assertThrows(HllmException.class, () -> train("run", Fusion.EARLY, 0.1, ALL, OPTIONS, -1));
        assertTrue(refused.getMessage().contains("other options"), refused.getMessage());
    }

    @ParameterizedTest
    @CsvSource({"LATE, 0", "EARLY, 0", "LATE, 0.1", "EARLY, 0.1"})
    void itLearnsWhatTheItemAloneDoesNotTell(Fusion fusion, double lambda) {
        TrainOptions longer = new TrainOptions(
                80, 0, 8, 20, true, 1, 0, 2e-3, 0.1, 0.01, 1, 1, Tiny.seed(), 1000, false, 20, true, 1000);
        Run run = train("run", fusion, lambda, ALL, longer, -1);
        double item = RankerEvaluator.baselines(ranking(lambda).events(data, Tiny.MAX_HISTORY), Split.VALIDATION)
                .get("item mean rating")
                .auc();
        double found = run.summary().validation().get("auc");
        assertTrue(found > item + 0.1, "AUC " + found + ", of the items' means " + item);

        // The run folder gives the ranker back.
        RunFolder folder = new RunFolder(this.folder.resolve("run"));
        assertEquals(fusion, folder.manifest().fusion());
        assertEquals("rating>=8", folder.manifest().training().get("label"));
        assertEquals(lambda, ((Number) folder.manifest().training().get("lambda")).doubleValue());
        assertArrayEquals(
                ranking(lambda).events(data, Tiny.MAX_HISTORY).prior().values(), folder.loadPriors(data.catalogue()));
        try (Context context = Context.open(Tiny.device(), DType.F32);
                Hllm model = folder.load(context, DType.F32);
                Tensor table = folder.loadItems(context, data.catalogue())) {
            assertEquals(
                    run.summary().validation(),
                    RankerEvaluator.evaluate(
                                    model,
                                    table,
                                    ranking(lambda).events(data, Tiny.MAX_HISTORY),
                                    Split.VALIDATION,
                                    null)
                            .asMap());
        }
    }

    @Test
    void frozenSidesStayAndTheHeadLearns() {
        try (Context context = Context.open(Tiny.device(), DType.F32);
                Hllm start = model(context, Fusion.LATE, Pooling.TOKEN, Hllm.Trained.NOTHING)) {
            for (boolean item : new boolean[] {false, true}) {
                for (boolean user : new boolean[] {false, true}) {
                    Hllm.Trained trained = new Hllm.Trained(item, user, true);
                    train(trained.toString(), Fusion.LATE, 0.1, trained, OPTIONS, -1);
                    try (Hllm model = new RunFolder(folder.resolve(trained.toString())).load(context, DType.F32)) {
                        assertEquals(item, changed(start, model, "item_llm.model.norm.weight"), trained.toString());
                        assertEquals(user, changed(start, model, "user_llm.model.norm.weight"), trained.toString());
                        assertTrue(changed(start, model, "ranker.down_proj.weight"), trained.toString());
                        assertTrue(changed(start, model, "ranker.user_token"), trained.toString());
                    }
                }
            }
        }
    }

    private static boolean changed(Hllm start, Hllm model, String name) {
        return !Arrays.equals(
                start.parameters().get(name).value().toFloats(),
                model.parameters().get(name).value().toFloats());
    }
}
