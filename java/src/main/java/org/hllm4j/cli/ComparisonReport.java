package org.hllm4j.cli;

import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.stream.IntStream;
import org.hllm4j.eval.RankingMetrics;
import org.hllm4j.weights.PendingFile;

/**
 * The tables and plots of a comparison, on the test split.
 *
 * @param about lines about data, machine and command, in Markdown
 * @param rows results of each entrant, see {@link CompareCommand}
 */
record ComparisonReport(List<String> about, List<Row> rows) {
    private static final String MEASURE = "ndcg@10";

    /**
     * @param test the split's {@link org.hllm4j.eval.Breakdown} as a map
     * @param steps of its training
     * @param epoch the best by validation
     * @param seconds of the training
     */
    record Row(Entrant entrant, Map<String, ?> test, long steps, int epoch, double seconds) {
        Map<String, ?> group(String name) {
            return cast(test.get(name));
        }

        double percent(Map<String, ?> group, String metric) {
            return users(group) == 0 ? Double.NaN : 100 * ((Number) group.get(metric)).doubleValue();
        }

        static long users(Map<String, ?> group) {
            return ((Number) group.get("users")).longValue();
        }
    }

    /** A map within a map, as JSON has them. */
    @SuppressWarnings("unchecked")
    static Map<String, ?> cast(Object map) {
        return (Map<String, ?>) map;
    }

    /** Writes compare.md and its pictures; those that an earlier comparison left are replaced. */
    void write(Path folder) {
        StringBuilder text = new StringBuilder("# Comparison\n\n");
        about.forEach(line -> text.append(line).append('\n'));
        text.append(
                "\nTest split, in percent: the last event of each user, every item of the catalogue ranked, items of the"
                        + " history left out. R: Recall (hit rate), N: NDCG. Cold: held-out items without an event in what the"
                        + " model was trained on; the number of them in brackets.\n\n");
        text.append(table());
        Map<String, String> pictures = new LinkedHashMap<>();
        pictures.put("recall", byCutoff("recall", "Recall@K").bars());
        pictures.put("ndcg", byCutoff("ndcg", "NDCG@K").bars());
        text.append(shown("recall", "Recall@K")).append(shown("ndcg", "NDCG@K"));
        text.append(groups("by_popularity", "training events of the held-out item", "popularity", pictures));
        text.append(groups("by_history", "events of the user before it", "history", pictures));
        axes().forEach(axis -> {
            String name = axis.replace(' ', '-');
            pictures.put(name, along(axis).lines());
            text.append("\n## By ").append(axis).append("\n\n").append(shown(name, "NDCG@10 by " + axis));
        });
        pictures.forEach((name, svg) ->
                PendingFile.write(folder.resolve("compare-" + name + ".svg"), svg.getBytes(StandardCharsets.UTF_8)));
        PendingFile.write(folder.resolve("compare.md"), text.toString().getBytes(StandardCharsets.UTF_8));
    }

    private static String shown(String picture, String what) {
        return "\n![" + what + "](compare-" + picture + ".svg)\n";
    }

    private List<Entrant> entrants() {
        return rows.stream().map(Row::entrant).toList();
    }

    private String label(Row row) {
        return row.entrant.label(entrants());
    }

    /** The main table; also what the command prints. */
    String table() {
        List<String> head = new ArrayList<>(List.of("model", "steps", "best epoch", "minutes"));
        for (String kind : List.of("R", "N")) {
            for (int k : RankingMetrics.CUTOFFS) {
                head.add(kind + "@" + k);
            }
        }
        head.addAll(List.of("cold R@10", "cold R@50"));
        List<List<String>> lines = new ArrayList<>();
        for (Row row : rows) {
            List<String> line = new ArrayList<>(List.of(
                    label(row),
                    Long.toString(row.steps),
                    row.steps == 0 ? "–" : Integer.toString(row.epoch),
                    String.format(Locale.ROOT, "%.1f", row.seconds / 60)));
            for (String metric : new RankingMetrics().asMap().keySet()) {
                line.add(number(row.percent(row.group("all"), metric)));
            }
            Map<String, ?> cold = row.group("cold");
            line.add(number(row.percent(cold, "recall@10")) + " (" + Row.users(cold) + ")");
            line.add(number(row.percent(cold, "recall@50")));
            lines.add(line);
        }
        return markdown(head, lines);
    }

    private static String markdown(List<String> head, List<List<String>> lines) {
        StringBuilder table = new StringBuilder("| " + String.join(" | ", head) + " |\n");
        table.append("|---").append("|---:".repeat(head.size() - 1)).append("|\n");
        lines.forEach(
                line -> table.append("| ").append(String.join(" | ", line)).append(" |\n"));
        return table.toString();
    }

    private static String number(double percent) {
        return Double.isNaN(percent) ? "–" : String.format(Locale.ROOT, "%.2f", percent);
    }

    private Chart byCutoff(String metric, String title) {
        return new Chart(
                title,
                "%",
                Arrays.stream(RankingMetrics.CUTOFFS)
                        .mapToObj(Integer::toString)
                        .toList(),
                rows.stream()
                        .map(row -> new Chart.Series(
                                label(row),
                                Arrays.stream(RankingMetrics.CUTOFFS)
                                        .mapToDouble(k -> row.percent(row.group("all"), metric + "@" + k))
                                        .toArray()))
                        .toList());
    }

    /** A table and a picture of the groups; the groups hold the same users in every row. */
    private String groups(String breakdown, String what, String picture, Map<String, String> pictures) {
        Map<String, ?> first = rows.getFirst().group(breakdown);
        List<String> names = first.keySet().stream()
                .filter(name -> Row.users(cast(first.get(name))) > 0)
                .toList();
        List<String> head = new ArrayList<>(List.of("N@10"));
        names.forEach(name -> head.add(name + " (" + Row.users(cast(first.get(name))) + ")"));
        List<List<String>> lines = new ArrayList<>();
        List<Chart.Series> series = new ArrayList<>();
        for (Row row : rows) {
            double[] values = names.stream()
                    .mapToDouble(name -> row.percent(cast(row.group(breakdown).get(name)), MEASURE))
                    .toArray();
            List<String> line = new ArrayList<>(List.of(label(row)));
            Arrays.stream(values).forEach(value -> line.add(number(value)));
            lines.add(line);
            series.add(new Chart.Series(label(row), values));
        }
        pictures.put(picture, new Chart("NDCG@10 by " + what, "%", names, series).bars());
        return "\n## By " + what + "\n\nUsers in brackets.\n\n" + markdown(head, lines)
                + shown(picture, "NDCG@10 by " + what);
    }

    /** Axes along which an entrant has another value than one of its kind. */
    private Set<String> axes() {
        Set<String> axes = new LinkedHashSet<>();
        for (Entrant one : entrants()) {
            for (Entrant other : entrants()) {
                one.settings().forEach((axis, value) -> {
                    if (other.kind() == one.kind()
                            && !value.equals(other.settings().get(axis))) {
                        axes.add(axis);
                    }
                });
            }
        }
        return axes;
    }

    /** One line for each set of entrants that differ in nothing but this axis. */
    private Chart along(String axis) {
        List<String> places = rows.stream()
                .map(row -> row.entrant.settings().get(axis))
                .filter(Objects::nonNull)
                .distinct()
                .toList();
        Map<String, double[]> lines = new LinkedHashMap<>();
        for (Row row : rows) {
            Map<String, String> rest = new LinkedHashMap<>(row.entrant.settings());
            String value = rest.remove(axis);
            if (value != null) {
                String name = label(row).replace(", " + axis + " " + value, "");
                double[] line = lines.computeIfAbsent(
                        name,
                        n -> IntStream.range(0, places.size())
                                .mapToDouble(i -> Double.NaN)
                                .toArray());
                line[places.indexOf(value)] = row.percent(row.group("all"), MEASURE);
            }
        }
        return new Chart(
                "NDCG@10 by " + axis,
                "%",
                places,
                lines.entrySet().stream()
                        .map(e -> new Chart.Series(e.getKey(), e.getValue()))
                        .toList());
    }
}
