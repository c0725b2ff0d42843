package org.hllm4j.perf;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Instant;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;
import org.hllm4j.HllmException;
import org.hllm4j.weights.PendingFile;

/** A run, for reading (Markdown with plots beside it) and for comparing with later ones (JSON lines). */
record Report(Machine machine, Instant start, String command, List<Row> rows) {
    private static final ObjectMapper JSON = new ObjectMapper();

    // ---- Numbers ----------------------------------------------------------------------------------------------------

    static String number(double value) {
        double size = Math.abs(value);
        return String.format(
                Locale.ROOT, size >= 100 ? "%,.0f" : size >= 10 ? "%.1f" : size >= 1 ? "%.2f" : "%.3f", value);
    }

    static String time(double seconds) {
        return seconds >= 1
                ? number(seconds) + " s"
                : seconds >= 1e-3
                        ? number(1e3 * seconds) + " ms"
                        : seconds >= 1e-6 ? number(1e6 * seconds) + " µs" : number(1e9 * seconds) + " ns";
    }

    private static String time(Row row) {
        if (row.time() == null) {
            return "";
        }
        Timing time = row.time();
        String spread = time.seconds().size() == 1
                ? "1 run"
                : time(time.min()) + " .. " + time(time.max()) + ", "
                        + time.seconds().size() + " runs";
        return time(time.median()) + " [" + spread + "]";
    }

    private static String rate(Row.Rate rate) {
        return rate == null ? "" : number(rate.value()) + " " + rate.unit();
    }

    private static String fraction(Row.Rate rate) {
        return rate == null || rate.fraction() == null
                ? ""
                : String.format(Locale.ROOT, "%.2f of %s", rate.fraction(), rate.roofline());
    }

    private static String useful(Row row) {
        return row.useful().stream().map(Report::rate).collect(Collectors.joining(", "));
    }

    private static String memory(Row row) {
        return row.memoryGb() == null ? "" : number(row.memoryGb()) + " GB";
    }

    private static String peer(Row row) {
        Row.Comparison peer = row.peer();
        return peer == null
                ? ""
                : String.format(
                        Locale.ROOT,
                        "%s%.2f x (%s: %s, %d pairs; outputs %s: %s)",
                        Boolean.FALSE.equals(peer.agrees()) ? "MISMATCH " : "",
                        peer.ratio(),
                        peer.peer(),
                        time(peer.seconds()),
                        peer.pairs(),
                        peer.outputs(),
                        peer.check());
    }

    /** For the terminal. */
    static String line(Row row) {
        StringBuilder line = new StringBuilder(String.format("%-10s %-46s %-28s", row.group(), row.name(), row.size())
                .stripTrailing());
        for (String part : List.of(
                time(row),
                rate(row.arithmetic()),
                fraction(row.arithmetic()),
                useful(row),
                memory(row),
                peer(row),
                row.note())) {
            line.append(part.isEmpty() ? "" : "  " + part);
        }
        return line.toString();
    }

    // ---- Markdown ---------------------------------------------------------------------------------------------------

    /** @param plots links to the pictures */
    String markdown(List<String> plots) {
        StringBuilder text =
                new StringBuilder("# Benchmark of " + start + "\n\n" + machine.text() + "\n\n`" + command + "`\n\n");
        text.append(
                "Times are medians [fastest .. slowest]. *Arithmetic* is what was computed or moved, over time, and its"
                        + " fraction of what the machine was seen to do in this run; *useful* is what the caller got for it,"
                        + " whatever was saved. A ratio is how many times faster than the peer, the median over pairs of runs taken"
                        + " in turn.\n");
        plots.forEach(plot ->
                text.append("\n![").append(plot).append("](").append(plot).append(")\n"));
        Map<String, List<Row>> groups =
                rows.stream().collect(Collectors.groupingBy(Row::group, LinkedHashMap::new, Collectors.toList()));
        groups.forEach((group, members) -> {
            text.append("\n## ").append(group).append("\n\n");
            text.append("| what | size | time | arithmetic | fraction | useful | memory | peer | note |\n");
            text.append("|---|---|---|---|---|---|---|---|---|\n");
            for (Row row : members) {
                text.append(List.of(
                                row.name(),
                                row.size(),
                                time(row),
                                rate(row.arithmetic()),
                                fraction(row.arithmetic()),
                                useful(row),
                                memory(row),
                                peer(row),
                                row.note())
                        .stream()
                        .map(cell -> cell.replace("|", "\\|").replaceAll("\\R", " "))
                        .collect(Collectors.joining(" | ", "| ", " |\n")));
            }
        });
        return text.toString();
    }

    /** The pictures, by the end of their file names; those without data are left out. */
    Map<String, BarChart> plots() {
        Map<String, BarChart> plots = new LinkedHashMap<>();
        plots.put("trie", new BarChart("Trie nodes computed per token, at equal vectors", 1));
        plots.put("peer", new BarChart("Times faster than the peer", 1));
        plots.put("roofline", new BarChart("Fraction of the roofline", 1));
        plots.put("gemm", new BarChart("GEMM, gate+up of each model", 0));
        for (Row row : rows) {
            String label = row.name() + ", " + row.size();
            if (row.group().equals(EmbedRows.TRIE) && !row.failed()) {
                plots.get("trie").add(row.name(), row.useful().getFirst().value(), "");
            }
            if (row.peer() != null) {
                plots.get("peer").add(label, row.peer().ratio(), "x");
            }
            Row.Rate rate = row.arithmetic();
            if (rate == null) {
                continue;
            }
            if (row.group().equals("gemm")
                    && row.name().contains("gate+up")
                    && rate.unit().equals("GFLOP/s")) {
                plots.get("gemm").add(label, rate.value(), rate.unit());
            } else if (!row.group().equals("gemm") && rate.fraction() != null) {
                plots.get("roofline").add(label, rate.fraction(), "");
            }
        }
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

    /** Appends a line for each row, with what it was measured on. */
    void append(Path history) {
        StringBuilder lines = new StringBuilder();
        for (Row row : rows) {
            Map<String, Object> map = new LinkedHashMap<>();
            map.put("start", start.toString());
            map.putAll(machine.asMap());
            map.putAll(row.asMap());
            lines.append(json(map)).append('\n');
        }
        try {
            Files.writeString(history, lines, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        } catch (IOException e) {
            throw new HllmException(history + ": cannot be written: " + e, e);
        }
    }

    private static String json(Map<String, Object> map) {
        try {
            return JSON.writeValueAsString(map);
        } catch (JsonProcessingException e) {
            throw new IllegalStateException(e);
        }
    }
}
