package org.hllm4j.nn;

import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;

/** y = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias, row by row. */
public final class LayerNorm implements Norm {
    private final Ops ops;
    private final Parameter weight;
    private final Parameter bias;
    private final float eps;

    public LayerNorm(Ops ops, Parameter weight, Parameter bias, double eps) {
        this.ops = ops;
        this.weight = weight;
        this.bias = bias;
        this.eps = (float) eps;
    }

    /** [T, 2]. */
    @Override
    public Tensor saved(Workspace workspace, long rows) {
        return workspace.floats(rows, 2);
    }

    @Override
    public void forward(Tensor y, Tensor saved, Tensor x) {
        ops.layernormForward(y, saved, x, weight.value(), bias.value(), eps);
    }

    @Override
    public void backward(Tensor dx, Tensor dy, Tensor saved, Tensor x, boolean accumulate) {
        ops.layernormBackward(dx, weight.gradient(), dy, saved, x, weight.value(), accumulate);
        if (bias.trainable()) {
            ops.biasBackward(bias.gradient(), dy);
        }
    }
}
