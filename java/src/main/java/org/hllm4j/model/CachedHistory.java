package org.hllm4j.model;

import java.util.List;
import java.util.stream.IntStream;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.PlanSpec;
import org.hllm4j.nn.KeyValueArena;
import org.hllm4j.nn.Packing;

/**
 * One history of a step over cached keys and values. A branch ([USER], or a candidate) sees the whole history and itself;
 * nobody sees it, so its row may be used again after the step.
 *
 * @param rows arena row of each event, oldest first, the fresh ones included
 * @param fresh how many events at the end are new: those are computed, and stored in their rows
 * @param branches arena row of each one-token branch
 */
public record CachedHistory(int[] rows, int fresh, int[] branches) {
    public CachedHistory {
        if (fresh == 0 && branches.length == 0 || fresh > rows.length || rows.length == 0) {
            throw new IllegalArgumentException("a step over a history of " + rows.length + " events with " + fresh
                    + " fresh ones and " + branches.length + " branches");
        }
    }

    /**
     * What a step is made of, in host memory.
     *
     * @param positions [T] of each row
     * @param stored [T] arena row of each
     * @param outputs [I] rows whose outputs are wanted
     * @param all of all layers but the last one, which has {@code last}: a query for each output alone
     */
    record Step(int[] positions, int[] stored, int[] outputs, PlanSpec all, PlanSpec last) {
        /** The same where a query sees the last {@code window} positions; 0: all of them. */
        Step within(int window) {
            return new Step(positions, stored, outputs, all.within(window), last.within(window));
        }

        int[] outputPositions() {
            return IntStream.of(outputs).map(row -> positions[row]).toArray();
        }

        Packing packing(Context context, KeyValueArena arena) {
            return new Packing(
                    context.of(positions),
                    context.plan(all),
                    new Packing.Tail(context.of(outputs), context.of(outputPositions()), context.plan(last)),
                    new Packing.Store(arena, context.of(stored)),
                    null);
        }
    }

    /** @param keyRows of the arena */
    static Step step(List<CachedHistory> histories, int keyRows) {
        Segments all = new Segments();
        Segments last = new Segments();
        IntStream.Builder positions = IntStream.builder();
        IntStream.Builder stored = IntStream.builder();
        IntStream.Builder outputs = IntStream.builder();
        for (CachedHistory history : histories) {
            int events = history.rows.length;
            for (int i = events - history.fresh; i < events; i++) {
                positions.add(i);
                stored.add(history.rows[i]);
            }
            boolean alone = history.branches.length == 1; // it sees what an event more would see: one segment
            if (history.fresh > 0 && !alone) {
                history.addTo(all);
                all.end(history.fresh);
            }
            if (history.branches.length == 0) {
                outputs.add(all.queries() - 1);
                history.addTo(last);
                last.end(1);
            }
            for (int branch : history.branches) {
                for (Segments segments : List.of(all, last)) {
                    history.addTo(segments);
                    segments.span(branch, 1);
                }
                all.end(alone ? history.fresh + 1 : 1);
                last.end(1);
                outputs.add(all.queries() - 1);
                positions.add(events);
                stored.add(branch);
            }
        }
        return new Step(
                positions.build().toArray(),
                stored.build().toArray(),
                outputs.build().toArray(),
                all.spec(keyRows),
                last.spec(keyRows));
    }

    /** Lets the segment to come see this history's rows. */
    private void addTo(Segments segments) {
        for (int first = 0, end; first < rows.length; first = end) {
            for (end = first + 1; end < rows.length && rows[end] == rows[end - 1] + 1; end++) {}
            segments.span(rows[first], end - first);
        }
    }
}
