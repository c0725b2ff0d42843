package org.hllm4j.weights;

import static org.hllm4j.weights.TestFiles.refused;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SafetensorsTest {
    @TempDir
    Path folder;

    private Path file(String header, int dataBytes) {
        return TestFiles.write(folder.resolve("t.safetensors"), TestFiles.safetensors(header, dataBytes));
    }

    private static TensorInfo info(String name, StoredType type, long... shape) {
        return new TensorInfo(name, type, shape);
    }

    private Path sample(String name) {
        Path file = folder.resolve(name);
        List<TensorInfo> tensors = List.of(
                info("halves", StoredType.BF16, 3),
                info("matrix", StoredType.F32, 2, 3),
                info("none", StoredType.F32, 0, 4),
                info("ids", StoredType.I64, 2),
                info("scalar", StoredType.F32));
        try (SafetensorsWriter writer = SafetensorsWriter.create(file, tensors, Map.of("format", "pt", "é", "\"x\""))) {
            writer.append("halves", FloatBuffer.wrap(new float[] {1, 1.00390625f, Float.NaN}));
            writer.append("matrix", FloatBuffer.wrap(new float[] {0, 1}));
            writer.append("matrix", FloatBuffer.wrap(new float[] {2, 3, 4, 5}));
            writer.append("ids", LongBuffer.wrap(new long[] {-1, 1L << 40}));
            writer.append("scalar", FloatBuffer.wrap(new float[] {7}));
        }
        return file;
    }

    @Test
    void whatIsWrittenIsRead() {
        try (Safetensors source = Safetensors.open(sample("a.safetensors"))) {
            assertEquals(Map.of("format", "pt", "é", "\"x\""), source.metadata());
            assertEquals(
                    List.of("halves", "ids", "matrix", "none", "scalar"),
                    source.names().stream().sorted().toList());
            assertArrayEquals(new float[] {0, 1, 2, 3, 4, 5}, TestFiles.read(source, "matrix"));
            assertArrayEquals(new float[] {7}, TestFiles.read(source, "scalar"));
            assertArrayEquals(new float[0], TestFiles.read(source, "none"));
            // 1 + 2^-8 lies between two bfloat16 and goes to the even one
            assertArrayEquals(new float[] {1, 1, Float.NaN}, TestFiles.read(source, "halves"));
            assertArrayEquals(new long[] {-1, 1L << 40}, source.readLongs("ids"));
            assertArrayEquals(new long[] {2, 3}, source.info("matrix").shape());
            FloatBuffer part = FloatBuffer.allocate(3);
            source.read("matrix", 2, part);
            assertArrayEquals(new float[] {2, 3, 4}, part.array());
            assertEquals(5, source.stored("matrix").asFloatBuffer().get(5));
            assertEquals(0x3f80, source.stored("halves").asShortBuffer().get(1));
            source.unload("matrix");
            source.unload("none");
            assertArrayEquals(new float[] {0, 1, 2, 3, 4, 5}, TestFiles.read(source, "matrix"));
        }
    }

    @Test
    void everyTensorIsAlignedToItsType() throws IOException {
        byte[] bytes = Files.readAllBytes(sample("a.safetensors"));
        int header = bytes[0] & 0xff | (bytes[1] & 0xff) << 8;
        assertEquals(0, header % 8);
        String json = new String(bytes, 8, header, java.nio.charset.StandardCharsets.UTF_8);
        assertTrue(json.contains("\"ids\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]}"), json);
        assertTrue(json.contains("\"halves\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[44,50]}"), json);
    }

    @Test
    void bfloat16RoundsToNearestEven() {
        float ulp = 0x1p-7f; // of bfloat16, at 1
        float[] values = {
            -0f, 1 + 0.49f * ulp, 1 + 0.5f * ulp, 1 + 1.5f * ulp, -1 - 0.51f * ulp, 1e-40f, Float.MAX_VALUE, -1 / 0f
        };
        float[] expected = {
            -0f, 1, 1, 1 + 2 * ulp, -1 - ulp, Float.intBitsToFloat(1 << 16), Float.POSITIVE_INFINITY, -1 / 0f
        };
        Path file = folder.resolve("b.safetensors");
        try (SafetensorsWriter writer =
                SafetensorsWriter.create(file, List.of(info("x", StoredType.BF16, values.length)), Map.of())) {
            writer.append("x", FloatBuffer.wrap(values));
        }
        try (Safetensors source = Safetensors.open(file)) {
            assertArrayEquals(expected, TestFiles.read(source, "x"));
        }
    }

    @Test
    void longTensorsPassThroughChunks() {
        int count = 100_003;
        float[] values = new float[count];
        for (int i = 0; i < count; i++) {
            values[i] = i * 0.5f;
        }
        Path file = folder.resolve("c.safetensors");
        try (SafetensorsWriter writer =
                SafetensorsWriter.create(file, List.of(info("x", StoredType.F32, count)), Map.of())) {
            for (int from = 0; from < count; from += 33_333) {
                writer.append("x", FloatBuffer.wrap(values, from, Math.min(33_333, count - from)));
            }
        }
        try (Safetensors source = Safetensors.open(file)) {
            assertArrayEquals(values, TestFiles.read(source, "x"));
            FloatBuffer part = FloatBuffer.allocate(50_000);
            source.read("x", 12_345, part);
            assertArrayEquals(Arrays.copyOfRange(values, 12_345, 62_345), part.array());
        }
    }

    @Test
    void incompleteFilesNeverAppear() throws IOException {
        Path file = folder.resolve("d.safetensors");
        SafetensorsWriter writer = SafetensorsWriter.create(file, List.of(info("x", StoredType.F32, 4)), Map.of());
        writer.append("x", FloatBuffer.wrap(new float[] {1, 2}));
        refused(() -> writer.append("y", FloatBuffer.allocate(1)), "'y'", "'x'");
        refused(() -> writer.append("x", FloatBuffer.allocate(3)), "append of 3", "at most 2");
        refused(writer::close, "d.safetensors", "had 2 of 4 elements");
        writer.close();
        refused(() -> writer.append("x", FloatBuffer.allocate(1)), "after close");
        try (var files = Files.list(folder)) {
            assertEquals(List.of(), files.toList());
        }
        refused(
                () -> SafetensorsWriter.create(file, List.of(info("x", StoredType.F16, 4)), Map.of()),
                "x F16[4]",
                "expected one of");
        refused(
                () -> SafetensorsWriter.create(
                        file, List.of(info("x", StoredType.F32), info("x", StoredType.F32)), Map.of()),
                "'x'",
                "twice");
    }

    @Test
    void rangesNamesAndCloseAreChecked() {
        Safetensors source = Safetensors.open(sample("a.safetensors"));
        refused(() -> source.info("matrixx"), "a.safetensors", "'matrixx'", "[matrix");
        refused(() -> source.read("matrix", 1, FloatBuffer.allocate(6)), "'matrix'", "6 elements");
        refused(() -> source.read("matrix", -1, FloatBuffer.allocate(1)), "'matrix'");
        refused(() -> source.readLongs("matrix"), "'matrix'", "F32");
        source.close();
        source.close();
        refused(() -> source.read("matrix", 0, FloatBuffer.allocate(1)), "after close");
        refused(() -> source.readLongs("ids"), "after close");
        refused(() -> Safetensors.open(folder), "is a folder");
        refused(() -> Safetensors.open(folder.resolve("absent")), "absent", "no such file");
    }

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            quoteCharacter = '`',
            value = {
                "{'x':{'dtype':'F8','shape':[4],'data_offsets':[0,4]}}|4|dtype 'F8'",
                "{'x':{'shape':[4],'data_offsets':[0,4]}}|4|dtype ''",
                "{'x':{'dtype':'F32','shape':[2],'data_offsets':[0,4]}}|4|needs 8 bytes",
                "{'x':{'dtype':'F32','shape':[1],'data_offsets':[0,8]}}|4|data_offsets [0, 8]",
                "{'x':{'dtype':'F32','shape':[1],'data_offsets':[4,0]}}|4|data_offsets [4, 0]",
                "{'x':{'dtype':'F32','shape':[1],'data_offsets':[-4,0]}}|4|data_offsets holds -4",
                "{'x':{'dtype':'F32','shape':[1],'data_offsets':[0]}}|4|data_offsets [0]",
                "{'x':{'dtype':'F32','shape':[1],'data_offsets':[0,4,4]}}|4|data_offsets must be",
                "{'x':{'dtype':'F32','shape':[1],'data_offsets':[4,8]}}|8|expected 0",
                "{'x':{'dtype':'F32','shape':[1],'data_offsets':[0,4]}}|8|8 bytes of data",
                "{'x':{'dtype':'F32','shape':[-1],'data_offsets':[0,4]}}|4|shape holds -1",
                "{'x':{'dtype':'F32','shape':[1.0],'data_offsets':[0,4]}}|4|shape holds 1.0",
                "{'x':{'dtype':'F32','shape':['1'],'data_offsets':[0,4]}}|4|shape holds",
                "{'x':{'dtype':'F32','shape':[99999999999999999999],'data_offsets':[0,4]}}|4|shape holds",
                "{'x':{'dtype':'F32','shape':[4294967296,4294967296],'data_offsets':[0,4]}}|4|overflows",
                "{'x':{'dtype':'F32','shape':[4611686018427387905],'data_offsets':[0,4]}}|4|overflows",
                "{'x':3}|4|'x'",
                "{'__metadata__':{'a':1}}|0|__metadata__ 'a'",
                "{'__metadata__':[]}|0|__metadata__",
                "[]|0|JSON object",
                "{}x|0|not valid JSON",
                "{'x'|0|not valid JSON",
            })
    void hostileHeadersAreRefused(String header, int dataBytes, String part) {
        Path file = file(header.replace('\'', '"'), dataBytes);
        refused(() -> Safetensors.open(file), "t.safetensors", part);
    }

    @Test
    void overlapAndDuplicatesAreRefused() {
        String entry = "{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[%d,%d]}";
        String overlap = "{\"a\":" + entry.formatted(0, 8) + ",\"b\":" + entry.formatted(4, 12) + "}";
        refused(() -> Safetensors.open(file(overlap, 12)), "'b'", "overlap");
        String twice = "{\"a\":" + entry.formatted(0, 8) + ",\"a\":" + entry.formatted(8, 16) + "}";
        refused(() -> Safetensors.open(file(twice, 16)), "Duplicate field 'a'");
    }

    @Test
    void everyTruncationIsRefused() {
        byte[] whole = TestFiles.bytes(sample("a.safetensors"));
        for (int length = 0; length < whole.length; length++) {
            Path cut = TestFiles.write(folder.resolve("cut"), Arrays.copyOf(whole, length));
            refused(() -> Safetensors.open(cut), "cut");
        }
    }

    @Test
    void hostileHeaderLengths() {
        for (long length : new long[] {0, 1, 100_000_001, Long.MAX_VALUE, -1, Long.MIN_VALUE}) {
            byte[] bytes = new TestFiles.Bytes().i64(length).raw(new byte[64]).done();
            refused(() -> Safetensors.open(TestFiles.write(folder.resolve("t"), bytes)), "header of");
        }
        String deep = "{\"x\":" + "[".repeat(100_000) + "]".repeat(100_000) + "}";
        refused(() -> Safetensors.open(file(deep, 0)), "not valid JSON");
    }

    @Test
    void shardsAreJoined() throws IOException {
        for (String name : List.of("a", "b")) {
            try (SafetensorsWriter writer = SafetensorsWriter.create(
                    folder.resolve("s-" + name + ".safetensors"), List.of(info(name, StoredType.F32, 1)), Map.of())) {
                writer.append(name, FloatBuffer.wrap(new float[] {name.charAt(0)}));
            }
        }
        Path index = folder.resolve("model.safetensors.index.json");
        Files.writeString(index, "{\"weight_map\":{\"a\":\"s-a.safetensors\",\"b\":\"s-b.safetensors\"}}");
        try (Safetensors source = Safetensors.openFolder(folder)) {
            assertArrayEquals(new float[] {'a'}, TestFiles.read(source, "a"));
            assertArrayEquals(new float[] {'b'}, TestFiles.read(source, "b"));
        }
        Files.writeString(index, "{\"weight_map\":{\"a\":\"s-b.safetensors\",\"b\":\"s-b.safetensors\"}}");
        refused(() -> Safetensors.openFolder(folder), "s-b.safetensors", "'a'", "is not here");
        Files.writeString(index, "{\"weight_map\":{\"a\":\"s-c.safetensors\"}}");
        refused(() -> Safetensors.openFolder(folder), "s-c.safetensors", "no such file");
        for (String escape : List.of("../s-a.safetensors", "/etc/passwd", "..", "")) {
            Files.writeString(index, "{\"weight_map\":{\"a\":\"" + escape + "\"}}");
            refused(() -> Safetensors.openFolder(folder), "'a'", "not the name of a file");
        }
        Files.writeString(index, "{\"weight_map\":{\"a\":1}}");
        refused(() -> Safetensors.openFolder(folder), "'a'", "not the name of a file");
        Files.writeString(index, "{}");
        refused(() -> Safetensors.openFolder(folder), "weight_map");
        Files.delete(index);
        refused(() -> Safetensors.openFolder(folder), "looked for model.safetensors");
    }

    @Test
    void goldenFile() {
        try (Safetensors golden = Safetensors.open(TestFiles.shared("golden/hllm-tiny-gqa.safetensors"))) {
            assertEquals("12", golden.metadata().get("max_text_length"));
            assertArrayEquals(
                    new long[] {1, 1, 64}, golden.info("param.item_emb_tokens").shape());
            assertEquals(0, golden.info("param.logit_scale").shape().length);
            assertEquals(Math.log(1 / 0.07), TestFiles.read(golden, "param.logit_scale")[0], 1e-6);
        }
    }
}
