package org.hllm4j.nn;

import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;

/** y = x / sqrt(mean(x^2) + eps) * weight, row by row. */
public final class RmsNorm implements Norm {
    private final Ops ops;
    private final Parameter weight;
    private final float eps;

    public RmsNorm(Ops ops, Parameter weight, double eps) {
        this.ops = ops;
        this.weight = weight;
        this.eps = (float) eps;
    }

    /** [T]. */
    @Override
    public Tensor saved(Workspace workspace, long rows) {
        return workspace.floats(rows);
    }

    @Override
    public void forward(Tensor y, Tensor savedRstd, Tensor x) {
        ops.rmsnormForward(y, savedRstd, x, weight.value(), eps);
    }

    @Override
    public void backward(Tensor dx, Tensor dy, Tensor savedRstd, Tensor x, boolean accumulate) {
        ops.rmsnormBackward(dx, weight.gradient(), dy, savedRstd, x, weight.value(), accumulate);
    }
}
