package org.hllm4j.weights;

import static org.hllm4j.weights.TestFiles.refused;
import static org.hllm4j.weights.TestFiles.resource;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.zip.CRC32;
import java.util.zip.ZipEntry;
import java.util.zip.ZipFile;
import java.util.zip.ZipOutputStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class TorchCheckpointTest {
    @TempDir
    Path folder;

    @Test
    void viewsOfEveryKindAreRead() {
        try (TorchCheckpoint source = TorchCheckpoint.open(resource("views.bin"))) {
            assertEquals(16, source.names().size());
            float[] ramp = TestFiles.read(source, "plain");
            assertEquals(23, ramp[23]);
            assertArrayEquals(new long[] {6, 4}, source.info("transposed").shape());
            float[] transposed = TestFiles.read(source, "transposed");
            for (int i = 0; i < 24; i++) {
                assertEquals(ramp[i % 4 * 6 + i / 4], transposed[i]);
            }
            FloatBuffer part = FloatBuffer.allocate(7);
            source.read("transposed", 9, part);
            assertArrayEquals(Arrays.copyOfRange(transposed, 9, 16), part.array());
            assertArrayEquals(new float[] {8, 9, 10, 14, 15, 16}, TestFiles.read(source, "slice"));
            assertArrayEquals(new float[] {3, 9, 15, 21}, TestFiles.read(source, "column"));
            assertArrayEquals(new float[] {1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3}, TestFiles.read(source, "expanded"));
            assertArrayEquals(new long[] {4, 2, 3}, source.info("permuted").shape());
            assertEquals(StoredType.F64, source.info("permuted").type());
            assertArrayEquals(
                    new float[] {0, 4, 8, 12, 16, 20, 1, 5}, Arrays.copyOf(TestFiles.read(source, "permuted"), 8));
            assertArrayEquals(new float[] {2.5f}, TestFiles.read(source, "scalar"));
            assertArrayEquals(new float[0], TestFiles.read(source, "empty"));
            assertArrayEquals(new float[] {1, -0.5f, 65504, 0x1p-24f}, TestFiles.read(source, "half"));
            assertArrayEquals(
                    new float[] {1, -0.5f, 0x1.c4p127f, Float.intBitsToFloat(0x10000)},
                    TestFiles.read(source, "bfloat"));
            assertArrayEquals(new float[] {-1, 0x1p40f}, TestFiles.read(source, "long"));
            assertArrayEquals(new float[] {-7, 7}, TestFiles.read(source, "int"));
            assertArrayEquals(new float[] {-128, 127}, TestFiles.read(source, "char"));
            assertArrayEquals(new float[] {0, 255}, TestFiles.read(source, "byte"));
            assertArrayEquals(new float[] {1, 0, 1}, TestFiles.read(source, "bool"));
            assertArrayEquals(new float[] {4, 5}, TestFiles.read(source, "parameter"));
        }
    }

    @Test
    void nestedDictsGetDottedNames() {
        try (TorchCheckpoint source = TorchCheckpoint.open(resource("nested.bin"))) {
            assertEquals(17, source.names().size());
            assertArrayEquals(new float[] {4, 5}, TestFiles.read(source, "model.parameter"));
            assertArrayEquals(new float[] {9}, TestFiles.read(source, "steps.1"));
        }
    }

    @Test
    void codeIsRefusedByName() {
        refused(() -> TorchCheckpoint.open(resource("evil.bin")), "evil.bin", ".system'", "nothing was executed");
    }

    @Test
    void legacyFilesAreRefused() {
        refused(
                () -> TorchCheckpoint.open(resource("legacy.bin")),
                "legacy.bin",
                "before PyTorch 1.6",
                "save it again");
    }

    @Test
    void everyTruncationIsRefused() {
        byte[] whole = TestFiles.bytes(resource("views.bin"));
        for (int length = 0; length < whole.length; length++) {
            Path cut = TestFiles.write(folder.resolve("cut"), Arrays.copyOf(whole, length));
            refused(() -> TorchCheckpoint.open(cut), "cut");
        }
    }

    @Test
    void everyTruncationOfThePickleIsRefused() throws IOException {
        Map<String, byte[]> entries = entries(resource("views.bin"));
        byte[] pickle = entries.get("views/data.pkl");
        for (int length = 0; length < pickle.length; length++) {
            entries.put("views/data.pkl", Arrays.copyOf(pickle, length));
            refused(() -> TorchCheckpoint.open(zip(entries)), "data.pkl");
        }
    }

    /** Pickles in protocol 0 letters: ( mark, ] list, } dict, N None, K int, X string. */
    @ParameterizedTest
    @ValueSource(
            strings = {
                "",
                ".",
                "N.",
                "].",
                "(.",
                "(t.",
                "t.",
                "R.",
                "Q.",
                "0.",
                "s.",
                "u.",
                "}N.",
                "}(u",
                "}(Nu.",
                "}]]s.",
                "a.",
                ")Na.",
                "e.",
                "1.",
                "b.",
                "Nb.",
                "q\0.",
                "h\7.",
                "NR.",
                "N)R.",
                "cos\nsystem\n.",
                "c\n\n.",
                "ctorch\nX\n.",
                "ctorch\nFloatStorage\n.",
                "ccollections\nOrderedDict\n.",
                "ccollections\nOrderedDict\n(Nt.",
                "ccollections\nOrderedDict\n(NtR.",
                "ctorch._utils\n_rebuild_tensor_v2\n)R.",
                "ctorch._utils\n_rebuild_parameter\n)R.",
                "ctorch._utils\n_rebuild_tensor_v2\n(NK\0))tR.",
                "NQ.",
                ")Q.",
                "(NNNNNtQ.",
                "\u008a\uffff",
                "\u008a\t123456789.",
                "o.",
                "i.",
                "\u0081.",
                "\u0080\u0009.",
                "c"
            })
    void damagedPicklesAreRefused(String pickle) throws IOException {
        Map<String, byte[]> entries = new LinkedHashMap<>();
        entries.put("a/data.pkl", pickle.getBytes(StandardCharsets.ISO_8859_1));
        refused(() -> TorchCheckpoint.open(zip(entries)));
    }

    @Test
    void cyclesAndExplosionsAreBounded() throws IOException {
        // d = {}; d["d"] = d
        refused(() -> TorchCheckpoint.open(zip(pickle("}q\0X\1\0\0\0dh\0s."))), "nested deeper");
        // each dict holds the one before twelve times: 12^14 paths
        StringBuilder bomb = new StringBuilder("}q\0");
        for (char level = 1; level < 15; level++) {
            bomb.append("}(");
            for (char key = 'a'; key < 'a' + 12; key++) {
                bomb.append("X\1\0\0\0").append(key).append('h').append((char) (level - 1));
            }
            bomb.append("uq").append(level);
        }
        refused(() -> TorchCheckpoint.open(zip(pickle(bomb + "."))), "values; not a state dict");
    }

    @Test
    void tensorsMustStayInTheirStorage() throws IOException {
        assertArrayEquals(new long[] {4}, shapeOf("K\4", "K\0", "(K\4t", "(K\1t", 16));
        refused(() -> shapeOf("K\4", "K\0", "(K\4t", "(K\1t", 15), "'w'", "too short");
        refused(() -> shapeOf("K\4", "K\1", "(K\4t", "(K\1t", 16), "'w'", "leaves its storage");
        refused(() -> shapeOf("K\4", "K\0", "(K\2K\2t", "(K\3K\1t", 16), "'w'", "leaves its storage");
        refused(() -> shapeOf("K\4", "K\5", "(K\0t", "(K\1t", 16), "'w'", "leaves its storage");
        refused(() -> shapeOf("K\4", "K\0", "(K\4t", "(K\1K\1t", 16), "'w'", "leaves its storage");
        refused(() -> shapeOf("K\4", "J\uffff\uffff\uffff\uffff", "(K\4t", "(K\1t", 16), "'w'");
        refused(() -> shapeOf("K\4", "K\0", "(K\4t", "(J\u00ff\u00ff\u00ff\u00fft", 16), "'w'");
        refused(() -> shapeOf("K\4", "K\0", "(J\u00ff\u00ff\u00ff\u00fft", "(K\1t", 16), "w", "negative");
        refused(() -> shapeOf("J\u00ff\u00ff\u00ff\u00ff", "K\0", "(K\4t", "(K\1t", 16), "storage of -1");
        String huge = "\u008a\b\0\0\0\0\0\0\0\u0040"; // 2^62
        refused(() -> shapeOf("K\4", "K\0", "(" + huge + huge + "t", "(K\0K\0t", 16), "w", "overflows");
        refused(() -> shapeOf("K\4", "K\0", "(K\4t", "(" + huge + "t", 16), "'w'", "leaves its storage");
        refused(() -> shapeOf(huge, "K\0", "(K\4t", "(K\1t", 16), "storage of");
    }

    private long[] shapeOf(String numel, String offset, String shape, String stride, int stored) throws IOException {
        String pickle = "}X\1\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n"
                + "X\1\0\0\0000X\3\0\0\0cpu" + numel + "tQ" + offset + shape + stride + "\u0089NtRs.";
        Map<String, byte[]> entries = pickle(pickle);
        entries.put("a/data/0", new byte[stored]);
        try (TorchCheckpoint source = TorchCheckpoint.open(zip(entries))) {
            return source.info("w").shape();
        }
    }

    @Test
    void zipsOfOtherKindsAreRefused() throws IOException {
        Map<String, byte[]> entries = entries(resource("views.bin"));
        entries.put("views/byteorder", "big".getBytes(StandardCharsets.US_ASCII));
        refused(() -> TorchCheckpoint.open(zip(entries)), "big-endian");
        entries.remove("views/byteorder");
        entries.remove("views/data/0");
        refused(() -> TorchCheckpoint.open(zip(entries)), "'plain'", "absent");
        entries.put("other/data.pkl", new byte[1]);
        refused(() -> TorchCheckpoint.open(zip(entries)), "expected one entry");
        refused(() -> TorchCheckpoint.open(zip(Map.of("readme", new byte[1]))), "expected one entry");
        Path deflated = folder.resolve("deflated");
        try (ZipOutputStream out = new ZipOutputStream(Files.newOutputStream(deflated))) {
            out.putNextEntry(new ZipEntry("a/data.pkl"));
            out.write(new byte[100]);
        }
        refused(() -> TorchCheckpoint.open(deflated), "'a/data.pkl'", "compressed");
    }

    /** The same bytes with the sizes and places moved to zip64 fields, as for files of more than 4 GB. */
    @Test
    void zip64IsRead() {
        byte[] pickle = "}X\1\0\0\0aK\1s.".getBytes(StandardCharsets.ISO_8859_1);
        byte[] name = "a/data.pkl".getBytes(StandardCharsets.US_ASCII);
        TestFiles.Bytes zip = new TestFiles.Bytes();
        zip.i32(0x04034b50).raw(new byte[14]).i32(-1).i32(-1).raw((byte) name.length, (byte) 0, (byte) 0, (byte) 0);
        zip.raw(name).raw(pickle);
        int directory = 30 + name.length + pickle.length;
        zip.i32(0x02014b50).raw(new byte[16]).i32(-1).i32(-1).raw((byte) name.length, (byte) 0, (byte) 28, (byte) 0);
        zip.raw(new byte[10]).i32(-1).raw(name);
        zip.raw((byte) 1, (byte) 0, (byte) 24, (byte) 0)
                .i64(pickle.length)
                .i64(pickle.length)
                .i64(0);
        int end = directory + 46 + name.length + 28;
        zip.i32(0x06064b50)
                .i64(44)
                .raw(new byte[12])
                .i64(1)
                .i64(1)
                .i64(end - directory)
                .i64(directory);
        zip.i32(0x07064b50).i32(0).i64(end).i32(1);
        zip.i32(0x06054b50).i32(0).i32(-1).i32(-1).i32(-1).raw(new byte[2]);
        try (TorchCheckpoint source = TorchCheckpoint.open(TestFiles.write(folder.resolve("zip64"), zip.done()))) {
            assertTrue(source.names().isEmpty());
        }
    }

    @Test
    void whatIsWrittenIsRead() throws IOException {
        Path file = folder.resolve("w.bin");
        List<TensorInfo> tensors = List.of(
                new TensorInfo("ünder.weight", StoredType.F32, new long[] {3, 700}),
                new TensorInfo("scalar", StoredType.F32, new long[0]),
                new TensorInfo("empty", StoredType.F32, new long[] {2, 0}));
        float[] values = new float[2100];
        for (int i = 0; i < values.length; i++) {
            values[i] = i * 0.25f;
        }
        try (TorchCheckpointWriter writer = TorchCheckpointWriter.create(file, tensors)) {
            writer.append("ünder.weight", FloatBuffer.wrap(values, 0, 1000));
            writer.append("ünder.weight", FloatBuffer.wrap(values, 1000, 1100));
            writer.append("scalar", FloatBuffer.wrap(new float[] {3}));
        }
        try (TorchCheckpoint source = TorchCheckpoint.open(file)) {
            assertEquals(List.of("ünder.weight", "scalar", "empty"), new ArrayList<>(source.names()));
            assertArrayEquals(values, TestFiles.read(source, "ünder.weight"));
            assertArrayEquals(new float[] {3}, TestFiles.read(source, "scalar"));
            assertArrayEquals(new long[] {2, 0}, source.info("empty").shape());
        }
        // another reader agrees on the zip, checksums included
        try (ZipFile zip = new ZipFile(file.toFile())) {
            for (ZipEntry entry : java.util.Collections.list(zip.entries())) {
                CRC32 crc = new CRC32();
                crc.update(zip.getInputStream(entry).readAllBytes());
                assertEquals(entry.getCrc(), crc.getValue(), entry.getName());
            }
        }
        refused(
                () -> TorchCheckpointWriter.create(file, List.of(new TensorInfo("x", StoredType.BF16, new long[] {1}))),
                "x BF16[1]");
    }

    @Test
    void shardsAreJoined() throws IOException {
        for (String name : List.of("a", "b")) {
            try (TorchCheckpointWriter writer = TorchCheckpointWriter.create(
                    folder.resolve(name + ".bin"), List.of(new TensorInfo(name, StoredType.F32, new long[] {1})))) {
                writer.append(name, FloatBuffer.wrap(new float[] {name.charAt(0)}));
            }
        }
        Path index = folder.resolve("pytorch_model.bin.index.json");
        Files.writeString(index, "{\"weight_map\":{\"a\":\"a.bin\",\"b\":\"b.bin\"}}");
        try (TorchCheckpoint source = TorchCheckpoint.openFolder(folder)) {
            assertArrayEquals(new float[] {'b'}, TestFiles.read(source, "b"));
        }
        Files.writeString(index, "{\"weight_map\":{\"a\":\"b.bin\"}}");
        refused(() -> TorchCheckpoint.openFolder(folder), "b.bin", "'a'", "is not here");
    }

    /** The official checkpoint holds the golden parameters; its User LLM's MLP in bfloat16. */
    @Test
    void officialCheckpoint() {
        Path file = TestFiles.shared("golden/hllm-tiny-gqa.pytorch_model.bin");
        try (TorchCheckpoint checkpoint = TorchCheckpoint.open(file);
                Safetensors golden = Safetensors.open(TestFiles.shared("golden/hllm-tiny-gqa.safetensors"))) {
            int rounded = 0;
            for (String name : checkpoint.names()) {
                float[] expected = TestFiles.read(golden, "param." + name);
                float[] read = TestFiles.read(checkpoint, name);
                assertArrayEquals(
                        golden.info("param." + name).shape(),
                        checkpoint.info(name).shape(),
                        name);
                if (checkpoint.info(name).type() == StoredType.BF16) {
                    rounded++;
                    for (int i = 0; i < read.length; i++) {
                        assertEquals(expected[i], read[i], Math.abs(expected[i]) / 256, name);
                    }
                } else {
                    assertArrayEquals(expected, read, name);
                }
            }
            assertEquals(6, rounded);
            assertEquals(
                    golden.names().stream()
                            .filter(name -> name.startsWith("param."))
                            .count(),
                    checkpoint.names().size());
        }
    }

    private static Map<String, byte[]> pickle(String pickle) {
        Map<String, byte[]> entries = new LinkedHashMap<>();
        entries.put("a/data.pkl", pickle.getBytes(StandardCharsets.ISO_8859_1));
        return entries;
    }

    private static Map<String, byte[]> entries(Path file) throws IOException {
        Map<String, byte[]> entries = new LinkedHashMap<>();
        try (ZipFile zip = new ZipFile(file.toFile())) {
            for (ZipEntry entry : java.util.Collections.list(zip.entries())) {
                entries.put(entry.getName(), zip.getInputStream(entry).readAllBytes());
            }
        }
        return entries;
    }

    private Path zip(Map<String, byte[]> entries) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (ZipOutputStream out = new ZipOutputStream(bytes)) {
            for (var item : entries.entrySet()) {
                ZipEntry entry = new ZipEntry(item.getKey());
                CRC32 crc = new CRC32();
                crc.update(item.getValue());
                entry.setMethod(ZipEntry.STORED);
                entry.setSize(item.getValue().length);
                entry.setCrc(crc.getValue());
                out.putNextEntry(entry);
                out.write(item.getValue());
            }
        }
        return TestFiles.write(folder.resolve("made.bin"), bytes.toByteArray());
    }
}
