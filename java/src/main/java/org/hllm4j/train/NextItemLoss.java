package org.hllm4j.train;

import java.util.LinkedHashMap;
import java.util.Map;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.data.Batch;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.model.Hllm;

/** InfoNCE of a batch's predictions (HLLM section 3.2): its numbers, and its gradients of predictions and items. */
final class NextItemLoss {
    private static final int[] TOP = {1, 5, 10, 50, 100};

    private final Hllm model;
    private final Ops ops;
    private final Workspace workspace;
    private final float threshold;
    private final Tensor targets;
    private final Tensor negatives;
    private final Tensor p;
    private final Tensor n;
    private final Tensor metrics;
    private final Tensor dp;
    private final Tensor dn;

    /**
     * @param targets item row that each position is to predict
     * @param negatives item rows, shared by all positions
     * @param threshold a negative more similar to the target than this is left out
     */
    NextItemLoss(
            Hllm model,
            Workspace workspace,
            BatchItems items,
            IntStream targets,
            IntStream negatives,
            float threshold) {
        this.model = model;
        ops = model.context().ops();
        this.workspace = workspace;
        this.threshold = threshold;
        this.targets = items.places(targets);
        this.negatives = items.places(negatives);
        p = items.gather(this.targets);
        n = items.gather(this.negatives);
        metrics = workspace.floats(Ops.InfoNceMetric.values().length);
        dp = workspace.floats(p.shape());
        dn = workspace.floats(n.shape());
    }

    /**
     * @param u [T, D] predictions
     * @param du [T, D] overwritten; null: nothing is trained
     * @param weight factor on all gradients
     */
    Found run(Tensor u, Tensor du, double weight) {
        long positions = u.size(0);
        Tensor scale = model.logitScale().value();
        Tensor dscale = model.logitScale().gradient();
        Tensor unweighted = dscale == null || weight == 1 ? dscale : zero();
        ops.clamp(scale, 0, (float) Math.log(100)); // overwrites the parameter, outside the gradient
        ops.infonce(new Ops.InfoNce(
                threshold,
                positions,
                metrics,
                du,
                du == null ? null : dp,
                du == null ? null : dn,
                du == null ? null : unweighted,
                workspace.activation(u),
                workspace.activation(p),
                workspace.activation(n),
                targets,
                negatives,
                scale));
        if (du != null && weight != 1) {
            Tensor factor = workspace.floats(1, du.size(1));
            ops.fill(factor, (float) weight);
            for (Tensor gradient : new Tensor[] {du, dp, dn}) {
                ops.mul(gradient, gradient, factor.repeat(gradient.size(0)), false);
            }
            if (dscale != null) {
                ops.mul(dscale.reshape(1, 1), unweighted.reshape(1, 1), factor.columns(0, 1), true);
            }
        }
        return Found.of(metrics.toFloats(), positions);
    }

    private Tensor zero() {
        Tensor zero = workspace.floats(1);
        ops.fill(zero, 0);
        return zero;
    }

    /** Adds the gradients of targets and negatives to those of the batch's item vectors. */
    void addItemGradients(Tensor dvectors) {
        ops.scatterAddRows(dvectors, dp, targets);
        ops.scatterAddRows(dvectors, dn, negatives);
    }

    /**
     * Means over the positions.
     *
     * @param loss cross entropy
     * @param samples number of logits that were not masked, the target's included
     * @param topK share of positions whose target is among the best 1, 5, 10, 50, 100 logits
     */
    record Found(double loss, double samples, double[] topK) {
        private static Found of(float[] sums, double positions) {
            return new Found(
                    sums[Ops.InfoNceMetric.LOSS.ordinal()] / positions,
                    sums[Ops.InfoNceMetric.SAMPLES.ordinal()] / positions,
                    IntStream.range(Ops.InfoNceMetric.TOP1.ordinal(), sums.length)
                            .mapToDouble(i -> sums[i] / positions)
                            .toArray());
        }
    }

    /** "nce_samples", "nce_top1_acc" and so on, for the log. */
    static Map<String, Double> scalars(double samples, double[] topK) {
        Map<String, Double> scalars = new LinkedHashMap<>();
        scalars.put("nce_samples", samples);
        for (int i = 0; i < TOP.length; i++) {
            scalars.put("nce_top" + TOP[i] + "_acc", topK[i]);
        }
        return scalars;
    }

    /** Stops a run before the optimiser acts on what is no number. */
    static void requireFinite(double loss) {
        if (!Double.isFinite(loss)) {
            throw new HllmException("the loss is " + loss + "; no parameter was changed. Lower the learning rate, or "
                    + "check the weights the run started from");
        }
    }

    /** Stops a run whose item vectors have become alike: after the warm-up, hardly a logit is left. */
    static void requireSpread(Batch batch, double samples, double threshold) {
        if (samples <= 2 && batch.negatives().length > 2) {
            throw new HllmException("training has collapsed at step " + (batch.step() + 1) + ": only " + samples
                    + " of "
                    + (batch.negatives().length + 1) + " logits are left, since all item vectors have become alike "
                    + "(cosine above " + threshold
                    + "). Lower the learning rate, lengthen the warm-up, use more layers "
                    + "or --threshold 1, or start from pretrained weights");
        }
    }
}
