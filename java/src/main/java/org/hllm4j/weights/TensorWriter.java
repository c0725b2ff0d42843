package org.hllm4j.weights;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.hllm4j.HllmException;

/**
 * Writes named tensors to a file, streaming: the tensors are declared up front, then their data is appended in declared
 * order, in pieces of any size. Closing a complete writer puts the file in place (written beside, fsynced, renamed);
 * closing an incomplete one leaves no file and says what was missing. Used by one thread at a time.
 */
public abstract sealed class TensorWriter implements AutoCloseable permits SafetensorsWriter, TorchCheckpointWriter {
    private static final int CHUNK_BYTES = 1 << 16;

    private final List<TensorInfo> declared;
    private final ByteBuffer chunk = ByteBuffer.allocateDirect(CHUNK_BYTES).order(ByteOrder.LITTLE_ENDIAN);
    private final Path target;
    final PendingFile file;
    private int current;
    private long filled;
    private boolean closed;

    TensorWriter(Path target, List<TensorInfo> declared, Set<StoredType> allowed) {
        Set<String> names = new HashSet<>();
        for (TensorInfo info : declared) {
            if (!allowed.contains(info.type())) {
                throw new HllmException(target + ": tensor " + info + " cannot be written, expected one of " + allowed);
            }
            if (!names.add(info.name())) {
                throw new HllmException(target + ": tensor '" + info.name() + "' is declared twice");
            }
        }
        this.target = target;
        this.declared = List.copyOf(declared);
        this.file = new PendingFile(target);
    }

    /** Where the bytes of the tensor declared at {@code index} go; called in declared order. */
    abstract void write(int index, long offset, ByteBuffer bytes);

    /** Called once, when all tensors are complete and before the file is put in place. */
    abstract void finish();

    /**
     * Appends float32 values to a tensor declared F32 or BF16 (rounded to nearest, ties to even).
     *
     * @param name the tensor whose turn it is
     * @param values read to their limit; at most what the tensor still lacks
     */
    public final void append(String name, FloatBuffer values) {
        StoredType type = turn(name, values.remaining());
        if (type == StoredType.I64) {
            throw new HllmException(target + ": tensor '" + name + "' was declared I64, append longs to it");
        }
        while (values.hasRemaining()) {
            int count = Math.min(values.remaining(), CHUNK_BYTES / type.blockBytes());
            chunk.clear();
            if (type == StoredType.F32) {
                chunk.asFloatBuffer().put(0, values, values.position(), count);
                values.position(values.position() + count);
            } else {
                for (int i = 0; i < count; i++) {
                    chunk.putShort(2 * i, bfloat16(values.get()));
                }
            }
            flush(count, type);
        }
    }

    /** Appends to a tensor declared I64, otherwise as {@link #append(String, FloatBuffer)}. */
    public final void append(String name, LongBuffer values) {
        StoredType type = turn(name, values.remaining());
        if (type != StoredType.I64) {
            throw new HllmException(target + ": tensor '" + name + "' was declared " + type + ", append floats to it");
        }
        while (values.hasRemaining()) {
            int count = Math.min(values.remaining(), CHUNK_BYTES / 8);
            chunk.clear();
            chunk.asLongBuffer().put(0, values, values.position(), count);
            values.position(values.position() + count);
            flush(count, type);
        }
    }

    @Override
    public final void close() {
        if (closed) {
            return;
        }
        closed = true;
        try (file) {
            skipComplete();
            if (current < declared.size()) {
                TensorInfo info = declared.get(current);
                throw new HllmException(target + ": not written: closed when tensor " + info + " had " + filled + " of "
                        + info.elements() + " elements");
            }
            finish();
            file.commit();
        }
    }

    private void flush(int count, StoredType type) {
        write(current, type.bytes(filled), chunk.position(0).limit(count * type.blockBytes()));
        filled += count;
    }

    private StoredType turn(String name, int count) {
        if (closed) {
            throw new HllmException(target + ": append to '" + name + "' after close");
        }
        if (count > 0
                || current < declared.size() && !declared.get(current).name().equals(name)) {
            skipComplete();
        }
        if (current == declared.size()) {
            throw new HllmException(target + ": append to '" + name + "' after the last declared tensor was complete");
        }
        TensorInfo info = declared.get(current);
        if (!info.name().equals(name) || count > info.elements() - filled) {
            throw new HllmException(target + ": append of " + count + " elements to '" + name + "', expected at most "
                    + (info.elements() - filled) + " for '" + info.name() + "'");
        }
        return info.type();
    }

    private void skipComplete() {
        while (current < declared.size() && filled == declared.get(current).elements()) {
            current++;
            filled = 0;
        }
    }

    private static short bfloat16(float value) {
        int bits = Float.floatToRawIntBits(value);
        if (Float.isNaN(value)) {
            return (short) (bits >> 16 | 0x40);
        }
        return (short) (bits + 0x7fff + (bits >> 16 & 1) >> 16);
    }
}
