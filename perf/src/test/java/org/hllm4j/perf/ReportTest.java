package org.hllm4j.perf;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayInputStream;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import javax.xml.parsers.DocumentBuilderFactory;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ReportTest {
    private static final Machine MACHINE =
            new Machine("a cpu", "avx2", 2, 2, 8, "Linux", "25", "hllm 1", 1.5, "abc", null);
    private static final Row ROW = Row.of("embed", "movies | whole", "10 items", Timing.of(List.of(0.5, 0.25, 1.0)))
            .arithmetic(Row.Rate.of(150, "GFLOP/s", 200, "best GEMM"))
            .useful(10, "items")
            .useful(300, "tokens")
            .memory(1.25, 2.5)
            .profile(new Profile(0.5, List.of(new Profile.Op("linear_forward", 3, 0.4, 2e9))))
            .peer(Row.Comparison.of("hf", List.of(0.5), List.of(1.0), false, "error 1"))
            .note("two\nlines");
    private static final Row TRIE =
            Row.of("trie", "movies & more", "10 items", null).useful(Row.Rate.of(0.6, "nodes per token"));
    private static final Report.Run RUN = new Report.Run("1970-01-01T00:00:00Z", "hllm bench", MACHINE);
    private static final Report REPORT = Report.of(RUN, List.of(ROW, TRIE, Row.failed("op", "x", "why")));

    @Test
    void numbersKeepThreeDigits() {
        assertEquals("1,234", Report.number(1234.4));
        assertEquals("12.3", Report.number(12.34));
        assertEquals("0.012", Report.number(0.0123));
        assertEquals("2.50 ms", Report.time(0.0025));
        assertEquals("3.40 ns", Report.time(3.4e-9));
    }

    @Test
    void aRowShowsEverything() {
        String text = REPORT.markdown(List.of("report-trie.svg"));
        assertTrue(
                text.contains("| movies \\| whole | 10 items | 500 ms [250 ms .. 1.00 s, 3 runs] | 150 GFLOP/s"
                        + " | 0.75 of best GEMM | 20.0 items/s, 600 tokens/s | 1.25 GB (peer 2.50 GB)"
                        + " | MISMATCH 2.00 x (hf: 1.00 s, 1 pairs; outputs MISMATCH: error 1) | two lines |"),
                text);
        assertTrue(text.contains("BUSY"), text);
        assertTrue(text.contains("![report-trie.svg](report-trie.svg)"), text);
        assertTrue(text.contains("FAILED: why"), text);
        assertTrue(text.contains("| linear_forward | 3 | 400 ms | 80.0 % | 5.00 GFLOP/s |"), text);
        assertTrue(
                text.contains("| embed beauty |  | hf_hllm.py embed | ≥ 1.70 x as fast |  | not measured |  |"), text);
    }

    @Test
    void plotsAreXmlAndThoseWithoutDataAreLeftOut() throws Exception {
        assertEquals(
                List.of("trie", "peer", "roofline"), List.copyOf(REPORT.plots().keySet()));
        for (BarChart chart : REPORT.plots().values()) {
            byte[] svg = chart.svg().getBytes("UTF-8");
            var document =
                    DocumentBuilderFactory.newInstance().newDocumentBuilder().parse(new ByteArrayInputStream(svg));
            assertEquals("svg", document.getDocumentElement().getTagName());
            assertEquals(2, document.getElementsByTagName("rect").getLength()); // the ground and one bar
        }
    }

    @Test
    void historyGrowsByALineForEachRow(@TempDir Path folder) throws Exception {
        Path history = folder.resolve("new/history.jsonl");
        Report.makeFolder(history);
        REPORT.append(history);
        REPORT.append(history);
        List<String> lines = Files.readAllLines(history);
        assertEquals(6, lines.size());
        JsonNode first = new ObjectMapper().readTree(lines.getFirst());
        assertEquals(0.5, first.at("/time/median").doubleValue());
        assertEquals(2, first.at("/peer/ratio").doubleValue());
        assertEquals("abc", first.at("/machine/commit").textValue());
        assertFalse(first.get("ok").booleanValue());
        assertTrue(first.get("goals").isArray());
        REPORT.write(folder.resolve("report.md"));
        assertTrue(Files.exists(folder.resolve("report-trie.svg")));
    }

    /** What is read back is what was measured; of a row measured again the later one, at the place of the first. */
    @Test
    void partialRunsBecomeOneReport(@TempDir Path folder) {
        Path history = folder.resolve("history.jsonl");
        REPORT.append(history);
        assertEquals(REPORT, Report.read(history));
        Row reached = Row.of("embed", "amazon-beauty, first items, cut at 64", "512 items", Timing.of(List.of(1.0)))
                .peer(Row.Comparison.of("hf", List.of(1.0), List.of(3.4), true, ""));
        Report.Run later = new Report.Run("1970-01-02T00:00:00Z", "hllm bench --only x", MACHINE);
        Report.of(later, List.of(reached, TRIE.note("again"))).append(history);
        Report merged = Report.read(history);
        assertEquals(
                List.of(ROW, TRIE.note("again"), REPORT.lines().getLast().row(), reached),
                merged.lines().stream().map(Report.Line::row).toList());
        assertEquals(
                0,
                Bench.run(
                        new PrintWriter(System.out),
                        new PrintWriter(System.err),
                        "report",
                        "--from",
                        history.toString(),
                        "--out",
                        folder + "/r.md"));
        String text = merged.markdown(List.of());
        assertTrue(text.contains("| ≥ 1.70 x as fast | 3.40 x as fast | reached: 2.00 x the goal |  |"), text);
        assertTrue(text.contains("--only x") && Files.exists(folder.resolve("r-goals.svg")), text);

        Machine other = new Machine("another cpu", "avx2", 2, 2, 8, "Linux", "25", "hllm 1", 0, "abc", null);
        Report.of(new Report.Run("1970-01-03T00:00:00Z", "hllm bench", other), List.of(TRIE))
                .append(history);
        String both = Report.read(history).markdown(List.of());
        assertTrue(both.contains("movies & more, a cpu |") && both.contains("movies & more, another cpu |"), both);
    }
}
