package org.hllm4j.engine;

import org.hllm4j.bindings.Hllm;

/**
 * Element type of a {@link Tensor}. Sums are float32 always; bf16 is for storage, and on a GPU for the factors of
 * products; int32 for ids and offsets.
 */
public enum DType {
    F32(4),
    BF16(2),
    I32(4);

    private final int bytes;

    DType(int bytes) {
        this.bytes = bytes;
    }

    /** Size of one element in bytes. */
    public int bytes() {
        return bytes;
    }

    /** The value of {@code enum hllm_dtype}. Not a field: types can be named before the native library is loaded. */
    int code() {
        return switch (this) {
            case F32 -> Hllm.HLLM_F32();
            case BF16 -> Hllm.HLLM_BF16();
            case I32 -> Hllm.HLLM_I32();
        };
    }
}
