package org.hllm4j.model;

import java.util.stream.IntStream;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Plan;
import org.hllm4j.engine.PlanSpec;

/** Causal segments of an attention plan, put together one after the other. */
final class Segments {
    private final IntStream.Builder begin = IntStream.builder();
    private final IntStream.Builder length = IntStream.builder();
    private final IntStream.Builder offsets = IntStream.builder();
    private final IntStream.Builder spanBegin = IntStream.builder();
    private final IntStream.Builder spanLength = IntStream.builder();
    private int queries;
    private int spans;

    Segments() {
        offsets.add(0);
    }

    /** Key rows that the segment to come sees, behind those that it was given before. */
    void span(int first, int count) {
        spanBegin.add(first);
        spanLength.add(count);
        spans++;
    }

    /** Ends a segment: the next {@code count} query rows see the spans given since the one before. */
    void end(int count) {
        begin.add(queries);
        length.add(count);
        offsets.add(spans);
        queries += count;
    }

    /** Query rows so far. */
    int queries() {
        return queries;
    }

    PlanSpec spec(int keyRows) {
        return new PlanSpec(
                true,
                queries,
                keyRows,
                begin.build().toArray(),
                length.build().toArray(),
                offsets.build().toArray(),
                spanBegin.build().toArray(),
                spanLength.build().toArray());
    }

    /** @param window of {@link PlanSpec#within} */
    Plan plan(Context context, int keyRows, int window) {
        return context.plan(spec(keyRows).within(window));
    }
}
