package org.hllm4j.engine;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.util.Random;
import org.hllm4j.HllmException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.function.Executable;

/**
 * A context in float32 for each test, on the device of {@code -Dhllm.device} (cpu), and a check that the test left nothing
 * behind in native memory.
 */
abstract class EngineTest {
    static final String DEVICE = System.getProperty("hllm.device", "cpu");

    private static final long SEED = Long.getLong("tests.seed", 20240912);

    final Random random = new Random(SEED);
    Context context;
    Ops ops;
    private long liveBefore;

    @BeforeEach
    void open() {
        String library = System.getProperty("hllm.library", "");
        assumeTrue(!library.isEmpty(), "skipped: the system property hllm.library does not name libhllm.so");
        System.out.println(getClass().getSimpleName() + ": -Dtests.seed=" + SEED);
        liveBefore = Context.liveBytes(DEVICE);
        context = Context.open(DEVICE, DType.F32);
        ops = context.ops();
    }

    @AfterEach
    void close() {
        if (context != null) {
            context.close();
            assertEquals(liveBefore, Context.liveBytes(DEVICE), "bytes left in native memory");
        }
    }

    float[] randoms(long count) {
        float[] values = new float[Math.toIntExact(count)];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) random.nextGaussian();
        }
        return values;
    }

    /** The error of {@code call}, whose message must contain all of {@code parts}. */
    static HllmException assertRefused(Executable call, String... parts) {
        HllmException e = assertThrows(HllmException.class, call);
        for (String part : parts) {
            assertTrue(e.getMessage().contains(part), () -> "no '" + part + "' in: " + e.getMessage());
        }
        return e;
    }

    static void assertClose(double[] expected, Tensor actual) {
        float[] values = actual.toFloats();
        assertEquals(expected.length, values.length);
        for (int i = 0; i < values.length; i++) {
            assertEquals(expected[i], values[i], 1e-5 * Math.max(1, Math.abs(expected[i])), "element " + i);
        }
    }
}
