package org.hllm4j.nn;

import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;

/** RMSNorm of every head for itself: what Qwen3 does to queries and to keys, before their rotation. */
final class HeadNorm {
    private final Ops ops;
    private final RmsNorm norm;
    private final long headDim;

    HeadNorm(Ops ops, Parameter weight, double eps) {
        this.ops = ops;
        norm = new RmsNorm(ops, weight, eps);
        headDim = weight.value().size(0);
    }

    /** What backward needs: the rows before, [T * heads, Dh], and their scale. */
    record Saved(Tensor x, Tensor rstd) {}

    /** A tensor and what its way back needs. */
    record Result(Tensor y, Saved saved) {}

    /** x [T, heads, Dh] normalised, in a tensor of its own. */
    Result forward(Workspace workspace, Tensor x) {
        long rows = x.size(0) * x.size(1);
        Tensor in = workspace.floats(x.shape());
        ops.convert(in, x);
        in = in.reshape(rows, headDim);
        Tensor rstd = norm.saved(workspace, rows);
        Tensor y = workspace.activations(rows, headDim);
        norm.forward(y, rstd, in);
        return new Result(y.reshape(x.shape()), new Saved(in, rstd));
    }

    /** dx from dy, both [T, heads, Dh]; dx is overwritten. */
    void backward(Workspace workspace, Tensor dx, Tensor dy, Saved saved) {
        Tensor d = workspace.floats(saved.x.shape());
        norm.backward(d, dy.reshape(saved.x.shape()), saved.rstd, saved.x, false);
        ops.convert(dx, d.reshape(dx.shape()));
    }
}
