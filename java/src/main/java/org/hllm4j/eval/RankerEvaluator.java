package org.hllm4j.eval;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.LongConsumer;
import org.hllm4j.HllmException;
import org.hllm4j.data.LabelledSequence;
import org.hllm4j.data.LabelledSequences;
import org.hllm4j.data.Split;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.EventScorer;
import org.hllm4j.model.Hllm;

/** A ranker's AUC, GAUC and log loss on the held-out events, and those of the simple means that it has to beat. */
public final class RankerEvaluator {
    private static final int MAX_ROWS = 4096;

    /** Events of the mean of all that an item's mean is drawn to: an item seen once is hardly better known than none. */
    private static final double PRIOR = 5;

    private RankerEvaluator() {}

    /**
     * @param table item vectors [N, D]
     * @param progress told how many sequences are done of {@code data.evaluation(split).size()}; may be null
     */
    public static BinaryMetrics evaluate(
            Hllm model, Tensor table, LabelledSequences data, Split split, LongConsumer progress) {
        List<LabelledSequence> sequences = events(data, split);
        float[] logits = EventScorer.logits(model, table, sequences, MAX_ROWS, progress);
        double[] scores = new double[logits.length];
        Arrays.setAll(scores, i -> logits[i]);
        double[] probabilities = new double[logits.length];
        Arrays.setAll(probabilities, i -> 1 / (1 + Math.exp(-scores[i])));
        return BinaryMetrics.of(users(sequences), scores, LabelledSequence.labels(sequences), probabilities);
    }

    /**
     * By name: the item's mean value in the rule's column, its share of ones, and the share of ones of all, each of the
     * training events. Item means are drawn towards the mean of all. Where the column holds the labels, the first two are
     * one.
     *
     * @param items size of the catalogue
     */
    public static Map<String, BinaryMetrics> baselines(LabelledSequences data, Split split, int items) {
        List<LabelledSequence> sequences = events(data, split);
        int[] users = users(sequences);
        int[] targets = LabelledSequence.targets(sequences).toArray();
        float[] labels = LabelledSequence.labels(sequences);
        Means values = new Means(items);
        Means ones = new Means(items);
        for (int user = 0; user < data.interactions().users(); user++) {
            int[] events = data.interactions().events(user);
            double[] value = data.interactions().values(user);
            float[] label = data.labels(user);
            long[] times = data.interactions().timestamps(user);
            for (int i = 0; i < events.length; i++) {
                if (data.split().trains(times[i]) && !Float.isNaN(label[i])) {
                    values.add(events[i], value[i]);
                    ones.add(events[i], label[i]);
                }
            }
        }
        double[] rate = Arrays.stream(targets).mapToDouble(ones::of).toArray();
        double[] same = new double[targets.length];
        Arrays.fill(same, ones.mean());
        Map<String, BinaryMetrics> baselines = new LinkedHashMap<>();
        if (data.rule().comparison() != null) {
            double[] mean = Arrays.stream(targets).mapToDouble(values::of).toArray();
            baselines.put("item mean " + data.rule().column(), BinaryMetrics.of(users, mean, labels, null));
        }
        baselines.put("item rate", BinaryMetrics.of(users, rate, labels, rate));
        baselines.put("global rate", BinaryMetrics.of(users, same, labels, same));
        return baselines;
    }

    private static List<LabelledSequence> events(LabelledSequences data, Split split) {
        List<LabelledSequence> sequences = data.evaluation(split);
        float[] labels = LabelledSequence.labels(sequences);
        int ones = 0;
        for (float label : labels) {
            ones += label == 1 ? 1 : 0;
        }
        if (ones == 0 || ones == labels.length) {
            throw new HllmException("of " + labels.length + " labelled events of the "
                    + split.name().toLowerCase(Locale.ROOT) + ", " + ones + " satisfy " + data.rule()
                    + ": there is nothing to tell apart. Split the log at another time, or change the rule");
        }
        return sequences;
    }

    private static int[] users(List<LabelledSequence> sequences) {
        return sequences.stream()
                .flatMapToInt(s -> Arrays.stream(s.places()).map(place -> s.user()))
                .toArray();
    }

    private static final class Means {
        private final double[] sums;
        private final int[] counts;
        private double sum;
        private int count;

        Means(int items) {
            sums = new double[items];
            counts = new int[items];
        }

        void add(int item, double value) {
            sums[item] += value;
            counts[item]++;
            sum += value;
            count++;
        }

        double mean() {
            return sum / count;
        }

        double of(int item) {
            return (sums[item] + PRIOR * mean()) / (counts[item] + PRIOR);
        }
    }
}
