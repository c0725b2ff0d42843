package org.hllm4j.perf;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayInputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.util.List;
import javax.xml.parsers.DocumentBuilderFactory;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ReportTest {
    private static final Machine MACHINE = new Machine("a cpu", "avx2", 2, 2, 8, "Linux", "25", "hllm 1", 1.5, "abc");
    private static final Row ROW = Row.of("embed", "movies | whole", "10 items", new Timing(List.of(0.5, 0.25, 1.0)))
            .arithmetic(Row.Rate.of(150, "GFLOP/s", 200, "best GEMM"))
            .useful(Row.Rate.of(20, "items/s"), Row.Rate.of(600, "tokens/s"))
            .memory(1.25)
            .peer(Row.Comparison.of("hf", List.of(0.5), List.of(1.0), false, "error 1"))
            .note("two\nlines");
    private static final Row TRIE =
            Row.of("trie", "movies & more", "10 items", null).useful(Row.Rate.of(0.6, "nodes per token"));
    private static final Report REPORT =
            new Report(MACHINE, Instant.EPOCH, "hllm bench", List.of(ROW, TRIE, Row.failed("op", "x", "why")));

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
                        + " | 0.75 of best GEMM | 20.0 items/s, 600 tokens/s | 1.25 GB"
                        + " | MISMATCH 2.00 x (hf: 1.00 s, 1 pairs; outputs MISMATCH: error 1) | two lines |"),
                text);
        assertTrue(text.contains("BUSY"), text);
        assertTrue(text.contains("![report-trie.svg](report-trie.svg)"), text);
        assertTrue(text.contains("FAILED: why"), text);
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
        assertEquals(0.5, first.get("seconds").doubleValue());
        assertEquals(2, first.get("ratio").doubleValue());
        assertEquals(600, first.get("tokens/s").doubleValue());
        assertEquals("abc", first.get("commit").textValue());
        assertFalse(first.get("ok").booleanValue());
        REPORT.write(folder.resolve("report.md"));
        assertTrue(Files.exists(folder.resolve("report-trie.svg")));
    }
}
