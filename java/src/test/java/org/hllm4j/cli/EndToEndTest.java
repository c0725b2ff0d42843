package org.hllm4j.cli;

import static org.hllm4j.cli.TinyWorld.run;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.io.IOException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.hllm4j.cli.TinyWorld.Ran;
import org.hllm4j.engine.Context;
import org.hllm4j.run.IdFile;
import org.hllm4j.weights.Npy;
import org.hllm4j.weights.PretrainedModel;
import org.hllm4j.weights.RowFile;
import org.hllm4j.weights.Safetensors;
import org.hllm4j.weights.TorchCheckpoint;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The commands one after the other, on a tiny world of random weights. */
class EndToEndTest {
    @TempDir
    static Path folder;

    static TinyWorld world;
    static Path run;

    @BeforeAll
    static void train() throws IOException {
        world = TinyWorld.in(folder);
        run = folder.resolve("run");
        Path json = folder.resolve("train.json");
        Ran ran = run(arguments("train", run, "--epochs", 2, "--json", json));
        assertEquals(Main.OK, ran.code(), ran.err());
        assertTrue(ran.out().contains("hllm evaluate --run " + run), ran.out());
        assertTrue(ran.err().contains("Epoch 2: validation"), ran.err());
        JsonNode summary = json(json);
        assertTrue(summary.path("finished").asBoolean());
        assertEquals(20, summary.path("steps").asInt());
        assertEquals(TinyWorld.ITEMS, summary.path("items").asInt());
        assertTrue(summary.path("seconds").asDouble() > 0);
        assertTrue(summary.path("validation").path("ndcg@200").isDouble());
    }

    @Test
    void aFinishedTrainingIsLeftAlone() throws IOException {
        byte[] manifest = Files.readAllBytes(run.resolve("manifest.json"));
        Ran again = run(arguments("train", run, "--epochs", 2));
        assertEquals(Main.OK, again.code(), again.err());
        assertTrue(again.out().contains("finished") && again.out().contains("--restart"), again.out());
        assertArrayEquals(manifest, Files.readAllBytes(run.resolve("manifest.json")));
    }

    @Test
    void restartTrainsAgainToTheSameModel() throws IOException {
        Path other = folder.resolve("other");
        assertEquals(Main.OK, run(arguments("train", other, "--epochs", 1)).code());
        Files.writeString(other.resolve("notes.txt"), "mine");
        Ran again = run(arguments("train", other, "--epochs", 2, "--restart"));
        assertEquals(Main.OK, again.code(), again.err());
        assertTrue(Files.exists(other.resolve("notes.txt")));
        assertEquals(
                json(run.resolve("manifest.json")).path("sha256"),
                json(other.resolve("manifest.json")).path("sha256"));
    }

    @Test
    void maxStepsEndTheSchedule() throws IOException {
        Path few = folder.resolve("few");
        Ran ran = run(arguments("train", few, "--epochs", 5, "--max-steps", 3, "--no-validation"));
        assertEquals(Main.OK, ran.code(), ran.err());
        List<String> steps = Files.readAllLines(few.resolve("steps.jsonl"));
        assertEquals(3, steps.size());
        assertTrue(new ObjectMapper().readTree(steps.get(2)).path("lr").asDouble() < 1e-4 / 2);
    }

    @Test
    void evaluateSetsHllmBesidePopularity() throws IOException {
        Path json = folder.resolve("metrics.json");
        Ran ran = run(evaluate(run, "--json", json));
        assertEquals(Main.OK, ran.code(), ran.err());
        JsonNode metrics = json(json);
        for (String split : List.of("validation", "test")) {
            assertTrue(ran.out().contains(split + ", " + (TinyWorld.USERS - 1) + " users"), ran.out());
            for (String method : List.of("hllm", "popularity")) {
                JsonNode found = metrics.path(split).path(method);
                assertEquals(8, found.size(), found.toString());
                double last = 0;
                for (String metric : List.of("recall@5", "recall@10", "recall@50", "recall@200")) {
                    double value = found.path(metric).asDouble(-1);
                    assertTrue(value >= last && value <= 1, found.toString());
                    last = value;
                }
                assertTrue(
                        found.path("ndcg@10").asDouble(-1)
                                <= found.path("recall@10").asDouble(),
                        found.toString());
                String shown = "%7.2f".formatted(100 * found.path("ndcg@200").asDouble());
                assertTrue(ran.out().contains(shown), ran.out());
            }
        }
        assertEquals(TinyWorld.USERS - 1, metrics.path("users").asInt());
        assertTrue(ran.out().contains("HLLM ") && ran.out().contains("popularity "), ran.out());
        // The validation during training was of the same model.
        assertEquals(
                json(run.resolve("summary.json"))
                        .path("validation")
                        .path("ndcg@200")
                        .asDouble(),
                metrics.path("validation").path("hllm").path("ndcg@200").asDouble(),
                1e-6);
        Ran bf16 = run(evaluate(run, "--dtype", "bf16"));
        assertEquals(Main.OK, bf16.code(), bf16.err());
    }

    @Test
    void recommendByUserAndByHistory() throws IOException {
        Path json = folder.resolve("users.json");
        Ran ran = run(
                "recommend",
                "--run",
                run,
                "--items",
                world.items(),
                "--interactions",
                world.interactions(),
                "--user",
                "u1",
                "--user",
                "u0",
                "-k",
                4,
                "--json",
                json);
        assertEquals(Main.OK, ran.code(), ran.err());
        JsonNode users = json(json).path("users");
        assertEquals(2, users.size());
        assertEquals("u1", users.get(0).path("user").asText());
        assertEquals(2, users.get(1).path("history").size());
        List<String> seen = new ArrayList<>();
        users.get(0)
                .path("history")
                .forEach(entry -> seen.add(entry.path("item").asText()));
        assertEquals(4, users.get(0).path("recommended").size());
        users.get(0).path("recommended").forEach(entry -> {
            assertFalse(seen.contains(entry.path("item").asText()));
            assertTrue(entry.path("title").asText().startsWith("Story "));
            assertTrue(ran.out().contains(entry.path("title").asText()), ran.out());
        });

        Path same = folder.resolve("history.json");
        Ran history = run(
                "recommend",
                "--run",
                run,
                "--items",
                world.items(),
                "--history",
                String.join(",", seen),
                "-k",
                4,
                "--json",
                same);
        assertEquals(Main.OK, history.code(), history.err());
        assertEquals(
                users.get(0).path("recommended").findValuesAsText("item"),
                json(same).path("users").get(0).path("recommended").findValuesAsText("item"));

        Ran unknown = run("recommend", "--run", run, "--items", world.items(), "--history", "i1,zz");
        assertEquals(Main.ERROR, unknown.code());
        assertTrue(unknown.err().contains("item \"zz\""), unknown.err());
        unknown = run(
                "recommend",
                "--run",
                run,
                "--items",
                world.items(),
                "--interactions",
                world.interactions(),
                "--user",
                "zz");
        assertTrue(unknown.code() == Main.ERROR && unknown.err().contains("user \"zz\""), unknown.err());
    }

    @Test
    void embedWritesVectorsInRowOrder() throws IOException {
        Path json = folder.resolve("embed.json");
        Path npy = folder.resolve("vectors.npy");
        Ran ran = run(
                "embed",
                "--llm",
                world.llm(),
                "--items",
                world.items(),
                "--text-keys",
                "title,tag",
                "--out",
                npy,
                "--limit",
                50,
                "--json",
                json);
        assertEquals(Main.OK, ran.code(), ran.err());
        float[] vectors = read(npy, 50);
        List<String> ids = IdFile.read(folder.resolve("vectors.ids"));
        assertEquals(50, ids.size());
        assertEquals("i49", ids.getLast());
        JsonNode report = json(json);
        assertEquals(50, report.path("items").asInt());
        assertEquals(50 * 65, report.path("tokens").asInt(), "64 bytes of prompt and text, and [ITEM]");
        double seconds = report.path("seconds").asDouble();
        assertEquals(50 / seconds, report.path("items_s").asDouble(), 1e-9 * 50 / seconds);
        assertEquals(50 * 65 / seconds, report.path("tokens_s").asDouble(), 1e-9 * 50 * 65 / seconds);
        assertTrue(report.path("rows").asInt() < 50 * 65, "the prompt is computed once");
        try (Stream<Path> files = Files.list(folder)) {
            assertTrue(files.noneMatch(
                    f -> f.toString().endsWith(".partial") || f.toString().endsWith(".progress")));
        }

        // The [ITEM] vector decides: another one gives other vectors, and the same one the same.
        Path token = folder.resolve("token.npy");
        try (RowFile writer = Npy.create(token, 1, TinyWorld.WIDTH)) {
            writer.write(0, FloatBuffer.wrap(new float[TinyWorld.WIDTH]));
            writer.finish();
        }
        Path zero = folder.resolve("zero.npy");
        assertEquals(
                Main.OK,
                run(
                                "embed",
                                "--llm",
                                world.llm(),
                                "--items",
                                world.items(),
                                "--text-keys",
                                "title,tag",
                                "--out",
                                zero,
                                "--item-token",
                                token)
                        .code());
        float[] others = read(zero, TinyWorld.ITEMS);
        double difference = 0;
        for (int i = 0; i < vectors.length; i++) {
            difference = Math.max(difference, Math.abs(vectors[i] - others[i]));
        }
        assertTrue(difference > 0.01, "" + difference);
    }

    @Test
    void exportOpensElsewhere() throws IOException {
        Path out = folder.resolve("exported");
        Ran ran = run(
                "export", "--run", run, "--items", world.items(), "--interactions", world.interactions(), "--out", out);
        assertEquals(Main.OK, ran.code(), ran.err());
        float[] items = read(out.resolve("items.npy"), TinyWorld.ITEMS);
        float[] users = read(out.resolve("users.npy"), TinyWorld.USERS);
        assertEquals("i59", IdFile.read(out.resolve("items.ids")).getLast());
        assertEquals("u39", IdFile.read(out.resolve("users.ids")).getLast());
        try (Safetensors tensors = Safetensors.open(out.resolve("users.safetensors"))) {
            float[] same = new float[users.length];
            tensors.read("users", 0, FloatBuffer.wrap(same));
            assertArrayEquals(users, same);
            assertEquals(64, tensors.metadata().get("model_sha256").length());
        }
        for (String side : List.of("item_llm", "user_llm")) {
            try (PretrainedModel model = PretrainedModel.open(out.resolve(side))) {
                model.check();
                assertEquals(2, model.config().layers());
            }
        }
        try (TorchCheckpoint checkpoint = TorchCheckpoint.open(out.resolve("pytorch_model.bin"))) {
            assertTrue(checkpoint.names().contains("user_llm.model.layers.1.mlp.up_proj.weight"));
            assertArrayEquals(
                    new long[] {1, 1, TinyWorld.WIDTH},
                    checkpoint.info("item_emb_tokens").shape());
        }

        Path npy = folder.resolve("trained.npy");
        Ran embed = run("embed", "--run", run, "--items", world.items(), "--out", npy);
        assertEquals(Main.OK, embed.code(), embed.err());
        assertArrayEquals(items, read(npy, TinyWorld.ITEMS), 1e-5f);

        Path some = folder.resolve("some");
        assertEquals(
                Main.OK,
                run("export", "--run", run, "--items", world.items(), "--out", some, "--what", "vectors")
                        .code());
        try (Stream<Path> files = Files.list(some)) {
            assertEquals(
                    List.of("items.ids", "items.npy", "items.safetensors"),
                    files.map(f -> f.getFileName().toString()).sorted().toList());
        }
    }

    @Test
    void quickstartOnOwnDataRunsResumesAndShows() throws IOException {
        Path dir = folder.resolve("quick");
        Path json = folder.resolve("quick.json");
        Object[] arguments = {
            "quickstart",
            "--minutes",
            0.5,
            "--items",
            world.items(),
            "--interactions",
            world.interactions(),
            "--llm",
            world.llm(),
            "--dir",
            dir,
            "--json",
            json
        };
        Ran ran = run(arguments);
        assertEquals(Main.OK, ran.code(), ran.err());
        assertTrue(ran.out().contains("popularity") && ran.out().contains("User u0, history"), ran.out());
        assertTrue(ran.out().contains(dir.toString()), ran.out());
        JsonNode results = json(json);
        assertEquals(5, results.path("users").size());
        assertTrue(results.path("metrics")
                .path("test")
                .path("hllm")
                .path("recall@10")
                .isDouble());
        byte[] manifest = Files.readAllBytes(dir.resolve("manifest.json"));

        Ran again = run(arguments);
        assertEquals(Main.OK, again.code(), again.err());
        assertEquals(ran.out(), again.out(), "the results of the saved model");
        assertArrayEquals(manifest, Files.readAllBytes(dir.resolve("manifest.json")), "nothing was trained");

        arguments[4] = Files.copy(world.items(), folder.resolve("other-items.csv"));
        Ran other = run(arguments);
        assertEquals(Main.ERROR, other.code());
        assertTrue(other.err().contains("--restart"), other.err());
    }

    /** SIGTERM to a training process: it writes a checkpoint, says how to go on, and goes on. */
    @Test
    void interruptedTrainingContinues() throws Exception {
        Path interrupted = folder.resolve("interrupted");
        Object[] endless = arguments("train", interrupted, "--epochs", 100000, "--no-validation");
        String first = terminated(endless, interrupted.resolve("steps.jsonl"));
        assertTrue(first.contains("This continues:\n  hllm train --llm"), first);
        assertFalse(TrainingRun.finished(interrupted));
        int steps = Integer.parseInt(first.replaceAll("(?s).*Stopped after step (\\d+)\\..*", "$1"));
        assertTrue(Files.exists(interrupted.resolve("checkpoint-" + steps + ".safetensors")), first);

        Files.delete(interrupted.resolve("steps.jsonl"));
        String second = terminated(endless, interrupted.resolve("steps.jsonl"));
        assertTrue(second.contains("Continuing after step " + steps), second);
    }

    /** Runs hllm in a process of its own, ends it once the file is there, and returns its standard error. */
    private static String terminated(Object[] arguments, Path file) throws Exception {
        List<String> command = new ArrayList<>(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED",
                "-Dhllm.library=" + System.getProperty("hllm.library", ""),
                "-cp",
                classPath(),
                Main.class.getName()));
        for (Object argument : arguments) {
            command.add(argument.toString());
        }
        Path err = folder.resolve("stderr.txt");
        Process process = new ProcessBuilder(command)
                .redirectOutput(ProcessBuilder.Redirect.DISCARD)
                .redirectError(err.toFile())
                .start();
        try {
            for (int i = 0; i < 600 && process.isAlive() && !Files.exists(file); i++) {
                Thread.sleep(100);
            }
            assertTrue(process.isAlive(), () -> read(err));
            process.destroy();
            assertTrue(process.waitFor(60, TimeUnit.SECONDS));
            assertEquals(Main.INTERRUPTED, process.exitValue(), read(err));
            return read(err);
        } finally {
            process.destroyForcibly();
        }
    }

    private static String classPath() {
        return Main.class.getClassLoader() instanceof URLClassLoader loader // JUnit's own, in its console launcher
                ? Arrays.stream(loader.getURLs()).map(URL::getPath).collect(Collectors.joining(File.pathSeparator))
                : System.getProperty("java.class.path");
    }

    @Test
    void nativeMemoryIsGivenBack() {
        long before = Context.liveBytes("cpu");
        assertEquals(Main.OK, run(evaluate(run)).code());
        assertEquals(before, Context.liveBytes("cpu"));
    }

    private static Object[] arguments(String command, Path out, Object... more) {
        List<Object> arguments = new ArrayList<>(List.of(
                command,
                "--llm",
                world.llm(),
                "--items",
                world.items(),
                "--interactions",
                world.interactions(),
                "--text-keys",
                "title,tag",
                "--batch-users",
                4,
                "--negatives",
                16,
                "--max-history",
                8,
                "--max-text-length",
                80,
                "--lr",
                1e-4,
                "--out",
                out));
        arguments.addAll(List.of(more));
        return arguments.toArray();
    }

    private static Object[] evaluate(Path run, Object... more) {
        List<Object> arguments = new ArrayList<>(
                List.of("evaluate", "--run", run, "--items", world.items(), "--interactions", world.interactions()));
        arguments.addAll(List.of(more));
        return arguments.toArray();
    }

    private static float[] read(Path npy, int rows) {
        try (Npy.Reader reader = Npy.open(npy)) {
            assertArrayEquals(new long[] {rows, TinyWorld.WIDTH}, reader.shape());
            float[] values = new float[rows * TinyWorld.WIDTH];
            reader.read(0, FloatBuffer.wrap(values));
            return values;
        }
    }

    private static JsonNode json(Path file) throws IOException {
        return new ObjectMapper().readTree(file.toFile());
    }

    private static String read(Path file) {
        try {
            return Files.readString(file);
        } catch (IOException e) {
            return e.toString();
        }
    }
}
