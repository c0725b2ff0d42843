package org.hllm4j.eval;

import java.util.LinkedHashMap;
import java.util.Map;

/** Recall@K (= hit rate, with one held-out item) and NDCG@K from the ranks of held-out items. */
public final class RankingMetrics {
    /** The K of the paper's tables. */
    public static final int[] CUTOFFS = {5, 10, 50, 200};

    private final long[] hits = new long[CUTOFFS.length];
    private final double[] gains = new double[CUTOFFS.length];
    private long users;

    /** @param rank items scoring strictly higher, plus one */
    public void add(int rank) {
        users++;
        for (int i = 0; i < CUTOFFS.length; i++) {
            if (rank <= CUTOFFS[i]) {
                hits[i]++;
                gains[i] += 1 / (Math.log(rank + 1.0) / Math.log(2));
            }
        }
    }

    public long users() {
        return users;
    }

    /** Share of users whose held-out item ranks among the first k; k is one of {@link #CUTOFFS}. */
    public double recall(int k) {
        return users == 0 ? 0 : hits[index(k)] / (double) users;
    }

    public double ndcg(int k) {
        return users == 0 ? 0 : gains[index(k)] / users;
    }

    /** "recall@5" .. "ndcg@200" as fractions. */
    public Map<String, Double> asMap() {
        Map<String, Double> map = new LinkedHashMap<>();
        for (int k : CUTOFFS) {
            map.put("recall@" + k, recall(k));
        }
        for (int k : CUTOFFS) {
            map.put("ndcg@" + k, ndcg(k));
        }
        return map;
    }

    private static int index(int k) {
        for (int i = 0; i < CUTOFFS.length; i++) {
            if (CUTOFFS[i] == k) {
                return i;
            }
        }
        throw new IllegalArgumentException("no metric at " + k);
    }
}
