package org.hllm4j.nn;

import org.hllm4j.engine.Context;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;

/** y += scale * x down^T up^T, beside a frozen {@link Linear}: two small ones in a row. */
final class Adapter implements AutoCloseable {
    private final Ops ops;
    private final Linear down;
    private final Linear up;
    private final Tensor scale; // [1, R]

    Adapter(Context context, LowRank parameters) {
        ops = context.ops();
        down = new Linear(context, parameters.down());
        up = new Linear(context, parameters.up());
        scale = parameters.scaleRow(context);
    }

    /** y [T, N] += for x [T, K]. */
    void forward(Workspace workspace, Tensor y, Tensor x) {
        long mark = workspace.mark();
        up.forward(workspace, y, inner(workspace, x), true);
        workspace.release(mark);
    }

    /** dx [T, K] += from dy [T, N]; the gradients of both matrices +=. */
    void backward(Workspace workspace, Tensor dx, Tensor dy, Tensor x) {
        long mark = workspace.mark();
        Tensor dinner = workspace.floats(x.size(0), down.rows());
        up.backward(workspace, dinner, dy, inner(workspace, x), false);
        down.backward(workspace, dx, scaled(workspace, dinner), x, true);
        workspace.release(mark);
    }

    /** scale * x down^T, [T, R]: computed again by the backward, as that costs less than keeping it. */
    private Tensor inner(Workspace workspace, Tensor x) {
        Tensor inner = workspace.floats(x.size(0), down.rows());
        down.forward(workspace, inner, x, false);
        return scaled(workspace, inner);
    }

    private Tensor scaled(Workspace workspace, Tensor inner) {
        ops.mul(inner, inner, scale.repeat(inner.size(0)), false);
        return workspace.activation(inner);
    }

    void refresh() {
        down.refresh(true);
        up.refresh(true);
    }

    @Override
    public void close() {
        down.close();
        up.close();
        scale.close();
    }
}
