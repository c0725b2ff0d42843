package org.hllm4j.data;

/**
 * Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a bijection of a 128-bit
 * counter under a 64-bit key. A stream is named, not advanced to, so a resumed or parallel run draws the same numbers.
 */
final class Philox {
    /** What the numbers are for: streams of different purposes never meet. */
    enum Purpose {
        NEGATIVES,
        SHUFFLE,
        GAUSSIAN,
        SAMPLE,
        DROPOUT
    }

    private final int key0;
    private final int key1;
    private final int counter1;
    private final int counter2;
    private final int counter3;
    private final int[] block = new int[4];
    private int counter0;
    private int used = 4;

    /**
     * @param epoch 0 to 2^24 - 1
     * @param index any number, such as that of a sequence or a tensor
     */
    Philox(long seed, Purpose purpose, int epoch, long index) {
        if (epoch < 0 || epoch >= 1 << 24) {
            throw new IllegalArgumentException("epoch " + epoch + " is not below 2^24");
        }
        key0 = (int) seed;
        key1 = (int) (seed >>> 32);
        counter1 = purpose.ordinal() << 24 | epoch;
        counter2 = (int) index;
        counter3 = (int) (index >>> 32);
    }

    /** The next 32 bits; a stream has 2^34 of them. */
    int nextInt() {
        if (used == 4) {
            block(counter0++, counter1, counter2, counter3, key0, key1, block);
            used = 0;
        }
        return block[used++];
    }

    /** Uniform in [0, bound), without bias (Lemire: multiply, and reject the few short intervals). */
    int nextInt(int bound) {
        if (bound <= 0) {
            throw new IllegalArgumentException("bound " + bound + " is not positive");
        }
        long product = Integer.toUnsignedLong(nextInt()) * bound;
        if (Integer.compareUnsigned((int) product, bound) < 0) {
            int rejected = Integer.remainderUnsigned(-bound, bound);
            while (Integer.compareUnsigned((int) product, rejected) < 0) {
                product = Integer.toUnsignedLong(nextInt()) * bound;
            }
        }
        return (int) (product >>> 32);
    }

    /** Goes to the block that holds numbers {@code 4 * number} to {@code 4 * number + 3} of the stream. */
    void seek(int number) {
        counter0 = number;
        used = 4;
    }

    /** The bijection itself: counter words c, key words k, four words out. */
    static void block(int c0, int c1, int c2, int c3, int k0, int k1, int[] out) {
        for (int round = 0; round < 10; round++) {
            long a = Integer.toUnsignedLong(c0) * 0xD2511F53L;
            long b = Integer.toUnsignedLong(c2) * 0xCD9E8D57L;
            c0 = (int) (b >>> 32) ^ c1 ^ k0;
            c1 = (int) b;
            c2 = (int) (a >>> 32) ^ c3 ^ k1;
            c3 = (int) a;
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }
        out[0] = c0;
        out[1] = c1;
        out[2] = c2;
        out[3] = c3;
    }
}
