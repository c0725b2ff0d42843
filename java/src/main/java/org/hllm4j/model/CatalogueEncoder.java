package org.hllm4j.model;

import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Deque;
import java.util.Iterator;
import java.util.List;
import java.util.function.LongConsumer;
import org.hllm4j.data.Lane;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.weights.TensorGroup;

/**
 * Item vectors of a whole catalogue, over the token trie, in bounded memory.
 *
 * <p>Items are sorted by their tokens and cut into chunks of a number of token rows, whatever number of items that is. A
 * chunk's shared prefixes, the prompt first of all, are computed once and kept as key spans until the chunk is done: the
 * budget of rows bounds the memory of activations, keys and values whatever the size of the catalogue. What neighbouring
 * chunks share, at most one text, is computed in both.
 *
 * <p>A second thread tokenises (where portions do), sorts and packs a few chunks ahead of the one being computed.
 */
public final class CatalogueEncoder {
    /** Rows computed at a time: large enough for full-speed matrix products, small enough for caches and memory. */
    public static final int DEFAULT_ROWS = 2048;

    private static final int AHEAD = 4;
    private static final double LARGE = 1e9; // parameters, from where on a CPU computes fewer rows at a time

    /** Receives the vectors of some items as they come. */
    @FunctionalInterface
    public interface Sink {
        /**
         * @param items row numbers in the catalogue
         * @param vectors [items.length, D], valid during the call
         */
        void accept(int[] items, Tensor vectors);
    }

    /**
     * Some items of a catalogue: all of them, or of a large one as many as fit in memory with their tokens. Prefixes are
     * shared inside a portion only.
     *
     * @param items row numbers in the catalogue
     * @param tokens token ids of each, cut to the model's max text length
     */
    public record Portion(int[] items, int[][] tokens) {}

    /** What is computed at a time. */
    private record Chunk(int[] items, int[][] tokens, PackedTokens pack) {}

    private CatalogueEncoder() {}

    /** Rows for a model: fewer of a large one on a CPU, where the first vectors would else be long in coming. */
    public static int rows(Hllm model) {
        if (!model.context().device().equals("cpu") || model.config().item() == null) {
            return DEFAULT_ROWS;
        }
        double size = TensorGroup.of(model.config().item()).stream()
                .mapToDouble(group ->
                        group.rows().stream().mapToLong(Long::longValue).sum() * (double) group.columns())
                .sum();
        return (int) Math.min(DEFAULT_ROWS, DEFAULT_ROWS * LARGE / size);
    }

    /** {@link #encode(Hllm, Iterator, int, LongConsumer, Sink)} of items whose tokens are all in memory. */
    public static long encode(Hllm model, int[][] tokens, int maxRows, LongConsumer progress, Sink sink) {
        int[] items = new int[tokens.length];
        Arrays.setAll(items, i -> i);
        return encode(model, List.of(new Portion(items, tokens)).iterator(), maxRows, progress, sink);
    }

    /**
     * @param portions asked for one after the other, by another thread
     * @param maxRows token rows computed at a time
     * @param progress told how many items are done; may be null
     * @param sink called by this thread
     * @return token rows that were computed: fewer than tokens, as shared prefixes are computed once
     */
    public static long encode(Hllm model, Iterator<Portion> portions, int maxRows, LongConsumer progress, Sink sink) {
        Chunks chunks = new Chunks(portions, model.config(), maxRows);
        long rows = 0;
        long done = 0;
        try (Workspace workspace = model.context().workspace();
                Lane<Chunk> packing = new Lane<>("packing")) {
            while (packing.size() < AHEAD) {
                packing.add(chunks::next);
            }
            for (Chunk chunk = packing.take(); chunk != null; chunk = packing.take()) {
                packing.add(chunks::next);
                EmbeddedChunkEvent event = EmbeddedChunkEvent.started();
                try (ItemEncoder.Pass pass = model.items().forward(workspace, chunk.pack, false)) {
                    Tensor vectors =
                            workspace.floats(chunk.items.length, model.config().width());
                    model.context().ops().gatherRows(vectors, pass.output(), workspace.ints(chunk.pack.outputRow()));
                    sink.accept(chunk.items, vectors);
                }
                workspace.release(0);
                event.done(chunk.tokens, chunk.pack);
                rows += chunk.pack.rows();
                done += chunk.items.length;
                if (progress != null) {
                    progress.accept(done);
                }
            }
        }
        return rows;
    }

    /** Sorts, cuts and packs the portions; called by the packing thread. */
    private static final class Chunks {
        private final Iterator<Portion> portions;
        private final boolean itemToken;
        private final boolean share;
        private final int maxRows;
        private final Deque<int[]> cut = new ArrayDeque<>(); // places in the portion, a chunk each
        private Portion portion;

        Chunks(Iterator<Portion> portions, HllmConfig config, int maxRows) {
            this.portions = portions;
            itemToken = config.pooling() == Pooling.TOKEN;
            share = config.sharesPrefixes();
            this.maxRows = maxRows;
        }

        /** The next chunk, or null. */
        Chunk next() {
            while (cut.isEmpty()) {
                if (!portions.hasNext()) {
                    return null;
                }
                portion = portions.next();
                cut.addAll(TokenTrie.chunks(portion.tokens, itemToken, share, maxRows));
            }
            int[] places = cut.remove();
            int[] items = new int[places.length];
            int[][] tokens = new int[places.length][];
            for (int i = 0; i < places.length; i++) {
                items[i] = portion.items[places[i]];
                tokens[i] = portion.tokens[places[i]];
            }
            return new Chunk(items, tokens, TokenTrie.pack(tokens, itemToken, share));
        }
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
}
