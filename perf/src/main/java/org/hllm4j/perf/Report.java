package org.hllm4j.perf;

import com.fasterxml.jackson.annotation.JsonInclude;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Objects;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.hllm4j.HllmException;
import org.hllm4j.weights.PendingFile;

/** Rows of one or of several runs, for reading (Markdown with plots beside it) and for later (JSON lines). */
record Report(List<Line> lines) {
    private static final JsonMapper JSON = JsonMapper.builder()
            .defaultPropertyInclusion(
                    JsonInclude.Value.construct(JsonInclude.Include.NON_NULL, JsonInclude.Include.ALWAYS))
            .disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
            .build();
    private static final String EXPLANATION = """

        Times are medians [fastest .. slowest]. *Arithmetic* is what was computed or moved, over time, and its fraction of \
        what the machine was seen to do in the same run; *useful* is what the caller got for it, whatever was saved. A \
        ratio is how many times faster than the peer, the median over pairs of runs taken in turn.
        """;

    /** A use of the benchmark. */
    record Run(String start, String command, Machine machine) {}

    /** A row and where it comes from. */
    record Line(Run run, Row row) {}

    static Report of(Run run, List<Row> rows) {
        return new Report(rows.stream().map(row -> new Line(run, row)).toList());
    }

    private Stream<Row> rows() {
        return lines.stream().map(Line::row);
    }

    /** Which processor a row is of, for reports that have rows of several. */
    private String at(Line line) {
        long processors =
                lines.stream().map(l -> l.run.machine.processor()).distinct().count();
        return processors == 1 ? "" : ", " + line.run.machine.processor();
    }

    // ---- Numbers ----------------------------------------------------------------------------------------------------

    /** As String.format, the same in every country. */
    static String text(String format, Object... arguments) {
        return String.format(Locale.ROOT, format, arguments);
    }

    static String number(double value) {
        double size = Math.abs(value);
        return text(size >= 100 ? "%,.0f" : size >= 10 ? "%.1f" : size >= 1 ? "%.2f" : "%.3f", value);
    }

    static String time(double seconds) {
        return seconds >= 1
                ? number(seconds) + " s"
                : seconds >= 1e-3
                        ? number(1e3 * seconds) + " ms"
                        : seconds >= 1e-6 ? number(1e6 * seconds) + " µs" : number(1e9 * seconds) + " ns";
    }

    private static String time(Row row) {
        Timing time = row.time();
        if (time == null) {
            return "";
        }
        String spread = time.runs() == 1 ? "" : time(time.min()) + " .. " + time(time.max()) + ", ";
        return time(time.median()) + " [" + spread + time.runs() + (time.runs() == 1 ? " run]" : " runs]");
    }

    private static String rate(Row.Rate rate) {
        return rate == null ? "" : number(rate.value()) + " " + rate.unit();
    }

    private static String fraction(Row.Rate rate) {
        return rate == null || rate.fraction() == null ? "" : text("%.2f of %s", rate.fraction(), rate.roofline());
    }

    private static String memory(Row row) {
        String ours = row.memoryGb() == null ? "" : number(row.memoryGb()) + " GB";
        return row.peerMemoryGb() == null ? ours : ours + " (peer " + number(row.peerMemoryGb()) + " GB)";
    }

    private static String peer(Row.Comparison peer) {
        if (peer == null) {
            return "";
        }
        String seconds = time(peer.seconds());
        String checked = peer.outputs() + ": " + peer.check();
        return (Boolean.FALSE.equals(peer.agrees()) ? "MISMATCH " : "")
                + text(
                        "%.2f x (%s: %s, %d pairs; outputs %s)",
                        peer.ratio(), peer.peer(), seconds, peer.pairs(), checked);
    }

    /** What a row shows, in the order of {@link #COLUMNS}; {@code at} stands behind its name. */
    private static List<String> cells(Row row, String at) {
        return List.of(
                row.name() + at,
                row.size(),
                time(row),
                rate(row.arithmetic()),
                fraction(row.arithmetic()),
                row.useful().stream().map(Report::rate).collect(Collectors.joining(", ")),
                memory(row),
                peer(row.peer()),
                row.note());
    }

    private static final List<String> COLUMNS =
            List.of("what", "size", "time", "arithmetic", "fraction", "useful", "memory", "peer", "note");

    /** For the terminal. */
    static String line(Row row) {
        List<String> cells = cells(row, "");
        return text("%-10s %-46s %-28s", row.group(), cells.get(0), cells.get(1))
                        .stripTrailing()
                + cells.stream()
                        .skip(2)
                        .filter(cell -> !cell.isEmpty())
                        .map(cell -> "  " + cell)
                        .collect(Collectors.joining());
    }

    /** What the rows are to reach: a GPU's, or a processor's. */
    private List<Goal> goals() {
        return rows().anyMatch(row -> row.group().startsWith("gpu")) ? Goal.GPU : Goal.ALL;
    }

    /** The goals and what was reached of them, for the terminal. */
    String outcomes() {
        return goals().stream()
                .flatMap(this::goal)
                .map(cells -> "goal       " + String.join("  ", cells).stripTrailing() + "\n")
                .collect(Collectors.joining());
    }

    // ---- Markdown ---------------------------------------------------------------------------------------------------

    private static String table(List<String> columns, Stream<List<String>> rows) {
        return tableRow(columns) + "|---".repeat(columns.size()) + "|\n"
                + rows.map(Report::tableRow).collect(Collectors.joining());
    }

    private static String tableRow(List<String> cells) {
        return cells.stream()
                .map(cell -> cell.replace("|", "\\|").replaceAll("\\R", " "))
                .collect(Collectors.joining(" | ", "| ", " |\n"));
    }

    /** @param plots links to the pictures */
    String markdown(List<String> plots) {
        StringBuilder text = new StringBuilder("# Benchmark\n\n");
        lines.stream()
                .map(Line::run)
                .distinct()
                .forEach(run -> text.append(text("- %s, %s: `%s`\n", run.start, run.machine.text(), run.command)));
        text.append(EXPLANATION).append("\n## goals\n\n");
        text.append(table(
                List.of("work", "row", "against", "goal", "measured", "", "limited by"),
                goals().stream().flatMap(this::goal)));
        plots.forEach(plot -> text.append(text("\n![%s](%s)\n", plot, plot)));
        lines.stream().filter(line -> line.row.profile() != null).forEach(line -> text.append(profile(line)));
        lines.stream()
                .collect(Collectors.groupingBy(line -> line.row.group(), LinkedHashMap::new, Collectors.toList()))
                .forEach((group, members) -> text.append("\n## " + group + "\n\n")
                        .append(table(COLUMNS, members.stream().map(line -> cells(line.row, at(line))))));
        return text.toString();
    }

    private Stream<List<String>> goal(Goal goal) {
        List<List<String>> found = lines.stream()
                .filter(line -> goal.of(line.row) != null)
                .map(line -> {
                    Goal.Outcome outcome = goal.of(line.row);
                    return List.of(
                            goal.work(),
                            line.row.name() + at(line),
                            goal.against(),
                            goal.wanted(),
                            number(outcome.measured()) + " " + goal.measure().unit,
                            text(
                                    outcome.reached() ? "reached: %.2f x the goal" : "NOT REACHED: %.2f of the goal",
                                    outcome.margin()),
                            outcome.reached() ? "" : Goal.limit(line.row));
                })
                .toList();
        return found.isEmpty()
                ? Stream.of(List.of(goal.work(), "", goal.against(), goal.wanted(), "", "not measured", ""))
                : found.stream();
    }

    private String profile(Line line) {
        Row row = line.row;
        Profile profile = row.profile();
        return text(
                        "\n## profile: %s, %s\n\n%s, outside native operations %.1f %%\n\n",
                        row.name(), row.size() + at(line), time(profile.seconds()), 100 * profile.outside())
                + table(
                        List.of("operation", "calls", "time", "share", "arithmetic"),
                        profile.ops().stream()
                                .map(op -> List.of(
                                        op.name(),
                                        Integer.toString(op.calls()),
                                        time(op.seconds()),
                                        text("%.1f %%", 100 * profile.share(op)),
                                        op.rate())));
    }

    /** The pictures, by the end of their file names; those without data are left out. */
    Map<String, BarChart> plots() {
        Map<String, BarChart> plots = new LinkedHashMap<>();
        plots.put("goals", new BarChart("Goals: 1 is reached", 1));
        plots.put("trie", new BarChart("Trie nodes computed per token, at equal vectors", 1));
        plots.put("peer", new BarChart("Times faster than the peer", 1));
        plots.put("roofline", new BarChart("Fraction of the roofline", 1));
        plots.put("gemm", new BarChart("GEMM, gate+up of each model", 0));
        for (Goal goal : goals()) {
            lines.stream().filter(line -> goal.of(line.row) != null).forEach(line -> {
                Goal.Outcome outcome = goal.of(line.row);
                plots.get("goals").add(outcome.goal() + ": " + outcome.row() + at(line), outcome.margin(), "");
            });
        }
        lines.forEach(line -> {
            Row row = line.row;
            String label = row.name() + ", " + row.size() + at(line);
            if (row.group().equals(EmbedRows.TRIE) && !row.failed()) {
                plots.get("trie")
                        .add(row.name() + at(line), row.useful().getFirst().value(), "");
            }
            if (row.peer() != null) {
                plots.get("peer").add(label, row.peer().ratio(), "x");
            }
            Row.Rate rate = row.arithmetic();
            if (rate != null && row.group().equals("gemm")) {
                if (row.name().contains("gate+up") && rate.unit().equals("GFLOP/s")) {
                    plots.get("gemm").add(label, rate.value(), rate.unit());
                }
            } else if (rate != null && rate.fraction() != null) {
                plots.get("roofline").add(label, rate.fraction(), "");
            }
        });
        plots.values().removeIf(BarChart::isEmpty);
        return plots;
    }

    // ---- Files ------------------------------------------------------------------------------------------------------

    /** Makes the folder that a file will lie in. */
    static void makeFolder(Path file) {
        try {
            Files.createDirectories(file.toAbsolutePath().getParent());
        } catch (IOException e) {
            throw new HllmException(file + ": its folder cannot be made: " + e, e);
        }
    }

    /** Writes the report, and its plots as NAME-trie.svg and so on beside it. */
    void write(Path file) {
        String name = file.getFileName().toString().replaceFirst("\\.[^.]*$", "");
        Map<String, BarChart> plots = plots();
        List<String> links =
                plots.keySet().stream().map(plot -> name + "-" + plot + ".svg").toList();
        plots.forEach((plot, chart) -> write(file.resolveSibling(name + "-" + plot + ".svg"), chart.svg()));
        write(file, markdown(links));
    }

    private static void write(Path file, String text) {
        PendingFile.write(file, text.getBytes(StandardCharsets.UTF_8));
    }

    /** Appends a line for each row: the run, the row and what it says about goals, side by side. */
    void append(Path history) {
        StringBuilder text = new StringBuilder();
        for (Line line : lines) {
            ObjectNode object = JSON.valueToTree(line.run);
            object.setAll((ObjectNode) JSON.valueToTree(line.row));
            object.put("ok", line.row.ok());
            object.set(
                    "goals",
                    JSON.valueToTree(goals().stream()
                            .map(goal -> goal.of(line.row))
                            .filter(Objects::nonNull)
                            .toList()));
            text.append(object).append('\n');
        }
        try {
            Files.writeString(history, text, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        } catch (IOException e) {
            throw new HllmException(history + ": cannot be written: " + e, e);
        }
    }

    /** The rows of a history; of those with the same processor, group, name and size the last. */
    static Report read(Path history) {
        Map<String, Line> lines = new LinkedHashMap<>();
        try {
            for (String text : Files.readAllLines(history)) {
                Line line = new Line(JSON.readValue(text, Run.class), JSON.readValue(text, Row.class));
                lines.put(line.run.machine.processor() + ", " + line.row.key(), line);
            }
        } catch (JsonProcessingException e) {
            throw new HllmException(history + ": a line is no row of this benchmark: " + e.getOriginalMessage(), e);
        } catch (IOException e) {
            throw new HllmException(history + ": cannot be read: " + e, e);
        }
        return new Report(List.copyOf(lines.values()));
    }
}
