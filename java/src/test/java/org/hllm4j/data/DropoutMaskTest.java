package org.hllm4j.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import java.util.Arrays;
import java.util.stream.IntStream;
import org.hllm4j.Tiny;
import org.junit.jupiter.api.Test;

class DropoutMaskTest {
    @Test
    void elementsDependOnTheirPlaceAlone() {
        long seed = Tiny.seed();
        System.out.println("seed " + seed);
        float[] mask = fill(seed, 3, 5, 100_003);
        assertArrayEquals(Arrays.copyOf(mask, 777), fill(seed, 3, 5, 777));
        for (float[] other : new float[][] {
            fill(seed + 1, 3, 5, mask.length), fill(seed, 4, 5, mask.length), fill(seed, 3, 6, mask.length)
        }) {
            assertFalse(Arrays.equals(mask, other));
        }
        long dropped = IntStream.range(0, mask.length).filter(i -> mask[i] == 0).count();
        double deviation = Math.sqrt(0.2 * 0.8 * mask.length);
        assertEquals(0.2 * mask.length, dropped, 5 * deviation);
        IntStream.range(0, mask.length).filter(i -> mask[i] != 0).forEach(i -> assertEquals(1.25f, mask[i]));
    }

    private static float[] fill(long seed, long step, int site, int size) {
        float[] mask = new float[size];
        DropoutMask.fill(seed, step, site, 0.2, mask);
        return mask;
    }
}
