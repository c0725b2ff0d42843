package org.hllm4j.cli;

import java.util.EnumMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Split;
import org.hllm4j.eval.Evaluator;
import org.hllm4j.eval.RankingMetrics;

/** A model beside popularity, at every K. */
record MetricTable(ModelKind kind, Map<Split, RankingMetrics> model, Map<Split, RankingMetrics> popularity) {
    static MetricTable of(ModelKind kind, Map<Split, RankingMetrics> model, Dataset data) {
        Map<Split, RankingMetrics> popularity = new EnumMap<>(Split.class);
        model.keySet().forEach(split -> popularity.put(split, Evaluator.popularity(data, split)));
        return new MetricTable(kind, model, popularity);
    }

    String text() {
        StringBuilder text = new StringBuilder();
        model.forEach((split, metrics) -> {
            text.append(text.isEmpty() ? "" : System.lineSeparator());
            text.append(
                    String.format(Locale.ROOT, "%s, %d users, in percent%n%-10s", name(split), metrics.users(), ""));
            for (String kind : List.of("R", "N")) {
                for (int k : RankingMetrics.CUTOFFS) {
                    text.append(String.format("%7s", kind + "@" + k));
                }
            }
            text.append(System.lineSeparator());
            row(text, kind.title(), metrics);
            if (kind != ModelKind.POPULARITY) {
                row(text, ModelKind.POPULARITY.title(), popularity.get(split));
            }
        });
        return text.append("R: Recall (hit rate), N: NDCG; every item of the catalogue is ranked")
                .toString();
    }

    private static void row(StringBuilder text, String name, RankingMetrics metrics) {
        text.append(String.format("%-10s", name));
        metrics.asMap().values().forEach(value -> text.append(String.format(Locale.ROOT, "%7.2f", 100 * value)));
        text.append(System.lineSeparator());
    }

    /** Fractions, by split, method and metric. */
    Map<String, Object> asMap() {
        Map<String, Object> map = new LinkedHashMap<>();
        model.forEach((split, metrics) -> {
            Map<String, Object> methods = new LinkedHashMap<>();
            methods.put(kind.toString(), metrics.asMap());
            methods.put(ModelKind.POPULARITY.toString(), popularity.get(split).asMap());
            map.put(name(split), methods);
        });
        map.put("users", model.values().iterator().next().users());
        return map;
    }

    private static String name(Split split) {
        return split.name().toLowerCase(Locale.ROOT);
    }
}
