package org.hllm4j.weights;

import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URISyntaxException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.junit.jupiter.api.function.Executable;

/** Files that several tests need. */
final class TestFiles {
    private TestFiles() {}

    /** A file of the shared folder; the test is skipped without it. */
    static Path shared(String name) {
        String folder = System.getProperty("hllm.shared", "");
        Path file = Path.of(folder, name);
        assumeTrue(!folder.isEmpty() && Files.exists(file), "no " + name + ": set -Dhllm.shared=FOLDER");
        return file;
    }

    /** The SmolLM2-135M-Instruct Q4_1 model; the test is skipped without it. */
    static Path smolLm2() {
        assumeTrue(Files.exists(Tiny.smolLm2()), Tiny.noSmolLm2());
        return Tiny.smolLm2();
    }

    static Path resource(String name) {
        try {
            var url = TestFiles.class.getResource("/weights/" + name);
            assertNotNull(url, name);
            return Path.of(url.toURI());
        } catch (URISyntaxException e) {
            throw new AssertionError(e);
        }
    }

    static float[] read(TensorSource source, String name) {
        float[] values = new float[Math.toIntExact(source.info(name).elements())];
        source.read(name, 0, FloatBuffer.wrap(values));
        return values;
    }

    /** Asserts an HllmException whose message holds all of the parts. */
    static void refused(Executable code, String... parts) {
        String message = assertThrows(HllmException.class, code).getMessage();
        for (String part : parts) {
            assertTrue(message.contains(part), () -> "expected '" + part + "' in: " + message);
        }
    }

    static byte[] bytes(Path file) {
        try {
            return Files.readAllBytes(file);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    static Path write(Path file, byte[] bytes) {
        try {
            return Files.write(file, bytes);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** A safetensors file from its header and data. */
    static byte[] safetensors(String header, int dataBytes) {
        byte[] json = header.getBytes(StandardCharsets.UTF_8);
        return ByteBuffer.allocate(8 + json.length + dataBytes)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(json.length)
                .put(json)
                .array();
    }

    /** Little-endian bytes, one value after another. */
    static final class Bytes {
        private final ByteArrayOutputStream out = new ByteArrayOutputStream();

        Bytes raw(byte... bytes) {
            out.writeBytes(bytes);
            return this;
        }

        Bytes i32(int value) {
            return raw(ByteBuffer.allocate(4)
                    .order(ByteOrder.LITTLE_ENDIAN)
                    .putInt(value)
                    .array());
        }

        Bytes i64(long value) {
            return raw(ByteBuffer.allocate(8)
                    .order(ByteOrder.LITTLE_ENDIAN)
                    .putLong(value)
                    .array());
        }

        Bytes f32(float value) {
            return i32(Float.floatToRawIntBits(value));
        }

        Bytes f16(float value) {
            short half = Float.floatToFloat16(value);
            return raw((byte) half, (byte) (half >> 8));
        }

        Bytes text(String value) {
            byte[] utf8 = value.getBytes(StandardCharsets.UTF_8);
            return i64(utf8.length).raw(utf8);
        }

        Bytes pad(int alignment) {
            while (out.size() % alignment != 0) {
                out.write(0);
            }
            return this;
        }

        byte[] done() {
            return out.toByteArray();
        }
    }

    /** Builds a GGUF v3 file. */
    static final class GgufFile {
        private final Bytes values = new Bytes();
        private final Bytes table = new Bytes();
        private final Bytes data = new Bytes();
        private int valueCount;
        private int tensorCount;

        private Bytes key(String key, int type) {
            valueCount++;
            return values.text(key).i32(type);
        }

        GgufFile string(String key, String value) {
            key(key, 8).text(value);
            return this;
        }

        GgufFile u32(String key, int value) {
            key(key, 4).i32(value);
            return this;
        }

        GgufFile f32(String key, float value) {
            key(key, 6).f32(value);
            return this;
        }

        GgufFile flag(String key, boolean value) {
            key(key, 7).raw((byte) (value ? 1 : 0));
            return this;
        }

        GgufFile strings(String key, List<String> items) {
            key(key, 9).i32(8).i64(items.size());
            items.forEach(values::text);
            return this;
        }

        GgufFile i32s(String key, int... items) {
            key(key, 9).i32(5).i64(items.length);
            for (int item : items) {
                values.i32(item);
            }
            return this;
        }

        GgufFile f32s(String key, float... items) {
            key(key, 9).i32(6).i64(items.length);
            for (float item : items) {
                values.f32(item);
            }
            return this;
        }

        /** A tensor; the shape in PyTorch order, the data as stored. */
        GgufFile tensor(String name, int type, byte[] stored, long... shape) {
            tensorCount++;
            data.pad(32);
            table.text(name).i32(shape.length);
            for (int d = shape.length - 1; d >= 0; d--) {
                table.i64(shape[d]);
            }
            table.i32(type).i64(data.out.size());
            data.raw(stored);
            return this;
        }

        GgufFile f32Tensor(String name, long... shape) {
            Bytes stored = new Bytes();
            long elements = 1;
            for (long dimension : shape) {
                elements *= dimension;
            }
            for (int i = 0; i < elements; i++) {
                stored.f32(i);
            }
            return tensor(name, 0, stored.done(), shape);
        }

        byte[] done() {
            return new Bytes()
                    .raw("GGUF".getBytes(StandardCharsets.US_ASCII))
                    .i32(3)
                    .i64(tensorCount)
                    .i64(valueCount)
                    .raw(values.done())
                    .raw(table.done())
                    .pad(32)
                    .raw(data.done())
                    .done();
        }

        Path write(Path file) {
            return TestFiles.write(file, done());
        }
    }

    /** A complete Llama: 1 layer, D 8, F 12, 2 heads of 4, 1 KV head, vocabulary 5; every tensor counts up from 0. */
    static GgufFile tinyLlama() {
        return tiny("llama");
    }

    /** One layer, of an architecture that names its tensors as Llama does. */
    static GgufFile tiny(String architecture) {
        return new GgufFile()
                .string("general.architecture", architecture)
                .u32(architecture + ".block_count", 1)
                .u32(architecture + ".context_length", 64)
                .u32(architecture + ".embedding_length", 8)
                .u32(architecture + ".feed_forward_length", 12)
                .u32(architecture + ".attention.head_count", 2)
                .u32(architecture + ".attention.head_count_kv", 1)
                .f32(architecture + ".attention.layer_norm_rms_epsilon", 1e-5f)
                .f32Tensor("token_embd.weight", 5, 8)
                .f32Tensor("blk.0.attn_norm.weight", 8)
                .f32Tensor("blk.0.attn_q.weight", 8, 8)
                .f32Tensor("blk.0.attn_k.weight", 4, 8)
                .f32Tensor("blk.0.attn_v.weight", 4, 8)
                .f32Tensor("blk.0.attn_output.weight", 8, 8)
                .f32Tensor("blk.0.ffn_norm.weight", 8)
                .f32Tensor("blk.0.ffn_gate.weight", 12, 8)
                .f32Tensor("blk.0.ffn_up.weight", 12, 8)
                .f32Tensor("blk.0.ffn_down.weight", 8, 12)
                .f32Tensor("output_norm.weight", 8)
                .f32Tensor("output.weight", 5, 8);
    }
}
