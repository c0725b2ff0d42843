package org.hllm4j.model;

import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.hllm4j.data.LabelledSequence;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.PlanSpec;
import org.hllm4j.nn.Packing;

/**
 * Packed histories with one-token branches: a branch sees the first events of its history and itself, and nobody sees it.
 * All branches of a history share its keys, so n events with n branches are 2 n rows, where a sequence for each branch
 * would make n^2 / 2. The rows are those of the histories, then those of the branches.
 *
 * @param lengths events of each history, which may be none
 * @param seen for each history, how many of its events each of its branches sees
 */
public record Branches(int[] lengths, int[][] seen) {
    /** A branch for every labelled event, over the events before it. */
    public static Branches of(List<LabelledSequence> sequences) {
        return new Branches(
                sequences.stream().mapToInt(s -> s.items().length - 1).toArray(),
                sequences.stream().map(LabelledSequence::places).toArray(int[][]::new));
    }

    /**
     * What the rows are made of.
     *
     * @param histories item of each event
     * @param targets item of each branch
     * @return the same, one after the other; with late fusion -1, [USER], for a branch
     */
    public static int[] inputs(Fusion fusion, int[] histories, int[] targets) {
        IntStream branches = Arrays.stream(targets).map(target -> fusion == Fusion.LATE ? -1 : target);
        return IntStream.concat(Arrays.stream(histories), branches).toArray();
    }

    /** Events of all histories. */
    public int events() {
        return Arrays.stream(lengths).sum();
    }

    /** Branches of all histories. */
    public int count() {
        return Arrays.stream(seen).mapToInt(s -> s.length).sum();
    }

    int longest() {
        return Arrays.stream(lengths).max().orElse(0);
    }

    /** @param all false: the states of the branches alone are wanted */
    Packing packing(Context context, boolean all) {
        int events = events();
        int rows = events + count();
        int histories = lengths.length;
        // Segments: the histories, each on its own span; then the branches, each on its history's start and itself.
        int segments = histories + rows - events;
        int[] begin = new int[segments];
        int[] length = new int[segments];
        int[] offsets = new int[segments + 1];
        int[] spanBegin = new int[histories + 2 * (rows - events)];
        int[] spanLength = new int[spanBegin.length];
        int[] positions = new int[rows];
        int first = 0;
        for (int h = 0; h < histories; h++) {
            begin[h] = first;
            length[h] = lengths[h];
            offsets[h + 1] = h + 1;
            spanBegin[h] = first;
            spanLength[h] = lengths[h];
            for (int i = 0; i < lengths[h]; i++) {
                positions[first++] = i;
            }
        }
        int row = events;
        for (int h = 0; h < histories; h++) {
            for (int count : seen[h]) {
                int segment = histories + row - events;
                int span = offsets[segment];
                begin[segment] = row;
                length[segment] = 1;
                offsets[segment + 1] = span + 2;
                spanBegin[span] = begin[h];
                spanLength[span] = count;
                spanBegin[span + 1] = row;
                spanLength[span + 1] = 1;
                positions[row++] = count;
            }
        }
        Packing.Tail tail = all
                ? null
                : Packing.Tail.of(
                        context,
                        positions,
                        IntStream.range(events, rows).toArray(),
                        Arrays.stream(offsets, histories, segments + 1)
                                .map(o -> o - histories)
                                .toArray(),
                        Arrays.copyOfRange(spanBegin, histories, spanBegin.length),
                        Arrays.copyOfRange(spanLength, histories, spanLength.length));
        return new Packing(
                context.of(positions),
                context.plan(new PlanSpec(true, rows, rows, begin, length, offsets, spanBegin, spanLength)),
                tail);
    }
}
