package org.hllm4j.serve;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.EnumSet;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.data.Catalogue;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.RandomModel;
import org.hllm4j.run.RunFolder;
import org.hllm4j.weights.ModelConfig;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Which sides a snapshot keeps in memory. */
class SnapshotTest {
    private static final String TITLE = "title";

    @TempDir
    Path folder;

    @AfterEach
    void asTheMachineSays() {
        Context.assumeAvailable(0);
    }

    @ParameterizedTest
    @EnumSource(names = {"F32", "BF16"})
    void theUserSideAloneAnswersAlike(DType storage) throws IOException {
        RunFolder run = run();
        Catalogue catalogue = catalogue();
        long before = Context.liveBytes(Tiny.device());
        try (Snapshot both = open(run, catalogue, storage, Snapshot.AddItems.YES);
                Snapshot users = open(run, catalogue, storage, Snapshot.AddItems.NO)) {
            assertTrue(both.model().has(Hllm.Side.ITEM));
            assertEquals(List.of("n", Map.of(TITLE, "new")), named(both.text("n", Map.of(TITLE, "new"))));
            assertTrue(!users.model().has(Hllm.Side.ITEM) && users.model().has(Hllm.Side.USER));
            assertArrayEquals(both.table().toFloats(), users.table().toFloats());
            HllmException refused = assertThrows(HllmException.class, () -> users.text("n", Map.of(TITLE, "new")));
            assertTrue(refused.getMessage().contains("--add-items=yes"), refused.getMessage());
        }
        assertEquals(before, Context.liveBytes(Tiny.device()));
    }

    @Test
    void theItemSideStaysWhereItFits() throws IOException {
        RunFolder run = run();
        Catalogue catalogue = catalogue();
        long both = run.need(EnumSet.allOf(Hllm.Side.class), DType.F32, Tiny.device())
                .bytes();
        for (boolean fits : List.of(true, false)) {
            Context.assumeAvailable(fits ? 2 * both : both - 1);
            try (Snapshot snapshot = open(run, catalogue, DType.F32, Snapshot.AddItems.AUTO)) {
                assertEquals(fits, snapshot.model().has(Hllm.Side.ITEM));
            }
        }
        HllmException refused =
                assertThrows(HllmException.class, () -> open(run, catalogue, DType.F32, Snapshot.AddItems.YES));
        for (String part : List.of("serving with items that can be added needs", "item side", "user side", "GiB")) {
            assertTrue(refused.getMessage().contains(part), refused.getMessage());
        }
        Context.assumeAvailable(1000);
        refused = assertThrows(HllmException.class, () -> open(run, catalogue, DType.F32, Snapshot.AddItems.NO));
        assertTrue(refused.getMessage().startsWith("serving needs"), refused.getMessage());
        assertTrue(!refused.getMessage().contains("item side"), refused.getMessage());
    }

    private static List<Object> named(ItemChanges.Change change) {
        return List.of(change.id(), change.fields());
    }

    private static Snapshot open(RunFolder run, Catalogue catalogue, DType storage, Snapshot.AddItems addItems) {
        return Snapshot.open(run, catalogue, new Snapshot.Options(Tiny.device(), storage, addItems, 1000), null);
    }

    private Catalogue catalogue() throws IOException {
        Path items = Files.writeString(folder.resolve("items.csv"), "item_id,title\na,one\nb,two\nc,one more\n");
        return Catalogue.read(items, List.of(TITLE));
    }

    private RunFolder run() throws IOException {
        ModelConfig config = ModelConfig.parse("""
                {"model_type": "baichuan", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
                 "num_attention_heads": 4, "vocab_size": 300, "max_position_embeddings": 64, "rms_norm_eps": 1e-6}
                """, "test");
        Path llm = folder.resolve("run/model-0/item");
        System.out.println("seed " + Tiny.seed());
        RandomModel.write(config, llm, 50_000, Tiny.seed(), bytes -> {});
        RunFolder run = new RunFolder(folder.resolve("run"));
        run.saveUntrained(llm, 32, 8, List.of(TITLE), catalogue(), Tiny.seed());
        return run;
    }
}
