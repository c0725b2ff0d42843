package org.hllm4j.engine;

import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import org.hllm4j.HllmException;

/**
 * Stack of activations on the device: tensors are taken one after the other and given back together.
 *
 * <pre>{@code
 * long mark = workspace.mark();
 * Tensor hidden = workspace.floats(tokens, width);
 * ...
 * workspace.release(mark); // hidden and everything taken after it is gone
 * }</pre>
 *
 * The memory lies in chunks that grow as needed. When everything is released, several chunks are replaced by one as
 * large as all of them, so that a repeated step soon runs in one chunk and allocates nothing. Tensors of a workspace
 * need no close; using one after its release reads or overwrites somebody else's values, which nothing detects.
 */
public final class Workspace implements AutoCloseable {
    private static final long ALIGNMENT = 64;
    private static final long MIN_CHUNK = 1 << 20;

    /** A native buffer that holds the positions [begin, begin + bytes) of the stack. */
    private record Chunk(MemorySegment buffer, long begin, long bytes) {
        long end() {
            return begin + bytes;
        }
    }

    private final Context context;
    private final List<Chunk> chunks = new ArrayList<>();
    private long position;
    private long peak;
    private long mergedBytes;
    private boolean open = true;

    Workspace(Context context) {
        this.context = context;
    }

    /** An f32 tensor with undefined contents, valid until its release. */
    public Tensor floats(long... shape) {
        return take(DType.F32, shape);
    }

    /** Like {@link #floats}, in the type that the context's activations have. */
    public Tensor activations(long... shape) {
        return take(context.activations(), shape);
    }

    /** The values of an f32 tensor in the type of activations: the tensor itself where that is f32. */
    public Tensor activation(Tensor floats) {
        if (context.activations() == floats.dtype()) {
            return floats;
        }
        Tensor tensor = activations(floats.shape());
        context.ops().convert(tensor, floats);
        return tensor;
    }

    /** An i32 tensor of rank 1 with these values, valid until its release. */
    public Tensor ints(int[] values) {
        Tensor tensor = take(DType.I32, values.length);
        tensor.write(values);
        return tensor;
    }

    /** The present top of the stack; the empty stack is 0. */
    public long mark() {
        return position;
    }

    /** Gives back everything taken since {@code mark}. */
    public void release(long mark) {
        if (mark < 0 || mark > position) {
            throw new HllmException("workspace: mark " + mark + " lies above the stack of " + position
                    + " bytes: it was released before");
        }
        position = mark;
        if (mark == 0 && chunks.size() > 1) {
            mergedBytes = bytes();
            destroyChunks();
        }
    }

    /** Bytes held on the device. */
    public long bytes() {
        return chunks.isEmpty() ? 0 : chunks.getLast().end();
    }

    /** The most bytes that were in use at once, alignment and ends of chunks included. */
    public long peakBytes() {
        return peak;
    }

    /** Frees the memory; a second call does nothing. */
    @Override
    public void close() {
        open = false;
        destroyChunks();
    }

    private Tensor take(DType dtype, long... shape) {
        if (!open) {
            throw new HllmException("workspace: it is closed");
        }
        // An empty tensor takes a place too, because a window needs a buffer.
        long bytes = Math.ceilDiv(Math.max(1, Tensor.bytes(dtype, shape)), ALIGNMENT) * ALIGNMENT;
        Chunk chunk = chunkFor(bytes);
        long offset = position - chunk.begin;
        position += bytes;
        peak = Math.max(peak, position);
        return Tensor.view(context, dtype, shape, chunk.buffer, offset);
    }

    /**
     * Moves the position to the first chunk at or above it with room for {@code bytes}, and makes one if there is none.
     */
    private Chunk chunkFor(long bytes) {
        for (Chunk chunk : chunks) {
            long begin = Math.max(position, chunk.begin);
            if (begin + bytes <= chunk.end()) {
                position = begin;
                return chunk;
            }
        }
        long begin = bytes();
        // An eighth more than before: few chunks in the first step, little waste in a later one that is slightly
        // larger.
        long size = Math.max(bytes, Math.max(mergedBytes, Math.max(MIN_CHUNK, begin / 8 & -ALIGNMENT)));
        Chunk chunk = chunk(begin, bytes, size);
        mergedBytes = 0;
        chunks.add(chunk);
        position = begin;
        return chunk;
    }

    /** A chunk of {@code size}, or of the {@code bytes} that it must have where the device has no more. */
    private Chunk chunk(long begin, long bytes, long size) {
        try {
            return new Chunk(context.createBuffer(size), begin, size);
        } catch (DeviceOutOfMemoryException e) {
            if (size == bytes) {
                throw e;
            }
            return chunk(begin, bytes, bytes);
        }
    }

    private void destroyChunks() {
        while (!chunks.isEmpty()) {
            Context.destroyBuffer(chunks.removeLast().buffer);
        }
    }
}
