package org.hllm4j.cli;

import static org.hllm4j.cli.TinyWorld.run;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.hllm4j.Tiny;
import org.hllm4j.cli.TinyWorld.Ran;
import org.hllm4j.engine.Context;
import org.hllm4j.run.RunFolder;
import org.hllm4j.weights.Npy;
import org.hllm4j.weights.RowFile;
import org.hllm4j.weights.Safetensors;
import org.hllm4j.weights.StoredType;
import org.hllm4j.weights.TensorSource;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** What a training through adapters leaves is a run like any other: every command takes it. */
class LoraCommandTest {
    private static final String WEIGHTS = "model.safetensors";

    @TempDir
    Path folder;

    private TinyWorld world;

    @AfterEach
    void nothingIsLeft() {
        assertEquals(0, Context.liveBytes("cpu"));
    }

    @ParameterizedTest
    @EnumSource(
            value = StoredType.class,
            names = {"F32", "BF16"})
    void trainedEvaluatedExportedLoaded(StoredType type) throws IOException {
        world = TinyWorld.in(folder, type);
        Path run = folder.resolve("run");
        Path json = folder.resolve("result.json");
        List<?> llm = List.of("--llm", world.llm(), "--text-keys", "title,tag");
        List<?> adapters = List.of("--item-lora", 4, "--user-lora", 3, "--lr", 3e-3);
        ok("train", log(), llm, adapters, List.of("--epochs", 2, "--batch-users", 8, "--out", run, "--json", json));
        double ndcg = number(JsonOption.read(json), "validation", "ndcg@200");
        Map<String, Object> training = new RunFolder(run).manifest().training();
        assertEquals(4, training.get("item_lora"));
        assertEquals(3, training.get("user_lora"));
        assertEquals(16.0, training.get("lora_alpha"));

        Path moved = Files.move(world.llm(), folder.resolve("moved")); // nothing below asks for it
        ok("evaluate", log(), List.of("--run", run, "--json", json));
        // Vectors were encoded by weights and adapters side by side, and here by their sum.
        assertEquals(ndcg, number(JsonOption.read(json), "validation", "hllm", "ndcg@200"), 1e-3);
        ok("recommend", items(), List.of("--run", run, "--history", "i1,i2", "-k", 3));

        Path exported = folder.resolve("exported");
        ok("export", items(), List.of("--run", run, "--out", exported));
        Path model = run.resolve(new RunFolder(run).manifest().modelFolder());
        try (Safetensors before = Safetensors.open(moved.resolve(WEIGHTS));
                Safetensors after =
                        Safetensors.open(exported.resolve("item_llm").resolve(WEIGHTS));
                Safetensors rest = Safetensors.open(model.resolve("hllm.safetensors"))) {
            int products = 0;
            for (String name : before.names()) {
                double changed = Tiny.relativeError(values(before, name), values(after, name));
                boolean product = name.contains("_proj");
                assertEquals(product, changed > 1e-4, name + " changed by " + changed);
                products += product ? 1 : 0;
            }
            assertEquals(2 * 7, products);
            try (RowFile token = Npy.create(folder.resolve("token.npy"), 1, TinyWorld.WIDTH)) {
                token.write(0, FloatBuffer.wrap(values(rest, "item_emb_tokens")));
                token.finish();
            }
        }
        // Opened as a pretrained model, what was exported gives the vectors that the run has.
        Path npy = folder.resolve("vectors.npy");
        List<Object> pretrained = List.of("--llm", exported.resolve("item_llm"), "--text-keys", "title,tag");
        ok("embed", items(), pretrained, List.of("--item-token", folder.resolve("token.npy"), "--out", npy));
        assertArrayEquals(read(exported.resolve("items.npy")), read(npy), 1e-4f);
    }

    /** On top of a run's weights, which had been trained themselves. */
    @Test
    void aRankerFromARun() throws IOException {
        world = TinyWorld.in(folder);
        Path run = folder.resolve("run");
        List<?> llm = List.of("--llm", world.llm(), "--text-keys", "title,tag");
        ok("train", log(), llm, List.of("--epochs", 1, "--batch-users", 8, "--out", run));
        List<String> lines = new ArrayList<>();
        for (String line : Files.readAllLines(world.interactions())) {
            lines.add(line + "," + (lines.isEmpty() ? "liked" : lines.size() % 2));
        }
        Path rated = Files.write(folder.resolve("rated.csv"), lines);
        Path ranker = folder.resolve("ranker");
        ok(
                "train-ranker",
                items(),
                List.of("--interactions", rated, "--from-run", run, "--label", "liked", "--epochs", 1),
                List.of("--item-lora", 2, "--user-lora", 2, "--lora-alpha", 4, "--out", ranker));
        assertEquals(4.0, new RunFolder(ranker).manifest().training().get("lora_alpha"));
        ok("evaluate", items(), List.of("--interactions", rated, "--run", ranker));
    }

    private List<?> items() {
        return List.of("--items", world.items());
    }

    private List<?> log() {
        return List.of("--items", world.items(), "--interactions", world.interactions());
    }

    private static void ok(String command, List<?>... options) {
        List<Object> arguments = new ArrayList<>(List.of(command));
        Arrays.stream(options).forEach(arguments::addAll);
        Ran ran = run(arguments.toArray());
        assertEquals(Main.OK, ran.code(), ran.err());
    }

    private static double number(Map<String, ?> json, String... path) {
        Object found = json;
        for (String name : path) {
            found = ((Map<?, ?>) found).get(name);
        }
        return ((Number) found).doubleValue();
    }

    private static float[] values(TensorSource source, String name) {
        String known = source.names().contains(name) ? name : name.substring("model.".length());
        float[] values = new float[(int) source.info(known).elements()];
        source.read(known, 0, FloatBuffer.wrap(values));
        return values;
    }

    private static float[] read(Path npy) {
        float[] values = new float[TinyWorld.ITEMS * TinyWorld.WIDTH];
        try (Npy.Reader file = Npy.open(npy)) {
            file.read(0, FloatBuffer.wrap(values));
        }
        assertTrue(Tiny.relativeError(values, new float[values.length]) > 0);
        return values;
    }
}
