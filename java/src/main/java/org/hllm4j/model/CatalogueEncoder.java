package org.hllm4j.model;

import java.util.List;
import java.util.function.LongConsumer;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;

/** Item vectors of a whole catalogue, over the token trie, in bounded memory. */
public final class CatalogueEncoder {
    /** Rows computed at a time: large enough for full-speed matrix products, small enough for caches and memory. */
    public static final int DEFAULT_ROWS = 4096;

    /** Receives the vectors of some items as they come. */
    @FunctionalInterface
    public interface Sink {
        /**
         * @param items row numbers in the catalogue
         * @param vectors [items.length, D], valid during the call
         */
        void accept(int[] items, Tensor vectors);
    }

    private CatalogueEncoder() {}

    /**
     * @param tokens token ids of each item, cut to the model's max text length
     * @param maxRows token rows computed at a time
     * @param progress told how many items are done; may be null
     * @return token rows that were computed: fewer than tokens, as shared prefixes are computed once
     */
    public static long encode(Hllm model, int[][] tokens, int maxRows, LongConsumer progress, Sink sink) {
        boolean itemToken = model.config().pooling() == Pooling.TOKEN;
        List<int[]> chunks = TokenTrie.chunks(tokens, itemToken, true, maxRows);
        long rows = 0;
        long done = 0;
        try (Workspace workspace = model.context().workspace()) {
            for (int[] items : chunks) {
                long mark = workspace.mark();
                PackedTokens pack = TokenTrie.pack(pick(tokens, items), itemToken, true);
                try (ItemLlm.Pass pass = model.items().forward(workspace, pack, false)) {
                    Tensor vectors =
                            workspace.floats(items.length, model.config().width());
                    model.context().ops().gatherRows(vectors, pass.output(), workspace.ints(pack.outputRow()));
                    sink.accept(items, vectors);
                }
                workspace.release(mark);
                rows += pack.rows();
                done += items.length;
                if (progress != null) {
                    progress.accept(done);
                }
            }
        }
        return rows;
    }

    /** All item vectors [N, D] on the device, in row order; the caller closes them. */
    public static Tensor table(Hllm model, int[][] tokens, int maxRows, LongConsumer progress) {
        Context context = model.context();
        Tensor table = context.zeros(
                DType.F32, Math.max(1, tokens.length), model.config().width());
        try {
            encode(model, tokens, maxRows, progress, (items, vectors) -> {
                try (Tensor index = context.of(items)) {
                    context.ops().scatterAddRows(table, vectors, index);
                }
            });
            return table;
        } catch (RuntimeException e) {
            table.close();
            throw e;
        }
    }

    static int[][] pick(int[][] tokens, int[] items) {
        int[][] picked = new int[items.length][];
        for (int i = 0; i < items.length; i++) {
            picked[i] = tokens[items[i]];
        }
        return picked;
    }
}
