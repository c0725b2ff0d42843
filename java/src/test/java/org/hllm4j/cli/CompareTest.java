package org.hllm4j.cli;

import static org.hllm4j.cli.TinyWorld.run;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.hllm4j.cli.TinyWorld.Ran;
import org.hllm4j.run.Start;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class CompareTest {
    @TempDir
    static Path folder;

    private static Ran compare(TinyWorld world, Path out, Object... more) {
        List<Object> arguments = new ArrayList<>(List.of("compare", "--llm", world.llm(), "--items", world.items()));
        arguments.addAll(List.of("--interactions", world.interactions(), "--text-keys", "title,tag", "--out", out));
        arguments.addAll(List.of("--epochs", "hllm=2,llm-id=3,sasrec=3", "--max-history", 8));
        arguments.addAll(List.of("--id-width", "llm-id=12,sasrec=8"));
        arguments.addAll(List.of(more));
        return run(arguments.toArray());
    }

    @Test
    void comparesAllAlongAnAxisAndTakesOverWhatIsThere() throws IOException {
        TinyWorld world = TinyWorld.in(folder);
        Path out = folder.resolve("compared");
        Path json = folder.resolve("compared.json");
        Object[] more = {"--minutes", 0, "--train-fraction", "0.5,1", "--item-init", "pretrained,random", "--json", json
        };
        Ran ran = compare(world, out, more);
        assertEquals(Main.OK, ran.code(), ran.err());
        int entrants = 2 * 2 + 2 * (ModelKind.values().length - 2) + 1;
        assertTrue(ran.err().contains("Model " + entrants + " of " + entrants), ran.err());

        JsonNode results = new ObjectMapper().readTree(json.toFile());
        assertEquals(entrants, results.size());
        for (JsonNode test : results) {
            int users = test.path("all").path("users").asInt();
            assertEquals(TinyWorld.USERS - 1, users);
            for (String by : List.of("by_popularity", "by_history")) {
                int sum = 0;
                double hits = 0;
                for (JsonNode group : test.path(by)) {
                    sum += group.path("users").asInt();
                    hits += group.path("users").asInt()
                            * group.path("recall@10").asDouble();
                }
                assertEquals(users, sum, by);
                assertEquals(users * test.path("all").path("recall@10").asDouble(), hits, 1e-9, by);
            }
            assertTrue(test.path("cold").path("users").asInt() <= users);
        }
        String report = Files.readString(out.resolve("compare.md"));
        for (ModelKind kind : ModelKind.values()) {
            assertTrue(report.contains("| " + kind.title()), report);
        }
        for (String picture : List.of("recall", "ndcg", "popularity", "history", "train-fraction", "item-init")) {
            assertTrue(report.contains("(compare-" + picture + ".svg)"), report);
            String svg = Files.readString(out.resolve("compare-" + picture + ".svg"));
            assertTrue(svg.startsWith("<svg") && svg.endsWith("</svg>\n") && !svg.contains("NaN"), svg);
        }

        // The same again trains nothing, an evaluation that is missing is made up for, other options are refused.
        Path one =
                out.resolve(new Entrant(ModelKind.HLLM, 0.5, 0, 0, Start.Init.RANDOM, Start.Init.PRETRAINED).folder());
        byte[] manifest = Files.readAllBytes(one.resolve("manifest.json"));
        Files.delete(one.resolve("comparison.json"));
        Ran again = compare(world, out, more);
        assertEquals(Main.OK, again.code(), again.err());
        assertEquals(ran.out(), again.out());
        assertArrayEquals(manifest, Files.readAllBytes(one.resolve("manifest.json")));
        Ran other = compare(world, out, "--minutes", 0, "--models", "popularity", "--max-text-length", 20);
        assertEquals(Main.ERROR, other.code());
        assertTrue(other.err().contains("another max_text_length (64, not 20)"), other.err());
    }

    @Test
    void aBudgetIsMeasuredOnce() throws IOException {
        TinyWorld world = TinyWorld.in(folder);
        Path out = folder.resolve("budget");
        Object[] more = {"--minutes", 0.01, "--models", "llm-id", "--epochs", "llm-id=100000"};
        Ran ran = compare(world, out, more);
        assertEquals(Main.OK, ran.code(), ran.err());
        assertTrue(ran.err().contains("Measuring") && ran.err().contains("training for"), ran.err());
        assertFalse(compare(world, out, more).err().contains("Measuring"));
    }

    @Test
    void wrongUsageIsSaid() throws IOException {
        TinyWorld world = TinyWorld.in(folder);
        Path out = folder.resolve("wrong");
        Ran share = compare(world, out, "--train-fraction", "0.5,2");
        assertEquals(Main.USAGE, share.code());
        assertTrue(share.err().contains("train fraction is 2.0"), share.err());
        Ran without = run("compare", "--items", world.items(), "--interactions", world.interactions(), "--out", out);
        assertEquals(Main.USAGE, without.code());
        assertTrue(without.err().contains("--llm"), without.err());
        assertFalse(Files.exists(out));
    }
}
