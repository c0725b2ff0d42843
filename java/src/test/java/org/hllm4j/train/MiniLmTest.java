package org.hllm4j.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.hllm4j.Tiny;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.Pooling;
import org.hllm4j.run.Start;
import org.hllm4j.text.ItemTokenizer;
import org.hllm4j.weights.Safetensors;
import org.junit.jupiter.api.Test;

/** A real encoder, all-MiniLM-L6-v2: its tokens and vectors are those of transformers (golden/family_golden.py). */
class MiniLmTest {
    @Test
    void tokensAndVectorsAreThoseOfTransformers() throws IOException {
        Path folder = Path.of(System.getProperty("hllm.minilm", "no folder"));
        assumeTrue(
                Files.isDirectory(folder),
                "skipped: -Dhllm.minilm names no folder with config.json, model.safetensors and tokenizer.json");
        try (Safetensors golden =
                        Safetensors.open(GoldenTest.folders().getFirst().resolve("minilm.safetensors"));
                Context context = Context.open("cpu")) {
            List<String> texts =
                    Arrays.asList(new ObjectMapper().readValue(golden.metadata().get("texts"), String[].class));
            int maxTextLength = Integer.parseInt(golden.metadata().get("max_text_length"));
            Start start = new Start(
                    folder,
                    null,
                    Start.Init.PRETRAINED,
                    Start.Init.RANDOM,
                    Start.Freeze.NONE,
                    0,
                    1,
                    Pooling.MEAN,
                    maxTextLength,
                    1,
                    List.of("title"),
                    1);
            int[][] tokens;
            try (ItemTokenizer tokenizer = ItemTokenizer.fromJson(start.tokenizerJson(), folder.toString())) {
                tokens = tokenizer.encodeAll(texts, maxTextLength, null);
            }
            assertArrayEquals(
                    golden.readLongs("token_ids"),
                    Arrays.stream(tokens)
                            .flatMapToInt(Arrays::stream)
                            .asLongStream()
                            .toArray());
            try (Hllm model = start.model(context, DType.F32);
                    Tensor table = CatalogueEncoder.table(model, tokens, 4096, null)) {
                float[] found = table.toFloats();
                float[] expected = new float[found.length];
                golden.read("vectors", 0, FloatBuffer.wrap(expected));
                double relative = Tiny.relativeError(expected, found);
                System.out.println("all-MiniLM-L6-v2: relative error " + relative);
                assertTrue(relative < 1e-5, "relative error " + relative);
            }
        }
        assertEquals(0, Context.liveBytes("cpu"));
    }
}
