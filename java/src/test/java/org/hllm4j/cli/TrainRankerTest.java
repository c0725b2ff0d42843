package org.hllm4j.cli;

import static org.hllm4j.cli.TinyWorld.run;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.stream.Stream;
import org.hllm4j.cli.TinyWorld.Ran;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** The command train-ranker, on a tiny world of random weights with ratings. */
class TrainRankerTest {
    @TempDir
    static Path folder;

    static TinyWorld world;
    static Path log;

    @BeforeAll
    static void rate() throws IOException {
        world = TinyWorld.in(folder);
        List<String> lines = new ArrayList<>();
        for (String line : Files.readAllLines(world.interactions())) {
            int code = line.hashCode() & 0xffff;
            lines.add(line + "," + (lines.isEmpty() ? "rating" : code % 9 == 0 ? "" : code % 11));
        }
        log = Files.write(folder.resolve("rated.csv"), lines);
    }

    private static Ran train(Path out, Object... more) {
        return run(Stream.concat(
                        Stream.of(
                                "train-ranker",
                                "--items",
                                world.items(),
                                "--interactions",
                                log,
                                "--out",
                                out,
                                "--text-keys",
                                "title,tag",
                                "--max-history",
                                8,
                                "--max-text-length",
                                90,
                                "--epochs",
                                2,
                                "--batch-users",
                                8,
                                "--threshold",
                                1),
                        Arrays.stream(more))
                .toArray());
    }

    @ParameterizedTest
    @ValueSource(strings = {"late", "early"})
    void fromAnLlmToMetrics(String fusion) throws IOException {
        Path out = folder.resolve("ranker-" + fusion);
        Path json = folder.resolve(fusion + ".json");
        Ran ran = train(
                out,
                "--llm",
                world.llm(),
                "--label",
                "rating >= 5",
                "--fusion",
                fusion,
                "--lambda",
                0.5,
                "--json",
                json);
        assertEquals(Main.OK, ran.code(), ran.err());
        assertTrue(ran.out().contains("HLLM, " + fusion + " fusion"), ran.out());
        for (String method : List.of("item mean rating", "item rate", "global rate")) {
            assertTrue(ran.out().contains(method), ran.out());
        }
        assertTrue(ran.err().contains("Epoch 2: validation AUC "), ran.err());
        JsonNode summary = new ObjectMapper().readTree(json.toFile());
        assertEquals("rating>=5", summary.path("label").asText());
        assertEquals(0.5, summary.path("lambda").asDouble());
        for (String split : List.of("validation", "test")) {
            JsonNode methods = summary.path("metrics").path(split);
            double auc = methods.path("hllm").path("auc").asDouble();
            assertTrue(auc > 0 && auc < 1, methods.toString());
            assertEquals(0.5, methods.path("global rate").path("auc").asDouble());
            assertFalse(methods.path("item mean rating").has("log_loss"));
        }
        JsonNode manifest =
                new ObjectMapper().readTree(out.resolve("manifest.json").toFile());
        assertEquals(fusion.toUpperCase(Locale.ROOT), manifest.path("fusion").asText());

        Ran again = train(out, "--llm", world.llm(), "--label", "rating>=5", "--fusion", fusion, "--lambda", 0.5);
        assertTrue(again.out().contains("nothing to do"), again.out());
    }

    @Test
    void fromARunWithFrozenSides() {
        Path run = folder.resolve("run");
        Ran generative = run(
                "train",
                "--llm",
                world.llm(),
                "--items",
                world.items(),
                "--interactions",
                world.interactions(),
                "--out",
                run,
                "--text-keys",
                "title,tag",
                "--max-history",
                8,
                "--max-text-length",
                90,
                "--epochs",
                1,
                "--batch-users",
                8,
                "--no-validation");
        assertEquals(Main.OK, generative.code(), generative.err());
        Path out = folder.resolve("from-run");
        Object[] arguments = {
            "train-ranker",
            "--items",
            world.items(),
            "--interactions",
            log,
            "--out",
            out,
            "--epochs",
            1,
            "--label",
            "rating>=5",
            "--from-run",
            run,
            "--freeze",
            "both",
            "--split-at",
            1006
        };
        Ran ran = run(arguments);
        assertEquals(Main.OK, ran.code(), ran.err());
        assertTrue(ran.err().contains("validation from 1006"), ran.err());

        Ran mixed = run(Stream.concat(Arrays.stream(arguments), Stream.of("--llm", world.llm()))
                .toArray());
        assertEquals(Main.USAGE, mixed.code());
        assertTrue(mixed.err().contains("--llm does not go with --from-run"), mixed.err());
    }

    @Test
    void wrongUsageSaysWhatIsExpected() {
        Path out = folder.resolve("nothing");
        Ran noStart = train(out, "--label", "rating>=5");
        assertEquals(Main.USAGE, noStart.code());
        assertTrue(noStart.err().contains("'--from-run=DIR' or '--llm=PATH'"), noStart.err());
        Ran rule = train(out, "--llm", world.llm(), "--label", "rating=5");
        assertEquals(Main.USAGE, rule.code());
        assertTrue(rule.err().contains("label rule \"rating=5\""), rule.err());
        Ran column = train(out, "--llm", world.llm(), "--label", "stars>=5");
        assertEquals(Main.ERROR, column.code());
        assertTrue(column.err().contains("no column \"stars\""), column.err());
        Ran always = train(out, "--llm", world.llm(), "--label", "rating>=0");
        assertEquals(Main.ERROR, always.code());
        assertTrue(always.err().contains("nothing to learn"), always.err());
        Ran labels = train(out, "--llm", world.llm(), "--label", "rating");
        assertEquals(Main.ERROR, labels.code());
        assertTrue(labels.err().contains("give a rule"), labels.err());
        assertFalse(Files.exists(out.resolve("manifest.json")));
    }
}
