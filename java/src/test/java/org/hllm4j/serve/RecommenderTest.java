package org.hllm4j.serve;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Split;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.Pooling;
import org.hllm4j.run.Export;
import org.hllm4j.run.Manifest;
import org.hllm4j.run.RunFolder;
import org.hllm4j.weights.PretrainedModel;
import org.hllm4j.weights.TorchCheckpoint;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A run folder from its making to its answers. */
class RecommenderTest {
    @TempDir
    Path folder;

    private Dataset data;
    private RunFolder run;
    private float[] vectors;

    @BeforeEach
    void save() {
        data = Tiny.dataset(folder, 30, 30);
        run = RunFolder.create(folder.resolve("run"));
        try (Context context = Context.open(Tiny.device());
                Hllm model = Tiny.model(context, Pooling.TOKEN, Hllm.Trained.NOTHING);
                Tensor table = CatalogueEncoder.table(model, data.tokens(), 4096, null)) {
            run.save(model, 7, description());
            run.saveItems(table, data.catalogue());
            vectors = table.toFloats();
        }
    }

    private RunFolder.Description description() {
        return new RunFolder.Description(
                List.of("title"), data.catalogue(), "{}", Map.of("lr", 1e-3), Map.of(), Map.of("native", "test"));
    }

    @AfterEach
    void nothingIsLeft() {
        assertEquals(0, Context.liveBytes(Tiny.device()));
    }

    @Test
    void aRunLoadsAsItWasSaved() {
        Manifest manifest = run.manifest();
        assertEquals("model-7", manifest.modelFolder());
        assertEquals(30, manifest.items());
        try (Context context = Context.open(Tiny.device());
                Hllm saved = Tiny.model(context, Pooling.TOKEN, Hllm.Trained.NOTHING);
                Hllm loaded = run.load(context, DType.F32)) {
            assertFalse(saved.parameters().all().isEmpty());
            saved.parameters()
                    .all()
                    .forEach(p -> assertArrayEquals(
                            p.value().toFloats(),
                            loaded.parameters().get(p.name()).value().toFloats(),
                            p.name()));
        }
    }

    @Test
    void recommendationsAreTheBestOfAllItemsAndLeaveOutTheHistory() {
        try (Recommender recommender = Recommender.open(run, data.catalogue(), Tiny.device(), DType.F32, null)) {
            List<int[]> histories = List.of(new int[] {1, 2, 3}, new int[] {5}, new int[] {9, 8, 7, 6, 5, 4, 3, 2, 1});
            List<List<Recommender.Recommendation>> answers = recommender.recommend(histories, 40);
            float[][] users = recommender.userVectors(histories);
            int width = recommender.model().config().width();
            for (int u = 0; u < histories.size(); u++) {
                int[] history = histories.get(u);
                List<Recommender.Recommendation> answer = answers.get(u);
                assertEquals(30 - history.length, answer.size());
                for (int i = 0; i < answer.size(); i++) {
                    Recommender.Recommendation r = answer.get(i);
                    assertTrue(Arrays.stream(history).noneMatch(h -> h == r.item()));
                    assertEquals(data.catalogue().id(r.item()), r.itemId());
                    assertTrue(i == 0 || r.score() <= answer.get(i - 1).score());
                    double dot = 0;
                    double a = 0;
                    double b = 0;
                    for (int k = 0; k < width; k++) {
                        double item = vectors[r.item() * width + k];
                        dot += users[u][k] * item;
                        a += users[u][k] * users[u][k];
                        b += item * item;
                    }
                    assertEquals(dot / Math.sqrt(a * b), r.score(), 1e-5);
                }
            }
            assertThrows(HllmException.class, () -> recommender.recommend(List.of(new int[0]), 5));
            assertEquals(
                    2,
                    recommender
                            .evaluate(data.interactions(), List.of(Split.values()), null)
                            .size());
        }
    }

    @Test
    void vectorsOfAnotherModelOrCatalogueAreNotUsed() throws IOException {
        try (Context context = Context.open(Tiny.device())) {
            try (Tensor stored = run.loadItems(context, data.catalogue())) {
                assertNotNull(stored);
                assertArrayEquals(vectors, stored.toFloats());
            }
            Path other = Files.createDirectory(folder.resolve("other"));
            assertNull(run.loadItems(context, Tiny.dataset(other, 3, 29).catalogue()));
            try (Hllm model = Tiny.model(context, Pooling.TOKEN, Hllm.Trained.NOTHING)) {
                model.randomiseItemToken(99);
                run.save(model, 8, description());
            }
            assertNull(run.loadItems(context, data.catalogue()), "vectors of the model before");
            assertFalse(Files.exists(run.path().resolve("model-7")), "the replaced model is deleted");
        }
    }

    @Test
    void changedOrMissingFilesAreRefused() throws IOException {
        Path weights = run.path().resolve("model-7/user/model.safetensors");
        byte[] bytes = Files.readAllBytes(weights);
        bytes[bytes.length - 5] ^= 1;
        Files.write(weights, bytes);
        try (Context context = Context.open(Tiny.device())) {
            HllmException changed = assertThrows(HllmException.class, () -> run.load(context, DType.F32));
            assertTrue(changed.getMessage().contains(weights + " was changed"), changed.getMessage());
            Files.delete(weights);
            HllmException missing = assertThrows(HllmException.class, () -> run.load(context, DType.F32));
            assertTrue(missing.getMessage().contains("is missing"), missing.getMessage());
        }
        HllmException none = assertThrows(HllmException.class, () -> new RunFolder(folder).manifest());
        assertTrue(none.getMessage().contains("not a run folder"), none.getMessage());
    }

    @Test
    void exportsLoadAgain() {
        Path out = folder.resolve("export");
        try (Context context = Context.open(Tiny.device());
                Hllm model = run.load(context, DType.F32);
                Hllm again = new Hllm(context, model.config(), Hllm.Trained.NOTHING, DType.F32)) {
            Export.huggingFace(model, "{}", out);
            Export.officialCheckpoint(model, out.resolve("pytorch_model.bin"));
            try (TorchCheckpoint file = TorchCheckpoint.open(out.resolve("pytorch_model.bin"))) {
                assertArrayEquals(new long[0], file.info("logit_scale").shape());
                assertArrayEquals(
                        new long[] {1, 1, 24}, file.info("item_emb_tokens").shape());
                again.load(file);
            }
            model.parameters()
                    .all()
                    .forEach(p -> assertArrayEquals(
                            p.value().toFloats(),
                            again.parameters().get(p.name()).value().toFloats(),
                            p.name()));
            for (Hllm.Side side : Hllm.Side.values()) {
                Path sideFolder = out.resolve(side == Hllm.Side.ITEM ? "item_llm" : "user_llm");
                try (PretrainedModel pretrained = PretrainedModel.open(sideFolder)) {
                    pretrained.check();
                    assertEquals(
                            side == Hllm.Side.ITEM ? Tiny.VOCABULARY : 1,
                            pretrained.config().vocabSize());
                }
            }
        }
    }
}
