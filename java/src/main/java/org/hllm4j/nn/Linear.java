package org.hllm4j.nn;

import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Weight;

/** y = x w^T for a weight [N, K]. A frozen weight is packed at its first use: a second copy, which the kernels read faster. */
public final class Linear implements AutoCloseable {
    private final Ops ops;
    private final Parameter parameter;
    private final Weight weight;
    private boolean packed;

    public Linear(Context context, Parameter parameter) {
        this.ops = context.ops();
        this.parameter = parameter;
        // With bf16 activations, a bf16 copy of the float32 master weights, taken again by refresh.
        boolean narrow = parameter.value().dtype() == DType.BF16 || context.activations() == DType.BF16;
        this.weight = context.weight(parameter.value(), narrow ? DType.BF16 : DType.F32);
    }

    /** y [T, N] = x [T, K] w^T, or y += when {@code accumulate}. */
    public void forward(Tensor y, Tensor x, boolean accumulate) {
        if (!parameter.trainable()) {
            pack();
        }
        ops.linearForward(y, x, weight, accumulate);
    }

    /** Packs now what the first use of a frozen weight would pack; only {@link #forward} needs no parameter then. */
    void pack() {
        if (!packed) {
            weight.pack();
            packed = true;
        }
    }

    /** dx [T, K] = dy [T, N] w, or += when {@code accumulate}; the weight's gradient, where it is trained, += dy^T x. */
    public void backward(Tensor dx, Tensor dy, Tensor x, boolean accumulate) {
        if (parameter.trainable()) {
            ops.linearBackwardWeight(parameter.gradient(), dy, x);
        }
        ops.linearBackwardInput(dx, dy, weight, accumulate);
    }

    /** Takes over the parameter's values after they were written. */
    public void refresh() {
        weight.refresh();
    }

    @Override
    public void close() {
        weight.close();
    }
}
