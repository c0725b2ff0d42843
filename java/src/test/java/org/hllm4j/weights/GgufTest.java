package org.hllm4j.weights;

import static org.hllm4j.weights.TestFiles.refused;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.hllm4j.weights.TestFiles.Bytes;
import org.hllm4j.weights.TestFiles.GgufFile;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class GgufTest {
    @TempDir
    Path folder;

    private Gguf open(byte[] bytes) {
        return Gguf.open(TestFiles.write(folder.resolve("m.gguf"), bytes));
    }

    private Gguf open(GgufFile file) {
        return open(file.done());
    }

    @Test
    void metadataIsTyped() {
        GgufFile file = new GgufFile()
                .string("s", "text é")
                .u32("n", -1)
                .f32("f", 1e-5f)
                .flag("b", true)
                .strings("list", List.of("a", "", "ü"))
                .i32s("ints", 1, -2)
                .f32s("floats", 0.5f)
                .strings("none", List.of());
        try (Gguf gguf = open(file)) {
            assertEquals("text é", gguf.string("s"));
            assertEquals(0xffff_ffffL, gguf.integer("n"));
            assertEquals(1e-5, gguf.real("f"));
            assertTrue(gguf.flag("b", false));
            assertEquals(List.of("a", "", "ü"), gguf.strings("list"));
            assertArrayEquals(new long[] {1, -2}, gguf.integers("ints"));
            assertArrayEquals(new float[] {0.5f}, gguf.reals("floats"));
            assertEquals(List.of(), gguf.strings("none"));
            assertEquals(8, gguf.metadata().size());
            assertEquals("x", gguf.string("absent", "x"));
            assertFalse(gguf.has("absent"));
            refused(() -> gguf.string("absent"), "m.gguf", "'absent' is missing", "expected a string");
            refused(() -> gguf.integer("s"), "'s' is not an integer");
            refused(() -> gguf.strings("ints"), "'ints' is not an array of strings");
            refused(() -> gguf.flag("n", true), "'n' is not true or false");
        }
    }

    /** Every type against a plain decoder, whole and in parts that cut blocks. */
    @Test
    void dequantisation() {
        long seed = 7;
        Random random = new Random(seed);
        int elements = 3 * 32 * 100;
        GgufFile file = new GgufFile();
        int[] types = {2, 3, 8, 1, 30};
        byte[][] stored = new byte[types.length][];
        for (int t = 0; t < types.length; t++) {
            Bytes bytes = new Bytes();
            for (int block = 0; block < elements / 32; block++) {
                int halves = types[t] == 3 ? 2 : types[t] == 1 || types[t] == 30 ? 32 : 1;
                for (int i = 0; i < halves; i++) {
                    bytes.f16((float) random.nextGaussian());
                }
                byte[] quants = new byte[types[t] == 8 ? 32 : types[t] == 2 || types[t] == 3 ? 16 : 0];
                random.nextBytes(quants);
                bytes.raw(quants);
            }
            stored[t] = bytes.done();
            file.tensor("t" + types[t], types[t], stored[t], 100, 96);
        }
        try (Gguf gguf = open(file)) {
            for (int t = 0; t < types.length; t++) {
                float[] expected = new float[elements];
                ByteBuffer in = ByteBuffer.wrap(stored[t]).order(ByteOrder.LITTLE_ENDIAN);
                for (int i = 0; i < elements; i++) {
                    expected[i] = plain(in, types[t], i);
                }
                String name = "t" + types[t];
                assertArrayEquals(new long[] {100, 96}, gguf.info(name).shape());
                assertArrayEquals(expected, TestFiles.read(gguf, name), name);
                for (int round = 0; round < 50; round++) {
                    int first = random.nextInt(elements);
                    FloatBuffer part = FloatBuffer.allocate(random.nextInt(elements - first + 1));
                    gguf.read(name, first, part);
                    assertArrayEquals(
                            Arrays.copyOfRange(expected, first, first + part.capacity()),
                            part.array(),
                            () -> name + " from " + first + ", seed " + seed);
                }
            }
        }
    }

    /** Element i as the format's definition says it, one at a time. */
    private static float plain(ByteBuffer in, int type, int i) {
        int block = i / 32;
        int j = i % 32;
        switch (type) {
            case 1:
                return Float.float16ToFloat(in.getShort(2 * i));
            case 30:
                return Float.intBitsToFloat((in.getShort(2 * i) & 0xffff) << 16);
            case 8:
                return Float.float16ToFloat(in.getShort(block * 34)) * in.get(block * 34 + 2 + j);
            default:
                int header = type == 3 ? 4 : 2;
                int start = block * (header + 16);
                int pair = in.get(start + header + j % 16) & 0xff;
                int quant = j < 16 ? pair & 15 : pair >> 4;
                float scale = Float.float16ToFloat(in.getShort(start));
                return type == 3 ? scale * quant + Float.float16ToFloat(in.getShort(start + 2)) : scale * (quant - 8);
        }
    }

    @Test
    void llamaTensorsAppearAsInHuggingFace() {
        try (Gguf gguf = open(TestFiles.tinyLlama())) {
            assertEquals(12, gguf.names().size());
            assertTrue(gguf.names()
                    .containsAll(List.of(
                            "model.embed_tokens.weight",
                            "model.layers.0.input_layernorm.weight",
                            "model.layers.0.post_attention_layernorm.weight",
                            "model.layers.0.self_attn.o_proj.weight",
                            "model.layers.0.mlp.down_proj.weight",
                            "model.norm.weight",
                            "lm_head.weight")));
            assertArrayEquals(
                    new long[] {8, 12},
                    gguf.info("model.layers.0.mlp.down_proj.weight").shape());
            // heads of 4 rows: stored 0 1 2 3 is, of the two halves, 0a 0b 1a 1b
            float[] q = TestFiles.read(gguf, "model.layers.0.self_attn.q_proj.weight");
            float[] k = TestFiles.read(gguf, "model.layers.0.self_attn.k_proj.weight");
            int[] rows = {0, 2, 1, 3, 4, 6, 5, 7};
            for (int row = 0; row < 8; row++) {
                for (int column = 0; column < 8; column++) {
                    assertEquals(rows[row] * 8 + column, q[row * 8 + column]);
                    if (row < 4) {
                        assertEquals(rows[row] * 8 + column, k[row * 8 + column]);
                    }
                }
            }
            FloatBuffer part = FloatBuffer.allocate(20);
            gguf.read("model.layers.0.self_attn.q_proj.weight", 13, part);
            assertArrayEquals(Arrays.copyOfRange(q, 13, 33), part.array());
            assertFalse(part.hasRemaining());
        }
    }

    @Test
    void otherTypesAreRefusedWhenRead() {
        GgufFile file = new GgufFile()
                .string("general.architecture", "llama")
                .f32Tensor("output_norm.weight", 4)
                .tensor("output.weight", 14, new byte[210], 1, 256)
                .tensor("odd", 77, new byte[1], 1);
        try (Gguf gguf = open(file)) {
            assertEquals(3, gguf.names().size());
            assertArrayEquals(new float[] {0, 1, 2, 3}, TestFiles.read(gguf, "model.norm.weight"));
            refused(() -> gguf.read("lm_head.weight", 0, FloatBuffer.allocate(1)), "'lm_head.weight'", "Q6_K");
            refused(() -> gguf.info("lm_head.weight"), "'lm_head.weight'", "Q6_K");
            refused(() -> gguf.info("odd"), "'odd'", "77");
        }
    }

    @Test
    void everyTruncationIsRefused() {
        byte[] whole = TestFiles.tinyLlama()
                .strings("list", List.of("a", "b"))
                .i32s("ints", 1, 2)
                .done();
        for (int length = 0; length < whole.length; length++) {
            byte[] cut = Arrays.copyOf(whole, length);
            refused(() -> open(cut), "m.gguf");
        }
    }

    @Test
    void hostileSizesAreRefused() {
        Bytes start = new Bytes().raw("GGUF".getBytes(java.nio.charset.StandardCharsets.US_ASCII));
        refused(
                () -> open(
                        new Bytes().raw(start.done()).i32(1).raw(new byte[64]).done()),
                "version 1");
        refused(
                () -> open(
                        new Bytes().raw(start.done()).i32(4).raw(new byte[64]).done()),
                "version 4");
        refused(
                () -> open(new Bytes()
                        .raw(start.done())
                        .i32(0x03000000)
                        .raw(new byte[64])
                        .done()),
                "big-endian");
        refused(() -> open(new byte[64]), "not a GGUF file");
        for (long count : new long[] {-1, Long.MIN_VALUE, Long.MAX_VALUE, 1 << 20}) {
            refused(
                    () -> open(new Bytes()
                            .raw(start.done())
                            .i32(3)
                            .i64(count)
                            .i64(0)
                            .raw(new byte[64])
                            .done()),
                    "tensors");
            refused(
                    () -> open(new Bytes()
                            .raw(start.done())
                            .i32(3)
                            .i64(0)
                            .i64(count)
                            .raw(new byte[64])
                            .done()),
                    "metadata values");
            byte[] head = new Bytes().raw(start.done()).i32(3).i64(0).i64(1).done();
            refused(
                    () -> open(
                            new Bytes().raw(head).i64(count).raw(new byte[64]).done()),
                    "metadata key");
            refused(
                    () -> open(new Bytes()
                            .raw(head)
                            .text("k")
                            .i32(8)
                            .i64(count)
                            .raw(new byte[64])
                            .done()),
                    "k");
            for (int type : new int[] {0, 3, 5, 6, 7, 8, 9, 10, 12}) {
                byte[] array = new Bytes()
                        .raw(head)
                        .text("k")
                        .i32(9)
                        .i32(type)
                        .i64(count)
                        .raw(new byte[64])
                        .done();
                refused(() -> open(array), "'k'");
            }
        }
        byte[] head = new Bytes().raw(start.done()).i32(3).i64(0).i64(1).done();
        refused(
                () -> open(new Bytes()
                        .raw(head)
                        .text("k")
                        .i32(99)
                        .raw(new byte[64])
                        .done()),
                "'k'",
                "type 99");
        refused(
                () -> open(new Bytes()
                        .raw(head)
                        .text("k")
                        .i32(9)
                        .i32(99)
                        .i64(1)
                        .raw(new byte[64])
                        .done()),
                "'k'",
                "99");
        Bytes nested = new Bytes().raw(head).text("k").i32(9);
        for (int depth = 0; depth < 1000; depth++) {
            nested.i32(9).i64(1);
        }
        refused(() -> open(nested.raw(new byte[64]).done()), "'k'", "depth");
    }

    @Test
    void hostileTablesAreRefused() {
        refused(() -> open(new GgufFile().u32("a", 1).u32("a", 2)), "'a'", "twice");
        refused(() -> open(new GgufFile().f32Tensor("t", 4).f32Tensor("t", 4)), "'t'", "twice");
        refused(() -> open(new GgufFile().u32("split.count", 2)), "split");
        refused(() -> open(new GgufFile().u32("general.alignment", 0)), "general.alignment is 0");
        refused(() -> open(new GgufFile().u32("general.alignment", 48)), "general.alignment is 48");
        refused(() -> open(new GgufFile().f32Tensor("t", 1, 1, 1, 1, 1)), "'t'", "rank 5");
        refused(() -> open(new GgufFile().tensor("t", 8, new byte[34], 2, 16)), "t Q8_0[2, 16]", "multiple of 32");
        refused(() -> open(new GgufFile().tensor("t", 0, new byte[4], 2)), "t F32[2]", "passes the end");
        refused(() -> open(new GgufFile().tensor("t", 0, new byte[4], 1L << 62, 4)), "overflows");
        refused(() -> open(new GgufFile().tensor("t", 0, new byte[4], -1)), "negative");
        refused(
                () -> open(new GgufFile().tensor("t", 0, new byte[4], 16).tensor("u", 0, new byte[64], 16)),
                "overlaps");
        GgufFile llama = new GgufFile().string("general.architecture", "llama");
        refused(() -> open(llama.f32Tensor("blk.0.attn_q.weight", 4, 4)), "llama.attention.head_count");
        refused(() -> open(llama.u32("llama.attention.head_count", 3)), "q_proj", "divided among 3 heads");
    }

    /** Values that transformers reads from the same file, and the time to read all of it. */
    @Test
    void realModel() {
        try (Gguf gguf = Gguf.open(TestFiles.smolLm2())) {
            assertEquals(272, gguf.names().size());
            FloatBuffer buffer = FloatBuffer.allocate(49152 * 576);
            long begin = System.nanoTime();
            long elements = 0;
            for (String name : gguf.names()) {
                buffer.clear().limit((int) gguf.info(name).elements());
                gguf.read(name, 0, buffer);
                elements += buffer.position();
            }
            double seconds = (System.nanoTime() - begin) / 1e9;
            System.out.printf("SmolLM2 GGUF: %d elements to float32 in %.2f s%n", elements, seconds);
            assertEquals(134_515_008, elements);
            assertEquals(0x1.dap-4f, at(gguf, "model.layers.7.self_attn.q_proj.weight", 100 * 576 + 5));
            assertEquals(0x1.4fap-4f, at(gguf, "model.layers.29.self_attn.k_proj.weight", 191 * 576 + 575));
            assertEquals(-0x1.29fap-4f, at(gguf, "model.embed_tokens.weight", 1000 * 576 + 33));
            assertEquals(0x1.988p-4f, at(gguf, "model.layers.3.mlp.down_proj.weight", 17 * 1536 + 1001));
        }
    }

    private static float at(Gguf gguf, String name, long element) {
        FloatBuffer one = FloatBuffer.allocate(1);
        gguf.read(name, element, one);
        return one.get(0);
    }
}
