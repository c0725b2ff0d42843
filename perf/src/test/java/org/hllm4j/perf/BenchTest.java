package org.hllm4j.perf;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Set;
import java.util.SplittableRandom;
import java.util.TreeSet;
import org.hllm4j.data.Catalogue;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class BenchTest {
    private final StringWriter out = new StringWriter();
    private final StringWriter err = new StringWriter();

    @TempDir
    private Path folder;

    private int run(String... args) {
        return Bench.run(new PrintWriter(out), new PrintWriter(err), args);
    }

    @Test
    @Tag("slow")
    void aQuickRunMeasuresEveryGroup() throws Exception {
        int status = run(
                "--quick",
                "--seconds-per-row",
                "0.001",
                "--runs",
                "1",
                "--out",
                folder.resolve("r.md").toString(),
                "--history",
                folder.resolve("h.jsonl").toString());
        assertEquals(0, status, out + "\n" + err);
        Set<String> groups = new TreeSet<>();
        for (String line : Files.readAllLines(folder.resolve("h.jsonl"))) {
            JsonNode row = new ObjectMapper().readTree(line);
            groups.add(row.get("group").textValue());
            assertTrue(row.get("ok").booleanValue(), line);
            assertTrue(!row.has("time") || row.at("/time/median").doubleValue() > 0, line);
            assertTrue(!row.has("arithmetic") || row.at("/arithmetic/value").doubleValue() > 0, line);
        }
        assertEquals(
                Set.of("embed", "evaluate", "gemm", "hierarchy", "op", "roofline", "train", "trie", "user"), groups);
        assertTrue(Files.readString(folder.resolve("r.md")).contains("![r-trie.svg](r-trie.svg)"));
        assertTrue(Files.exists(folder.resolve("r-roofline.svg")));
    }

    @Test
    void onlyChoosesRows() throws Exception {
        Path history = folder.resolve("h.jsonl");
        String[] options = {
            "--quick", "--runs", "1", "--seconds-per-row", "0", "--history", history.toString(), "--only"
        };
        String[] args = Arrays.copyOf(options, options.length + 1);
        args[options.length] = "^op adamw$";
        assertEquals(0, run(args), out + "\n" + err);
        assertEquals(1, Files.readAllLines(history).size());
        args[options.length] = "nothing like this";
        assertEquals(1, run(args));
        assertTrue(err.toString().contains("matches nothing"), err.toString());
    }

    @Test
    void wrongUsageIsTwo() {
        assertEquals(2, run("--items", "items.csv"));
        assertTrue(err.toString().contains("--items needs --llm"), err.toString());
        assertEquals(2, run("--peer", "python"));
        assertEquals(2, run("--runs", "0"));
        assertEquals(1, run("--quick", "--only", "^$", "--blas", "no-such-file.so"));
        assertTrue(err.toString().contains("no-such-file.so"), err.toString());
    }

    @Test
    void itemsAreWrittenAsTheyWereRead() throws Exception {
        Path source = folder.resolve("items.csv");
        Files.writeString(source, "item_id,title,year\na,\"x, \"\"y\"\"\nz\",1\nb,,2\nc,w,3\n");
        Items items = new Items(
                "s", Catalogue.read(source, java.util.List.of("title")), java.util.List.of("title"), new int[3][1]);
        items.write(folder.resolve("copy.csv"), 2);
        Catalogue copy = Catalogue.read(folder.resolve("copy.csv"), java.util.List.of("title"));
        assertEquals(2, copy.size());
        assertEquals("x, \"y\"\nz", copy.field(0, "title"));
        assertEquals("", copy.field(1, "title"));
    }

    /** P(x <= 8) is 1 - 10^-0.3, beside the little that the bound folds back. */
    @Test
    void fewItemsAreDrawnOften() {
        SplittableRandom random = new SplittableRandom(1); // seed 1
        int draws = 200_000;
        int few = 0;
        for (int i = 0; i < draws; i++) {
            int item = Items.popular(1 << 30, random);
            assertTrue(item >= 0);
            few += item <= 8 ? 1 : 0;
        }
        assertEquals(1 - Math.pow(10, -0.3), few / (double) draws, 0.005);
    }
}
