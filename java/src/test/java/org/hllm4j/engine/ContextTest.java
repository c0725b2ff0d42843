package org.hllm4j.engine;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.util.concurrent.atomic.AtomicReference;
import org.junit.jupiter.api.Test;

class ContextTest extends EngineTest {

    @Test
    void anUnknownDeviceIsUnsupported() {
        NativeException e = assertThrows(NativeException.class, () -> Context.open("abacus"));
        assertEquals(NativeException.Status.UNSUPPORTED, e.status());
        assertEquals("hllm_context_create", e.op());
        assertTrue(e.getMessage().contains("abacus"), e::getMessage);
    }

    @Test
    void propertiesAreTold() {
        assertEquals(DEVICE, context.device());
        assertTrue(!Context.buildInfo().isBlank());
        int all = Context.threads();
        Context.threads(1);
        assertEquals(1, Context.threads());
        Context.threads(all);
        assertEquals(all, Context.threads());
        assertThrows(NativeException.class, () -> Context.threads(-1));
        context.synchronize();
    }

    @Test
    void aClosedContextIsRefusedAndItsTensorsCanStillBeClosed() {
        long before = Context.liveBytes(DEVICE);
        Context other = Context.open(DEVICE, DType.F32);
        Tensor tensor = other.of(new float[] {1}, 1);
        other.close();
        other.close();
        assertRefused(() -> other.zeros(DType.F32, 1), "context", "closed");
        assertRefused(() -> other.ops().fill(tensor, 1), "fill", "context", "closed");
        assertRefused(tensor::toFloats, "context", "closed");
        assertRefused(other::synchronize, "closed");
        tensor.close();
        tensor.close();
        assertEquals(before, Context.liveBytes(DEVICE));
    }

    @Test
    void ownersFreeWhatTheyHoldOnce() {
        long before = Context.liveBytes(DEVICE);
        Tensor source = context.of(randoms(6), 2, 3);
        Weight weight = context.weight(source, DType.BF16);
        Plan plan = context.plan(PlanSpec.causalSequences(new int[] {2, 3}));
        assertEquals(2, weight.rows());
        assertEquals(3, weight.columns());
        assertEquals(5, plan.queryRows());
        assertTrue(Context.liveBytes(DEVICE) > before);
        for (int twice = 0; twice < 2; twice++) {
            weight.close();
            plan.close();
            source.close();
        }
        assertEquals(before, Context.liveBytes(DEVICE));
        assertRefused(weight::refresh, "weight", "closed");
    }

    @Test
    void aPlanWithContradictingArraysIsRefused() {
        int[] one = {0};
        int[] two = {0, 1};
        assertRefused(() -> new PlanSpec(true, 1, 1, one, two, two, one, one), "segmentLength [2]");
        assertRefused(() -> new PlanSpec(true, 1, 1, one, one, one, one, one), "spanOffsets [1]");
        assertRefused(() -> new PlanSpec(true, 1, 1, one, one, two, one, two), "spanLength [2]");
        // Contents are checked by the native side.
        PlanSpec outside = new PlanSpec(true, 2, 2, one, new int[] {2}, two, new int[] {1}, new int[] {2});
        assertRefused(() -> context.plan(outside), "plan_create", "span 0");
    }

    /** While one thread multiplies for a while, another one knocks. */
    @Test
    void aSecondThreadIsRefusedWhileTheFirstWorks() throws InterruptedException {
        assumeTrue(DEVICE.equals("cpu"), "skipped: on a GPU a call only enqueues, too quickly to be met");
        int n = 1024;
        try (Tensor a = context.zeros(DType.F32, n, n);
                Tensor c = context.zeros(DType.F32, n, n);
                Tensor small = context.zeros(DType.F32, 1)) {
            AtomicReference<Throwable> failed = new AtomicReference<>();
            AtomicReference<NativeException> refused = new AtomicReference<>();
            Thread worker = Thread.ofPlatform().start(() -> {
                try {
                    for (int i = 0; i < 10_000 && refused.get() == null; i++) {
                        ops.matmul(c, a, a, false, false, false);
                    }
                } catch (NativeException e) { // the knock may come between two products and win
                    failed.set(e);
                }
            });
            while (worker.isAlive() && refused.get() == null) {
                try {
                    ops.fill(small, 1);
                } catch (NativeException e) {
                    refused.set(e);
                }
            }
            worker.join();
            NativeException e = refused.get() != null ? refused.get() : (NativeException) failed.get();
            assertEquals(NativeException.Status.INVALID_ARGUMENT, e.status());
            assertTrue(e.getMessage().contains("another thread"), e::getMessage);
            ops.fill(small, 2); // and afterwards it serves whoever comes
            assertEquals(2, small.scalar());
        }
    }

    @Test
    void contextsWorkInParallel() throws InterruptedException {
        AtomicReference<Throwable> failed = new AtomicReference<>();
        Thread[] threads = new Thread[4];
        for (int t = 0; t < threads.length; t++) {
            float value = t;
            threads[t] = Thread.ofPlatform().start(() -> {
                try (Context own = Context.open(DEVICE, DType.F32);
                        Tensor a = own.zeros(DType.F32, 64, 64);
                        Tensor c = own.zeros(DType.F32, 64, 64)) {
                    own.ops().fill(a, value);
                    for (int i = 0; i < 100; i++) {
                        own.ops().matmul(c, a, a, false, false, false);
                        assertEquals(64 * value * value, c.toFloats()[4095]);
                    }
                } catch (Throwable e) {
                    failed.set(e);
                }
            });
        }
        for (Thread thread : threads) {
            thread.join();
        }
        assertNull(failed.get());
    }

    @Test
    void tensorsOfOneContextServeAnother() {
        assertSame(ops, context.ops());
        try (Tensor mine = context.of(new float[] {1, 2}, 2);
                Context other = Context.open(DEVICE, DType.F32);
                Tensor theirs = other.zeros(DType.F32, 2)) {
            context.synchronize(); // on a GPU, contexts have no order of their own: this, or events, give them one
            other.ops().convert(theirs, mine);
            assertArrayEquals(new float[] {1, 2}, theirs.toFloats());
        }
    }
}
