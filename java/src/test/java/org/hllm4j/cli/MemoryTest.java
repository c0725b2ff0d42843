package org.hllm4j.cli;

import static org.hllm4j.cli.TinyWorld.run;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.cli.TinyWorld.Ran;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.Start;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Models that hardly fit are loaded a side and a layer at a time; those that do not fit are refused with the arithmetic. */
class MemoryTest {
    @TempDir
    Path folder;

    @AfterEach
    void asTheMachineSays() {
        Context.assumeAvailable(0);
    }

    @ParameterizedTest
    @EnumSource(names = {"F32", "BF16"})
    void shardsGiveTheVectorsOfOneFile(DType storage) throws IOException {
        TinyWorld world = TinyWorld.in(folder);
        Path one = written("one", "1m");
        Path two = written("two", "50k");
        assertTrue(Files.exists(one.resolve("model.safetensors")));
        for (String name : List.of("00001-of-00002", "00002-of-00002")) {
            assertTrue(Files.exists(two.resolve("model-" + name + ".safetensors")));
        }
        assertTrue(Files.exists(two.resolve("model.safetensors.index.json")));
        assertEquals(-1, Files.mismatch(embedded(one, world, storage), embedded(two, world, storage)));
    }

    @ParameterizedTest
    @EnumSource(names = {"F32", "BF16"})
    void theItemSideAloneGivesTheVectorsOfTheWholeModel(DType storage) throws IOException {
        Start start = Start.of(written("llm", "50k"));
        int[][] tokens = {{1, 2, 3}, {1, 2}, {250, 0, 7, 9}};
        long before = Context.liveBytes(Tiny.device());
        try (Context context = Context.open(Tiny.device(), Context.activations(Tiny.device(), storage));
                Hllm whole = start.model(context, storage);
                Hllm items = start.items(context, storage)) {
            assertArrayEquals(table(whole, tokens), table(items, tokens));
            assertFalse(items.has(Hllm.Side.USER));
            assertThrows(HllmException.class, items::users);
        }
        assertEquals(before, Context.liveBytes(Tiny.device()));
    }

    private static float[] table(Hllm model, int[][] tokens) {
        try (var table = CatalogueEncoder.table(model, tokens, 64, null)) {
            return table.toFloats();
        }
    }

    @Test
    void whatCannotFitIsRefusedWithTheArithmetic() throws IOException {
        TinyWorld world = TinyWorld.in(folder);
        Path out = folder.resolve("refused");
        refused(
                List.of("embedding needs", "0.000098 GiB are available on", "item side", "--dtype=bf16", "--memory"),
                world.embed(world.llm(), folder.resolve("vectors.npy"), "--memory", "103k"));
        refused(
                List.of("training needs", "gradients", "AdamW's two moments", "--freeze", "Java", "--memory"),
                "train",
                "--llm",
                world.llm(),
                "--items",
                world.items(),
                "--text-keys",
                "title",
                "--interactions",
                world.interactions(),
                "--out",
                out,
                "--memory",
                "103k");
        assertFalse(Files.exists(out));
        Ran enough = run(world.embed(world.llm(), folder.resolve("vectors.npy"), "--memory", "1g"));
        assertEquals(Main.OK, enough.code(), enough.err());
    }

    private static void refused(List<String> parts, Object... command) {
        Ran ran = run(command);
        assertEquals(Main.ERROR, ran.code(), ran.err());
        parts.forEach(part -> assertTrue(ran.err().contains(part), () -> "no " + part + " in " + ran.err()));
    }

    private Path written(String name, String shard) throws IOException {
        Path config = Files.writeString(folder.resolve("shape.json"), """
                {"model_type": "baichuan", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
                 "num_attention_heads": 4, "vocab_size": 300, "max_position_embeddings": 128, "rms_norm_eps": 1e-6}
                """);
        Path out = folder.resolve(name);
        System.out.println("seed " + Tiny.seed());
        Ran ran = run("random-model", "--config", config, "--out", out, "--shard-size", shard, "--seed", Tiny.seed());
        assertEquals(Main.OK, ran.code(), ran.err());
        return out;
    }

    private Path embedded(Path llm, TinyWorld world, DType storage) {
        Path out = folder.resolve(llm.getFileName() + "-" + storage + ".npy");
        Ran ran = run(world.embed(llm, out, "--dtype", storage));
        assertEquals(Main.OK, ran.code(), ran.err());
        return out;
    }
}
