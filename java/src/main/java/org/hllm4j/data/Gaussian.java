package org.hllm4j.data;

import java.util.stream.IntStream;

/** Normal numbers for random weights, reproducible on every machine and in any order of filling. */
public final class Gaussian {
    private static final int CHUNK = 1 << 14; // a multiple of the 4 numbers of a block

    private Gaussian() {}

    /**
     * Fills {@code out} with N(0, std): element i depends on (seed, stream, i) alone. Uses all cores.
     *
     * @param stream a number of its own for every tensor
     */
    public static void fill(long seed, long stream, float[] out, float std) {
        int chunks = out.length / CHUNK + 1;
        IntStream.range(0, chunks).parallel().forEach(chunk -> {
            Philox random = new Philox(seed, Philox.Purpose.GAUSSIAN, 0, stream);
            int begin = chunk * CHUNK;
            random.seek(begin / 4);
            for (int i = begin; i < Math.min(out.length, begin + CHUNK); i += 2) {
                // Box-Muller. StrictMath: Math may differ in the last bit from one processor to the next.
                double radius = std * StrictMath.sqrt(-2 * StrictMath.log(uniform(random)));
                double angle = 2 * Math.PI * uniform(random);
                out[i] = (float) (radius * StrictMath.cos(angle));
                if (i + 1 < out.length) {
                    out[i + 1] = (float) (radius * StrictMath.sin(angle));
                }
            }
        });
    }

    /** In (0, 1), both ends left out. */
    private static double uniform(Philox random) {
        return (Integer.toUnsignedLong(random.nextInt()) + 0.5) * 0x1p-32;
    }
}
