package org.hllm4j.engine;

import org.hllm4j.bindings.Hllm;

/** Element type of a {@link Tensor}. Arithmetic is float32; bf16 is for storage, int32 for ids and offsets. */
public enum DType {
    F32(Hllm.HLLM_F32(), 4),
    BF16(Hllm.HLLM_BF16(), 2),
    I32(Hllm.HLLM_I32(), 4);

    private final int code;
    private final int bytes;

    DType(int code, int bytes) {
        this.code = code;
        this.bytes = bytes;
    }

    /** Size of one element in bytes. */
    public int bytes() {
        return bytes;
    }

    /** The value of {@code enum hllm_dtype}. */
    int code() {
        return code;
    }
}
