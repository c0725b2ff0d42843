package org.hllm4j.nn;

import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;

/** y = x / sqrt(mean(x^2) + eps) * weight, row by row. */
public final class RmsNorm {
    private final Ops ops;
    private final Parameter weight;
    private final float eps;

    public RmsNorm(Ops ops, Parameter weight, double eps) {
        this.ops = ops;
        this.weight = weight;
        this.eps = (float) eps;
    }

    /** y, x [T, D]; savedRstd [T] for the backward pass. */
    public void forward(Tensor y, Tensor savedRstd, Tensor x) {
        ops.rmsnormForward(y, savedRstd, x, weight.value(), eps);
    }

    /** dx [T, D] = or += (the residual stream); the weight's gradient, where it is trained, +=. */
    public void backward(Tensor dx, Tensor dy, Tensor savedRstd, Tensor x, boolean accumulate) {
        ops.rmsnormBackward(dx, weight.gradient(), dy, savedRstd, x, weight.value(), accumulate);
    }
}
