package org.hllm4j.train;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.hllm4j.data.LabelledSequence;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.model.Branches;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.RankingHead;
import org.hllm4j.model.UserLlm;
import org.hllm4j.nn.Parameter;

/**
 * Forward and backward of one batch of a ranker (HLLM section 3.3): the loss is the mean cross entropy of the labels, and
 * lambda times InfoNCE on the same histories.
 *
 * <p>One pass of the User LLM gives everything: the histories' rows predict the next items, and each labelled event is a
 * one-token branch, [USER] or the target, over the events before it ({@link Branches}). Without InfoNCE the last layer is
 * finished at the branches only. Items are encoded as in {@link GenerativeStep}.
 */
public final class DiscriminativeStep implements AutoCloseable {
    private final Hllm model;
    private final Context context;
    private final Ops ops;
    private final boolean late;
    private final BatchItems.Source source;
    private final float threshold;
    private final float lambda;
    private final Workspace workspace;

    /**
     * @param model with a ranking head that is trained
     * @param tokens token ids of every catalogue item
     * @param maxRows token rows whose activations are held at a time
     * @param threshold of InfoNCE: a negative more similar to the target than this is left out
     * @param lambda weight of InfoNCE; 0: it is not computed
     * @param table item vectors [N, D] for a frozen item side, else null: items are encoded
     */
    public DiscriminativeStep(Hllm model, int[][] tokens, int maxRows, float threshold, float lambda, Tensor table) {
        this.model = model;
        this.context = model.context();
        this.ops = context.ops();
        late = model.config().fusion() == Fusion.LATE;
        source = new BatchItems.Source(model, tokens, maxRows, table);
        this.threshold = threshold;
        this.lambda = lambda;
        workspace = context.workspace();
    }

    /**
     * What a step found.
     *
     * @param loss crossEntropy + lambda * infoNce
     * @param crossEntropy mean over the labelled events
     * @param infoNce mean over the events of the histories; 0 where it was not computed
     * @param nceSamples mean number of its logits that were not masked, the target's included
     * @param topK share of its positions whose target is among the best 1, 5, 10, 50, 100 logits
     * @param positions labelled events
     * @param items distinct items encoded
     * @param tokens tokens of all item occurrences, [ITEM] and user positions included: what plain code computes
     * @param rows token rows that were computed, before any second encoding
     * @param forward seconds until the loss was known
     * @param backward seconds since
     */
    public record Result(
            double loss,
            double crossEntropy,
            double infoNce,
            double nceSamples,
            double[] topK,
            int positions,
            int items,
            long tokens,
            long rows,
            double forward,
            double backward)
            implements StepResult {
        @Override
        public Map<String, Double> scalars() {
            Map<String, Double> scalars = new LinkedHashMap<>();
            scalars.put("loss", loss);
            scalars.put("bce", crossEntropy);
            if (topK.length > 0) {
                scalars.put("nce", infoNce);
                scalars.putAll(NextItemLoss.scalars(nceSamples, topK));
            }
            return scalars;
        }
    }

    /**
     * Runs the batch; gradients are added to {@code model.parameters().gradients()}.
     *
     * @param sequences with their labels
     * @param negatives item rows, shared by all positions of InfoNCE; not used when lambda is 0
     */
    public Result run(List<LabelledSequence> sequences, int[] negatives) {
        long begin = System.nanoTime();
        long start = workspace.mark();
        boolean generative = lambda > 0 && sequences.stream().anyMatch(s -> s.items().length > 1);
        int[] occurrences = IntStream.concat(
                        sequences.stream().flatMapToInt(s -> IntStream.of(s.items())),
                        generative ? IntStream.of(negatives) : IntStream.empty())
                .toArray();
        try (BatchItems items = new BatchItems(source, workspace, IntStream.of(occurrences))) {
            NextItemLoss next = !generative
                    ? null
                    : new NextItemLoss(
                            model,
                            workspace,
                            items,
                            sequences.stream()
                                    .flatMapToInt(s -> IntStream.of(s.items()).skip(1)),
                            IntStream.of(negatives),
                            threshold);
            return run(sequences, occurrences, items, next, begin);
        } finally {
            workspace.release(start);
        }
    }

    private Result run(
            List<LabelledSequence> sequences, int[] occurrences, BatchItems items, NextItemLoss next, long begin) {
        int width = model.config().width();
        Parameter token = model.ranker().userToken();
        int[] targetPlaces = items.placesOf(LabelledSequence.targets(sequences));
        Tensor targets = workspace.ints(targetPlaces);
        Tensor inputs = workspace.ints(Branches.inputs(
                model.config().fusion(), items.placesOf(LabelledSequence.histories(sequences)), targetPlaces));
        Branches branches = Branches.of(sequences);
        int events = branches.events();
        int count = branches.count();
        Tensor x = workspace.floats(events + count, width);
        ops.embeddingForward(x, inputs, items.vectors(), late ? token.value() : null);

        try (UserLlm.Pass user = model.users().forward(workspace, x, branches, next != null, true)) {
            Tensor states = user.output();
            Tensor dstates = workspace.floats(states.shape());
            long first = states.size(0) - count; // of the branches
            RankingHead.Pass head = model.ranker()
                    .forward(
                            workspace,
                            states.rows(first, first + count),
                            late ? items.gather(targets) : null,
                            LabelledSequence.priors(sequences));
            Tensor labels = workspace.floats(count);
            labels.write(LabelledSequence.labels(sequences));
            Tensor loss = workspace.floats(1);
            Tensor dlogits = workspace.floats(count);
            ops.bce(loss, dlogits, head.logits(), labels, count);
            NextItemLoss.Found found = next == null
                    ? new NextItemLoss.Found(0, 0, new double[0])
                    : next.run(states.rows(0, events), dstates.rows(0, events), lambda);
            double crossEntropy = loss.scalar() / (double) count;
            NextItemLoss.requireFinite(crossEntropy + lambda * found.loss());
            long middle = System.nanoTime();

            Tensor dtargets = late ? workspace.floats(count, width) : null;
            model.ranker().backward(workspace, head, dstates.rows(first, first + count), dtargets, dlogits);
            Tensor dx = model.users().backward(workspace, user, dstates);
            Tensor dvectors =
                    source.trained() ? workspace.floats(items.vectors().shape()) : null;
            if (dvectors != null) {
                ops.fill(dvectors, 0);
            }
            ops.embeddingBackward(dvectors, late ? token.gradient() : null, dx, inputs);
            if (dvectors != null) {
                if (late) {
                    ops.scatterAddRows(dvectors, dtargets, targets);
                }
                if (next != null) {
                    next.addItemGradients(dvectors);
                }
                items.backward(dvectors);
            }
            context.synchronize(); // the time of the backward is not the optimiser's
            return new Result(
                    crossEntropy + lambda * found.loss(),
                    crossEntropy,
                    found.loss(),
                    found.samples(),
                    found.topK(),
                    count,
                    items.count(),
                    items.tokens(IntStream.of(occurrences)) + events + count,
                    items.rows() + events + count,
                    (middle - begin) / 1e9,
                    (System.nanoTime() - middle) / 1e9);
        }
    }

    @Override
    public void close() {
        workspace.close();
    }
}
