package org.hllm4j.weights;

import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import org.hllm4j.HllmException;

/** A tensor inside a mapped file. Ranges are checked by the caller, {@link TensorFile}. */
sealed interface StoredTensor {
    /** Elements widened at a time: small enough for the first cache levels. */
    int CHUNK = 8192;

    TensorInfo info();

    void read(long first, FloatBuffer out);

    /** See {@link TensorSource#stored}. */
    default ByteBuffer stored() {
        return null;
    }

    /** See {@link TensorSource#unload}. */
    default void unload() {}

    /** Row-major and without gaps. */
    record Contiguous(TensorInfo info, MemorySegment data) implements StoredTensor {
        @Override
        public ByteBuffer stored() {
            StoredType type = info.type();
            boolean plain = type.blockElements() == 1 && data.address() % type.blockBytes() == 0;
            return plain && data.isMapped() && data.byteSize() <= Integer.MAX_VALUE
                    ? data.asByteBuffer().order(ByteOrder.LITTLE_ENDIAN)
                    : null;
        }

        @Override
        public void unload() {
            if (data.isMapped()) {
                data.unload();
            }
        }

        @Override
        public void read(long first, FloatBuffer out) {
            StoredType type = info.type();
            int block = type.blockElements();
            float[] chunk = new float[Math.min(CHUNK, Math.ceilDiv(out.remaining(), block) * block + block)];
            while (out.hasRemaining()) {
                int skip = (int) (first % block);
                int count = Math.min(out.remaining(), chunk.length - skip);
                int blocks = Math.ceilDiv(skip + count, block);
                var bytes = data.asSlice(type.bytes(first - skip), type.bytes((long) blocks * block))
                        .asByteBuffer()
                        .order(ByteOrder.LITTLE_ENDIAN);
                type.widen(bytes, chunk, blocks);
                out.put(chunk, skip, count);
                first += count;
            }
        }
    }

    /** A view with any strides (in elements) into a storage, as PyTorch saves transposed or expanded tensors. */
    record Strided(TensorInfo info, MemorySegment storage, long offset, long[] strides) implements StoredTensor {
        @Override
        public void read(long first, FloatBuffer out) {
            long[] shape = info.shape();
            long[] index = new long[shape.length];
            long source = offset;
            for (int d = shape.length - 1; d >= 0; d--) {
                index[d] = first % shape[d];
                first /= shape[d];
                source += index[d] * strides[d];
            }
            int size = info.type().blockBytes();
            float[] chunk = new float[Math.min(CHUNK, out.remaining())];
            MemorySegment gathered = MemorySegment.ofArray(new byte[chunk.length * size]);
            while (out.hasRemaining()) {
                int count = Math.min(chunk.length, out.remaining());
                for (int i = 0; i < count; i++) {
                    MemorySegment.copy(storage, source * size, gathered, (long) i * size, size);
                    // step to the next element, the last dimension fastest
                    for (int d = shape.length - 1; d >= 0; d--) {
                        source += strides[d];
                        if (++index[d] < shape[d]) {
                            break;
                        }
                        source -= shape[d] * strides[d];
                        index[d] = 0;
                    }
                }
                info.type().widen(gathered.asByteBuffer().order(ByteOrder.LITTLE_ENDIAN), chunk, count);
                out.put(chunk, 0, count);
            }
        }
    }

    /**
     * Q or K projection of a GGUF Llama: there the rows of each head alternate between the two halves that RoPE
     * rotates together; in Hugging Face order the first half comes first.
     */
    record HeadRows(Contiguous rows, long heads) implements StoredTensor {
        @Override
        public TensorInfo info() {
            return rows.info();
        }

        @Override
        public void unload() {
            rows.unload();
        }

        @Override
        public void read(long first, FloatBuffer out) {
            long columns = info().shape()[1];
            long headRows = info().shape()[0] / heads;
            int limit = out.limit();
            while (out.position() < limit) {
                long row = first / columns;
                long column = first % columns;
                long inHead = row % headRows;
                long storedRow = row - inHead + 2 * (inHead % (headRows / 2)) + inHead / (headRows / 2);
                int count = (int) Math.min(columns - column, limit - out.position());
                rows.read(storedRow * columns + column, out.limit(out.position() + count));
                first += count;
            }
            out.limit(limit);
        }
    }

    /** Listed in the file, but stored in a way that this reader does not know: refused when it is asked for. */
    record Unreadable(String reason) implements StoredTensor {
        @Override
        public TensorInfo info() {
            throw new HllmException(reason);
        }

        @Override
        public void read(long first, FloatBuffer out) {
            throw new HllmException(reason);
        }
    }
}
