package org.hllm4j.model;

import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.hllm4j.data.LabelledSequence;
import org.hllm4j.engine.Context;
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

    /**
     * @param all false: the states of the branches alone are wanted
     * @param window of {@link org.hllm4j.engine.PlanSpec#within}
     */
    Packing packing(Context context, boolean all, int window) {
        int events = events();
        int rows = events + count();
        Segments whole = new Segments(); // the histories, each on its own span; then the branches
        Segments last = new Segments(); // the branches alone
        IntStream.Builder positions = IntStream.builder();
        int first = 0;
        for (int length : lengths) {
            whole.span(first, length);
            whole.end(length);
            IntStream.range(0, length).forEach(positions::add);
            first += length;
        }
        int row = events;
        first = 0;
        for (int h = 0; h < lengths.length; h++) {
            for (int count : seen[h]) { // each on its history's start and itself
                for (Segments segments : List.of(whole, last)) {
                    segments.span(first, count);
                    segments.span(row, 1);
                    segments.end(1);
                }
                positions.add(count);
                row++;
            }
            first += lengths[h];
        }
        int[] places = positions.build().toArray();
        Packing.Tail tail = all
                ? null
                : new Packing.Tail(
                        context.of(IntStream.range(events, rows).toArray()),
                        context.of(Arrays.copyOfRange(places, events, rows)),
                        last.plan(context, rows, window));
        return new Packing(context.of(places), whole.plan(context, rows, window), tail);
    }
}
