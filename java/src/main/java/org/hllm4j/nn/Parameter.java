package org.hllm4j.nn;

import org.hllm4j.engine.Tensor;

/**
 * A named tensor of a model: a view of its {@link Parameters}' flat buffers.
 *
 * @param value float32, or bf16 for a matrix that stays as it is
 * @param gradient of the value's shape, added to by backward passes; null where the parameter is frozen
 * @param adapter what is trained in place of a frozen matrix; null: nothing
 */
public record Parameter(String name, Tensor value, Tensor gradient, LowRank adapter) {
    public boolean trainable() {
        return gradient != null;
    }

    /** The same without its adapter. */
    public Parameter bare() {
        return new Parameter(name, value, gradient, null);
    }

    /** The same under another name. */
    Parameter named(String other) {
        return new Parameter(other, value, gradient, adapter);
    }

    /** Rows [begin, end) of a matrix, or elements of a vector. */
    public Parameter rows(long begin, long end) {
        return new Parameter(
                name + "[" + begin + ":" + end + "]",
                value.rows(begin, end),
                gradient == null ? null : gradient.rows(begin, end),
                adapter == null ? null : adapter.rows(begin, end));
    }
}
