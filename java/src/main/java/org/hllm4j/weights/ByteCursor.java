package org.hllm4j.weights;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import org.hllm4j.HllmException;

/** Reads little-endian values one after another; what would pass the end is an error that names the place. */
final class ByteCursor {
    private static final ValueLayout.OfShort SHORT =
            ValueLayout.JAVA_SHORT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
    private static final ValueLayout.OfLong LONG = ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);

    private final MemorySegment data;
    private final String origin;
    private long position;

    ByteCursor(MemorySegment data, String origin) {
        this.data = data;
        this.origin = origin;
    }

    long position() {
        return position;
    }

    long remaining() {
        return data.byteSize() - position;
    }

    /** Moves to an absolute place, inside the data or at its end. */
    ByteCursor seek(long to, String what) {
        if (to < 0 || to > data.byteSize()) {
            throw new HllmException(
                    origin + ": " + what + " would be at byte " + to + " of " + data.byteSize() + "; damaged file");
        }
        position = to;
        return this;
    }

    int u8(String what) {
        return data.get(ValueLayout.JAVA_BYTE, take(1, what)) & 0xff;
    }

    int u16(String what) {
        return data.get(SHORT, take(2, what)) & 0xffff;
    }

    int i32(String what) {
        return data.get(INT, take(4, what));
    }

    long u32(String what) {
        return i32(what) & 0xffff_ffffL;
    }

    long i64(String what) {
        return data.get(LONG, take(8, what));
    }

    float f32(String what) {
        return Float.intBitsToFloat(i32(what));
    }

    double f64(String what) {
        return Double.longBitsToDouble(i64(what));
    }

    byte[] bytes(long length, String what) {
        long at = take(length, what);
        if (length > Integer.MAX_VALUE - 16) {
            throw new HllmException(origin + ": " + what + " of " + length + " bytes is too long");
        }
        byte[] bytes = new byte[(int) length];
        MemorySegment.copy(data, ValueLayout.JAVA_BYTE, at, bytes, 0, bytes.length);
        return bytes;
    }

    String utf8(long length, String what) {
        return new String(bytes(length, what), StandardCharsets.UTF_8);
    }

    private long take(long length, String what) {
        if (length < 0 || length > remaining()) {
            throw new HllmException(origin + ": truncated or damaged: " + what + " at byte " + position + " needs "
                    + Long.toUnsignedString(length) + " bytes, " + remaining() + " are left");
        }
        long at = position;
        position += length;
        return at;
    }
}
