package org.hllm4j.nn;

import java.util.stream.Stream;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.weights.LayerNames;
import org.hllm4j.weights.ModelConfig;

/** The half of a layer that works on each row alone: down(silu(gate(x)) * up(x)), or down(gelu(up(x))). */
final class Mlp {
    private final Ops ops;
    private final boolean gated;
    private final int inner;
    private final Linear up; // gate and up as one, where there is a gate
    private final Linear down;

    Mlp(Context context, Parameters parameters, String prefix, ModelConfig config) {
        LayerNames names = config.family().layerNames();
        ops = context.ops();
        gated = names.up().size() == 2;
        inner = config.intermediateSize();
        up = Linear.of(context, parameters, prefix + names.up().getFirst());
        down = Linear.of(context, parameters, prefix + names.down());
    }

    /** Before and after the activation; the product behind it is a step of its own, {@link #finish}. */
    record Saved(Tensor x, Tensor before, Tensor activated) {}

    /** @param x activations [T, D] */
    Saved start(Workspace workspace, Tensor x) {
        Tensor before = workspace.activations(x.size(0), gated ? 2L * inner : inner);
        up.forward(workspace, before, x, false);
        Tensor activated = workspace.activations(x.size(0), inner);
        if (gated) {
            ops.swigluForward(activated, before);
        } else {
            ops.geluForward(activated, before);
        }
        return new Saved(x, before, activated);
    }

    /** Adds the result to y [T, D]. */
    void finish(Workspace workspace, Tensor y, Saved saved) {
        down.forward(workspace, y, saved.activated, true);
    }

    /** dx [T, D] = or += from the result's gradient, activations [T, D]. */
    void backward(Workspace workspace, Tensor dx, Tensor dy, Saved saved, boolean accumulate) {
        Tensor dactivated = workspace.activations(saved.activated.shape());
        down.backward(workspace, dactivated, dy, saved.activated, false);
        Tensor dbefore = workspace.activations(saved.before.shape());
        if (gated) {
            ops.swigluBackward(dbefore, dactivated, saved.before);
        } else {
            ops.geluBackward(dbefore, dactivated, saved.before);
        }
        up.backward(workspace, dx, dbefore, saved.x, accumulate);
    }

    Stream<Linear> linears() {
        return Stream.of(up, down);
    }
}
