package org.hllm4j.train;

import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.ItemLlm;
import org.hllm4j.model.Pooling;
import org.hllm4j.model.UserLlm;

/**
 * Forward and backward of one training batch (HLLM section 3.2): every distinct item of the batch is encoded once, its
 * vector is used wherever the item occurs as history, target or negative, and the gradients of all uses add up.
 *
 * <p>Memory is bounded by {@code maxRows}: a batch whose items need more token rows is encoded chunk by chunk without
 * keeping activations; after the loss has given d(item vector), each chunk is encoded again, with activations, and run
 * backward. The result is the same, as nothing connects items but the loss.
 */
public final class GenerativeStep implements AutoCloseable {
    private final Hllm model;
    private final Context context;
    private final Ops ops;
    private final int[][] tokens;
    private final int maxRows;
    private final float threshold;
    private final boolean trainItems;
    private final boolean train;
    private final Tensor table;
    private final Workspace workspace;

    /**
     * @param tokens token ids of every catalogue item
     * @param maxRows token rows whose activations are held at a time
     * @param threshold a negative more similar to the target than this is left out; 0.99 in the paper's code
     * @param table item vectors [N, D] for a frozen item side, else null: items are encoded
     */
    public GenerativeStep(Hllm model, int[][] tokens, int maxRows, float threshold, Tensor table) {
        this.model = model;
        this.context = model.context();
        this.ops = context.ops();
        this.tokens = tokens;
        this.maxRows = maxRows;
        this.threshold = threshold;
        this.table = table;
        trainItems = table == null && model.of(Hllm.Side.ITEM).getFirst().trainable();
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
     */
    public record Result(
            double loss, double nceSamples, double[] topK, int positions, int items, long tokens, long rows) {}

    /**
     * Runs the batch; gradients are added to {@code model.parameters().gradients()} when anything is trained.
     *
     * @param sequences item rows of each user, at least 2
     * @param negatives item rows, shared by all positions
     */
    public Result run(int[][] sequences, int[] negatives) {
        long start = workspace.mark();
        Items items = new Items(sequences, negatives);
        try {
            return run(sequences, negatives, items);
        } finally {
            items.close();
            workspace.release(start);
        }
    }

    private Result run(int[][] sequences, int[] negatives, Items items) {
        int width = model.config().width();
        Tensor vectors = items.encode();

        int[] lengths = Arrays.stream(sequences).mapToInt(s -> s.length - 1).toArray();
        int positions = Arrays.stream(lengths).sum();
        Tensor inputs = workspace.ints(
                items.places(Arrays.stream(sequences).flatMapToInt(s -> Arrays.stream(s, 0, s.length - 1))));
        Tensor targets =
                workspace.ints(items.places(Arrays.stream(sequences).flatMapToInt(s -> Arrays.stream(s, 1, s.length))));
        Tensor negative = workspace.ints(items.places(Arrays.stream(negatives)));
        Tensor x = gather(vectors, inputs);
        Tensor p = gather(vectors, targets);
        Tensor n = gather(vectors, negative);

        Tensor scale = model.logitScale().value();
        ops.clamp(scale, 0, (float) Math.log(100)); // overwrites the parameter, outside the gradient
        try (UserLlm.Pass user = model.users().forward(workspace, x, lengths, null, train)) {
            Tensor metrics = workspace.floats(Ops.InfoNceMetric.values().length);
            Tensor du = train ? workspace.floats(positions, width) : null;
            Tensor dp = train ? workspace.floats(positions, width) : null;
            Tensor dn = train ? workspace.floats(negatives.length, width) : null;
            ops.infonce(new Ops.InfoNce(
                    threshold,
                    positions,
                    metrics,
                    du,
                    dp,
                    dn,
                    model.logitScale().gradient(),
                    user.output(),
                    p,
                    n,
                    targets,
                    negative,
                    scale));
            Result result = result(metrics.toFloats(), positions, sequences, negatives, items);
            if (train) {
                Tensor dx = model.users().backward(workspace, user, du);
                if (trainItems) {
                    Tensor dvectors = workspace.floats(vectors.size(0), width);
                    ops.fill(dvectors, 0);
                    ops.scatterAddRows(dvectors, dx, inputs);
                    ops.scatterAddRows(dvectors, dp, targets);
                    ops.scatterAddRows(dvectors, dn, negative);
                    items.backward(dvectors);
                }
            }
            return result;
        }
    }

    private Result result(float[] sums, int positions, int[][] sequences, int[] negatives, Items items) {
        double[] topK = IntStream.range(Ops.InfoNceMetric.TOP1.ordinal(), sums.length)
                .mapToDouble(i -> sums[i] / (double) positions)
                .toArray();
        double loss = sums[Ops.InfoNceMetric.LOSS.ordinal()] / (double) positions;
        if (!Double.isFinite(loss)) {
            throw new HllmException("the loss is " + loss + "; no parameter was changed. Lower the learning rate, or "
                    + "check the weights the run started from");
        }
        int ends = model.config().pooling() == Pooling.TOKEN ? 1 : 0;
        long plain = positions;
        for (int[] sequence : sequences) {
            for (int item : sequence) {
                plain += tokens[item].length + ends;
            }
        }
        for (int item : negatives) {
            plain += tokens[item].length + ends;
        }
        double samples = sums[Ops.InfoNceMetric.SAMPLES.ordinal()] / (double) positions;
        return new Result(loss, samples, topK, positions, items.distinct.length, plain, items.rows + positions);
    }

    private Tensor gather(Tensor vectors, Tensor index) {
        Tensor out = workspace.floats(index.size(0), vectors.size(1));
        ops.gatherRows(out, vectors, index);
        return out;
    }

    /** The distinct items of a batch and their passes through the Item LLM. */
    private final class Items implements AutoCloseable {
        final int[] distinct; // ascending item rows
        final List<int[]> chunks; // places in `distinct`; the vectors lie in this order
        final int[] place; // of distinct[i] among the vectors
        long rows;
        private ItemLlm.Pass kept; // with a single chunk, activations are kept from the first pass
        private PackedTokens keptPack;

        Items(int[][] sequences, int[] negatives) {
            distinct = IntStream.concat(Arrays.stream(sequences).flatMapToInt(Arrays::stream), Arrays.stream(negatives))
                    .sorted()
                    .distinct()
                    .toArray();
            if (table != null) {
                chunks = List.of();
                place = distinct;
                return;
            }
            chunks = TokenTrie.chunks(
                    tokensOf(IntStream.range(0, distinct.length).toArray()), itemToken(), true, maxRows);
            place = new int[distinct.length];
            int next = 0;
            for (int[] chunk : chunks) {
                for (int i : chunk) {
                    place[i] = next++;
                }
            }
        }

        private boolean itemToken() {
            return model.config().pooling() == Pooling.TOKEN;
        }

        private int[][] tokensOf(int[] chunk) {
            return Arrays.stream(chunk).mapToObj(i -> tokens[distinct[i]]).toArray(int[][]::new);
        }

        int[] places(IntStream items) {
            return items.map(item -> place[Arrays.binarySearch(distinct, item)]).toArray();
        }

        /** Vectors [U, D] of the distinct items, chunk after chunk; or the whole table of a frozen item side. */
        Tensor encode() {
            if (table != null) {
                return table;
            }
            Tensor vectors = workspace.floats(distinct.length, model.config().width());
            long begin = 0;
            for (int[] chunk : chunks) {
                boolean keep = trainItems && chunks.size() == 1;
                long mark = workspace.mark();
                PackedTokens pack = TokenTrie.pack(tokensOf(chunk), itemToken(), true);
                ItemLlm.Pass pass = model.items().forward(workspace, pack, keep);
                ops.gatherRows(
                        vectors.rows(begin, begin + chunk.length), pass.output(), workspace.ints(pack.outputRow()));
                begin += chunk.length;
                rows += pack.rows();
                if (keep) {
                    kept = pass;
                    keptPack = pack;
                } else {
                    pass.close();
                    workspace.release(mark);
                }
            }
            return vectors;
        }

        void backward(Tensor dvectors) {
            if (kept != null) {
                backward(kept, keptPack, dvectors);
                return;
            }
            long begin = 0;
            for (int[] chunk : chunks) {
                long mark = workspace.mark();
                PackedTokens pack = TokenTrie.pack(tokensOf(chunk), itemToken(), true);
                try (ItemLlm.Pass pass = model.items().forward(workspace, pack, true)) {
                    backward(pass, pack, dvectors.rows(begin, begin + chunk.length));
                }
                begin += chunk.length;
                workspace.release(mark);
            }
        }

        /** Items of equal text share a leaf: their gradients add up. */
        private void backward(ItemLlm.Pass pass, PackedTokens pack, Tensor dvectors) {
            Tensor dleaves = workspace.floats(pack.leaves(), model.config().width());
            ops.fill(dleaves, 0);
            ops.scatterAddRows(dleaves, dvectors, workspace.ints(pack.outputRow()));
            model.items().backward(workspace, pass, dleaves);
        }

        @Override
        public void close() {
            if (kept != null) {
                kept.close();
            }
        }
    }

    @Override
    public void close() {
        workspace.close();
    }
}
