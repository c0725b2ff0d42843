package org.hllm4j.text;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.junit.jupiter.api.Test;

/** Byte-level BPE made by hand: without merges, the ids of a text are its UTF-8 bytes. */
class ItemTokenizerTest {
    private static final int TH = 256; // the one merge, "t" + "h"
    private static final int BOS = 257;

    @Test
    void idsAreBytesButForTheMerge() {
        try (ItemTokenizer tokenizer = ItemTokenizer.fromJson(json(false, "null"), "test")) {
            assertArrayEquals(new int[] {'a', ' ', TH, 'e'}, tokenizer.encode("a the"));
            for (String text : List.of("", "Nosferatu, é日本 😀\n\"x\"", "\u0000\u0001")) {
                assertArrayEquals(bytes(text), tokenizer.encode(text));
            }
        }
    }

    @Test
    void specialTokensAreAddedAsTheTokenizerAddsThem() {
        try (ItemTokenizer tokenizer = ItemTokenizer.fromJson(json(true, "null"), "test")) {
            assertArrayEquals(new int[] {BOS, 'a'}, tokenizer.encode("a"));
            assertArrayEquals(new int[] {BOS}, tokenizer.encode(""));
            assertArrayEquals(new int[][] {{BOS, 'a'}, {BOS, 'x'}}, tokenizer.encodeAll(List.of("abc", "x"), 2, null));
        }
    }

    @Test
    void nothingIsCutButByMaxLength() {
        String cutting = "{\"direction\":\"Right\",\"max_length\":4,\"strategy\":\"LongestFirst\",\"stride\":0}";
        String text = "word ".repeat(400); // 2000 tokens
        for (String truncation : List.of("null", cutting)) {
            try (ItemTokenizer tokenizer = ItemTokenizer.fromJson(json(false, truncation), "test")) {
                assertArrayEquals(bytes(text), tokenizer.encode(text));
                int[][] ids = tokenizer.encodeAll(List.of(text, "short"), 1500, null);
                assertArrayEquals(Arrays.copyOf(bytes(text), 1500), ids[0]);
                assertArrayEquals(bytes("short"), ids[1], "no padding");
            }
        }
    }

    @Test
    void manyTextsKeepTheirOrderAndProgressEndsAtAll() {
        long seed = 5;
        System.out.println("seed " + seed);
        Random random = new Random(seed);
        List<String> texts = IntStream.range(0, 1000)
                .mapToObj(i -> i + " " + "xyz".repeat(random.nextInt(30)))
                .toList();
        List<Long> progress = new ArrayList<>();
        try (ItemTokenizer tokenizer = ItemTokenizer.fromJson(json(false, "null"), "test")) {
            int[][] ids = tokenizer.encodeAll(texts, 40, progress::add);
            for (int i = 0; i < 1000; i++) {
                int[] all = bytes(texts.get(i));
                assertArrayEquals(Arrays.copyOf(all, Math.min(40, all.length)), ids[i]);
            }
            assertEquals(0, tokenizer.encodeAll(List.of(), 40, progress::add).length);
            assertThrows(HllmException.class, () -> tokenizer.encodeAll(texts, 0, null));
        }
        assertEquals(progress.stream().sorted().toList(), progress);
        assertEquals(1000, progress.getLast());
    }

    @Test
    void failuresNameTheOrigin() {
        String message = assertThrows(HllmException.class, () -> ItemTokenizer.fromJson("{\"version\"", "my/file.json"))
                .getMessage();
        assertTrue(message.startsWith("my/file.json: "), message);
        ItemTokenizer tokenizer = ItemTokenizer.fromJson(json(false, "null"), "my/file.json");
        tokenizer.close();
        tokenizer.close();
        message = assertThrows(HllmException.class, () -> tokenizer.encode("x")).getMessage();
        assertTrue(message.startsWith("my/file.json: "), message);
    }

    @Test
    void theLibraryIsToldToStayOffTheNetwork() {
        ItemTokenizer.fromJson(json(false, "null"), "test").close();
        assertTrue(Boolean.getBoolean("ai.djl.offline"));
        assertTrue(Boolean.getBoolean("OPT_OUT_TRACKING"));
        assertEquals("cpu", System.getProperty("RUST_FLAVOR"));
    }

    private static int[] bytes(String text) {
        byte[] utf8 = text.getBytes(StandardCharsets.UTF_8);
        return IntStream.range(0, utf8.length).map(i -> utf8[i] & 0xff).toArray();
    }

    private static String json(boolean bos, String truncation) {
        StringBuilder vocabulary = new StringBuilder();
        int next = 256;
        for (int b = 0; b < 256; b++) {
            // GPT-2's alphabet: printable bytes are themselves, the others follow from U+0100.
            boolean printable = b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae;
            vocabulary.append("\"\\u%04x\":%d,".formatted(printable ? b : next++, b));
        }
        String processor = bos ? """
                {"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},
                 {"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},
                 {"Sequence":{"id":"B","type_id":1}}],
                 "special_tokens":{"<s>":{"id":"<s>","ids":[257],"tokens":["<s>"]}}}""" : "null";
        return """
                {"version":"1.0","truncation":%s,"padding":null,
                 "added_tokens":[{"id":257,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,
                  "normalized":false,"special":true}],
                 "normalizer":null,
                 "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
                 "post_processor":%s,"decoder":null,
                 "model":{"type":"BPE","dropout":null,"unk_token":null,"fuse_unk":false,
                  "vocab":{%s"th":256,"<s>":257},"merges":["t h"]}}""".formatted(truncation, processor, vocabulary);
    }
}
