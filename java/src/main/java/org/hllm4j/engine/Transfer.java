package org.hllm4j.engine;

import static java.lang.foreign.ValueLayout.JAVA_FLOAT;
import static java.lang.foreign.ValueLayout.JAVA_FLOAT_UNALIGNED;
import static java.lang.foreign.ValueLayout.JAVA_INT;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import org.hllm4j.bindings.Hllm;

/**
 * Copies between Java memory and native buffers. Native code cannot see the Java heap, so what lies there passes
 * through one staging block per context, small enough to stay in the cache. Offsets are bytes into the buffer.
 */
final class Transfer {
    private static final long STAGING_BYTES = 256 * 1024;

    private final Context context;
    private MemorySegment staging;

    Transfer(Context context) {
        this.context = context;
    }

    void write(MemorySegment buffer, long offset, float[] values, int from, int count) {
        write(buffer, offset, MemorySegment.ofArray(values).asSlice(4L * from, 4L * count), JAVA_FLOAT, JAVA_FLOAT);
    }

    void write(MemorySegment buffer, long offset, int[] values) {
        write(buffer, offset, MemorySegment.ofArray(values), JAVA_INT, JAVA_INT);
    }

    void write(MemorySegment buffer, long offset, FloatBuffer values) {
        MemorySegment host = MemorySegment.ofBuffer(values);
        if (values.isDirect() && values.order() == ByteOrder.nativeOrder()) {
            writeNative(buffer, offset, host);
        } else {
            write(buffer, offset, host, JAVA_FLOAT_UNALIGNED.withOrder(values.order()), JAVA_FLOAT);
        }
    }

    void write(MemorySegment buffer, long offset, ByteBuffer direct) {
        writeNative(buffer, offset, MemorySegment.ofBuffer(direct));
    }

    void read(MemorySegment buffer, long offset, float[] out, int from, int count) {
        read(buffer, offset, MemorySegment.ofArray(out).asSlice(4L * from, 4L * count), JAVA_FLOAT, JAVA_FLOAT);
    }

    void read(MemorySegment buffer, long offset, int[] out) {
        read(buffer, offset, MemorySegment.ofArray(out), JAVA_INT, JAVA_INT);
    }

    void read(MemorySegment buffer, long offset, FloatBuffer out) {
        MemorySegment host = MemorySegment.ofBuffer(out);
        if (out.isDirect() && out.order() == ByteOrder.nativeOrder()) {
            readNative(buffer, offset, host);
        } else {
            read(buffer, offset, host, JAVA_FLOAT_UNALIGNED.withOrder(out.order()), JAVA_FLOAT);
        }
    }

    private void write(MemorySegment buffer, long offset, MemorySegment host, ValueLayout from, ValueLayout to) {
        for (long done = 0; done < host.byteSize(); done += STAGING_BYTES) {
            long bytes = Math.min(STAGING_BYTES, host.byteSize() - done);
            MemorySegment.copy(host, from, done, staging(), to, 0, bytes / to.byteSize());
            writeNative(buffer, offset + done, staging().asSlice(0, bytes));
        }
    }

    private void read(MemorySegment buffer, long offset, MemorySegment host, ValueLayout to, ValueLayout from) {
        for (long done = 0; done < host.byteSize(); done += STAGING_BYTES) {
            long bytes = Math.min(STAGING_BYTES, host.byteSize() - done);
            readNative(buffer, offset + done, staging().asSlice(0, bytes));
            MemorySegment.copy(staging(), from, 0, host, to, done, bytes / from.byteSize());
        }
    }

    private void writeNative(MemorySegment buffer, long offset, MemorySegment host) {
        if (host.byteSize() > 0) {
            NativeException.check(
                    Hllm.hllm_buffer_write(context.handle(), buffer, offset, host, host.byteSize()),
                    "hllm_buffer_write");
        }
    }

    private void readNative(MemorySegment buffer, long offset, MemorySegment host) {
        if (host.byteSize() > 0) {
            NativeException.check(
                    Hllm.hllm_buffer_read(context.handle(), host, buffer, offset, host.byteSize()), "hllm_buffer_read");
        }
    }

    private MemorySegment staging() {
        if (staging == null) {
            staging = Arena.ofAuto().allocate(STAGING_BYTES, 64);
        }
        return staging;
    }
}
