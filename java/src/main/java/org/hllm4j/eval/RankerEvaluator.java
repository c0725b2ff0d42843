package org.hllm4j.eval;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.LongConsumer;
import org.hllm4j.HllmException;
import org.hllm4j.data.ItemMeans;
import org.hllm4j.data.ItemPrior;
import org.hllm4j.data.LabelledSequence;
import org.hllm4j.data.LabelledSequences;
import org.hllm4j.data.Split;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.EventScorer;
import org.hllm4j.model.Hllm;

/** A ranker's AUC, GAUC and log loss on the held-out events, and those of the simple means that it has to beat. */
public final class RankerEvaluator {
    private static final int MAX_ROWS = 4096;

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
     * By name: the item's mean value in the rule's column, its bias that the ranker begins with ({@link ItemPrior}), its
     * share of ones, and the share of ones of all, each of the training events. Item means are drawn towards the mean of
     * all. Where the column holds the labels, means are shares.
     */
    public static Map<String, BinaryMetrics> baselines(LabelledSequences data, Split split) {
        List<LabelledSequence> sequences = events(data, split);
        int[] users = users(sequences);
        int[] targets = LabelledSequence.targets(sequences).toArray();
        float[] labels = LabelledSequence.labels(sequences);
        ItemMeans ones = data.meanLabels();
        double[] rate = Arrays.stream(targets).mapToDouble(ones::of).toArray();
        double[] same = new double[targets.length];
        Arrays.fill(same, ones.all());
        Map<String, BinaryMetrics> baselines = new LinkedHashMap<>();
        if (data.rule().comparison() != null) {
            ItemMeans values = data.meanValues();
            double[] mean = Arrays.stream(targets).mapToDouble(values::of).toArray();
            baselines.put("item mean " + data.rule().column(), BinaryMetrics.of(users, mean, labels, null));
        }
        if (data.prior() != null) {
            double[] bias = Arrays.stream(targets).mapToDouble(data.prior()::of).toArray();
            baselines.put("item bias", BinaryMetrics.of(users, bias, labels, null));
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
}
