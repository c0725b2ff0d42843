package org.hllm4j.eval;

import java.util.Arrays;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;

/**
 * How well scores tell ones from zeros.
 *
 * @param auc probability that a one scores higher than a zero, ties count half; NaN with one class only
 * @param gauc AUC per user, weighted by the user's events; users of one class are left out; NaN when all are
 * @param logLoss mean cross entropy of the probabilities; NaN when the scores are none
 * @param events scored
 * @param ones among them
 * @param users that count in gauc
 */
public record BinaryMetrics(double auc, double gauc, double logLoss, int events, int ones, int users) {
    /**
     * @param user of each event
     * @param scores any numbers that order the events
     * @param labels 0 or 1
     * @param probabilities of a one, or null: scores are no probabilities
     */
    public static BinaryMetrics of(int[] user, double[] scores, float[] labels, double[] probabilities) {
        for (double score : scores) {
            if (!Double.isFinite(score)) {
                throw new HllmException("a score is " + score + ": the model computes no numbers any more");
            }
        }
        int[] all = IntStream.range(0, scores.length).toArray();
        int[] byUser = IntStream.range(0, scores.length)
                .boxed()
                .sorted(Comparator.comparingInt(i -> user[i]))
                .mapToInt(i -> i)
                .toArray();
        double sum = 0;
        int weight = 0;
        int users = 0;
        for (int begin = 0, end; begin < byUser.length; begin = end) {
            end = begin;
            while (end < byUser.length && user[byUser[end]] == user[byUser[begin]]) {
                end++;
            }
            double auc = auc(Arrays.copyOfRange(byUser, begin, end), scores, labels);
            if (!Double.isNaN(auc)) {
                sum += auc * (end - begin);
                weight += end - begin;
                users++;
            }
        }
        return new BinaryMetrics(
                auc(all, scores, labels),
                sum / weight,
                probabilities == null ? Double.NaN : logLoss(probabilities, labels),
                scores.length,
                (int) IntStream.of(all).filter(i -> labels[i] == 1).count(),
                users);
    }

    /** Of some events: from the sum of the ranks of the ones, equal scores sharing their mean rank. */
    private static double auc(int[] events, double[] scores, float[] labels) {
        int[] order = IntStream.of(events)
                .boxed()
                .sorted(Comparator.comparingDouble(i -> scores[i]))
                .mapToInt(i -> i)
                .toArray();
        double ranks = 0;
        double ones = 0;
        for (int begin = 0, end; begin < order.length; begin = end) {
            end = begin;
            while (end < order.length && scores[order[end]] == scores[order[begin]]) {
                end++;
            }
            for (int i = begin; i < end; i++) {
                if (labels[order[i]] == 1) {
                    ranks += (begin + end + 1) / 2.0;
                    ones++;
                }
            }
        }
        double zeros = order.length - ones;
        return (ranks - ones * (ones + 1) / 2) / (ones * zeros); // 0 / 0 with one class: NaN
    }

    private static double logLoss(double[] probabilities, float[] labels) {
        double sum = 0;
        for (int i = 0; i < labels.length; i++) {
            double right = labels[i] == 1 ? probabilities[i] : 1 - probabilities[i];
            sum -= Math.log(Math.max(right, 1e-15));
        }
        return sum / labels.length;
    }

    /** "auc", "gauc", "log_loss" where they are numbers, and "events", "ones", "users". */
    public Map<String, Double> asMap() {
        Map<String, Double> map = new LinkedHashMap<>();
        map.put("auc", auc);
        map.put("gauc", gauc);
        map.put("log_loss", logLoss);
        map.values().removeIf(value -> value.isNaN());
        map.put("events", (double) events);
        map.put("ones", (double) ones);
        map.put("users", (double) users);
        return map;
    }
}
