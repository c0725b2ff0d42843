package org.hllm4j.weights;

import static org.hllm4j.weights.TestFiles.refused;
import static org.hllm4j.weights.TestFiles.resource;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class NpyTest {
    @TempDir
    Path folder;

    private static float[] read(Path file) {
        try (Npy.Reader reader = Npy.open(file)) {
            int count = (int) Arrays.stream(reader.shape()).reduce(1, (a, b) -> a * b);
            float[] values = new float[count];
            reader.read(0, FloatBuffer.wrap(values));
            return values;
        }
    }

    @Test
    void numpyFilesAreRead() {
        try (Npy.Reader reader = Npy.open(resource("float32.npy"))) {
            assertArrayEquals(new long[] {2, 3}, reader.shape());
            assertEquals(StoredType.F32, reader.type());
            FloatBuffer part = FloatBuffer.allocate(3);
            reader.read(2, part);
            assertArrayEquals(new float[] {2, 3, 4}, part.array());
            refused(() -> reader.read(4, FloatBuffer.allocate(3)), "float32.npy", "6 elements");
            refused(reader::readLongs, "expected int64");
        }
        assertArrayEquals(new float[] {0, 0.25f, 0.5f, 0.75f, 1}, read(resource("float64.npy")));
        try (Npy.Reader reader = Npy.open(resource("int64.npy"))) {
            assertArrayEquals(new long[] {2, 2}, reader.shape());
            assertArrayEquals(new long[] {1, -2, 3, 1L << 40}, reader.readLongs());
        }
        Npy.Reader closed = Npy.open(resource("int64.npy"));
        closed.close();
        refused(closed::readLongs, "after close");
        refused(() -> Npy.open(resource("fortran.npy")), "fortran.npy", "C order");
    }

    /** Byte for byte what numpy.save writes. */
    @Test
    void writesWhatNumpyWrites() {
        Path file = folder.resolve("a.npy");
        try (RowFile writer = Npy.create(file, 2, 3)) {
            writer.write(0, FloatBuffer.wrap(new float[] {0, 1, 2, 3, 4, 5}));
            assertFalse(Files.exists(file));
            writer.finish();
        }
        assertArrayEquals(TestFiles.bytes(resource("float32.npy")), TestFiles.bytes(file));
        assertFalse(Files.exists(folder.resolve("a.npy.partial")));
    }

    @Test
    void partialFilesAreResumed() {
        Path file = folder.resolve("b.npy");
        int columns = 7001; // rows that pass the chunk size
        float[] rows = new float[3 * columns];
        for (int i = 0; i < rows.length; i++) {
            rows[i] = i;
        }
        try (RowFile writer = Npy.resume(file, 3, columns)) {
            assertFalse(writer.resumed());
            writer.write(2, FloatBuffer.wrap(rows, 2 * columns, columns));
            writer.force();
            refused(() -> writer.write(2, FloatBuffer.wrap(rows, 0, 2 * columns)), "row 2", "3 x 7001");
            refused(() -> writer.write(-1, FloatBuffer.wrap(rows, 0, columns)), "row -1");
            refused(() -> writer.write(0, FloatBuffer.wrap(rows, 0, 5)), "whole rows");
        }
        refused(() -> Npy.open(file), "no such file");
        refused(() -> Npy.resume(file, 3, columns + 1), "b.npy.partial", "not begun as");
        refused(() -> Npy.resume(file, columns, 3), "b.npy.partial", "not begun as");
        try (RowFile writer = Npy.resume(file, 3, columns)) {
            assertTrue(writer.resumed());
            writer.write(0, FloatBuffer.wrap(rows, 0, 2 * columns));
            writer.finish();
        }
        assertArrayEquals(rows, read(file));
        try (RowFile writer = Npy.create(file, 0, 5)) {
            writer.finish();
        }
        try (Npy.Reader reader = Npy.open(file)) {
            assertArrayEquals(new long[] {0, 5}, reader.shape());
        }
        refused(() -> Npy.create(file, Long.MAX_VALUE, 5), "cannot be written");
    }

    @Test
    void damagedFilesAreRefused() {
        byte[] whole = TestFiles.bytes(resource("float32.npy"));
        for (int length = 0; length < whole.length; length++) {
            Path cut = TestFiles.write(folder.resolve("cut"), Arrays.copyOf(whole, length));
            refused(() -> Npy.open(cut), "cut");
        }
        for (String[] change : new String[][] {
            {"<f4", ">f4"},
            {"<f4", "|O "},
            {"(2, 3)", "(3, 3)"},
            {"(2, 3)", "(2, ,"},
            {"(2, 3)", "(9 3)"},
            {"descr", "dexxr"}
        }) {
            String text = new String(whole, StandardCharsets.ISO_8859_1).replace(change[0], change[1]);
            Path changed = TestFiles.write(folder.resolve("changed"), text.getBytes(StandardCharsets.ISO_8859_1));
            refused(() -> Npy.open(changed), "changed");
        }
        String huge = new String(whole, StandardCharsets.ISO_8859_1)
                .replace("(2, 3), }" + " ".repeat(18), "(9999999999, 9999999999), }");
        assertEquals(whole.length, huge.length());
        Path file = TestFiles.write(folder.resolve("huge"), huge.getBytes(StandardCharsets.ISO_8859_1));
        refused(() -> Npy.open(file), "huge", "overflows");
    }
}
