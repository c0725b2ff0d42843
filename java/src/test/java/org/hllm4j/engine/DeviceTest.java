package org.hllm4j.engine;

import static org.hllm4j.engine.EngineTest.assertRefused;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** What a device is, and the order of its work: the same on each that is there. */
class DeviceTest {
    private static final long SEED = Long.getLong("tests.seed", 20240912);

    /** Opens the device in float32, or skips the test and says why. */
    private static Context open(String device) {
        try {
            return Context.open(device, DType.F32);
        } catch (NativeException missing) {
            assertEquals(NativeException.Status.UNSUPPORTED, missing.status(), missing.getMessage());
            return Assumptions.abort("skipped: " + missing.getMessage());
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"cpu", "cuda-emulated", "cuda"})
    void activationsAreOfATypeThatTheDeviceComputesIn(String device) {
        try (Context context = open(device)) {
            assertEquals(DType.F32, context.activations());
            assertTrue(Context.available(device));
            assertFalse(Context.available("abacus"));
            assertFalse(Context.deviceInfo(device).isBlank());
            assertFalse(context.environment().contains(" free)"), context.environment());
            assertTrue(context.environment().startsWith(Context.buildInfo()));
        }
        assertThrows(NativeException.class, () -> Context.open(device, DType.I32));
        if (Context.defaultType(device) == DType.F32) {
            assertRefused(() -> Context.open(device, DType.BF16), "linear_forward", device);
            assertEquals(DType.F32, Context.activations(device, DType.BF16));
            return;
        }
        try (Context context = Context.open(device);
                Workspace workspace = context.workspace()) {
            assertEquals(DType.BF16, context.activations());
            Tensor floats = workspace.floats(2, 3);
            floats.write(new float[] {1, 2, 3, 4, 5, 1 + 1f / 1024});
            Tensor narrow = workspace.activation(floats);
            assertEquals(DType.BF16, narrow.dtype());
            assertArrayEquals(new long[] {2, 3}, narrow.shape());
            context.ops().convert(floats, narrow);
            assertArrayEquals(new float[] {1, 2, 3, 4, 5, 1}, floats.toFloats());
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"cpu", "cuda-emulated", "cuda"})
    void eventsOrderContextsAndTellTime(String device) {
        try (Context context = open(device);
                Context other = open(device);
                Event begin = context.event();
                Event end = context.event();
                Tensor a = context.zeros(DType.F32, 64, 64);
                Tensor c = context.zeros(DType.F32, 64, 64);
                Tensor copy = other.zeros(DType.F32, 64, 64)) {
            context.synchronize();
            other.synchronize();
            begin.record(context);
            context.ops().fill(a, 0.5f);
            context.ops().matmul(c, a, a, false, false, false);
            end.record(context);
            end.holdBack(other);
            other.ops().convert(copy, c);
            float[] expected = new float[64 * 64];
            Arrays.fill(expected, 16);
            assertArrayEquals(expected, copy.toFloats());
            end.synchronize();
            double seconds = begin.secondsTo(end);
            assertTrue(seconds >= 0 && seconds < 60, () -> seconds + " s");
        }
    }

    @Test
    void aClosedEventIsRefused() {
        try (Context context = open("cpu")) {
            Event event = context.event();
            event.close();
            event.close();
            assertRefused(event::synchronize, "event", "closed");
            assertRefused(() -> event.record(context), "event", "closed");
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"cpu", "cuda-emulated", "cuda"})
    void aGraphSeesNewValuesAndNewPlans(String device) {
        System.out.println("-Dtests.seed=" + SEED);
        try (Context context = open(device);
                Tensor q = context.zeros(DType.F32, 5, 2, 16);
                Tensor k = context.zeros(DType.F32, 5, 1, 16);
                Tensor out = context.zeros(DType.F32, 5, 2, 16);
                Plan plan = context.plan(PlanSpec.causalSequences(new int[] {1, 1, 3}))) {
            Runnable work = () -> context.ops().attentionForward(out, null, q, k, k, plan, 0.25f);
            if (device.equals("cpu")) {
                assertRefused(() -> context.capture(work), "graph_begin_capture");
                return;
            }
            IllegalStateException thrown = new IllegalStateException("thrown");
            assertEquals(
                    thrown,
                    assertThrows(
                            IllegalStateException.class,
                            () -> context.capture(() -> {
                                throw thrown;
                            })));
            Random random = new Random(SEED);
            work.run(); // what a first call prepares is no part of a graph
            try (Graph graph = context.capture(work)) {
                for (int[] lengths : List.of(new int[] {1, 1, 3}, new int[] {2, 3}, new int[] {5})) {
                    fill(q, random);
                    fill(k, random);
                    plan.update(PlanSpec.causalSequences(lengths));
                    work.run();
                    float[] expected = out.toFloats();
                    context.ops().fill(out, 0);
                    graph.launch();
                    assertArrayEquals(expected, out.toFloats(), Arrays.toString(lengths));
                }
            }
        }
    }

    private static void fill(Tensor tensor, Random random) {
        float[] values = new float[(int) tensor.elements()];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) random.nextGaussian();
        }
        tensor.write(values);
    }

    /** The plan's new segments count, and those that do not fit are refused. */
    @ParameterizedTest
    @ValueSource(strings = {"cpu", "cuda-emulated", "cuda"})
    void aPlanTakesOtherSegments(String device) {
        try (Context context = open(device);
                Tensor q = context.zeros(DType.F32, 4, 1, 16);
                Tensor v = context.zeros(DType.F32, 4, 1, 16);
                Tensor out = context.zeros(DType.F32, 4, 1, 16);
                Plan plan = context.plan(PlanSpec.causalSequences(new int[] {1, 1, 2}))) {
            float[] values = new float[64];
            for (int i = 0; i < 64; i++) {
                values[i] = i / 16;
            }
            v.write(values); // row r holds r, queries and keys are all alike: an output row is a mean
            assertEquals(1 + 1 + 3, plan.pairs());
            plan.update(PlanSpec.causalSequences(new int[] {3, 1}));
            assertEquals(6 + 1, plan.pairs());
            context.ops().attentionForward(out, null, q, q, v, plan, 1);
            float[] found = out.toFloats();
            for (int row = 0; row < 4; row++) {
                assertEquals(new double[] {0, 0.5, 1, 3}[row], found[16 * row], 1e-6, "row " + row);
            }
            assertRefused(() -> plan.update(PlanSpec.causalSequences(new int[] {1, 1, 1, 1})), "plan_update");
            assertRefused(() -> plan.update(PlanSpec.causalSequences(new int[] {5})), "plan_update");
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"cpu", "cuda-emulated", "cuda"})
    void memoryHasALimit(String device) {
        try (Context context = open(device);
                Tensor small = context.zeros(DType.F32, 1000)) {
            long live = Context.liveBytes(device);
            Context.memoryLimit(device, live + 5_000_000);
            try {
                DeviceOutOfMemoryException refused =
                        assertThrows(DeviceOutOfMemoryException.class, () -> context.zeros(DType.F32, 2_000_000));
                assertTrue(refused.getMessage().contains("8000000"), refused.getMessage());
                context.ops().fill(small, 1);
                assertEquals(1, small.toFloats()[999]);
                context.zeros(DType.F32, 1_000_000).close();
            } finally {
                Context.memoryLimit(device, 0);
            }
            assertTrue(Context.liveBytes(device) < live + 5_000_000);
        }
    }
}
