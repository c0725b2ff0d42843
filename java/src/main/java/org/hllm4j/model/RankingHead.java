package org.hllm4j.model;

import org.hllm4j.engine.Context;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.nn.Linear;
import org.hllm4j.nn.Parameter;
import org.hllm4j.nn.Parameters;
import org.hllm4j.nn.RmsNorm;

/**
 * From states of the User LLM to one logit each (HLLM section 3.3). Late fusion joins user feature u, target vector e and
 * their product to [u, e, u * e]; early fusion reads the state at the target alone. Both are normalised first: the
 * generative loss has taught them by their directions, and a product of large vectors would drown the rest. Then one
 * SwiGLU layer as wide as the model, the LLM's own, whose gates let features of user and target decide together, and a
 * sum with a bias that starts at the base rate. What is known of a target whoever the user is comes from outside, as a
 * prior that is added to the logit.
 */
public final class RankingHead implements AutoCloseable {
    static final String PREFIX = "ranker.";

    /** Input vector of [USER], learned; late fusion only. */
    public static final String USER_TOKEN = PREFIX + "user_token";

    static final String BIAS = PREFIX + "bias";
    private static final String USER_NORM = PREFIX + "user_norm.weight";
    private static final String ITEM_NORM = PREFIX + "item_norm.weight";
    private static final String GATE = PREFIX + "gate_proj.weight";
    private static final String UP = PREFIX + "up_proj.weight";
    static final String DOWN = PREFIX + "down_proj.weight";

    private final Ops ops;
    private final int width;
    private final boolean late;
    private final RmsNorm userNorm;
    private final RmsNorm itemNorm; // null with early fusion
    private final Linear gateUp;
    private final Linear down;
    private final Parameter bias;
    private final Parameter userToken; // null with early fusion

    static void declare(Parameters.Layout layout, int width, Fusion fusion, boolean trainable) {
        layout.vector(USER_NORM, width, trainable);
        if (fusion == Fusion.LATE) {
            layout.vector(ITEM_NORM, width, trainable).vector(USER_TOKEN, width, trainable);
        }
        layout.matrices(new String[] {GATE, UP}, new long[] {width, width}, inputs(fusion) * width, trainable)
                .matrix(DOWN, 1, width, trainable)
                .vector(BIAS, 1, trainable);
    }

    private static long inputs(Fusion fusion) {
        return fusion == Fusion.LATE ? 3 : 1;
    }

    RankingHead(Context context, Parameters parameters, HllmConfig config) {
        ops = context.ops();
        width = config.width();
        late = config.fusion() == Fusion.LATE;
        double eps = config.user().normEps();
        userNorm = new RmsNorm(ops, parameters.get(USER_NORM), eps);
        itemNorm = late ? new RmsNorm(ops, parameters.get(ITEM_NORM), eps) : null;
        gateUp = new Linear(context, parameters.fused(GATE));
        down = new Linear(context, parameters.get(DOWN));
        bias = parameters.get(BIAS);
        userToken = late ? parameters.get(USER_TOKEN) : null;
    }

    /** The [USER] token, or null with early fusion. */
    public Parameter userToken() {
        return userToken;
    }

    /**
     * One forward pass, its tensors in the workspace.
     *
     * @param logits [B]
     */
    public record Pass(
            Tensor logits,
            Tensor states,
            Tensor targets,
            Tensor x,
            Tensor userRstd,
            Tensor itemRstd,
            Tensor input,
            Tensor gates,
            Tensor activated) {}

    /**
     * @param states [B, D] of the User LLM at the branches
     * @param targets [B, D] item vectors; not read with early fusion, whose states have seen them
     * @param priors [B] added to the logits
     */
    public Pass forward(Workspace workspace, Tensor states, Tensor targets, float[] priors) {
        long rows = states.size(0);
        Tensor x = workspace.floats(rows, late ? 3L * width : width);
        Tensor userRstd = workspace.floats(rows);
        Tensor itemRstd = late ? workspace.floats(rows) : null;
        userNorm.forward(part(x, 0), userRstd, states);
        if (late) {
            itemNorm.forward(part(x, 1), itemRstd, targets);
            ops.mul(part(x, 2), part(x, 0), part(x, 1), false);
        }
        Tensor input = workspace.activation(x);
        Tensor gates = workspace.activations(rows, 2L * width);
        gateUp.forward(workspace, gates, input, false);
        Tensor activated = workspace.activations(rows, width);
        ops.swigluForward(activated, gates);
        Tensor logits = workspace.floats(rows, 1);
        logits.write(priors);
        ops.biasForward(logits, bias.value());
        down.forward(workspace, logits, activated, true);
        return new Pass(logits.reshape(rows), states, targets, x, userRstd, itemRstd, input, gates, activated);
    }

    /**
     * Adds to the gradients of the head's parameters.
     *
     * @param dstates [B, D] overwritten
     * @param dtargets [B, D] overwritten; not touched with early fusion
     * @param dlogits [B]
     */
    public void backward(Workspace workspace, Pass pass, Tensor dstates, Tensor dtargets, Tensor dlogits) {
        long rows = dlogits.size(0);
        Tensor dsum = dlogits.reshape(rows, 1);
        ops.biasBackward(bias.gradient(), dsum);
        Tensor dactivated = workspace.activations(rows, width);
        down.backward(workspace, dactivated, workspace.activation(dsum), pass.activated, false);
        Tensor dgates = workspace.activations(rows, 2L * width);
        ops.swigluBackward(dgates, dactivated, pass.gates);
        Tensor dx = workspace.floats(rows, pass.x.size(1));
        gateUp.backward(workspace, dx, dgates, pass.input, false);
        if (late) {
            ops.mul(part(dx, 0), part(dx, 2), part(pass.x, 1), true);
            ops.mul(part(dx, 1), part(dx, 2), part(pass.x, 0), true);
            itemNorm.backward(dtargets, part(dx, 1), pass.itemRstd, pass.targets, false);
        }
        userNorm.backward(dstates, part(dx, 0), pass.userRstd, pass.states, false);
    }

    private Tensor part(Tensor x, long number) {
        return x.columns(number * width, (number + 1) * width);
    }

    void refresh(boolean trainedOnly) {
        gateUp.refresh(trainedOnly);
        down.refresh(trainedOnly);
    }

    @Override
    public void close() {
        gateUp.close();
        down.close();
    }
}
