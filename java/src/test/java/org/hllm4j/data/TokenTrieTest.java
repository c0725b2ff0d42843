package org.hllm4j.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Random;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class TokenTrieTest {
    @Test
    void sharesThePromptAndStopsWhereSequencesPart() {
        // 7 8 1 [I]   7 8 2 3 [I]   7 8 2 [I]      rows: 7 8 1 I | 2 I | 3 I
        PackedTokens pack = TokenTrie.pack(new int[][] {{7, 8, 1}, {7, 8, 2, 3}, {7, 8, 2}}, true, true);
        assertArrayEquals(new int[] {7, 8, 1, -1, 2, -1, 3, -1}, pack.ids());
        assertArrayEquals(new int[] {0, 1, 2, 3, 2, 3, 3, 4}, pack.positions());
        assertArrayEquals(new int[] {0, 2, 4, 5, 6}, pack.segmentBegin());
        assertArrayEquals(new int[] {2, 2, 1, 1, 2}, pack.segmentLength());
        assertArrayEquals(new int[] {0, 1, 2, 4, 6, 9}, pack.spanOffsets());
        // the second edge goes on in the rows of the first one; below, 0..1 then 4 then 6..7
        assertArrayEquals(new int[] {0, 0, 0, 4, 0, 4, 0, 4, 6}, pack.spanBegin());
        assertArrayEquals(new int[] {2, 4, 2, 1, 2, 2, 2, 1, 2}, pack.spanLength());
        assertArrayEquals(new int[] {0, 2, 1}, pack.outputRow());
        assertArrayEquals(new int[] {3, 5, 7}, pack.leafRow());
        assertArrayEquals(new int[] {0, 1, 3, 6}, pack.tailSpanOffsets());
        assertArrayEquals(new int[] {0, 0, 4, 0, 4, 6}, pack.tailSpanBegin());
        assertArrayEquals(new int[] {4, 2, 2, 2, 1, 2}, pack.tailSpanLength());
        assertEquals(13, pack.inputTokens());
        check(new int[][] {{7, 8, 1}, {7, 8, 2, 3}, {7, 8, 2}}, pack, true, true);
    }

    @Test
    void aSequenceThatContinuesAnotherGrowsItsRun() {
        int[][] tokens = {{5, 6, 7}, {5, 6}};
        PackedTokens pack = TokenTrie.pack(tokens, false, true);
        assertArrayEquals(new int[] {0, 2}, pack.segmentBegin());
        assertArrayEquals(new int[] {0, 0}, pack.spanBegin());
        assertArrayEquals(new int[] {2, 3}, pack.spanLength());
        assertArrayEquals(new int[] {0, 2, 5}, pack.pathOffsets());
        assertArrayEquals(new int[] {0, 1, 0, 1, 2}, pack.pathRows());
        assertThrows(HllmException.class, pack::cuSeqlens);
        check(tokens, pack, false, true);
    }

    @Test
    void edgesOfTheInput() {
        assertEquals(0, TokenTrie.pack(new int[0][], true, true).rows());
        PackedTokens bare = TokenTrie.pack(new int[][] {{}, {}}, true, true);
        assertArrayEquals(new int[] {TokenTrie.ITEM}, bare.ids());
        assertArrayEquals(new int[] {0, 0}, bare.outputRow());
        int[][] empty = {{1}, {}};
        String message = assertThrows(HllmException.class, () -> TokenTrie.pack(empty, false, true))
                .getMessage();
        assertTrue(message.contains("sequence 1 is empty"), message);
        int[][] negative = {{1, -2}};
        assertThrows(HllmException.class, () -> TokenTrie.pack(negative, true, true));
    }

    @ParameterizedTest
    @ValueSource(longs = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
    void everyPackHoldsItsSequences(long seed) {
        System.out.println("seed " + seed);
        Random random = new Random(seed);
        for (int round = 0; round < 60; round++) {
            boolean item = random.nextBoolean();
            int[][] tokens = randomTokens(random, item ? 0 : 1);
            PackedTokens shared = TokenTrie.pack(tokens, item, true);
            PackedTokens apart = TokenTrie.pack(tokens, item, false);
            check(tokens, shared, item, true);
            check(tokens, apart, item, false);
            assertArrayEquals(shared.outputRow(), apart.outputRow(), "the leaves are the same, shared or not");
            assertEquals(apart.segments(), apart.cuSeqlens().length - 1);
        }
    }

    @ParameterizedTest
    @ValueSource(longs = {1, 2, 3, 4})
    void permutedInputsOnlyPermuteOutputs(long seed) {
        System.out.println("seed " + seed);
        Random random = new Random(seed);
        int[][] tokens = randomTokens(random, 0);
        int[] order = Shuffle.order(seed, 0, tokens.length);
        PackedTokens pack = TokenTrie.pack(tokens, true, true);
        PackedTokens permuted =
                TokenTrie.pack(IntStream.of(order).mapToObj(i -> tokens[i]).toArray(int[][]::new), true, true);
        assertArrayEquals(pack.ids(), permuted.ids());
        assertArrayEquals(pack.spanBegin(), permuted.spanBegin());
        assertArrayEquals(pack.leafRow(), permuted.leafRow());
        assertArrayEquals(IntStream.of(order).map(i -> pack.outputRow()[i]).toArray(), permuted.outputRow());
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 5, 13, 40, 100_000})
    void chunksStayBelowTheLimitAndMissNothing(int maxRows) {
        System.out.println("seed " + maxRows);
        Random random = new Random(maxRows);
        for (int round = 0; round < 20; round++) {
            int[][] tokens = randomTokens(random, 1);
            boolean share = round % 4 != 3;
            List<int[]> chunks =
                    share ? TokenTrie.chunks(tokens, maxRows) : TokenTrie.chunks(tokens, true, false, maxRows);
            int[] all = chunks.stream().flatMapToInt(IntStream::of).sorted().toArray();
            assertArrayEquals(IntStream.range(0, tokens.length).toArray(), all);
            PackedTokens previous = null;
            for (int[] chunk : chunks) {
                PackedTokens pack = TokenTrie.pack(
                        IntStream.of(chunk).mapToObj(i -> tokens[i]).toArray(int[][]::new), true, share);
                assertTrue(pack.rows() <= maxRows || pack.leaves() == 1, pack.rows() + " rows");
                if (previous != null) { // greedy: the first sequence of this chunk did not fit the one before
                    int first = tokens[chunk[0]].length + 1;
                    assertTrue(previous.rows() + first > maxRows);
                }
                previous = pack;
            }
        }
        assertThrows(HllmException.class, () -> TokenTrie.chunks(new int[][] {{1}}, 0));
    }

    @Test
    void sequencesSideBySide() {
        PackedTokens pack = PackedTokens.sequences(new int[] {3, 1, 2});
        assertArrayEquals(new int[] {0, 3, 4, 6}, pack.cuSeqlens());
        assertArrayEquals(new int[] {0, 1, 2, 0, 0, 1}, pack.positions());
        assertArrayEquals(new int[] {2, 3, 5}, pack.leafRow());
        assertArrayEquals(new int[] {0, 1, 2}, pack.outputRow());
        assertArrayEquals(pack.segmentBegin(), pack.spanBegin());
        assertArrayEquals(pack.segmentLength(), pack.spanLength());
        assertArrayEquals(new int[] {0, 1, 2, 3}, pack.spanOffsets());
        assertEquals(6, pack.rows());
        assertThrows(HllmException.class, () -> PackedTokens.sequences(new int[] {2, 0}));
    }

    /** Sequences over few tokens, so that they share prefixes, repeat, and are prefixes of each other. */
    private static int[][] randomTokens(Random random, int shortest) {
        int alphabet = 1 + random.nextInt(4);
        int[][] tokens = new int[1 + random.nextInt(60)][];
        for (int s = 0; s < tokens.length; s++) {
            tokens[s] = random.ints(shortest + random.nextInt(8), 0, alphabet).toArray();
        }
        return tokens;
    }

    /** The pack against the sequences themselves, by brute force. */
    private static void check(int[][] tokens, PackedTokens pack, boolean item, boolean share) {
        int[][] full = Arrays.stream(tokens)
                .map(list -> {
                    int[] ended = Arrays.copyOf(list, list.length + (item ? 1 : 0));
                    if (item) {
                        ended[list.length] = TokenTrie.ITEM;
                    }
                    return ended;
                })
                .toArray(int[][]::new);
        Set<List<Integer>> nodes = new HashSet<>();
        Set<List<Integer>> distinct = new HashSet<>();
        long total = 0;
        for (int[] list : full) {
            List<Integer> key = IntStream.of(list).boxed().collect(Collectors.toList());
            distinct.add(key);
            for (int n = 1; n <= key.size(); n++) {
                nodes.add(List.copyOf(key.subList(0, n)));
            }
            total += list.length;
        }
        assertEquals(total, pack.inputTokens());
        assertEquals(
                share ? nodes.size() : distinct.stream().mapToInt(List::size).sum(), pack.rows());
        assertEquals(distinct.size(), pack.leaves());

        // A sequence's path, by its tail spans, is its tokens at positions 0..n-1.
        int[] pathOffsets = pack.pathOffsets();
        int[] pathRows = pack.pathRows();
        for (int s = 0; s < full.length; s++) {
            int leaf = pack.outputRow()[s];
            int[] path = Arrays.copyOfRange(pathRows, pathOffsets[leaf], pathOffsets[leaf + 1]);
            assertArrayEquals(
                    full[s], IntStream.of(path).map(r -> pack.ids()[r]).toArray());
            assertArrayEquals(
                    IntStream.range(0, path.length).toArray(),
                    IntStream.of(path).map(r -> pack.positions()[r]).toArray());
            assertEquals(pack.leafRow()[leaf], path[path.length - 1]);
        }

        // Each row is in one segment, and the rows that it sees there are the path to it.
        Set<List<Integer>> seen = new HashSet<>();
        int next = 0;
        for (int segment = 0; segment < pack.segments(); segment++) {
            assertEquals(next, pack.segmentBegin()[segment]);
            assertTrue(pack.segmentLength()[segment] > 0);
            next += pack.segmentLength()[segment];
            int[] keys = expand(pack.spanOffsets(), pack.spanBegin(), pack.spanLength(), segment);
            assertEquals(pack.positions()[next - 1] + 1, keys.length);
            assertEquals(next - 1, keys[keys.length - 1]);
            for (int row = pack.segmentBegin()[segment]; row < next; row++) {
                int[] path = Arrays.copyOf(keys, keys.length - (next - 1 - row));
                assertEquals(row, path[path.length - 1], "bottom-right aligned");
                List<Integer> prefix =
                        IntStream.of(path).mapToObj(r -> pack.ids()[r]).collect(Collectors.toList());
                assertTrue(nodes.contains(prefix));
                assertTrue(seen.add(prefix) || !share, "a node is computed once");
                for (int k = 0; k < path.length; k++) {
                    assertEquals(k, pack.positions()[path[k]]);
                    assertTrue(path[k] <= row);
                }
            }
            merged(pack.spanOffsets(), pack.spanBegin(), pack.spanLength(), segment);
        }
        assertEquals(pack.rows(), next);
        assertEquals(nodes, seen);
        for (int leaf = 0; leaf < pack.leaves(); leaf++) {
            merged(pack.tailSpanOffsets(), pack.tailSpanBegin(), pack.tailSpanLength(), leaf);
        }
        if (share) {
            assertEquals(edges(nodes, distinct), pack.segments(), "segments are whole edges");
        }
    }

    /** Edges of the compressed trie: nodes that end a sequence or do not have exactly one child. */
    private static long edges(Set<List<Integer>> nodes, Set<List<Integer>> ends) {
        return nodes.stream()
                .filter(node -> ends.contains(node)
                        || nodes.stream()
                                        .filter(child -> child.size() == node.size() + 1
                                                && child.subList(0, node.size()).equals(node))
                                        .count()
                                != 1)
                .count();
    }

    private static void merged(int[] offsets, int[] begin, int[] length, int i) {
        for (int span = offsets[i]; span < offsets[i + 1]; span++) {
            assertTrue(length[span] > 0);
            assertTrue(span == offsets[i] || begin[span - 1] + length[span - 1] < begin[span], "spans are merged");
        }
    }

    private static int[] expand(int[] offsets, int[] begin, int[] length, int i) {
        return IntStream.range(offsets[i], offsets[i + 1])
                .flatMap(span -> IntStream.range(begin[span], begin[span] + length[span]))
                .toArray();
    }
}
