package org.hllm4j.model;

import java.util.List;
import java.util.stream.IntStream;
import org.hllm4j.engine.Context;
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

    static Packing packing(Context context, KeyValueArena arena, List<CachedHistory> histories) {
        Segments all = new Segments();
        Segments last = new Segments(); // the last layer: a query for each output alone
        IntStream.Builder positions = IntStream.builder();
        IntStream.Builder stored = IntStream.builder();
        IntStream.Builder outputs = IntStream.builder();
        for (CachedHistory history : histories) {
            int events = history.rows.length;
            if (history.fresh > 0) {
                history.addTo(all);
                all.end(history.fresh);
                for (int i = events - history.fresh; i < events; i++) {
                    positions.add(i);
                    stored.add(history.rows[i]);
                }
            }
            if (history.branches.length == 0) {
                outputs.add(all.queries() - 1);
                history.addTo(last);
                last.end(1);
            }
            for (int branch : history.branches) {
                outputs.add(all.queries());
                for (Segments segments : List.of(all, last)) {
                    history.addTo(segments);
                    segments.span(branch, 1);
                    segments.end(1);
                }
                positions.add(events);
                stored.add(branch);
            }
        }
        int[] places = positions.build().toArray();
        int[] wanted = outputs.build().toArray();
        return new Packing(
                context.of(places),
                all.plan(context, arena.rows()),
                new Packing.Tail(
                        context.of(wanted),
                        context.of(IntStream.of(wanted).map(row -> places[row]).toArray()),
                        last.plan(context, arena.rows())),
                new Packing.Store(arena, context.of(stored.build().toArray())));
    }

    /** Lets the segment to come see this history's rows. */
    private void addTo(Segments segments) {
        for (int first = 0, end; first < rows.length; first = end) {
            for (end = first + 1; end < rows.length && rows[end] == rows[end - 1] + 1; end++) {}
            segments.span(rows[first], end - first);
        }
    }
}
