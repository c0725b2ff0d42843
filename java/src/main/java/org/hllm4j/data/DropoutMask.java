package org.hllm4j.data;

import java.util.stream.IntStream;

/** Which elements a training step leaves out: the same for any who asks again, so that nothing has to be kept. */
public final class DropoutMask {
    private static final int CHUNK = 1 << 14; // a multiple of the 8 draws of a block

    private DropoutMask() {}

    /**
     * Fills {@code out} with 0 at a share {@code rate} of the places and 1 / (1 - rate) at the others: element i depends on
     * (seed, step, site, i) alone. Uses all cores.
     *
     * @param site number of the place in the model, below 2^24
     * @param rate from 0 to below 1, in steps of 2^-16
     */
    public static void fill(long seed, long step, int site, double rate, float[] out) {
        int dropped = (int) Math.round(rate * (1 << 16));
        float kept = (float) (1 / (1 - rate));
        IntStream.range(0, out.length / CHUNK + 1).parallel().forEach(chunk -> {
            Philox random = new Philox(seed, Philox.Purpose.DROPOUT, site, step);
            int begin = chunk * CHUNK;
            random.seek(begin / 8);
            for (int i = begin; i < Math.min(out.length, begin + CHUNK); i += 2) {
                int bits = random.nextInt();
                out[i] = (bits & 0xffff) < dropped ? 0 : kept;
                if (i + 1 < out.length) {
                    out[i + 1] = bits >>> 16 < dropped ? 0 : kept;
                }
            }
        });
    }
}
