package org.hllm4j.weights;

import static org.hllm4j.weights.TestFiles.refused;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.hllm4j.HllmException;
import org.hllm4j.text.ItemTokenizer;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SentencePieceTokenizerTest {
    @TempDir
    Path folder;

    private static Path golden(String name) {
        Path own = Path.of("golden", name);
        return Files.exists(own) ? own : Path.of("../golden", name);
    }

    private static byte[] model() throws IOException {
        return Files.readAllBytes(golden("sentencepiece.model"));
    }

    private static int[] ids(String json, String text) {
        try (ItemTokenizer tokenizer = ItemTokenizer.fromJson(json, "test")) {
            return tokenizer.encode(text);
        }
    }

    /** What SentencePiece itself makes of texts with spaces, digits, bytes and accents. */
    @Test
    void goldenIds() throws IOException {
        String json = SentencePieceTokenizer.toJson(model(), "m", false, false);
        JsonNode texts = Json.MAPPER.readTree(golden("sentencepiece.json").toFile());
        for (JsonNode each : texts) {
            int[] expected = Json.MAPPER.convertValue(each.get("ids"), int[].class);
            String text = each.get("text").asText();
            assertArrayEquals(expected, ids(json, text), () -> "'" + text + "'");
        }
        assertEquals(11, texts.size());
    }

    @Test
    void specialTokensAsTheFamilyAddsThem() throws IOException {
        int[] bare = ids(SentencePieceTokenizer.toJson(model(), "m", false, false), "the film");
        int[] both = ids(SentencePieceTokenizer.toJson(model(), "m", true, true), "the film");
        assertEquals(1, both[0]);
        assertEquals(2, both[both.length - 1]);
        assertArrayEquals(bare, Arrays.copyOfRange(both, 1, both.length - 1));
    }

    /** A model folder without tokenizer.json; a setting of tokenizer_config.json is stronger than the family's habit. */
    @Test
    void partOfAModelFolder() throws IOException {
        for (String[] each : new String[][] {
            {"llama", null, "1"}, {"baichuan", null, "0"}, {"baichuan", "true", "1"}, {"mistral", "false", "0"}
        }) {
            Path dir = Files.createDirectories(folder.resolve(String.join("-", each[0], "" + each[1])));
            String config = """
                    {"model_type":"%s","hidden_size":8,"intermediate_size":12,"num_hidden_layers":1,"num_attention_heads":2,
                    "num_key_value_heads":2,"vocab_size":420,"max_position_embeddings":64}""".formatted(each[0]);
            Files.writeString(dir.resolve("config.json"), config);
            Files.write(dir.resolve("tokenizer.model"), model());
            if (each[1] != null) {
                Files.writeString(dir.resolve("tokenizer_config.json"), "{\"add_bos_token\":" + each[1] + "}");
            }
            SafetensorsWriter.create(dir.resolve("model.safetensors"), List.of(), Map.of())
                    .close();
            try (PretrainedModel opened = PretrainedModel.open(dir)) {
                int[] ids = ids(opened.tokenizerJson(), "the");
                assertEquals(each[2].equals("1"), ids[0] == 1, String.join(" ", each[0], "" + each[1]));
            }
        }
    }

    /** Damaged in any way: refused, or read as something that is a tokenizer; never another exception. */
    @Test
    void damagedFilesAreRefused() throws IOException {
        byte[] whole = model();
        refused(() -> SentencePieceTokenizer.toJson(new byte[0], "m", true, false), "m: ", "holds no pieces");
        refused(
                () -> SentencePieceTokenizer.toJson("{\"a\": 1}".getBytes(StandardCharsets.UTF_8), "m", true, false),
                "not a SentencePiece model");
        refused(() -> SentencePieceTokenizer.toJson(Arrays.copyOf(whole, whole.length / 2), "m", true, false), "m: ");
        Random random = new Random(7);
        for (int i = 0; i < 200; i++) {
            byte[] damaged = whole.clone();
            damaged[random.nextInt(damaged.length)] ^= (byte) (1 << random.nextInt(8));
            try {
                SentencePieceTokenizer.toJson(damaged, "m", true, false);
            } catch (HllmException expected) {
                assertEquals(0, expected.getMessage().indexOf("m: "), expected.getMessage());
            }
        }
    }

    @Test
    void otherKindsAreRefused() throws IOException {
        refused(() -> with(2, new int[] {3 << 3, 1}), "of type 1");
        refused(() -> with(2, new int[] {35 << 3 & 0x7f | 0x80, 35 >> 4, 0}), "knows no bytes");
        refused(() -> with(3, new int[] {4 << 3, 1}), "drops repeated spaces");
        refused(() -> with(3, new int[] {2 << 3 | 2, 1, 'x'}), "table of characters");
    }

    /** The golden model with a field more in one of its messages, which a protobuf takes for the field's new value. */
    private static void with(int message, int[] field) throws IOException {
        ByteArrayOutputStream all = new ByteArrayOutputStream();
        all.write(model());
        all.write(message << 3 | 2);
        all.write(field.length);
        for (int value : field) {
            all.write(value);
        }
        SentencePieceTokenizer.toJson(all.toByteArray(), "m", true, false);
    }
}
