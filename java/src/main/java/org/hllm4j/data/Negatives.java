package org.hllm4j.data;

import java.util.Arrays;
import org.hllm4j.HllmException;

/**
 * Negatives of one training sequence: item rows, uniform and independent, the same whenever (seed, epoch, sequence) are
 * the same.
 */
public final class Negatives {
    private Negatives() {}

    /**
     * {@code count} items outside the sequence's own.
     *
     * @param sequence number of the sequence in the training set, before shuffling
     * @param own item rows of the sequence, in any order, repeats allowed
     * @throws HllmException when the sequence holds the whole catalogue
     */
    public static int[] outside(long seed, int epoch, long sequence, int count, int catalogueSize, int[] own) {
        int[] taken = Arrays.stream(own).sorted().distinct().toArray();
        int free = catalogueSize - taken.length;
        if (free <= 0) {
            throw new HllmException("training sequence " + sequence + " holds all " + catalogueSize
                    + " items of the catalogue, so there is no negative outside it; give --negatives a number (they are"
                    + " drawn freely then) or a shorter --max-history");
        }
        int[] negatives = free(seed, epoch, sequence, count, free);
        for (int i = 0; i < count; i++) {
            // The n-th free item: every taken one at or below it pushes it up. No draw is thrown away.
            for (int t = 0; t < taken.length && taken[t] <= negatives[i]; t++) {
                negatives[i]++;
            }
        }
        return negatives;
    }

    /** {@code count} items of the whole catalogue. */
    public static int[] free(long seed, int epoch, long sequence, int count, int catalogueSize) {
        Philox random = new Philox(seed, Philox.Purpose.NEGATIVES, epoch, sequence);
        int[] negatives = new int[count];
        for (int i = 0; i < count; i++) {
            negatives[i] = random.nextInt(catalogueSize);
        }
        return negatives;
    }
}
