package org.hllm4j.data;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;

/**
 * The labelled events of a log with their histories, cut by time.
 *
 * @param interactions with the values of the rule's column
 * @param rule which events were liked
 * @param split what trains and what is held out
 * @param maxHistory longest history, in events
 */
public record LabelledSequences(Interactions interactions, LabelRule rule, TimeSplit split, int maxHistory) {
    /**
     * What is before the split, users in order. A longer run of events is cut into sequences of {@code maxHistory + 1}
     * counted from the end, and the shorter rest at the front trains too; without {@code splitLong} only the last is kept.
     */
    public List<LabelledSequence> training(boolean splitLong) {
        int longest = maxHistory + 1;
        List<LabelledSequence> sequences = new ArrayList<>();
        for (int user = 0; user < interactions.users(); user++) {
            float[] labels = labels(user);
            int end = trainingEvents(user);
            int begin = splitLong ? 0 : Math.max(0, end - longest);
            int rest = (end - begin - 1) % longest + 1;
            for (int from = begin, to = begin + rest; from < end; from = to, to += longest) {
                add(sequences, user, from, to, labels);
            }
        }
        return sequences;
    }

    /** The held-out events of a split, each with the last {@code maxHistory} events before it; users in order. */
    public List<LabelledSequence> evaluation(Split part) {
        List<LabelledSequence> sequences = new ArrayList<>();
        for (int user = 0; user < interactions.users(); user++) {
            float[] labels = labels(user);
            long[] times = interactions.timestamps(user);
            int last = -1; // of those whose history begins with the user's first event: they share a pass
            for (int i = 0; i < labels.length; i++) {
                if (!split.holds(part, times[i])) {
                    labels[i] = Float.NaN;
                }
                last = i <= maxHistory && !Float.isNaN(labels[i]) ? i : last;
            }
            add(sequences, user, 0, last + 1, labels);
            for (int i = maxHistory + 1; i < labels.length; i++) {
                float[] alone = new float[labels.length];
                Arrays.fill(alone, Float.NaN);
                alone[i] = labels[i];
                add(sequences, user, i - maxHistory, i + 1, alone);
            }
        }
        return sequences;
    }

    /** Share of ones among the labels that train. */
    public double rate() {
        float[] labels = LabelledSequence.labels(training(true));
        double ones = 0;
        for (float label : labels) {
            ones += label;
        }
        if (ones == 0 || ones == labels.length) {
            throw new HllmException("of " + labels.length + " labelled events before " + split.validationFrom() + ", "
                    + (long) ones + " satisfy " + rule + ": there is nothing to learn. Change the rule or the split");
        }
        return ones / labels.length;
    }

    private int trainingEvents(int user) {
        return (int) Arrays.stream(interactions.timestamps(user))
                .filter(split::trains)
                .count();
    }

    /** Label of each of a user's events, NaN where it has none; a new array. */
    public float[] labels(int user) {
        double[] values = interactions.values(user);
        float[] labels = new float[values.length];
        for (int i = 0; i < labels.length; i++) {
            labels[i] = rule.label(values[i]);
        }
        return labels;
    }

    private void add(List<LabelledSequence> sequences, int user, int from, int to, float[] labels) {
        int[] places =
                IntStream.range(from, to).filter(i -> !Float.isNaN(labels[i])).toArray();
        if (places.length == 0) {
            return;
        }
        float[] chosen = new float[places.length];
        for (int i = 0; i < places.length; i++) {
            chosen[i] = labels[places[i]];
            places[i] -= from;
        }
        sequences.add(
                new LabelledSequence(user, Arrays.copyOfRange(interactions.events(user), from, to), places, chosen));
    }
}
