package org.hllm4j.engine;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import org.hllm4j.bindings.hllm_tensor;

/**
 * Host memory for one {@code hllm_tensor} per {@link Tensor}, cut from slabs so that a view costs no system allocation.
 * A slab is freed by the garbage collector after the last of its slices.
 */
final class Descriptors {
    private static final long SIZE = hllm_tensor.layout().byteSize();
    private static final long SLAB_BYTES = 64 * 1024;

    private MemorySegment slab = MemorySegment.NULL;
    private long used;

    MemorySegment next(MemorySegment buffer, DType dtype, long offset, long[] shape, long[] stride) {
        if (used + SIZE > slab.byteSize()) {
            slab = Arena.ofAuto().allocate(SLAB_BYTES, hllm_tensor.layout().byteAlignment());
            used = 0;
        }
        MemorySegment descriptor = slab.asSlice(used, SIZE);
        used += SIZE;
        hllm_tensor.struct_size(descriptor, (int) SIZE);
        hllm_tensor.dtype(descriptor, dtype.code());
        hllm_tensor.buffer(descriptor, buffer);
        hllm_tensor.offset(descriptor, offset);
        hllm_tensor.rank(descriptor, shape.length);
        for (int i = 0; i < shape.length; i++) {
            hllm_tensor.shape(descriptor, i, shape[i]);
            hllm_tensor.stride(descriptor, i, stride[i]);
        }
        return descriptor;
    }
}
