package org.hllm4j.eval;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.hllm4j.Tiny;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Split;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.Pooling;
import org.hllm4j.model.UserEncoder;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class EvaluatorTest {
    @TempDir
    Path folder;

    /** The whole protocol again, plainly: one user at a time, scores in double, a full sort's worth of comparisons. */
    @Test
    void ranksAreThoseOfTheProtocolWrittenOutPlainly() {
        Dataset data = Tiny.dataset(folder, 60, 50);
        try (Context context = Context.open(Tiny.device());
                Hllm model = Tiny.model(context, Pooling.TOKEN, Hllm.Trained.NOTHING);
                Tensor table =
                        CatalogueEncoder.table(model, Tiny.tokens(50, new Random(Tiny.seed() + 1)), 4096, null)) {
            int width = model.config().width();
            float[] items = table.toFloats();
            Map<Split, RankingMetrics> expected = new EnumMap<>(Split.class);
            for (Split split : Split.values()) {
                expected.put(split, new RankingMetrics());
            }
            for (int u = 0; u < data.interactions().users(); u++) {
                int[] events = data.interactions().events(u);
                if (events.length < 3) {
                    continue;
                }
                for (Split split : Split.values()) {
                    int at = events.length - (split == Split.TEST ? 1 : 2);
                    int[] seen = Arrays.copyOf(events, at);
                    int[] history = Arrays.copyOfRange(seen, Math.max(0, at - Tiny.MAX_HISTORY), at);
                    double[] user = new double[width];
                    UserEncoder.encode(model, table, new int[][] {history}, null, 100, null, (first, vectors) -> {
                        float[] found = vectors.toFloats();
                        Arrays.setAll(user, i -> found[i]);
                    });
                    double target = cosine(user, items, events[at]);
                    int rank = 1;
                    for (int item = 0; item < 50; item++) {
                        int candidate = item;
                        boolean excluded = Arrays.stream(seen).anyMatch(s -> s == candidate);
                        rank += !excluded && cosine(user, items, item) > target ? 1 : 0;
                    }
                    boolean repeated = Arrays.stream(seen).anyMatch(s -> s == events[at]);
                    expected.get(split).add(repeated ? 51 : rank);
                }
            }
            Map<Split, RankingMetrics> found =
                    Evaluator.evaluate(model, table, data.interactions(), List.of(Split.values()), null);
            for (Split split : Split.values()) {
                assertTrue(expected.get(split).users() > 30, "too few users to compare");
                assertEquals(expected.get(split).users(), found.get(split).users());
                near(expected.get(split), found.get(split));
                near(
                        expected.get(split),
                        Evaluator.evaluate(model, table, data.interactions(), List.of(split), null)
                                .get(split));
            }
        }
        assertEquals(0, Context.liveBytes(Tiny.device()));
    }

    /** Equal but for the order in which users are added up. */
    private static void near(RankingMetrics expected, RankingMetrics found) {
        assertFalse(expected.asMap().isEmpty());
        expected.asMap()
                .forEach((name, value) -> assertEquals(value, found.asMap().get(name), 1e-12, name));
    }

    private static double cosine(double[] user, float[] items, int item) {
        double dot = 0;
        double userNorm = 0;
        double itemNorm = 0;
        for (int i = 0; i < user.length; i++) {
            double value = items[item * user.length + i];
            dot += user[i] * value;
            userNorm += user[i] * user[i];
            itemNorm += value * value;
        }
        return dot / Math.sqrt(userNorm * itemNorm);
    }

    @Test
    void metricsByHand() {
        RankingMetrics metrics = new RankingMetrics();
        metrics.add(1);
        metrics.add(6);
        metrics.add(300);
        assertEquals(3, metrics.users());
        assertEquals(1 / 3.0, metrics.recall(5), 1e-12);
        assertEquals(2 / 3.0, metrics.recall(10), 1e-12);
        assertEquals(2 / 3.0, metrics.recall(200), 1e-12);
        assertEquals((1 + Math.log(2) / Math.log(7)) / 3, metrics.ndcg(10), 1e-12);
    }
}
