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
import java.util.List;
import org.hllm4j.cli.TinyWorld.Ran;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Models that know items by their ids, through the same commands as an HLLM. */
class BaselinesTest {
    @TempDir
    static Path folder;

    static TinyWorld world;

    @BeforeAll
    static void data() {
        world = TinyWorld.in(folder);
    }

    private static Object[] train(ModelKind kind, Path out, Object... more) {
        List<Object> arguments = new ArrayList<>(List.of("train", "--model", kind, "--items", world.items()));
        arguments.addAll(List.of("--interactions", world.interactions(), "--text-keys", "title,tag", "--out", out));
        switch (kind) {
            case LLM_ID -> arguments.addAll(List.of("--llm", world.llm(), "--id-width", 12, "--epochs", 3));
            case SASREC -> arguments.addAll(List.of("--id-width", 12, "--heads", 3, "--epochs", 3));
            case POPULARITY, HLLM -> {}
        }
        arguments.addAll(List.of(more));
        return arguments.toArray();
    }

    private static Object[] on(Path run, String command, Object... more) {
        List<Object> arguments = new ArrayList<>(List.of(command, "--run", run, "--items", world.items()));
        arguments.addAll(List.of(more));
        return arguments.toArray();
    }

    private static String good(Ran ran) {
        assertEquals(Main.OK, ran.code(), ran.err());
        return ran.out();
    }

    private static void refused(Ran ran, int code, String... parts) {
        assertEquals(code, ran.code(), ran.err());
        for (String part : parts) {
            assertTrue(ran.err().contains(part), ran.err());
        }
    }

    private static JsonNode json(Path file) throws IOException {
        return new ObjectMapper().readTree(file.toFile());
    }

    @ParameterizedTest
    @EnumSource(mode = EnumSource.Mode.EXCLUDE, names = "HLLM")
    void trainsEvaluatesRecommendsAndRefusesWhatTakesTexts(ModelKind kind) throws IOException {
        Path run = folder.resolve(kind.toString());
        assertTrue(good(run(train(kind, run, "--plan"))).contains("Steps"));
        assertFalse(Files.exists(run));
        good(run(train(kind, run)));
        assertEquals(
                kind.toString(),
                json(run.resolve("manifest.json"))
                        .path("training")
                        .path("model")
                        .asText());
        assertTrue(good(run(train(kind, run))).contains("finished"));

        Path json = folder.resolve(kind + ".json");
        String shown = good(run(on(run, "evaluate", "--interactions", world.interactions(), "--json", json)));
        assertTrue(shown.contains(kind.title()), shown);
        JsonNode test = json(json).path("test");
        assertEquals(8, test.path(kind.toString()).size());
        assertEquals(8, test.path("popularity").size());
        String found = good(run(on(run, "recommend", "--history", "i3,i6", "-k", 4)));
        assertTrue(found.contains("Story") && !found.contains("Story 3, part 0;"), found);
        good(run(on(run, "export", "--out", folder.resolve("vectors-" + kind), "--what", "vectors")));

        String why = "knows its items by their ids";
        refused(run(on(run, "export", "--out", folder.resolve("x"))), Main.ERROR, why, "--what vectors");
        refused(run(on(run, "embed", "--out", folder.resolve("x.npy"))), Main.ERROR, why);
        refused(run(on(run, "serve", "--log", folder.resolve("x.log"))), Main.ERROR, why);
        Path fewer = folder.resolve("fewer.csv");
        Files.write(fewer, Files.readAllLines(world.items()).subList(0, 40));
        refused(
                run("recommend", "--run", run, "--items", fewer, "--history", "i3"),
                Main.ERROR,
                kind.toString(),
                "the 60 items that it was trained on; the 39 given");
        refused(run(train(kind, folder.resolve("y"), "--pooling", "mean")), Main.USAGE, "--pooling", kind.toString());
    }

    @Test
    void popularityIsItsBaseline() throws IOException {
        Path run = folder.resolve("popular");
        good(run(train(ModelKind.POPULARITY, run)));
        Path json = folder.resolve("popular.json");
        good(run(on(run, "evaluate", "--interactions", world.interactions(), "--json", json)));
        JsonNode metrics = json(json);
        JsonNode validated = json(run.resolve("summary.json")).path("validation");
        assertEquals(metrics.path("validation").path("popularity"), validated);
    }

    @Test
    void idOptionsHaveNoMeaningForAnHllm() {
        refused(
                run(train(ModelKind.HLLM, folder.resolve("z"), "--llm", world.llm(), "--id-width", 3)),
                Main.USAGE,
                "--id-width has no meaning for --model hllm");
        refused(run(train(ModelKind.POPULARITY, folder.resolve("z"), "--llm", world.llm())), Main.USAGE, "--llm");
    }
}
