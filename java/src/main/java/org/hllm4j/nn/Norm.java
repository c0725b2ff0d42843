package org.hllm4j.nn;

import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.weights.ModelConfig;

/** Brings the rows of a tensor to one scale. */
sealed interface Norm permits RmsNorm, LayerNorm {
    /** The norm of this module's parameters, of the kind that the family has. */
    static Norm of(Ops ops, Parameters parameters, String module, ModelConfig config) {
        Parameter weight = parameters.get(module + ".weight");
        return config.family().encoder()
                ? new LayerNorm(ops, weight, parameters.get(module + ".bias"), config.normEps())
                : new RmsNorm(ops, weight, config.normEps());
    }

    /** Room for what a forward over so many rows leaves for its backward. */
    Tensor saved(Workspace workspace, long rows);

    /** y, x [T, D]; {@code saved} as of {@link #saved}. */
    void forward(Tensor y, Tensor saved, Tensor x);

    /** dx [T, D] = or += (the residual stream); gradients of the parameters, where they are trained, +=. */
    void backward(Tensor dx, Tensor dy, Tensor saved, Tensor x, boolean accumulate);
}
