package org.hllm4j.cli;

import static org.hllm4j.cli.TinyWorld.run;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.hllm4j.cli.TinyWorld.Ran;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.NativeException;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Every command on a GPU, or its emulation: nothing in them takes the device's memory for the host's. */
class DeviceEndToEndTest {
    @TempDir
    Path folder;

    @AfterEach
    void nothingIsLeft() {
        if (Context.available("cuda-emulated")) {
            assertEquals(0, Context.liveBytes("cuda-emulated"));
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"cuda-emulated", "cuda"})
    void everyCommandRuns(String device) {
        try {
            Context.deviceInfo(device);
        } catch (NativeException missing) {
            Assumptions.abort("skipped: " + missing.getMessage());
        }
        TinyWorld world = TinyWorld.in(folder);
        Path run = folder.resolve("run");
        Path json = folder.resolve("result.json");
        List<?> items = List.of("--items", world.items(), "--device", device);
        List<?> data = List.of("--items", world.items(), "--device", device, "--interactions", world.interactions());

        Ran trained = ok(
                "train",
                data,
                "--llm",
                world.llm(),
                "--text-keys",
                "title,tag",
                "--batch-users",
                8,
                "--epochs",
                1,
                "--recompute",
                "--out",
                run,
                "--json",
                json);
        assertTrue(trained.err().contains("without --recompute"), trained.err());
        Map<String, ?> summary = JsonOption.read(json);
        assertEquals(true, summary.get("finished"));

        ok("evaluate", data, "--run", run, "--json", json);
        double ndcg = number(JsonOption.read(json), "validation", "hllm", "ndcg@200");
        assertEquals(number(summary, "validation", "ndcg@200"), ndcg, 1e-6);
        // In float32, the same model ranks nearly as in bf16.
        ok("evaluate", data, "--run", run, "--dtype", "f32", "--json", json);
        assertEquals(ndcg, number(JsonOption.read(json), "validation", "hllm", "ndcg@200"), 0.1);

        Path adapted = folder.resolve("adapted");
        List<?> llm = List.of("--llm", world.llm(), "--text-keys", "title,tag");
        ok("train", data, "--out", adapted, "--user-lora", 4, "--item-lora", 8, "--max-steps", 2, "--json", json, llm);
        ndcg = number(JsonOption.read(json), "validation", "ndcg@200");
        ok("evaluate", data, "--run", adapted, "--json", json);
        assertEquals(ndcg, number(JsonOption.read(json), "validation", "hllm", "ndcg@200"), 0.05);

        Ran recommended = ok("recommend", items, "--run", run, "--history", "i1,i2", "-k", 3);
        long shown = recommended.out().lines().filter(l -> l.contains("Story")).count();
        assertEquals(2 + 3, shown, recommended.out()); // the history, and what comes next
        ok("export", data, "--run", run, "--out", folder.resolve("exported"));
        Path vectors = folder.resolve("v.npy");
        Ran embedded = ok("embed", items, "--llm", world.llm(), "--text-keys", "title,tag", "--out", vectors);
        assertTrue(embedded.out().contains(TinyWorld.ITEMS + " items"), embedded.out());
    }

    private static Ran ok(String command, List<?> options, Object... more) {
        List<Object> arguments = new ArrayList<>(options);
        arguments.addFirst(command);
        Arrays.asList(more).forEach(argument -> {
            if (argument instanceof List<?> several) {
                arguments.addAll(several);
            } else {
                arguments.add(argument);
            }
        });
        Ran ran = run(arguments.toArray());
        assertEquals(Main.OK, ran.code(), ran.err());
        return ran;
    }

    private static double number(Map<String, ?> json, String... path) {
        Object found = json;
        for (String name : path) {
            found = ((Map<?, ?>) found).get(name);
        }
        return ((Number) found).doubleValue();
    }
}
