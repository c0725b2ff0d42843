package org.hllm4j.model;

import java.util.List;
import java.util.stream.IntStream;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Plan;
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

    /** Rows of the step's input: fresh events, then branches. */
    public int inputs() {
        return fresh + branches.length;
    }

    /** Rows of the step's output: the branches, or the last event if there are none. */
    public int outputs() {
        return Math.max(1, branches.length);
    }

    static Packing packing(Context context, KeyValueArena arena, List<CachedHistory> histories) {
        Segments all = new Segments();
        Segments last = new Segments(); // the last layer: a query for each output alone
        IntStream.Builder positions = IntStream.builder();
        IntStream.Builder stored = IntStream.builder();
        IntStream.Builder outputs = IntStream.builder();
        IntStream.Builder outputPositions = IntStream.builder();
        for (CachedHistory history : histories) {
            int events = history.rows.length;
            if (history.fresh > 0) {
                all.add(history.fresh, history.rows);
                for (int i = events - history.fresh; i < events; i++) {
                    positions.add(i);
                    stored.add(history.rows[i]);
                }
            }
            if (history.branches.length == 0) {
                outputs.add(all.queries - 1);
                outputPositions.add(events - 1);
                last.add(1, history.rows);
            }
            for (int branch : history.branches) {
                outputs.add(all.queries);
                outputPositions.add(events);
                all.add(1, history.rows, branch);
                last.add(1, history.rows, branch);
                positions.add(events);
                stored.add(branch);
            }
        }
        return new Packing(
                context.of(positions.build().toArray()),
                all.plan(context, arena.rows()),
                new Packing.Tail(
                        context.of(outputs.build().toArray()),
                        context.of(outputPositions.build().toArray()),
                        last.plan(context, arena.rows())),
                new Packing.Store(arena, context.of(stored.build().toArray())));
    }

    /** Segments of a plan, one after the other. */
    private static final class Segments {
        private final IntStream.Builder begin = IntStream.builder();
        private final IntStream.Builder length = IntStream.builder();
        private final IntStream.Builder offsets = IntStream.builder();
        private final IntStream.Builder spanBegin = IntStream.builder();
        private final IntStream.Builder spanLength = IntStream.builder();
        private int queries;
        private int spans;

        private Segments() {
            offsets.add(0);
        }

        /** Queries that see a history's rows and then further ones. */
        private void add(int count, int[] rows, int... more) {
            for (int first = 0, end; first < rows.length; first = end) {
                for (end = first + 1; end < rows.length && rows[end] == rows[end - 1] + 1; end++) {}
                span(rows[first], end - first);
            }
            for (int row : more) {
                span(row, 1);
            }
            begin.add(queries);
            length.add(count);
            offsets.add(spans);
            queries += count;
        }

        private void span(int first, int count) {
            spanBegin.add(first);
            spanLength.add(count);
            spans++;
        }

        private Plan plan(Context context, int keyRows) {
            return context.plan(new PlanSpec(
                    true,
                    queries,
                    keyRows,
                    begin.build().toArray(),
                    length.build().toArray(),
                    offsets.build().toArray(),
                    spanBegin.build().toArray(),
                    spanLength.build().toArray()));
        }
    }
}
