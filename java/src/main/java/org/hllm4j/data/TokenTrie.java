package org.hllm4j.data;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.List;
import org.hllm4j.HllmException;

/**
 * Packs token sequences so that a shared prefix is computed once. In a causal model with relative positions the state
 * of a token depends on its prefix alone, so one row per node of the trie is enough.
 *
 * <p>The trie is never built. Sorted, a sequence shares with all those before it what it shares with the one just
 * before; the rest becomes new rows at the end of the pack, which is depth-first order. The path of the current
 * sequence is a short stack of runs of rows, and those runs are the key spans.
 */
public final class TokenTrie {
    /** The id that stands for [ITEM] in a pack. */
    public static final int ITEM = -1;

    private final int[][] tokens;
    private final boolean itemToken;
    private final Integer[] order; // input sequences, sorted
    private final int[] outputRow; // leaf of each input sequence
    private final int[] sequence; // [leaves] an input sequence of each leaf
    private final int[] shared; // [leaves] length of the prefix shared with the leaf before
    private int leaves;

    private TokenTrie(int[][] tokens, boolean itemToken, boolean share) {
        this.tokens = tokens;
        this.itemToken = itemToken;
        order = new Integer[tokens.length];
        Arrays.setAll(order, i -> i);
        Arrays.parallelSort(order, (a, b) -> Arrays.compare(tokens[a], tokens[b]));
        outputRow = new int[tokens.length];
        sequence = new int[tokens.length];
        shared = new int[tokens.length];
        for (int s : order) {
            int common = leaves == 0 ? 0 : Arrays.mismatch(tokens[sequence[leaves - 1]], tokens[s]);
            if (common >= 0) { // -1: equal
                sequence[leaves] = s;
                shared[leaves++] = share ? common : 0;
            }
            outputRow[s] = leaves - 1;
        }
    }

    /**
     * Packs {@code tokens}; they are not changed. Time is linear in the tokens, beside sorting the sequences. The
     * leaves are the distinct sequences in lexicographic order.
     *
     * @param tokens token ids of each sequence, none negative; equal sequences become one leaf
     * @param itemToken whether each sequence ends in {@link #ITEM}; without it an empty sequence is an error
     * @param share false for models whose token states depend on more than the prefix (bidirectional attention, learned
     *     positions): distinct sequences then stand side by side
     */
    public static PackedTokens pack(int[][] tokens, boolean itemToken, boolean share) {
        return new TokenTrie(tokens, itemToken, share).pack();
    }

    /** {@link #chunks(int[][], boolean, boolean, int)} for [ITEM] tokens and shared prefixes. */
    public static List<int[]> chunks(int[][] tokens, int maxRows) {
        return chunks(tokens, true, true, maxRows);
    }

    /**
     * Cuts sequences into groups that are packed one after the other: each group's pack has at most {@code maxRows}
     * rows, or holds one distinct sequence that alone is longer. Neighbours in sorted order stay together, so little
     * sharing is lost.
     *
     * @return groups of numbers of input sequences; each sequence is in exactly one
     */
    public static List<int[]> chunks(int[][] tokens, boolean itemToken, boolean share, int maxRows) {
        if (maxRows < 1) {
            throw new HllmException("rows per chunk: " + maxRows + ", expected at least 1");
        }
        TokenTrie trie = new TokenTrie(tokens, itemToken, share);
        List<int[]> chunks = new ArrayList<>();
        int begin = 0;
        int leaf = -1;
        long rows = 0;
        for (int i = 0; i < tokens.length; i++) {
            int next = trie.outputRow[trie.order[i]];
            if (next != leaf) {
                leaf = next;
                rows += trie.length(leaf) - trie.shared[leaf];
                if (rows > maxRows && i > begin) {
                    chunks.add(trie.ordered(begin, i));
                    begin = i;
                    rows = trie.length(leaf);
                }
            }
        }
        if (begin < tokens.length) {
            chunks.add(trie.ordered(begin, tokens.length));
        }
        return chunks;
    }

    private PackedTokens pack() {
        int rows = 0;
        int longest = 0;
        for (int leaf = 0; leaf < leaves; leaf++) {
            rows = Math.addExact(rows, length(leaf) - shared[leaf]);
            longest = Math.max(longest, length(leaf));
        }
        int[] ids = new int[rows];
        int[] positions = new int[rows];
        int[] leafRow = new int[leaves];
        int[] tailOffsets = new int[leaves + 1];
        IntList tailBegin = new IntList();
        IntList tailLength = new IntList();
        BitSet segmentStarts = new BitSet(rows);
        int[] runRow = new int[longest]; // the path of the current sequence: run r starts at row runRow[r] ...
        int[] runDepth = new int[longest]; // ... and depth runDepth[r], and ends where the next run starts
        int runs = 0;
        int row = 0;
        for (int leaf = 0; leaf < leaves; leaf++) {
            int depth = shared[leaf];
            int length = length(leaf);
            if (leaf == 0 || depth < length(leaf - 1)) {
                // The path turns off the previous one at this depth, which ends an edge there and starts a run.
                while (runs > 0 && runDepth[runs - 1] > depth) {
                    runs--;
                }
                if (runs > 0) {
                    segmentStarts.set(runRow[runs - 1] + depth - runDepth[runs - 1]);
                    runs -= runDepth[runs - 1] == depth ? 1 : 0;
                }
                runRow[runs] = row;
                runDepth[runs++] = depth;
            } // else it goes on where the previous sequence ended, and the last run grows
            segmentStarts.set(row);
            for (; depth < length; depth++, row++) {
                ids[row] = token(leaf, depth);
                positions[row] = depth;
            }
            leafRow[leaf] = row - 1;
            for (int run = 0; run < runs; run++) {
                tailBegin.add(runRow[run]);
                tailLength.add((run + 1 < runs ? runDepth[run + 1] : length) - runDepth[run]);
            }
            tailOffsets[leaf + 1] = tailBegin.size();
        }

        // The segments in a leaf's new rows see the leaf's path up to their own end, which is in its last run.
        int segments = segmentStarts.cardinality();
        int[] segmentBegin = segmentStarts.stream().toArray();
        int[] segmentLength = new int[segments];
        int[] spanOffsets = new int[segments + 1];
        IntList spanBegin = new IntList();
        IntList spanLength = new IntList();
        for (int segment = 0, leaf = 0; segment < segments; segment++) {
            int end = segment + 1 < segments ? segmentBegin[segment + 1] : rows;
            segmentLength[segment] = end - segmentBegin[segment];
            int last = tailOffsets[leaf + 1] - 1;
            for (int span = tailOffsets[leaf]; span < last; span++) {
                spanBegin.add(tailBegin.get(span));
                spanLength.add(tailLength.get(span));
            }
            spanBegin.add(tailBegin.get(last));
            spanLength.add(end - tailBegin.get(last));
            spanOffsets[segment + 1] = spanBegin.size();
            leaf += end > leafRow[leaf] ? 1 : 0;
        }

        long inputTokens = 0;
        for (int[] list : tokens) {
            inputTokens += list.length + (itemToken ? 1 : 0);
        }
        return new PackedTokens(
                ids,
                positions,
                segmentBegin,
                segmentLength,
                spanOffsets,
                spanBegin.toArray(),
                spanLength.toArray(),
                outputRow,
                leafRow,
                tailOffsets,
                tailBegin.toArray(),
                tailLength.toArray(),
                inputTokens);
    }

    /** Rows of a leaf's sequence, [ITEM] included. */
    private int length(int leaf) {
        int length = tokens[sequence[leaf]].length;
        if (length == 0 && !itemToken) {
            throw new HllmException("token sequence " + sequence[leaf]
                    + " is empty and has no [ITEM] token, so there is nothing to compute a vector from");
        }
        return length + (itemToken ? 1 : 0);
    }

    private int token(int leaf, int depth) {
        int[] list = tokens[sequence[leaf]];
        if (depth == list.length) {
            return ITEM;
        }
        if (list[depth] < 0) {
            throw new HllmException(
                    "token sequence " + sequence[leaf] + " has the negative id " + list[depth] + " at place " + depth);
        }
        return list[depth];
    }

    private int[] ordered(int begin, int end) {
        return Arrays.stream(order, begin, end).mapToInt(Integer::intValue).toArray();
    }

    /** A growing int array. */
    private static final class IntList {
        private int[] values = new int[64];
        private int size;

        int size() {
            return size;
        }

        int get(int i) {
            return values[i];
        }

        void add(int value) {
            if (size == values.length) {
                values = Arrays.copyOf(values, Math.addExact(size, size));
            }
            values[size++] = value;
        }

        int[] toArray() {
            return Arrays.copyOf(values, size);
        }
    }
}
