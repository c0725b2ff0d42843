package org.hllm4j.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.HashSet;
import java.util.Set;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.junit.jupiter.api.Test;

/** The generator, and everything that draws from it. */
class PhiloxTest {
    @Test
    void knownAnswersOfRandom123() {
        assertArrayEquals(new int[] {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}, block(0, 0, 0, 0, 0, 0));
        assertArrayEquals(new int[] {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}, block(-1, -1, -1, -1, -1, -1));
        assertArrayEquals(
                new int[] {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
                block(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0));
    }

    @Test
    void aStreamIsTheBlocksOfItsCounter() {
        Philox random = new Philox(0x0123456789abcdefL, Philox.Purpose.SHUFFLE, 7, 0x1111111122222222L);
        for (int n = 0; n < 3; n++) {
            for (int word : block(n, 1 << 24 | 7, 0x22222222, 0x11111111, 0x89abcdef, 0x01234567)) {
                assertEquals(word, random.nextInt());
            }
        }
        assertThrows(IllegalArgumentException.class, () -> new Philox(0, Philox.Purpose.SHUFFLE, 1 << 24, 0));
        assertThrows(IllegalArgumentException.class, () -> random.nextInt(0));
    }

    @Test
    void boundedNumbersAreUniform() {
        // With 3/4 of 2^31 a biased method would favour some values by a third or more.
        int bound = 3 << 29;
        Philox random = new Philox(1, Philox.Purpose.NEGATIVES, 0, 0);
        int[] thirds = new int[3];
        for (int i = 0; i < 300_000; i++) {
            int value = random.nextInt(bound);
            assertTrue(value >= 0 && value < bound);
            thirds[value >>> 29]++;
        }
        for (int count : thirds) {
            assertEquals(100_000, count, 1_300, "five standard deviations"); // sqrt(300000 * 2/9) = 258
        }
    }

    @Test
    void negativesStayOutsideTheSequenceAndReachEverythingElse() {
        int[] own = {4, 0, 4, 9, 5};
        int[] counts = new int[10];
        for (int sequence = 0; sequence < 2_000; sequence++) {
            for (int item : Negatives.outside(3, 1, sequence, 30, 10, own)) {
                counts[item]++;
            }
        }
        for (int item : own) {
            assertEquals(0, counts[item]);
        }
        for (int item : new int[] {1, 2, 3, 6, 7, 8}) {
            assertEquals(10_000, counts[item], 460, "five standard deviations"); // sqrt(60000 * 5/36) = 91
        }
        int[] all = {0, 1, 2};
        assertTrue(assertThrows(HllmException.class, () -> Negatives.outside(3, 0, 17, 1, 3, all))
                .getMessage()
                .contains("sequence 17"));
    }

    @Test
    void eachSeedEpochAndSequenceDrawsItsOwn() {
        Set<String> draws = new HashSet<>();
        for (long seed : new long[] {0, 1, 1L << 32}) {
            for (int epoch = 0; epoch < 3; epoch++) {
                for (long sequence : new long[] {0, 1, 1L << 32}) {
                    int[] free = Negatives.free(seed, epoch, sequence, 8, 1_000_000);
                    assertArrayEquals(free, Negatives.free(seed, epoch, sequence, 8, 1_000_000));
                    draws.add(Arrays.toString(free));
                }
            }
        }
        assertEquals(27, draws.size());
    }

    @Test
    void shufflesArePermutationsAndDifferByEpoch() {
        int[] order = Shuffle.order(5, 0, 1000);
        assertArrayEquals(
                IntStream.range(0, 1000).toArray(),
                Arrays.stream(order).sorted().toArray());
        assertArrayEquals(order, Shuffle.order(5, 0, 1000));
        assertTrue(!Arrays.equals(order, Shuffle.order(5, 1, 1000)));
        assertEquals(0, Shuffle.order(5, 0, 0).length);
        int[] firsts = new int[4];
        for (int epoch = 0; epoch < 8000; epoch++) {
            firsts[Shuffle.order(5, epoch, 4)[0]]++;
        }
        for (int count : firsts) {
            assertEquals(2000, count, 195, "five standard deviations"); // sqrt(8000 * 3/16) = 39
        }
    }

    @Test
    void gaussianHasItsMomentsAndDoesNotDependOnLength() {
        float[] values = new float[200_001];
        Gaussian.fill(11, 3, values, 0.02f);
        double mean = 0;
        double square = 0;
        double fourth = 0;
        for (float value : values) {
            double z = value / 0.02;
            mean += z / values.length;
            square += z * z / values.length;
            fourth += z * z * z * z / values.length;
        }
        assertEquals(0, mean, 0.011); // five standard deviations each
        assertEquals(1, square, 0.016);
        assertEquals(3, fourth, 0.11);
        for (int length : new int[] {1, 2, 3, 7, 16_384, 16_385, 50_000}) {
            float[] prefix = new float[length];
            Gaussian.fill(11, 3, prefix, 0.02f);
            assertArrayEquals(Arrays.copyOf(values, length), prefix);
        }
        float[] other = new float[100];
        Gaussian.fill(11, 4, other, 0.02f);
        assertTrue(!Arrays.equals(Arrays.copyOf(values, 100), other));
    }

    private static int[] block(int c0, int c1, int c2, int c3, int k0, int k1) {
        int[] out = new int[4];
        Philox.block(c0, c1, c2, c3, k0, k1, out);
        return out;
    }
}
