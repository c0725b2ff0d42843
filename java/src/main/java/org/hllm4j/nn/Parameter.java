package org.hllm4j.nn;

import org.hllm4j.engine.Tensor;

/**
 * A named tensor of a model: a view of its {@link Parameters}' flat buffers.
 *
 * @param value float32, or bf16 for a matrix of a model that stores bf16 (inference only)
 * @param gradient of the value's shape, added to by backward passes; null where the parameter is frozen
 */
public record Parameter(String name, Tensor value, Tensor gradient) {
    public boolean trainable() {
        return gradient != null;
    }

    /** Rows [begin, end) of a matrix, or elements of a vector. */
    public Parameter rows(long begin, long end) {
        return new Parameter(
                name + "[" + begin + ":" + end + "]",
                value.rows(begin, end),
                gradient == null ? null : gradient.rows(begin, end));
    }
}
