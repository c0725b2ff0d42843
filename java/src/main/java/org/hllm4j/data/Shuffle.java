package org.hllm4j.data;

/** The order in which an epoch visits the training sequences. */
public final class Shuffle {
    private Shuffle() {}

    /** A permutation of 0..n-1, uniform, the same whenever (seed, epoch, n) are the same. */
    public static int[] order(long seed, int epoch, int n) {
        Philox random = new Philox(seed, Philox.Purpose.SHUFFLE, epoch, 0);
        int[] order = new int[n];
        for (int i = 0; i < n; i++) {
            int j = random.nextInt(i + 1);
            order[i] = order[j];
            order[j] = i;
        }
        return order;
    }
}
