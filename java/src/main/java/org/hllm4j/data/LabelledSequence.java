package org.hllm4j.data;

import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;

/**
 * Events of one user, some of which are to be ranked: each from the events before it.
 *
 * @param user number of the user in {@link Interactions}
 * @param items item rows, oldest first; at most max history + 1
 * @param places of the labelled events, ascending; place t has t events of history, which may be none
 * @param labels 0 or 1, beside the places
 */
public record LabelledSequence(int user, int[] items, int[] places, float[] labels) {
    /** Item rows of the labelled events of some sequences, in their order. */
    public static IntStream targets(List<LabelledSequence> sequences) {
        return sequences.stream().flatMapToInt(s -> Arrays.stream(s.places).map(place -> s.items[place]));
    }

    /** Item rows that are history to something: all but each sequence's last. */
    public static IntStream histories(List<LabelledSequence> sequences) {
        return sequences.stream().flatMapToInt(s -> Arrays.stream(s.items, 0, s.items.length - 1));
    }

    /** Labels of all sequences, in their order. */
    public static float[] labels(List<LabelledSequence> sequences) {
        float[] all =
                new float[sequences.stream().mapToInt(s -> s.labels.length).sum()];
        int n = 0;
        for (LabelledSequence sequence : sequences) {
            System.arraycopy(sequence.labels, 0, all, n, sequence.labels.length);
            n += sequence.labels.length;
        }
        return all;
    }
}
