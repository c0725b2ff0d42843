package org.hllm4j.eval;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.Random;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class BinaryMetricsTest {
    /** Every pair of a one and a zero, one by one. */
    private static double pairs(int[] events, double[] scores, float[] labels) {
        double won = 0;
        double all = 0;
        for (int one : events) {
            for (int zero : events) {
                if (labels[one] == 1 && labels[zero] == 0) {
                    won += scores[one] > scores[zero] ? 1 : scores[one] == scores[zero] ? 0.5 : 0;
                    all++;
                }
            }
        }
        return won / all;
    }

    @ParameterizedTest
    @ValueSource(ints = {2, 5, 1000})
    void equalsCountingAllPairs(int distinctScores) {
        System.out.println("seed " + Tiny.seed());
        Random random = new Random(Tiny.seed());
        for (int round = 0; round < 50; round++) {
            int n = 2 + random.nextInt(60);
            int users = 1 + random.nextInt(8);
            int[] user = random.ints(n, 0, users).toArray();
            double[] scores = random.ints(n, 0, distinctScores)
                    .mapToDouble(i -> 10.0 * i / distinctScores - 5)
                    .toArray();
            float[] labels = new float[n];
            for (int i = 0; i < n; i++) {
                labels[i] = random.nextInt(2);
            }
            labels[0] = 1;
            labels[1] = 0;
            double[] probabilities =
                    Arrays.stream(scores).map(s -> 1 / (1 + Math.exp(-s))).toArray();
            BinaryMetrics found = BinaryMetrics.of(user, scores, labels, probabilities);

            assertEquals(pairs(IntStream.range(0, n).toArray(), scores, labels), found.auc(), 1e-12);
            double sum = 0;
            double weight = 0;
            int counted = 0;
            for (int u = 0; u < users; u++) {
                int only = u;
                int[] own = IntStream.range(0, n).filter(i -> user[i] == only).toArray();
                double auc = pairs(own, scores, labels);
                if (!Double.isNaN(auc)) {
                    sum += auc * own.length;
                    weight += own.length;
                    counted++;
                }
            }
            assertEquals(sum / weight, found.gauc(), 1e-12);
            assertEquals(counted, found.users());
            double loss = 0;
            for (int i = 0; i < n; i++) {
                loss += Math.log1p(Math.exp(labels[i] == 1 ? -scores[i] : scores[i])) / n;
            }
            assertEquals(loss, found.logLoss(), loss * 1e-9);
            assertEquals(n, found.events());
        }
    }

    @Test
    void usersOfOneClassAreLeftOut() {
        int[] user = {0, 0, 0, 1, 1, 2};
        double[] scores = {3, 2, 1, 5, 4, 9};
        float[] labels = {1, 0, 1, 1, 1, 0};
        BinaryMetrics found = BinaryMetrics.of(user, scores, labels, null);
        assertEquals(0.5, found.gauc());
        assertEquals(1, found.users());
        assertEquals(4, found.ones());
        assertTrue(Double.isNaN(found.logLoss()));
        assertTrue(!found.asMap().containsKey("log_loss") && found.asMap().containsKey("auc"));
    }

    @Test
    void aPerfectAndAHopelessOrder() {
        int[] user = new int[4];
        float[] labels = {0, 0, 1, 1};
        assertEquals(
                1,
                BinaryMetrics.of(user, new double[] {1, 2, 3, 4}, labels, null).auc());
        assertEquals(
                0,
                BinaryMetrics.of(user, new double[] {4, 3, 2, 1}, labels, null).auc());
        assertEquals(
                0.5,
                BinaryMetrics.of(user, new double[] {7, 7, 7, 7}, labels, null).auc());
        assertThrows(
                HllmException.class, () -> BinaryMetrics.of(user, new double[] {4, Double.NaN, 2, 1}, labels, null));
    }
}
