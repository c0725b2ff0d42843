package org.hllm4j.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import java.util.zip.CRC32C;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.data.Dataset;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.Pooling;
import org.hllm4j.run.Origin;
import org.hllm4j.run.RunFolder;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TrainerTest {
    private static final TrainOptions OPTIONS = new TrainOptions(
            3, 0, 8, 20, true, 1, 0, 5e-3, 0.1, 0.01, 1, 0.99, Tiny.seed(), 1000, false, 5, true, 1e-9);

    @TempDir
    Path folder;

    private Dataset data;

    @BeforeEach
    void data() {
        data = Tiny.dataset(folder, 40, 30);
    }

    @AfterEach
    void nothingIsLeft() {
        assertEquals(0, Context.liveBytes(Tiny.device()));
    }

    /** Parameters after training, and the summary. */
    private record Trained(float[] values, Trainer.Summary summary, List<StepLog> steps) {}

    private Trained train(String name, TrainOptions options, Hllm.Trained trained, int stopAfter) {
        StepRecorder recorder = new StepRecorder(stopAfter);
        try (Context context = Context.open(Tiny.device());
                Hllm model = Tiny.model(context, Pooling.TOKEN, trained)) {
            Trainer.Summary summary = Trainer.fit(
                    model,
                    data,
                    options,
                    RunFolder.create(folder.resolve(name)),
                    new Origin(List.of("title"), "{}", Map.of("start", "test")),
                    recorder);
            return new Trained(model.parameters().values().toFloats(), summary, recorder.steps());
        }
    }

    private static final Hllm.Trained BOTH = new Hllm.Trained(true, true);

    @Test
    void theSameSeedGivesTheSameBitsOnAnyNumberOfThreads() {
        float[] once = train("a", OPTIONS, BOTH, -1).values();
        assertArrayEquals(once, train("b", OPTIONS, BOTH, -1).values());
        int threads = Context.threads();
        try {
            Context.threads(threads + 3);
            assertArrayEquals(once, train("c", OPTIONS, BOTH, -1).values());
        } finally {
            Context.threads(threads);
        }
    }

    @Test
    void aResumedRunHasTheBitsOfAnUninterruptedOne() throws IOException {
        Trained whole = train("whole", OPTIONS, BOTH, -1);
        assertTrue(whole.summary().finished());
        assertEquals(whole.steps().size(), whole.summary().steps());

        List<StepLog> steps = new ArrayList<>();
        Trained part = null;
        for (int stop : new int[] {1, 4, 2, -1}) { // within epochs, and over their ends
            part = train("parts", OPTIONS, BOTH, stop);
            assertEquals(stop == -1, part.summary().finished());
            steps.addAll(part.steps());
        }
        assertArrayEquals(whole.values(), part.values());
        assertEquals(whole.summary(), part.summary());
        assertEquals(
                whole.steps().stream().map(s -> s.result().loss()).toList(),
                steps.stream().map(s -> s.result().loss()).toList());
        assertEquals(
                Files.readAllLines(folder.resolve("whole/steps.jsonl")).size(),
                Files.readAllLines(folder.resolve("parts/steps.jsonl")).size());
        try (Stream<Path> files = Files.list(folder.resolve("parts"))) {
            assertTrue(files.noneMatch(f -> f.toString().contains("checkpoint")), "checkpoints of a finished run");
        }
    }

    /** Recomputing changes no bit, so that it may begin, or end, in the middle of a run. */
    @Test
    void aRecomputingRunHasTheBitsOfAnother() {
        float[] whole = train("whole", OPTIONS, BOTH, -1).values();
        assertArrayEquals(
                whole,
                train("recomputed", OPTIONS.withRecompute(true), BOTH, -1).values());
        train("parts", OPTIONS, BOTH, 5);
        assertArrayEquals(
                whole, train("parts", OPTIONS.withRecompute(true), BOTH, -1).values());
        assertEquals(
                "true",
                RunFolder.create(folder.resolve("parts"))
                        .manifest()
                        .training()
                        .get("recompute")
                        .toString());
    }

    /** What kill -9 leaves: a checkpoint of some steps ago, and log lines of the steps since, the last one cut short. */
    @Test
    void workSinceTheLastCheckpointIsDoneAgain() throws IOException {
        Trained whole = train("whole", OPTIONS, BOTH, -1);
        TrainOptions rarely = new TrainOptions(
                3, 0, 8, 20, true, 1, 0, 5e-3, 0.1, 0.01, 1, 0.99, Tiny.seed(), 1000, false, 5, true, 1000);
        train("killed", OPTIONS, BOTH, 3);
        RuntimeException killed = new RuntimeException("killed");
        try (Context context = Context.open(Tiny.device());
                Hllm model = Tiny.model(context, Pooling.TOKEN, BOTH)) {
            assertEquals(
                    killed,
                    assertThrows(
                            RuntimeException.class,
                            () -> Trainer.fit(
                                    model,
                                    data,
                                    rarely,
                                    RunFolder.create(folder.resolve("killed")),
                                    new Origin(List.of("title"), "{}", Map.of("start", "test")),
                                    new TrainListener() {
                                        @Override
                                        public void step(StepLog log) {
                                            if (log.step() == 7) {
                                                throw killed;
                                            }
                                        }
                                    })));
        }
        Path log = folder.resolve("killed/steps.jsonl");
        Files.writeString(log, Files.readString(log) + "{\"step\": 8, \"lo");
        assertArrayEquals(whole.values(), train("killed", OPTIONS, BOTH, -1).values());
        assertEquals(
                Files.readAllLines(folder.resolve("whole/steps.jsonl")).size(),
                Files.readAllLines(log).size());
    }

    @Test
    void otherOptionsOrDataDoNotContinueARun() {
        train("run", OPTIONS, BOTH, 2);
        TrainOptions other = new TrainOptions(
                3, 0, 8, 20, true, 1, 0, 4e-3, 0.1, 0.01, 1, 0.99, Tiny.seed(), 1000, false, 5, true, 1e-9);
        HllmException refused = assertThrows(HllmException.class, () -> train("run", other, BOTH, -1));
        assertTrue(refused.getMessage().contains("other options"), refused.getMessage());
    }

    @Test
    void trainingLearnsAndFrozenSidesStay() {
        try (Context context = Context.open(Tiny.device());
                Hllm start = Tiny.model(context, Pooling.TOKEN, BOTH)) {
            for (Hllm.Trained trained : List.of(BOTH, new Hllm.Trained(false, true), new Hllm.Trained(true, false))) {
                try (Hllm model = Tiny.model(context, Pooling.TOKEN, trained)) {
                    StepRecorder recorder = new StepRecorder(-1);
                    Trainer.fit(
                            model,
                            data,
                            OPTIONS,
                            RunFolder.create(folder.resolve(trained.toString())),
                            new Origin(List.of("title"), "{}", Map.of()),
                            recorder);
                    List<Double> losses = recorder.losses();
                    int third = losses.size() / 3;
                    double before = losses.subList(0, third).stream()
                            .mapToDouble(d -> d)
                            .average()
                            .orElseThrow();
                    double after = losses.subList(losses.size() - third, losses.size()).stream()
                            .mapToDouble(d -> d)
                            .average()
                            .orElseThrow();
                    assertTrue(after < before, () -> trained + ": loss " + before + " -> " + after);
                    assertEquals(
                            trained.item(), changed(start, model, Hllm.Side.ITEM), trained + ": item side changed");
                    assertEquals(
                            trained.user(), changed(start, model, Hllm.Side.USER), trained + ": user side changed");
                }
            }
        }
    }

    private static boolean changed(Hllm start, Hllm model, Hllm.Side side) {
        boolean[] changed = model.of(side).stream()
                .map(p -> !Arrays.equals(
                        start.parameters().get(p.name()).value().toFloats(),
                        p.value().toFloats()))
                .collect(() -> new boolean[2], (b, c) -> b[c ? 1 : 0] = true, (a, b) -> {});
        assertTrue(changed[0] != changed[1], "some parameters of the side changed and some did not");
        return changed[1];
    }

    @Test
    void chunkedEncodingGivesTheSameGradients() {
        int[][] sequences = {{1, 2, 3, 1}, {4, 5}, {6, 2, 7, 8, 9}};
        int[] negatives = {10, 11, 2, 12, 12, 29};
        for (Pooling pooling : Pooling.values()) {
            try (Context context = Context.open(Tiny.device(), DType.F32);
                    Hllm model = Tiny.model(context, pooling, BOTH)) {
                float[] whole = gradients(model, sequences, negatives, 100_000);
                for (int rows : new int[] {1, 9, 30}) {
                    float[] chunked = gradients(model, sequences, negatives, rows);
                    double relative = Tiny.relativeError(whole, chunked);
                    assertTrue(relative < 1e-5, () -> pooling + ", " + rows + " rows: relative error " + relative);
                }
            }
        }
    }

    private float[] gradients(Hllm model, int[][] sequences, int[] negatives, int maxRows) {
        try (GenerativeStep step = new GenerativeStep(model, data.tokens(), maxRows, 0.99f, null)) {
            model.context().ops().fill(model.parameters().gradients(), 0);
            step.run(sequences, negatives);
            return model.parameters().gradients().toFloats();
        }
    }

    @Test
    void memoryIsFlatOverAThousandSteps() {
        int[][] sequences = {{1, 2, 3, 1}, {4, 5}, {6, 2, 7, 8, 9}};
        try (Context context = Context.open(Tiny.device());
                Hllm model = Tiny.model(context, Pooling.TOKEN, BOTH);
                GenerativeStep step = new GenerativeStep(model, data.tokens(), 1000, 0.99f, null);
                AdamWOptimizer optimizer = new AdamWOptimizer(model, 0.01f, 1)) {
            long after10 = 0;
            for (int i = 0; i < 1000; i++) {
                optimizer.zeroGradients();
                step.run(sequences, new int[] {i % 30, (i * 7 + 1) % 30, 11});
                optimizer.step(1e-4);
                if (i == 9) {
                    after10 = Context.liveBytes(Tiny.device());
                }
            }
            // Batches differ in size, so the workspace may still grow a little, but not with the number of steps.
            assertTrue(Context.liveBytes(Tiny.device()) <= after10 * 1.2, "live bytes grew from " + after10);
        }
    }

    @Test
    void aCollapsedRunStopsWithAnExplanation() {
        TrainOptions everythingMasked =
                new TrainOptions(1, 0, 8, 20, true, 1, 0, 1e-3, 0.1, 0.01, 1, -2, Tiny.seed(), 1000, false, 5, true, 5);
        HllmException collapsed =
                assertThrows(HllmException.class, () -> train("collapsed", everythingMasked, BOTH, -1));
        assertTrue(collapsed.getMessage().contains("collapsed"), collapsed.getMessage());
    }

    @Test
    void aLossThatIsNotFiniteStopsBeforeTheOptimiser() {
        try (Context context = Context.open(Tiny.device());
                Hllm model = Tiny.model(context, Pooling.TOKEN, BOTH)) {
            float[] nan = new float[model.config().width()];
            nan[3] = Float.NaN;
            model.itemToken(nan);
            try (GenerativeStep step = new GenerativeStep(model, data.tokens(), 1000, 0.99f, null)) {
                HllmException stopped =
                        assertThrows(HllmException.class, () -> step.run(new int[][] {{1, 2, 3}}, new int[] {4, 5, 6}));
                assertTrue(stopped.getMessage().contains("no parameter was changed"), stopped.getMessage());
            }
        }
    }

    @Test
    void theScheduleIsTheOfficialOne() {
        CosineSchedule schedule = new CosineSchedule(1, 10, 100);
        assertEquals(0, schedule.rate(0));
        assertEquals(0.5, schedule.rate(5), 1e-12);
        assertEquals(1, schedule.rate(10), 1e-12);
        assertEquals(0.5, schedule.rate(55), 1e-12);
        assertEquals(0.5 * (1 + Math.cos(Math.PI * 89 / 90)), schedule.rate(99), 1e-12);
    }

    /** Reads the event files back: framing, checksums, and the loss of the first step somewhere in them. */
    @Test
    void tensorBoardEventsAreWellFormed() throws IOException {
        Trained run = train("events", OPTIONS, BOTH, -1);
        List<Path> files;
        try (Stream<Path> list = Files.list(folder.resolve("events"))) {
            files = list.filter(f -> f.getFileName().toString().startsWith("events.out.tfevents"))
                    .toList();
        }
        assertEquals(1, files.size());
        ByteBuffer in = ByteBuffer.wrap(Files.readAllBytes(files.getFirst())).order(ByteOrder.LITTLE_ENDIAN);
        int records = 0;
        boolean found = false;
        byte[] loss = ByteBuffer.allocate(4)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putFloat((float) run.steps().getFirst().result().loss())
                .array();
        while (in.hasRemaining()) {
            byte[] length = new byte[8];
            in.get(length);
            assertEquals(masked(length), in.getInt());
            byte[] event = new byte
                    [(int) ByteBuffer.wrap(length)
                            .order(ByteOrder.LITTLE_ENDIAN)
                            .getLong()];
            in.get(event);
            assertEquals(masked(event), in.getInt());
            records++;
            for (int i = 0; i + 4 <= event.length; i++) {
                found |= Arrays.equals(loss, Arrays.copyOfRange(event, i, i + 4));
            }
        }
        assertTrue(records > run.steps().size());
        assertTrue(found, "the first loss is not among the events");
        assertFalse(run.steps().isEmpty());
    }

    private static int masked(byte[] bytes) {
        CRC32C crc = new CRC32C();
        crc.update(bytes);
        int value = (int) crc.getValue();
        return (value >>> 15 | value << 17) + 0xa282ead8;
    }
}
