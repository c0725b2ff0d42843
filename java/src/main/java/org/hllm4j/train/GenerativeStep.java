package org.hllm4j.train;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.stream.IntStream;
import org.hllm4j.data.Batch;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.UserLlm;
import org.hllm4j.nn.Dropout;

/**
 * Forward and backward of one training batch (HLLM section 3.2): every distinct item of the batch is encoded once, its
 * vector is used wherever the item occurs as history, target or negative, and the gradients of all uses add up.
 *
 * <p>Memory is bounded by {@code maxRows}, see {@link BatchItems}.
 */
public final class GenerativeStep implements Objective.Step {
    private final Hllm model;
    private final Context context;
    private final Ops ops;
    private final BatchItems.Source source;
    private final float threshold;
    private final double dropout;
    private final long seed;
    private final boolean train;
    private final Workspace workspace;

    /**
     * @param tokens token ids of every catalogue item
     * @param maxRows token rows whose activations are held at a time
     * @param threshold a negative more similar to the target than this is left out; 0.99 in the paper's code
     * @param table item vectors [N, D] for a frozen item side, else null: items are encoded
     */
    public GenerativeStep(Hllm model, int[][] tokens, int maxRows, float threshold, Tensor table) {
        this(model, tokens, maxRows, threshold, table, 0, 0);
    }

    /**
     * The same with dropout.
     *
     * @param dropout share that each step leaves out on the user side
     * @param seed of what is left out, together with the number of the step
     */
    public GenerativeStep(
            Hllm model, int[][] tokens, int maxRows, float threshold, Tensor table, double dropout, long seed) {
        this.model = model;
        this.context = model.context();
        this.ops = context.ops();
        this.threshold = threshold;
        this.dropout = dropout;
        this.seed = seed;
        source = new BatchItems.Source(model, tokens, maxRows, table);
        train = model.logitScale().trainable();
        workspace = context.workspace();
    }

    /**
     * What a step found.
     *
     * @param loss mean cross entropy over the positions
     * @param nceSamples mean number of logits that were not masked, the target's included
     * @param topK share of positions whose target is among the best 1, 5, 10, 50, 100 logits
     * @param positions predictions
     * @param items distinct items encoded
     * @param tokens tokens of all item occurrences, [ITEM] and user positions included: what plain code computes
     * @param rows token rows that were computed, before any second encoding
     * @param forward seconds until the loss was known
     * @param backward seconds since; 0 when nothing is trained
     */
    public record Result(
            double loss,
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
            scalars.putAll(NextItemLoss.scalars(nceSamples, topK));
            return scalars;
        }

        private Result timed(long begin, long middle, long end) {
            double forward = (middle - begin) / 1e9;
            return new Result(loss, nceSamples, topK, positions, items, tokens, rows, forward, (end - middle) / 1e9);
        }
    }

    @Override
    public Result run(Batch batch) {
        return run(batch.sequences(), batch.negatives(), batch.step());
    }

    /**
     * Runs the batch; gradients are added to {@code model.parameters().gradients()} when anything is trained.
     *
     * @param sequences item rows of each user, at least 2
     * @param negatives item rows, shared by all positions
     */
    public Result run(int[][] sequences, int[] negatives) {
        return run(sequences, negatives, 0);
    }

    private Result run(int[][] sequences, int[] negatives, long step) {
        long begin = System.nanoTime();
        long start = workspace.mark();
        try (BatchItems items = new BatchItems(source, workspace, occurrences(sequences, negatives))) {
            return run(sequences, negatives, step, items, begin);
        } finally {
            workspace.release(start);
        }
    }

    private static IntStream occurrences(int[][] sequences, int[] negatives) {
        return IntStream.concat(Arrays.stream(sequences).flatMapToInt(Arrays::stream), Arrays.stream(negatives));
    }

    private Result run(int[][] sequences, int[] negatives, long step, BatchItems items, long begin) {
        int width = model.config().width();
        Tensor vectors = items.vectors();

        int[] lengths = Arrays.stream(sequences).mapToInt(s -> s.length - 1).toArray();
        int positions = Arrays.stream(lengths).sum();
        Tensor inputs = items.places(Arrays.stream(sequences).flatMapToInt(s -> Arrays.stream(s, 0, s.length - 1)));
        Tensor x = items.gather(inputs);
        NextItemLoss next = new NextItemLoss(
                model,
                workspace,
                items,
                Arrays.stream(sequences).flatMapToInt(s -> Arrays.stream(s, 1, s.length)),
                Arrays.stream(negatives),
                threshold);
        Dropout thinning = train && dropout > 0 ? new Dropout(dropout, seed, step) : null;
        try (UserLlm.Pass user = model.users().forward(workspace, x, lengths, null, train, thinning)) {
            Tensor du = train ? workspace.floats(positions, width) : null;
            NextItemLoss.Found found = next.run(user.output(), du, 1);
            Result result = result(found, positions, sequences, negatives, items);
            long middle = System.nanoTime();
            if (train) {
                Tensor dx = model.users().backward(workspace, user, du);
                if (source.trained()) {
                    Tensor dvectors = workspace.floats(vectors.size(0), width);
                    ops.fill(dvectors, 0);
                    ops.scatterAddRows(dvectors, dx, inputs);
                    next.addItemGradients(dvectors);
                    items.backward(dvectors);
                }
                context.synchronize(); // the time of the backward is not the optimiser's
            }
            return result.timed(begin, middle, System.nanoTime());
        }
    }

    private static Result result(
            NextItemLoss.Found found, int positions, int[][] sequences, int[] negatives, BatchItems items) {
        NextItemLoss.requireFinite(found.loss());
        return new Result(
                found.loss(),
                found.samples(),
                found.topK(),
                positions,
                items.count(),
                items.tokens(occurrences(sequences, negatives)) + positions,
                items.rows() + positions,
                0,
                0);
    }

    @Override
    public void close() {
        workspace.close();
    }
}
