package org.hllm4j.eval;

import java.util.LinkedHashMap;
import java.util.Map;
import org.hllm4j.data.EvaluationCase;

/** Ranking metrics by how often the held-out item was seen in training, and by the length of the history. */
public final class Breakdown {
    private static final int[] POPULARITY = {1, 5, 20, 100}; // first number of events of a group, after that of none
    private static final int[] HISTORY = {1, 6, 11, 21, 51};

    private final int[] popularity;
    private final boolean[] trained;
    private final RankingMetrics all = new RankingMetrics();
    private final RankingMetrics cold = new RankingMetrics();
    private final Map<String, RankingMetrics> byPopularity = groups(POPULARITY, "0");
    private final Map<String, RankingMetrics> byHistory = groups(HISTORY, null);

    /**
     * @param popularity training events of each item, by which held-out items are grouped
     * @param trained items that the model was trained on; a held-out item that is none of them is cold
     */
    public Breakdown(int[] popularity, boolean[] trained) {
        this.popularity = popularity;
        this.trained = trained;
    }

    private static Map<String, RankingMetrics> groups(int[] first, String before) {
        Map<String, RankingMetrics> groups = new LinkedHashMap<>();
        if (before != null) {
            groups.put(before, new RankingMetrics());
        }
        for (int i = 0; i < first.length; i++) {
            groups.put(name(first, i), new RankingMetrics());
        }
        return groups;
    }

    private static String name(int[] first, int i) {
        return i == first.length - 1 ? first[i] + "+" : first[i] + "–" + (first[i + 1] - 1);
    }

    private static String group(int[] first, int value) {
        int i = first.length - 1;
        while (i >= 0 && value < first[i]) {
            i--;
        }
        return i < 0 ? "0" : name(first, i);
    }

    /**
     * @param events that the user has before the held-out one, more than the model sees where it was cut
     * @param rank of the held-out item
     */
    public void add(EvaluationCase held, int events, int rank) {
        all.add(rank);
        if (!trained[held.target()]) {
            cold.add(rank);
        }
        byPopularity.get(group(POPULARITY, popularity[held.target()])).add(rank);
        byHistory.get(group(HISTORY, events)).add(rank);
    }

    /** Metrics and "users" of all held-out items, the cold ones, and each group. */
    public Map<String, Object> asMap() {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("all", group(all));
        map.put("cold", group(cold));
        map.put("by_popularity", groups(byPopularity));
        map.put("by_history", groups(byHistory));
        return map;
    }

    private static Map<String, Object> groups(Map<String, RankingMetrics> groups) {
        Map<String, Object> map = new LinkedHashMap<>();
        groups.forEach((name, metrics) -> map.put(name, group(metrics)));
        return map;
    }

    private static Map<String, Object> group(RankingMetrics metrics) {
        Map<String, Object> map = new LinkedHashMap<>(metrics.asMap());
        map.put("users", metrics.users());
        return map;
    }
}
