package org.hllm4j.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.hllm4j.Tiny;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.UserEncoder;
import org.hllm4j.run.Start;
import org.hllm4j.text.ItemTokenizer;
import org.hllm4j.weights.Safetensors;
import org.junit.jupiter.api.Test;

/** A real model against the official code: needs smollm2-135m.safetensors beside the golden files, and the GGUF file. */
class SmolLm2Test {
    private static final double TOLERANCE = 1e-3;

    @Test
    void tokensItemsAndUsersAreTheOfficialOnes() throws IOException {
        List<Path> files = GoldenTest.folders().stream()
                .map(folder -> folder.resolve("smollm2-135m.safetensors"))
                .filter(Files::exists)
                .toList();
        assumeTrue(
                !files.isEmpty(),
                "skipped: no smollm2-135m.safetensors in " + GoldenTest.folders()
                        + " (give its folder by -Dhllm.golden)");
        Path file = files.getFirst();
        Path gguf = Tiny.smolLm2();
        assumeTrue(Files.exists(gguf), Tiny.noSmolLm2());
        Start start = Start.of(gguf).withMaxHistory(8);
        try (Safetensors golden = Safetensors.open(file);
                ItemTokenizer tokenizer = ItemTokenizer.fromJson(start.tokenizerJson(), gguf.toString())) {
            List<String> texts =
                    Arrays.asList(new ObjectMapper().readValue(golden.metadata().get("texts"), String[].class));
            int[][] tokens = tokenizer.encodeAll(
                    texts, Integer.parseInt(golden.metadata().get("max_text_length")), null);
            long[] expected = golden.readLongs("input_ids");
            assertArrayEquals(
                    Arrays.stream(expected).mapToInt(i -> (int) i).toArray(),
                    Arrays.stream(tokens) // 0 holds the place of [ITEM]
                            .flatMapToInt(t -> IntStream.concat(Arrays.stream(t), IntStream.of(0)))
                            .toArray());

            try (Context context = Context.open(Tiny.device());
                    Hllm model = start.model(context, DType.F32)) {
                model.itemToken(floats(golden, "item_emb_tokens"));
                try (Tensor table = CatalogueEncoder.table(model, tokens, 4096, null)) {
                    float[] items = floats(golden, "item_embedding");
                    int width = model.config().width();
                    float[] found = table.toFloats();
                    for (int i = 0; i < tokens.length; i++) {
                        near("item " + i, items, found, i * width, i * width, width);
                    }
                    users(golden, model, table, width);
                }
            }
        }
    }

    /** Every position of every history; masked positions are left padding. */
    private static void users(Safetensors golden, Hllm model, Tensor table, int width) {
        long[] history = golden.readLongs("history");
        long[] mask = golden.readLongs("history_mask");
        float[] expected = floats(golden, "user_embedding");
        int length = (int) golden.info("history").shape()[1];
        int users = history.length / length;
        int compared = 0;
        for (int u = 0; u < users; u++) {
            int begin = u * length;
            int[] places = IntStream.range(begin, begin + length)
                    .filter(i -> mask[i] != 0)
                    .toArray();
            int[] items = Arrays.stream(places).map(i -> (int) history[i]).toArray();
            float[][] found = new float[1][];
            UserEncoder.encode(
                    model,
                    table,
                    new int[][] {items},
                    new int[][] {IntStream.range(0, items.length).toArray()},
                    100,
                    null,
                    (first, vectors) -> found[0] = vectors.toFloats());
            for (int i = 0; i < items.length; i++) {
                near("user " + u + " event " + i, expected, found[0], places[i] * width, i * width, width);
                compared++;
            }
        }
        assertTrue(compared > users);
    }

    private static void near(String what, float[] expected, float[] actual, int expectedAt, int actualAt, int width) {
        double difference = 0;
        double norm = 0;
        for (int i = 0; i < width; i++) {
            difference += Math.pow((double) expected[expectedAt + i] - actual[actualAt + i], 2);
            norm += Math.pow(expected[expectedAt + i], 2);
        }
        double relative = Math.sqrt(difference / norm);
        assertTrue(relative <= TOLERANCE, () -> what + ": relative error " + relative + ", allowed " + TOLERANCE);
    }

    private static float[] floats(Safetensors source, String name) {
        float[] values = new float[(int) source.info(name).elements()];
        source.read(name, 0, FloatBuffer.wrap(values));
        return values;
    }
}
