package org.hllm4j.train;

import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.ItemEncoder;
import org.hllm4j.model.Pooling;

/**
 * The distinct items of a training batch and their passes through the Item LLM: each is encoded once, its vector is used
 * wherever it occurs, and the gradients of all uses add up.
 *
 * <p>Memory is bounded by {@code maxRows}: items that need more token rows are encoded chunk by chunk without keeping
 * activations; once d(item vector) is known, each chunk is encoded again, with activations, and run backward. The result
 * is the same, as nothing connects items but the loss.
 */
final class BatchItems implements AutoCloseable {
    /**
     * Where item vectors come from.
     *
     * @param tokens token ids of every catalogue item
     * @param maxRows token rows whose activations are held at a time
     * @param table item vectors [N, D] of a frozen item side, else null: items are encoded
     */
    record Source(Hllm model, int[][] tokens, int maxRows, Tensor table) {
        boolean trained() {
            return table == null && model.trains(Hllm.Side.ITEM);
        }
    }

    private final Source source;
    private final Workspace workspace;
    private final Ops ops;
    private final int[] distinct; // ascending item rows
    private final List<int[]> chunks; // places in `distinct`; the vectors lie in this order
    private final int[] place; // of distinct[i] among the vectors
    private final Tensor vectors;
    private long rows;
    private ItemEncoder.Pass kept; // with a single chunk, activations are kept from the first pass
    private PackedTokens keptPack;

    /** Encodes the items; {@code occurrences} may repeat. */
    BatchItems(Source source, Workspace workspace, IntStream occurrences) {
        this.source = source;
        this.workspace = workspace;
        ops = source.model.context().ops();
        distinct = occurrences.sorted().distinct().toArray();
        if (source.table != null) {
            chunks = List.of();
            place = distinct;
            vectors = source.table;
            return;
        }
        chunks = TokenTrie.chunks(
                tokensOf(IntStream.range(0, distinct.length).toArray()), itemToken(), share(), source.maxRows);
        place = new int[distinct.length];
        int next = 0;
        for (int[] chunk : chunks) {
            for (int i : chunk) {
                place[i] = next++;
            }
        }
        vectors = workspace.floats(distinct.length, source.model.config().width());
        encode();
    }

    private boolean itemToken() {
        return source.model.config().pooling() == Pooling.TOKEN;
    }

    private boolean share() {
        return source.model.config().sharesPrefixes();
    }

    private int[][] tokensOf(int[] chunk) {
        return Arrays.stream(chunk).mapToObj(i -> source.tokens[distinct[i]]).toArray(int[][]::new);
    }

    private void encode() {
        long begin = 0;
        for (int[] chunk : chunks) {
            boolean keep = source.trained() && chunks.size() == 1;
            long mark = workspace.mark();
            PackedTokens pack = TokenTrie.pack(tokensOf(chunk), itemToken(), share());
            ItemEncoder.Pass pass = source.model.items().forward(workspace, pack, keep);
            ops.gatherRows(vectors.rows(begin, begin + chunk.length), pass.output(), workspace.ints(pack.outputRow()));
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
    }

    /** Vectors [U, D] of the distinct items, chunk after chunk; or the whole table of a frozen item side. */
    Tensor vectors() {
        return vectors;
    }

    /** Rows of {@link #vectors}, on the device. */
    Tensor places(IntStream items) {
        return workspace.ints(placesOf(items));
    }

    int[] placesOf(IntStream items) {
        return items.map(item -> place[Arrays.binarySearch(distinct, item)]).toArray();
    }

    /** Vectors [n, D] of items, which may repeat. */
    Tensor gather(Tensor places) {
        Tensor out = workspace.floats(places.size(0), vectors.size(1));
        ops.gatherRows(out, vectors, places);
        return out;
    }

    /** Number of distinct items. */
    int count() {
        return distinct.length;
    }

    /** Token rows that were computed, before any second encoding. */
    long rows() {
        return rows;
    }

    /** Tokens of these occurrences, [ITEM] included: what plain code would compute. */
    long tokens(IntStream occurrences) {
        int ends = itemToken() ? 1 : 0;
        return occurrences.mapToLong(item -> source.tokens[item].length + ends).sum();
    }

    /** Adds the gradients of the item side's parameters, given that of the vectors. */
    void backward(Tensor dvectors) {
        if (kept != null) {
            backward(kept, keptPack, dvectors);
            return;
        }
        long begin = 0;
        for (int[] chunk : chunks) {
            long mark = workspace.mark();
            PackedTokens pack = TokenTrie.pack(tokensOf(chunk), itemToken(), share());
            try (ItemEncoder.Pass pass = source.model.items().forward(workspace, pack, true)) {
                backward(pass, pack, dvectors.rows(begin, begin + chunk.length));
            }
            begin += chunk.length;
            workspace.release(mark);
        }
    }

    /** Items of equal text share a leaf: their gradients add up. */
    private void backward(ItemEncoder.Pass pass, PackedTokens pack, Tensor dvectors) {
        Tensor dleaves = workspace.floats(pack.leaves(), source.model.config().width());
        ops.fill(dleaves, 0);
        ops.scatterAddRows(dleaves, dvectors, workspace.ints(pack.outputRow()));
        pass.backward(workspace, dleaves);
    }

    @Override
    public void close() {
        if (kept != null) {
            kept.close();
        }
    }
}
