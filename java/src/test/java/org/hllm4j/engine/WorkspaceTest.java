package org.hllm4j.engine;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class WorkspaceTest extends EngineTest {

    @Test
    void aThousandStepsHoldTheMemoryOfOne() {
        try (Workspace workspace = context.workspace();
                Tensor weights = context.of(randoms(64 * 64), 64, 64)) {
            long warm = 0;
            for (int step = 0; step < 1000; step++) {
                Tensor ids = workspace.ints(new int[] {step, 2 * step});
                Tensor x = workspace.floats(128, 64);
                ops.fill(x, step);
                for (int layer = 0; layer < 50; layer++) { // about 1.6 MB: more than the first chunk
                    long mark = workspace.mark();
                    Tensor y = workspace.floats(128, 64);
                    ops.matmul(y, x, weights, false, false, false);
                    if (layer % 2 == 0) {
                        workspace.release(mark);
                    }
                }
                assertArrayEquals(new int[] {step, 2 * step}, ids.toInts());
                assertEquals(step, x.rows(127, 128).columns(63, 64).scalar());
                workspace.release(0);
                if (step == 1) {
                    warm = Context.liveBytes(DEVICE);
                } else if (step > 1) {
                    assertEquals(warm, Context.liveBytes(DEVICE), "bytes at step " + step);
                }
            }
            assertTrue(workspace.peakBytes() > 25 * 128 * 64 * 4, () -> "peak " + workspace.peakBytes());
            assertTrue(workspace.bytes() >= workspace.peakBytes());
        }
    }

    /** Tensors of all sizes, taken and released at random, keep their values to their end: no two overlap. */
    @Test
    void takenTensorsDoNotOverlap() {
        record Taken(long mark, Tensor tensor, float[] values) {}
        try (Workspace workspace = context.workspace()) {
            List<Taken> stack = new ArrayList<>();
            for (int i = 0; i < 500; i++) {
                if (!stack.isEmpty() && random.nextInt(3) == 0) {
                    int keep = random.nextInt(stack.size());
                    workspace.release(stack.get(keep).mark());
                    stack.subList(keep, stack.size()).clear();
                } else {
                    float[] values = randoms(random.nextInt(random.nextInt(20) == 0 ? 400_000 : 1000));
                    long mark = workspace.mark();
                    Tensor tensor = workspace.floats(values.length);
                    tensor.write(values);
                    stack.add(new Taken(mark, tensor, values));
                }
                if (i % 10 == 0) {
                    stack.forEach(taken ->
                            assertArrayEquals(taken.values(), taken.tensor().toFloats()));
                }
            }
        }
    }

    @Test
    void severalChunksBecomeOneThatIsLargeEnough() {
        try (Workspace workspace = context.workspace()) {
            assertEquals(0, workspace.bytes());
            for (int i = 0; i < 5; i++) {
                workspace.floats(300_000); // 1.2 MB each: a chunk for each
            }
            long bytes = workspace.bytes();
            Tensor stale = workspace.floats(1);
            workspace.release(0);
            assertRefused(() -> ops.fill(stale, 1), "closed"); // its chunk is gone
            workspace.floats(1);
            assertTrue(workspace.bytes() >= bytes);
            long merged = workspace.bytes();
            for (int i = 0; i < 4; i++) {
                workspace.floats(300_000);
            }
            assertEquals(merged, workspace.bytes());
        }
    }

    @Test
    void oneLargeChunkIsNotInsistedOn() {
        try (Workspace workspace = context.workspace()) {
            workspace.floats(300_000);
            workspace.floats(300_000);
            workspace.release(0); // 2.4 MB are next, if they can be had
            Context.memoryLimit(DEVICE, Context.liveBytes(DEVICE) + 1_500_000);
            workspace.floats(300_000);
            assertEquals(1_200_000, workspace.bytes());
            assertThrows(DeviceOutOfMemoryException.class, () -> workspace.floats(300_000));
        } finally {
            Context.memoryLimit(DEVICE, 0);
        }
    }

    @Test
    void misuseIsRefused() {
        Workspace workspace = context.workspace();
        workspace.floats(3, 5).close(); // owns nothing
        long mark = workspace.mark();
        assertEquals(64, mark);
        assertEquals(0, workspace.floats(0, 7).elements());
        workspace.release(0);
        assertRefused(() -> workspace.release(mark), "mark 64", "released before");
        assertRefused(() -> workspace.floats(-1), "negative");
        assertEquals(0, workspace.mark());
        workspace.close();
        workspace.close();
        assertEquals(0, workspace.bytes());
        assertRefused(() -> workspace.floats(1), "closed");
    }
}
