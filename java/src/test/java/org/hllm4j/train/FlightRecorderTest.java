package org.hllm4j.train;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Random;
import jdk.jfr.Recording;
import jdk.jfr.consumer.RecordedEvent;
import jdk.jfr.consumer.RecordingFile;
import org.hllm4j.Tiny;
import org.hllm4j.data.Dataset;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.PlanSpec;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.Pooling;
import org.hllm4j.run.Origin;
import org.hllm4j.run.RunFolder;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What the engine tells Java Flight Recorder. */
class FlightRecorderTest {
    @TempDir
    Path folder;

    @AfterEach
    void nothingIsLeft() {
        assertEquals(0, Context.liveBytes(Tiny.device()));
    }

    /** The events of this name that {@code work} causes. */
    private List<RecordedEvent> record(String name, Runnable work) throws IOException {
        Path file = folder.resolve("events.jfr");
        try (Recording recording = new Recording()) {
            recording.enable(name);
            recording.start();
            work.run();
            recording.stop();
            recording.dump(file);
        }
        return RecordingFile.readAllEvents(file).stream()
                .filter(event -> event.getEventType().getName().equals(name))
                .sorted(Comparator.comparing(RecordedEvent::getStartTime)) // a file promises no order
                .toList();
    }

    @Test
    void operationsTellShapeDeviceAndArithmetic() throws IOException {
        List<RecordedEvent> events = record("org.hllm4j.Operation", () -> {
            try (Context context = Context.open(Tiny.device(), DType.F32);
                    Tensor a = context.zeros(DType.F32, 5, 3);
                    Tensor b = context.zeros(DType.F32, 7, 3);
                    Tensor c = context.zeros(DType.F32, 5, 7);
                    Tensor q = context.zeros(DType.F32, 5, 4, 8);
                    Tensor k = context.zeros(DType.F32, 5, 2, 8);
                    Tensor out = context.zeros(DType.F32, 5, 4, 8);
                    var plan = context.plan(PlanSpec.causalSequences(new int[] {3, 2}))) {
                context.ops().fill(a, 1);
                context.ops().matmul(c, a, b, false, true, false);
                context.ops().attentionForward(out, null, q, k, k, plan, 1);
            }
        });
        assertEquals(3, events.size());
        for (RecordedEvent event : events) {
            assertEquals(List.of("hllm4j"), event.getEventType().getCategoryNames());
            assertEquals(Tiny.device(), event.getString("device"));
            assertEquals("F32", event.getString("type"));
            assertEquals(5, event.getLong("rows"));
        }
        assertOperation("fill", "[5, 3]", 0, events.get(0));
        assertOperation("matmul", "[5, 7]", 2 * 5 * 7 * 3, events.get(1));
        // 3 and 2 causal tokens see 6 + 3 keys; two products of heads x width each.
        assertOperation("attention_forward", "[5, 4, 8]", 4 * (6 + 3) * 4 * 8, events.get(2));
    }

    private static void assertOperation(String operation, String shape, long flops, RecordedEvent event) {
        assertEquals(operation, event.getString("operation"));
        assertEquals(shape, event.getString("shape"));
        assertEquals(flops, event.getLong("flops"));
    }

    @Test
    void everyTrainingStepIsAnEvent() throws IOException {
        Dataset data = Tiny.dataset(folder, 40, 30);
        StepRecorder recorder = new StepRecorder(-1);
        List<RecordedEvent> events = record("org.hllm4j.TrainingStep", () -> {
            try (Context context = Context.open(Tiny.device());
                    Hllm model = Tiny.model(context, Pooling.TOKEN, new Hllm.Trained(true, true))) {
                Trainer.fit(
                        model,
                        data,
                        TrainOptions.DEFAULTS.withEpochs(1).withBatchUsers(8),
                        RunFolder.create(folder.resolve("run")),
                        new Origin(List.of("title"), "{}", Map.of()),
                        recorder);
            }
        });
        List<StepLog> steps = recorder.steps();
        assertEquals(steps.size(), events.size());
        assertTrue(steps.size() > 1);
        for (int i = 0; i < steps.size(); i++) {
            RecordedEvent event = events.get(i);
            StepResult result = steps.get(i).result();
            assertEquals(i + 1, event.getLong("step"));
            assertEquals(result.loss(), event.getDouble("loss"));
            assertTrue(event.getInt("users") > 0 && event.getInt("users") <= 8);
            assertEquals(result.items(), event.getInt("items"));
            assertEquals(result.positions(), event.getInt("positions"));
            assertEquals(result.tokens(), event.getLong("tokens"));
            double parts = 0;
            for (String part : List.of("forward", "backward", "optimiser")) {
                assertTrue(event.getDouble(part) > 0, part);
                parts += event.getDouble(part);
            }
            assertTrue(parts <= event.getDuration().toNanos() / 1e6, () -> "parts of " + event);
        }
    }

    @Test
    void everyEmbeddedChunkIsAnEvent() throws IOException {
        int[][] tokens = Tiny.tokens(50, new Random(Tiny.seed()));
        long[] rows = new long[1];
        List<RecordedEvent> events = record("org.hllm4j.EmbeddedChunk", () -> {
            try (Context context = Context.open(Tiny.device());
                    Hllm model = Tiny.model(context, Pooling.TOKEN, Hllm.Trained.NOTHING)) {
                rows[0] = CatalogueEncoder.encode(model, tokens, 40, null, (items, vectors) -> {});
            }
        });
        assertTrue(events.size() > 1);
        assertEquals(50, events.stream().mapToInt(e -> e.getInt("items")).sum());
        assertEquals(rows[0], events.stream().mapToInt(e -> e.getInt("rows")).sum());
        long all = 0;
        for (int[] item : tokens) {
            all += item.length;
        }
        assertEquals(all, events.stream().mapToLong(e -> e.getLong("tokens")).sum());
        assertTrue(events.stream().allMatch(e -> e.getInt("texts") > 0 && e.getInt("texts") <= e.getInt("items")));
    }
}
