package org.hllm4j.weights;

import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.List;
import java.util.Random;
import java.util.function.Consumer;
import org.hllm4j.HllmException;
import org.hllm4j.weights.TestFiles.GgufFile;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Damaged files: whatever is flipped, only HllmException comes out. Another seed: -Dhllm.seed=N. */
@Timeout(120)
class FuzzTest {
    private static final int ROUNDS = 2000;

    @TempDir
    Path folder;

    /** Flips bytes of the first part of the file, where the structure is, and reads what still opens. */
    private void fuzz(byte[] whole, int structure, Consumer<Path> reader) {
        long seed = Long.getLong("hllm.seed", 42);
        Random random = new Random(seed);
        int refused = 0;
        reader.accept(TestFiles.write(folder.resolve("fuzzed"), whole)); // undamaged, nothing is refused
        for (int round = 0; round < ROUNDS; round++) {
            byte[] bytes = whole.clone();
            for (int flips = 1 + random.nextInt(4); flips > 0; flips--) {
                int at = random.nextInt(Math.min(structure, bytes.length));
                bytes[at] = (byte) (random.nextBoolean() ? bytes[at] ^ 1 << random.nextInt(8) : random.nextInt());
            }
            Path file = TestFiles.write(folder.resolve("fuzzed"), bytes);
            try {
                reader.accept(file);
            } catch (HllmException e) {
                refused++;
            } catch (Throwable e) {
                throw new AssertionError("seed " + seed + ", round " + round, e);
            }
        }
        System.out.printf("fuzz with seed %d: %d of %d damaged files refused%n", seed, refused, ROUNDS);
        int refusals = refused;
        assertTrue(refused > ROUNDS / 20, () -> "only so many were refused: " + refusals);
    }

    private static void readAll(TensorSource source) {
        try (source) {
            for (String name : source.names()) {
                long elements = source.info(name).elements();
                FloatBuffer some = FloatBuffer.allocate((int) Math.min(elements, 1000));
                source.read(name, 0, some.duplicate());
                source.read(name, elements - some.capacity(), some);
            }
        }
    }

    @Test
    void safetensors() {
        String entry = "\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%d,%d]}";
        String header = "{\"__metadata__\":{\"a\":\"b\"}," + entry.formatted("x", "F32", "[2,3]", 0, 24) + ","
                + entry.formatted("y", "BF16", "[4]", 24, 32) + "," + entry.formatted("z", "I64", "[]", 32, 40) + "}";
        byte[] whole = TestFiles.safetensors(header, 40);
        fuzz(whole, whole.length, file -> readAll(Safetensors.open(file)));
    }

    @Test
    void torchCheckpoint() {
        byte[] whole = TestFiles.bytes(TestFiles.resource("views.bin"));
        fuzz(whole, whole.length, file -> readAll(TorchCheckpoint.open(file)));
        byte[] nested = TestFiles.bytes(TestFiles.resource("nested.bin"));
        fuzz(nested, 2500, file -> readAll(TorchCheckpoint.open(file)));
    }

    @Test
    void gguf() {
        byte[] whole = TestFiles.tinyLlama()
                .string("tokenizer.ggml.model", "llama")
                .strings("tokenizer.ggml.tokens", List.of("<unk>", "<s>", "</s>", "a", "b", "ab"))
                .f32s("tokenizer.ggml.scores", 0, 0, 0, -1, -2, -3)
                .i32s("tokenizer.ggml.token_type", 2, 3, 3, 1, 1, 1)
                .done();
        fuzz(whole, 2200, file -> {
            try (PretrainedModel model = PretrainedModel.open(file)) {
                model.tokenizerJson();
                model.check();
            }
        });
        byte[] quants =
                TestFiles.tinyLlama().tensor("quants", 3, new byte[40], 2, 32).done();
        fuzz(quants, 2000, file -> readAll(Gguf.open(file)));
    }

    @Test
    void ggufTokenizer() {
        byte[] whole = new GgufFile()
                .string("tokenizer.ggml.model", "gpt2")
                .string("tokenizer.ggml.pre", "llama-bpe")
                .strings("tokenizer.ggml.tokens", List.of("a", "b", "ab", "<s>"))
                .strings("tokenizer.ggml.merges", List.of("a b"))
                .i32s("tokenizer.ggml.token_type", 1, 1, 1, 3)
                .u32("tokenizer.ggml.bos_token_id", 3)
                .done();
        fuzz(whole, whole.length, file -> {
            try (Gguf gguf = Gguf.open(file)) {
                GgufTokenizer.toJson(gguf);
            }
        });
    }

    @Test
    void npy() {
        byte[] whole = TestFiles.bytes(TestFiles.resource("float32.npy"));
        fuzz(whole, 80, file -> {
            try (Npy.Reader reader = Npy.open(file)) {
                reader.read(0, FloatBuffer.allocate(1));
            }
        });
    }
}
