package org.hllm4j.weights;

import java.nio.ByteBuffer;

/**
 * How the elements of a tensor are stored in a file, always little-endian. Quantised types store blocks of 32 elements
 * along the last dimension: a float16 scale (Q4_1: and a float16 minimum), then the quantised values.
 */
public enum StoredType {
    F32(1, 4),
    F16(1, 2),
    BF16(1, 2),
    F64(1, 8),
    I64(1, 8),
    I32(1, 4),
    I8(1, 1),
    U8(1, 1),
    BOOL(1, 1),
    Q8_0(32, 34),
    Q4_0(32, 18),
    Q4_1(32, 20);

    private final int blockElements;
    private final int blockBytes;

    StoredType(int blockElements, int blockBytes) {
        this.blockElements = blockElements;
        this.blockBytes = blockBytes;
    }

    /** Elements per stored block: 1, or 32 for the quantised types. */
    public int blockElements() {
        return blockElements;
    }

    /** Bytes per stored block. */
    public int blockBytes() {
        return blockBytes;
    }

    /** Bytes of {@code elements} elements, a multiple of {@link #blockElements()}; ArithmeticException past 2^63. */
    long bytes(long elements) {
        return Math.multiplyExact(elements / blockElements, blockBytes);
    }

    /** Widens the first {@code blocks} blocks of {@code in} (little-endian) into the start of {@code out}. */
    void widen(ByteBuffer in, float[] out, int blocks) {
        switch (this) {
            case F32 -> in.asFloatBuffer().get(out, 0, blocks);
            case F16 -> {
                short[] halves = shorts(in, blocks);
                for (int i = 0; i < blocks; i++) {
                    out[i] = Float.float16ToFloat(halves[i]);
                }
            }
            case BF16 -> {
                short[] halves = shorts(in, blocks);
                for (int i = 0; i < blocks; i++) {
                    out[i] = Float.intBitsToFloat(halves[i] << 16);
                }
            }
            case F64 -> {
                var doubles = in.asDoubleBuffer();
                for (int i = 0; i < blocks; i++) {
                    out[i] = (float) doubles.get(i);
                }
            }
            case I64 -> {
                var longs = in.asLongBuffer();
                for (int i = 0; i < blocks; i++) {
                    out[i] = longs.get(i);
                }
            }
            case I32 -> {
                var ints = in.asIntBuffer();
                for (int i = 0; i < blocks; i++) {
                    out[i] = ints.get(i);
                }
            }
            case I8 -> {
                for (int i = 0; i < blocks; i++) {
                    out[i] = in.get(i);
                }
            }
            case U8 -> {
                for (int i = 0; i < blocks; i++) {
                    out[i] = in.get(i) & 0xff;
                }
            }
            case BOOL -> {
                for (int i = 0; i < blocks; i++) {
                    out[i] = in.get(i) != 0 ? 1 : 0;
                }
            }
            case Q8_0 -> widenQ8(bytes(in, blocks), out, blocks);
            case Q4_0 -> widenQ4(bytes(in, blocks), out, blocks, false);
            case Q4_1 -> widenQ4(bytes(in, blocks), out, blocks, true);
        }
    }

    private static void widenQ8(byte[] in, float[] out, int blocks) {
        for (int block = 0, from = 0, to = 0; block < blocks; block++, from += 34, to += 32) {
            float scale = half(in, from);
            for (int i = 0; i < 32; i++) {
                out[to + i] = in[from + 2 + i] * scale;
            }
        }
    }

    /** Low nibbles are elements 0..15 of a block, high nibbles 16..31; without a minimum, 8 stands for zero. */
    private static void widenQ4(byte[] in, float[] out, int blocks, boolean hasMinimum) {
        int header = hasMinimum ? 4 : 2;
        int zero = hasMinimum ? 0 : 8;
        for (int block = 0, from = 0, to = 0; block < blocks; block++, from += header + 16, to += 32) {
            float scale = half(in, from);
            float minimum = hasMinimum ? half(in, from + 2) : 0;
            for (int i = 0; i < 16; i++) {
                int pair = in[from + header + i];
                float low = ((pair & 15) - zero) * scale;
                float high = ((pair >> 4 & 15) - zero) * scale;
                out[to + i] = hasMinimum ? low + minimum : low;
                out[to + 16 + i] = hasMinimum ? high + minimum : high;
            }
        }
    }

    private static float half(byte[] in, int at) {
        return Float.float16ToFloat((short) (in[at] & 0xff | in[at + 1] << 8));
    }

    private byte[] bytes(ByteBuffer in, int blocks) {
        byte[] bytes = new byte[blocks * blockBytes];
        in.get(0, bytes);
        return bytes;
    }

    private static short[] shorts(ByteBuffer in, int count) {
        short[] shorts = new short[count];
        in.asShortBuffer().get(0, shorts);
        return shorts;
    }
}
