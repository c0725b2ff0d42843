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
 * @param prior what is known of the items by themselves, which comes with the events; null: nothing
 */
public record LabelledSequences(
        Interactions interactions, LabelRule rule, TimeSplit split, int maxHistory, ItemPrior prior) {
    /** A training event: its value in the rule's column, and the label that this makes. */
    @FunctionalInterface
    interface Visitor {
        void visit(int user, int item, double value, float label);
    }

    /** Events with nothing known of their items. */
    public LabelledSequences(Interactions interactions, LabelRule rule, TimeSplit split, int maxHistory) {
        this(interactions, rule, split, maxHistory, null);
    }

    /** The same events with the prior that those which train make. */
    public LabelledSequences withItemPrior() {
        return new LabelledSequences(interactions, rule, split, maxHistory, ItemPrior.of(this));
    }

    /**
     * What is before the split, users in order. A longer run of events is cut into sequences of {@code maxHistory + 1}
     * counted from the end, and the shorter rest at the front trains too; without {@code splitLong} only the last is kept.
     */
    public List<LabelledSequence> training(boolean splitLong) {
        int longest = maxHistory + 1;
        List<LabelledSequence> sequences = new ArrayList<>();
        for (int user = 0; user < interactions.users(); user++) {
            float[] labels = labels(user);
            float[] priors = priors(user, true);
            int end = trainingEvents(user);
            int begin = splitLong ? 0 : Math.max(0, end - longest);
            int rest = (end - begin - 1) % longest + 1;
            for (int from = begin, to = begin + rest; from < end; from = to, to += longest) {
                add(sequences, user, from, to, labels, priors);
            }
        }
        return sequences;
    }

    /** The held-out events of a split, each with the last {@code maxHistory} events before it; users in order. */
    public List<LabelledSequence> evaluation(Split part) {
        List<LabelledSequence> sequences = new ArrayList<>();
        for (int user = 0; user < interactions.users(); user++) {
            float[] labels = labels(user);
            float[] priors = priors(user, false);
            long[] times = interactions.timestamps(user);
            int last = -1; // of those whose history begins with the user's first event: they share a pass
            for (int i = 0; i < labels.length; i++) {
                if (!split.holds(part, times[i])) {
                    labels[i] = Float.NaN;
                }
                last = i <= maxHistory && !Float.isNaN(labels[i]) ? i : last;
            }
            add(sequences, user, 0, last + 1, labels, priors);
            for (int i = maxHistory + 1; i < labels.length; i++) {
                float[] alone = new float[labels.length];
                Arrays.fill(alone, Float.NaN);
                alone[i] = labels[i];
                add(sequences, user, i - maxHistory, i + 1, alone, priors);
            }
        }
        return sequences;
    }

    /** Share of ones among the labels that train. */
    public double rate() {
        ItemMeans labels = meanLabels();
        long ones = Math.round(labels.all() * labels.count());
        if (ones == 0 || ones == labels.count()) {
            throw new HllmException("of " + labels.count() + " labelled events before " + split.validationFrom() + ", "
                    + ones + " satisfy " + rule + ": there is nothing to learn. Change the rule or the split");
        }
        return labels.all();
    }

    /** Means of the values in the rule's column, of the events that train. */
    public ItemMeans meanValues() {
        ItemMeans means = new ItemMeans(interactions.catalogue().size());
        forEachTraining((user, item, value, label) -> means.add(item, value));
        return means;
    }

    /** Means of the labels of the events that train. */
    public ItemMeans meanLabels() {
        ItemMeans means = new ItemMeans(interactions.catalogue().size());
        forEachTraining((user, item, value, label) -> means.add(item, label));
        return means;
    }

    /** The labelled events that train, users in order. */
    void forEachTraining(Visitor visitor) {
        for (int user = 0; user < interactions.users(); user++) {
            int[] events = interactions.events(user);
            double[] values = interactions.values(user);
            float[] labels = labels(user);
            int end = trainingEvents(user);
            for (int i = 0; i < end; i++) {
                if (!Float.isNaN(labels[i])) {
                    visitor.visit(user, events[i], values[i], labels[i]);
                }
            }
        }
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

    /** What is known of the item of each of a user's events; of one that trains, without its own value. */
    private float[] priors(int user, boolean training) {
        int[] events = interactions.events(user);
        double[] values = interactions.values(user);
        float[] priors = new float[events.length];
        for (int i = 0; prior != null && i < priors.length; i++) {
            priors[i] = (float) (training ? prior.without(user, events[i], values[i]) : prior.of(events[i]));
        }
        return priors;
    }

    private void add(List<LabelledSequence> sequences, int user, int from, int to, float[] labels, float[] priors) {
        int[] places =
                IntStream.range(from, to).filter(i -> !Float.isNaN(labels[i])).toArray();
        if (places.length == 0) {
            return;
        }
        float[] label = new float[places.length];
        float[] prior = new float[places.length];
        for (int i = 0; i < places.length; i++) {
            label[i] = labels[places[i]];
            prior[i] = priors[places[i]];
            places[i] -= from;
        }
        int[] items = Arrays.copyOfRange(interactions.events(user), from, to);
        sequences.add(new LabelledSequence(user, items, places, label, prior));
    }
}
