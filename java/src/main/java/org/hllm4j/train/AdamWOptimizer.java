package org.hllm4j.train;

import org.hllm4j.HllmException;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.Hllm;

/** AdamW over a model's flat buffer, with clipping by the global gradient norm. Owns the moments. */
public final class AdamWOptimizer implements AutoCloseable {
    private static final float BETA1 = 0.9f;
    private static final float BETA2 = 0.999f;
    private static final float EPS = 1e-8f;

    private final Hllm model;
    private final Ops ops;
    private final float weightDecay;
    private final float clip;
    private final Tensor moment1;
    private final Tensor moment2;
    private final Tensor norm;
    private long step;

    public AdamWOptimizer(Hllm model, float weightDecay, float clip) {
        Context context = model.context();
        this.model = model;
        this.ops = context.ops();
        this.weightDecay = weightDecay;
        this.clip = clip;
        long size = model.parameters().values().elements();
        moment1 = context.zeros(DType.F32, size);
        moment2 = context.zeros(DType.F32, size);
        norm = context.zeros(DType.F32, 1);
    }

    public void zeroGradients() {
        ops.fill(model.parameters().gradients(), 0);
    }

    /**
     * Applies the gradients.
     *
     * @return their norm before clipping
     * @throws HllmException when the norm is not finite; then nothing was changed
     */
    public double step(double lr) {
        Tensor gradients = model.parameters().gradients();
        ops.norm(norm, gradients);
        float found = norm.scalar();
        if (!Float.isFinite(found)) {
            throw new HllmException("the gradient norm is " + found + " at step " + step
                    + "; no parameter was changed. Lower the learning rate");
        }
        float scale = Math.min(1, clip / (found + 1e-6f)); // as torch.nn.utils.clip_grad_norm_
        step++;
        ops.adamw(new Ops.AdamW(
                (float) lr,
                BETA1,
                BETA2,
                EPS,
                weightDecay,
                scale,
                step,
                model.parameters().values(),
                gradients,
                moment1,
                moment2));
        model.refreshTrained();
        return found;
    }

    /** Updates done. */
    public long steps() {
        return step;
    }

    /** Continues after this many updates; the moments are to be written too. */
    public void steps(long done) {
        step = done;
    }

    public Tensor moment1() {
        return moment1;
    }

    public Tensor moment2() {
        return moment2;
    }

    @Override
    public void close() {
        moment1.close();
        moment2.close();
        norm.close();
    }
}
