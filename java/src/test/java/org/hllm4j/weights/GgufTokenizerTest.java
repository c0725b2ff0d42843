package org.hllm4j.weights;

import static org.hllm4j.weights.TestFiles.refused;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ai.djl.huggingface.tokenizers.HuggingFaceTokenizer;
import com.fasterxml.jackson.databind.JsonNode;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.hllm4j.weights.TestFiles.GgufFile;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class GgufTokenizerTest {
    @TempDir
    Path folder;

    @BeforeAll
    static void stayOffline() {
        System.setProperty("ai.djl.offline", "true");
        System.setProperty("OPT_OUT_TRACKING", "true");
    }

    private Gguf open(GgufFile file) {
        return Gguf.open(file.write(folder.resolve("t.gguf")));
    }

    private String json(GgufFile file) {
        try (Gguf gguf = open(file)) {
            return GgufTokenizer.toJson(gguf);
        }
    }

    private static HuggingFaceTokenizer tokenizer(String json) {
        try {
            return HuggingFaceTokenizer.newInstance(
                    new ByteArrayInputStream(json.getBytes(StandardCharsets.UTF_8)),
                    Map.of("truncation", "false", "padding", "false"));
        } catch (IOException e) {
            throw new AssertionError(e);
        }
    }

    private static long[] ids(String json, String text) {
        try (HuggingFaceTokenizer tokenizer = tokenizer(json)) {
            return tokenizer.encode(text).getIds();
        }
    }

    /** A run's manifest holds a hash of the tokenizer: the text must not depend on the order of a hash map. */
    @Test
    void theTextIsTheSameInEveryRun() {
        String json = json(sentencePiece());
        assertTrue(
                json.contains("\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
                        + "{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],"),
                json);
        assertTrue(json.startsWith("{\"version\":\"1.0\",\"truncation\":null,"), json);
    }

    /** Ids 0-2 unknown, BOS, EOS; 3-258 the bytes; then pieces with scores. */
    private static GgufFile sentencePiece() {
        List<String> tokens = new ArrayList<>(List.of("<unk>", "<s>", "</s>"));
        for (int value = 0; value < 256; value++) {
            tokens.add("<0x%02X>".formatted(value));
        }
        List<String> pieces = List.of("▁", "a", "b", "c", "ab", "▁a", "bc", "▁ab", "<mask>", "abc");
        tokens.addAll(pieces);
        float[] pieceScores = {-10, -11, -12, -13, -1, -2, -3, -4, 0, -20};
        float[] scores = new float[tokens.size()];
        int[] kinds = new int[tokens.size()];
        for (int id = 0; id < kinds.length; id++) {
            kinds[id] = id == 0
                    ? 2
                    : id < 3 ? 3 : id < 259 ? 6 : pieces.get(id - 259).equals("<mask>") ? 4 : 1;
            scores[id] = id < 259 ? 0 : pieceScores[id - 259];
        }
        return new GgufFile()
                .string("tokenizer.ggml.model", "llama")
                .strings("tokenizer.ggml.tokens", tokens)
                .f32s("tokenizer.ggml.scores", scores)
                .i32s("tokenizer.ggml.token_type", kinds)
                .u32("tokenizer.ggml.bos_token_id", 1)
                .u32("tokenizer.ggml.eos_token_id", 2);
    }

    @Test
    void sentencePieceMergesBestScoreFirst() {
        String json = json(sentencePiece());
        // "▁abc": "ab" scores best, then "▁ab" (-4); "bc" and "abc" are too late
        assertArrayEquals(new long[] {1, 266, 262}, ids(json, "abc"));
        assertArrayEquals(new long[] {1, 264, 264}, ids(json, "a a"));
        assertArrayEquals(new long[] {1, 259, 259, 259, 265}, ids(json, "  bc"));
    }

    @Test
    void sentencePieceFallsBackToBytes() {
        String json = json(sentencePiece());
        assertArrayEquals(new long[] {1, 259, 3 + 0xC3, 3 + 0xA9}, ids(json, "é"));
        assertArrayEquals(new long[] {1, 264, 3 + '\n', 260}, ids(json, "a\na"));
        try (HuggingFaceTokenizer tokenizer = tokenizer(json)) {
            assertEquals("aé\nb", tokenizer.decode(tokenizer.encode("aé\nb").getIds(), true));
        }
    }

    @Test
    void flagsAndAddedTokensAreHonoured() {
        // an added token cuts the text, and each part gets the leading space
        assertArrayEquals(new long[] {1, 264, 267, 264}, ids(json(sentencePiece()), "a<mask>a"));
        assertArrayEquals(
                new long[] {264, 2},
                ids(
                        json(sentencePiece()
                                .flag("tokenizer.ggml.add_bos_token", false)
                                .flag("tokenizer.ggml.add_eos_token", true)),
                        "a"));
        assertArrayEquals(
                new long[] {1, 260}, ids(json(sentencePiece().flag("tokenizer.ggml.add_space_prefix", false)), "a"));
        JsonNode added = Json.object(json(sentencePiece()), "t").get("added_tokens");
        assertEquals(4, added.size());
        assertTrue(added.get(1).get("special").asBoolean());
        assertFalse(added.get(3).get("special").asBoolean());
        assertEquals("<mask>", added.get(3).get("content").asText());
    }

    private static GgufFile byteLevel(String pre) {
        List<String> tokens = List.of(
                "<|end|>", "a", "b", "1", "2", "3", "4", "Ġ", ".", "'", "S", "s", "12", "123", "1234", "Ġa", "'S", "'s",
                ".a", "..", "ab");
        int[] kinds = new int[tokens.size()];
        Arrays.fill(kinds, 1);
        kinds[0] = 3;
        GgufFile file = new GgufFile()
                .string("tokenizer.ggml.model", "gpt2")
                .strings("tokenizer.ggml.tokens", tokens)
                .strings(
                        "tokenizer.ggml.merges",
                        List.of("1 2", "12 3", "123 4", "Ġ a", "' S", "' s", ". a", ". .", "a b"))
                .i32s("tokenizer.ggml.token_type", kinds)
                .u32("tokenizer.ggml.bos_token_id", 0);
        return pre == null ? file : file.string("tokenizer.ggml.pre", pre);
    }

    /** One text, cut differently by each pre-tokenizer. */
    @ParameterizedTest
    @CsvSource(
            delimiter = ';',
            quoteCharacter = '`',
            value = {
                "smollm;1234 a;3 4 5 6 15",
                "gpt-2;1234 a;14 15",
                "llama-bpe;1234 a;0 13 6 15",
                "qwen2;1234 a;3 4 5 6 15",
                "default;1234 a;13 6 15",
                ";1234 a;13 6 15",
                "smollm;'S's;9 10 17",
                "gpt-2;'S's;9 10 17",
                "llama-bpe;'S's;0 16 17",
                "qwen2;'S's;16 17",
                "default;'S's;9 10 9 11",
                "gpt-2;a.a;1 8 1",
                "llama-bpe;a.a;0 1 18",
                "default;a..;1 19",
                "gpt-2;a<|end|>b;1 0 2",
            })
    void preTokenizers(String pre, String text, String expected) {
        long[] ids =
                Arrays.stream(expected.split(" ")).mapToLong(Long::parseLong).toArray();
        assertArrayEquals(ids, ids(json(byteLevel(pre)), text));
    }

    @Test
    void whatIsNotKnownIsRefused() {
        refused(() -> json(byteLevel("tekken")), "t.gguf", "tokenizer.ggml.pre is \"tekken\"");
        refused(() -> json(new GgufFile().string("tokenizer.ggml.model", "t5")), "tokenizer.ggml.model is \"t5\"");
        refused(() -> json(new GgufFile()), "'tokenizer.ggml.model' is missing");
        GgufFile twice = new GgufFile()
                .string("tokenizer.ggml.model", "gpt2")
                .strings("tokenizer.ggml.tokens", List.of("a", "a"));
        refused(() -> json(twice), "'a'", "twice");
        GgufFile merge = new GgufFile()
                .string("tokenizer.ggml.model", "gpt2")
                .strings("tokenizer.ggml.tokens", List.of("a", "b"))
                .strings("tokenizer.ggml.merges", List.of("a b"));
        refused(() -> json(merge), "merge 'a b'");
        refused(() -> json(byteLevel("gpt-2").u32("tokenizer.ggml.eos_token_id", 21)), "eos token is 21", "21 tokens");
        GgufFile scores = new GgufFile()
                .string("tokenizer.ggml.model", "llama")
                .strings("tokenizer.ggml.tokens", List.of("a", "b"))
                .f32s("tokenizer.ggml.scores", 1);
        refused(() -> json(scores), "1 scores for 2 tokens");
    }

    /** The official code's token ids of 24 item texts. */
    @Test
    void smolLm2() {
        Path goldenFile = TestFiles.shared("golden/smollm2-135m.safetensors");
        try (Safetensors golden = Safetensors.open(goldenFile);
                PretrainedModel model = PretrainedModel.open(TestFiles.smolLm2());
                HuggingFaceTokenizer tokenizer = tokenizer(model.tokenizerJson())) {
            JsonNode texts = Json.object("{\"texts\":" + golden.metadata().get("texts") + "}", "golden")
                    .get("texts");
            int longest = Integer.parseInt(golden.metadata().get("max_text_length"));
            long[] lens = golden.readLongs("lens");
            List<Long> ids = new ArrayList<>();
            assertEquals(24, texts.size());
            for (int item = 0; item < texts.size(); item++) {
                long[] all = tokenizer.encode(texts.get(item).asText()).getIds();
                long[] cut = Arrays.copyOf(all, Math.min(all.length, longest));
                assertEquals(lens[item], cut.length + 1, "length of item " + item);
                Arrays.stream(cut).forEach(ids::add);
                ids.add(0L);
            }
            assertArrayEquals(
                    golden.readLongs("input_ids"),
                    ids.stream().mapToLong(id -> id).toArray());
        }
    }
}
