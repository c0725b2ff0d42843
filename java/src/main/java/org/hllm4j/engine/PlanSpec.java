package org.hllm4j.engine;

import java.util.stream.IntStream;
import org.hllm4j.HllmException;

/**
 * Which keys each query of an attention sees. A query segment is a run of consecutive query rows; it sees an ordered
 * list of key spans. A causal segment is aligned with the end of that list: query i of n sees the first L - n + 1 + i
 * of L keys. Segments are disjoint and in ascending order; a query row in no segment gets output 0.
 *
 * <p>The arrays are neither copied nor changed here; {@link Context#plan} copies them.
 *
 * @param causal false: every query of a segment sees all its keys
 * @param queryRows rows of q
 * @param keyRows rows of k and v
 * @param segmentBegin [segments] first query row of a segment
 * @param segmentLength [segments] its query rows
 * @param spanOffsets [segments + 1]: the spans of segment s are spanOffsets[s] .. spanOffsets[s + 1]
 * @param spanBegin [spans] first key row of a span
 * @param spanLength [spans] its key rows
 */
public record PlanSpec(
        boolean causal,
        int queryRows,
        int keyRows,
        int[] segmentBegin,
        int[] segmentLength,
        int[] spanOffsets,
        int[] spanBegin,
        int[] spanLength) {

    // Lengths are checked here, since the native side cannot see how long an array is; it checks the contents.
    public PlanSpec {
        if (segmentLength.length != segmentBegin.length || spanOffsets.length != segmentBegin.length + 1) {
            throw new HllmException("plan: segmentBegin [" + segmentBegin.length + "], segmentLength ["
                    + segmentLength.length + "] and spanOffsets [" + spanOffsets.length
                    + "] must have lengths S, S and S + 1");
        }
        if (spanBegin.length != spanLength.length) {
            throw new HllmException("plan: spanBegin [" + spanBegin.length + "] and spanLength [" + spanLength.length
                    + "] must have one length");
        }
    }

    /** Packed sequences, one after the other, each causal within itself and blind to the others. */
    public static PlanSpec causalSequences(int[] lengths) {
        int[] begin = new int[lengths.length];
        int rows = 0;
        for (int i = 0; i < lengths.length; i++) {
            begin[i] = rows;
            rows = Math.addExact(rows, lengths[i]);
        }
        int[] spanOffsets = IntStream.rangeClosed(0, lengths.length).toArray();
        return new PlanSpec(true, rows, rows, begin, lengths, spanOffsets, begin, lengths);
    }

    /**
     * The same where a query sees at most the last {@code window} of those keys, itself included; 0: all of them. Each
     * query row then is a segment of its own, as each sees other spans.
     */
    public PlanSpec within(int window) {
        if (window == 0) {
            return this;
        }
        IntStream.Builder rows = IntStream.builder();
        IntStream.Builder offsets = IntStream.builder();
        IntStream.Builder begins = IntStream.builder();
        IntStream.Builder lengths = IntStream.builder();
        int spans = 0;
        offsets.add(0);
        for (int s = 0; s < segmentBegin.length; s++) {
            int keys = IntStream.range(spanOffsets[s], spanOffsets[s + 1])
                    .map(i -> spanLength[i])
                    .sum();
            for (int i = 0; i < segmentLength[s]; i++) {
                int end = keys - segmentLength[s] + 1 + i;
                int place = 0; // of the span's first key among those of the segment
                for (int span = spanOffsets[s]; span < spanOffsets[s + 1]; span++) {
                    int from = Math.max(place, end - window);
                    int to = Math.min(place + spanLength[span], end);
                    if (from < to) {
                        begins.add(spanBegin[span] + from - place);
                        lengths.add(to - from);
                        spans++;
                    }
                    place += spanLength[span];
                }
                rows.add(segmentBegin[s] + i);
                offsets.add(spans);
            }
        }
        int[] begin = rows.build().toArray();
        return new PlanSpec(
                causal,
                queryRows,
                keyRows,
                begin,
                IntStream.range(0, begin.length).map(i -> 1).toArray(),
                offsets.build().toArray(),
                begins.build().toArray(),
                lengths.build().toArray());
    }

    /** Pairs of a query row and a key row that it sees. */
    long pairs() {
        long pairs = 0;
        for (int s = 0; s < segmentLength.length; s++) {
            long queries = segmentLength[s];
            long keys = 0;
            for (int i = spanOffsets[s]; i < spanOffsets[s + 1]; i++) {
                keys += spanLength[i];
            }
            pairs += queries * keys - (causal ? queries * (queries - 1) / 2 : 0);
        }
        return pairs;
    }
}
