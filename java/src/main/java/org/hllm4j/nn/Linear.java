package org.hllm4j.nn;

import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Weight;
import org.hllm4j.engine.Workspace;

/**
 * y = x w^T + b for a weight [N, K] and a bias [N], or without one. A frozen weight is packed at its first use: a second copy, which the kernels
 * read faster; it may have an {@link Adapter}.
 */
public final class Linear implements AutoCloseable {
    private final Ops ops;
    private final Parameter parameter;
    private final Parameter bias; // null without one
    private final Weight weight;
    private final Adapter adapter; // null without one
    private boolean packed;

    /** One without a bias. */
    public Linear(Context context, Parameter parameter) {
        this(context, parameter, null);
    }

    /** @param bias or null */
    public Linear(Context context, Parameter parameter, Parameter bias) {
        this.ops = context.ops();
        this.parameter = parameter;
        this.bias = bias;
        // With bf16 activations, a bf16 copy of the float32 master weights, taken again by refresh.
        boolean narrow = parameter.value().dtype() == DType.BF16 || context.activations() == DType.BF16;
        this.weight = context.weight(parameter.value(), narrow ? DType.BF16 : DType.F32);
        this.adapter = parameter.adapter() == null ? null : new Adapter(context, parameter.adapter());
    }

    /** The product of a group of matrices that starts with this module's, and of its biases where it has some. */
    static Linear of(Context context, Parameters parameters, String firstModule) {
        return new Linear(context, parameters.fused(firstModule + ".weight"), parameters.fused(firstModule + ".bias"));
    }

    /** y [T, N] = x [T, K] w^T + b, or y += when {@code accumulate}. */
    public void forward(Workspace workspace, Tensor y, Tensor x, boolean accumulate) {
        if (!parameter.trainable()) {
            pack();
        }
        ops.linearForward(y, x, weight, accumulate);
        if (bias != null) {
            ops.biasForward(y, bias.value());
        }
        if (adapter != null) {
            adapter.forward(workspace, y, x);
        }
    }

    /** Packs now what the first use of a frozen weight would pack; only {@link #forward} needs no parameter then. */
    void pack() {
        if (!packed) {
            weight.pack();
            packed = true;
        }
    }

    /** dx [T, K] = dy [T, N] w, or += when {@code accumulate}; the gradients, where they are trained, += dy^T x and the sum of dy. */
    public void backward(Workspace workspace, Tensor dx, Tensor dy, Tensor x, boolean accumulate) {
        if (parameter.trainable()) {
            ops.linearBackwardWeight(parameter.gradient(), dy, x);
        }
        if (bias != null && bias.trainable()) {
            ops.biasBackward(bias.gradient(), dy);
        }
        ops.linearBackwardInput(dx, dy, weight, accumulate);
        if (adapter != null) {
            adapter.backward(workspace, dx, dy, x);
        }
    }

    /** Whether a backward adds to gradients of the matrix, or of its adapter. */
    boolean trains() {
        return parameter.trainable() || adapter != null;
    }

    /** N. */
    public long rows() {
        return parameter.value().size(0);
    }

    /** Takes over the parameter's values after they were written; {@code trainedOnly}: by an optimiser. */
    public void refresh(boolean trainedOnly) {
        if (parameter.trainable() || !trainedOnly) {
            weight.refresh();
        }
        if (adapter != null) {
            adapter.refresh();
        }
    }

    @Override
    public void close() {
        weight.close();
        if (adapter != null) {
            adapter.close();
        }
    }
}
