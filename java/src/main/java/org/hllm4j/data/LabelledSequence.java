package org.hllm4j.data;

import java.util.Arrays;
import java.util.List;
import java.util.function.Function;
import java.util.stream.IntStream;

/**
 * Events of one user, some of which are to be ranked: each from the events before it.
 *
 * @param user number of the user in {@link Interactions}
 * @param items item rows, oldest first; at most max history + 1
 * @param places of the labelled events, ascending; place t has t events of history, which may be none
 * @param labels 0 or 1, beside the places
 * @param priors what is known of the item by itself, beside the places: a part of the logit, see {@link ItemPrior}
 */
public record LabelledSequence(int user, int[] items, int[] places, float[] labels, float[] priors) {
    /** Events with nothing known of their items. */
    public LabelledSequence(int user, int[] items, int[] places, float[] labels) {
        this(user, items, places, labels, new float[places.length]);
    }

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
        return joined(sequences, LabelledSequence::labels);
    }

    /** Priors of all sequences, in their order. */
    public static float[] priors(List<LabelledSequence> sequences) {
        return joined(sequences, LabelledSequence::priors);
    }

    private static float[] joined(List<LabelledSequence> sequences, Function<LabelledSequence, float[]> part) {
        float[] all =
                new float[sequences.stream().mapToInt(s -> s.places.length).sum()];
        int n = 0;
        for (LabelledSequence sequence : sequences) {
            float[] some = part.apply(sequence);
            System.arraycopy(some, 0, all, n, some.length);
            n += some.length;
        }
        return all;
    }
}
