package org.hllm4j.engine;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class TensorTest extends EngineTest {

    /** Sizes around the staging block of 65,536 floats, through which the heap's values pass. */
    @ParameterizedTest
    @ValueSource(ints = {0, 1, 3, 65_535, 65_536, 65_537, 200_001})
    void arraysAndBuffersComeBackAsTheyWere(int n) {
        float[] values = randoms(n);
        try (Tensor tensor = context.zeros(DType.F32, n)) {
            assertArrayEquals(new float[n], tensor.toFloats());
            tensor.write(values);
            assertArrayEquals(values, tensor.toFloats());

            for (ByteOrder order : new ByteOrder[] {ByteOrder.LITTLE_ENDIAN, ByteOrder.BIG_ENDIAN}) {
                for (ByteBuffer bytes :
                        new ByteBuffer[] {ByteBuffer.allocate(4 * n), ByteBuffer.allocateDirect(4 * n)}) {
                    FloatBuffer buffer = bytes.order(order).asFloatBuffer();
                    buffer.put(values).flip();
                    tensor.write(new float[n]);
                    tensor.write(0, buffer.asReadOnlyBuffer());
                    assertArrayEquals(values, tensor.toFloats());
                    buffer.put(new float[n]).flip();
                    tensor.read(0, buffer);
                    float[] back = new float[n];
                    buffer.get(back);
                    assertArrayEquals(values, back);
                }
            }
        }
        int[] ints = random.ints(n).toArray();
        try (Tensor tensor = context.of(ints)) {
            assertEquals(DType.I32, tensor.dtype());
            assertArrayEquals(ints, tensor.toInts());
        }
    }

    @Test
    void partsAreWrittenAndReadInPlace() {
        try (Tensor tensor = context.zeros(DType.F32, 2, 3)) {
            tensor.write(1, new float[] {9, 1, 2, 9}, 1, 2);
            tensor.rows(1, 2).write(1, FloatBuffer.wrap(new float[] {9, 5, 6, 9}, 1, 2));
            assertArrayEquals(new float[] {0, 1, 2, 0, 5, 6}, tensor.toFloats());
            float[] out = {7, 7, 7, 7};
            tensor.read(4, out, 1, 2);
            assertArrayEquals(new float[] {7, 5, 6, 7}, out);
            assertRefused(() -> tensor.write(5, new float[2], 0, 2), "[5, 7)", "F32[2, 3]");
            assertThrows(IndexOutOfBoundsException.class, () -> tensor.write(0, new float[2], 1, 2));
            assertEquals(5, tensor.rows(1, 2).columns(1, 2).scalar());
            assertRefused(tensor::scalar, "F32[2, 3] is not a scalar");
        }
    }

    @Test
    void viewsSeeTheOwnersElements() {
        float[] counting = new float[24];
        for (int i = 0; i < counting.length; i++) {
            counting[i] = i;
        }
        try (Tensor tensor = context.of(counting, 4, 6)) {
            assertArrayEquals(
                    new float[] {6, 7, 8, 9, 10, 11}, tensor.rows(1, 2).toFloats());
            Tensor columns = tensor.columns(2, 6);
            assertArrayEquals(new long[] {4, 4}, columns.shape());
            assertArrayEquals(
                    new float[] {8, 9, 10, 11, 14, 15, 16, 17},
                    columns.rows(1, 3).toFloats());

            Tensor heads = columns.reshape(4, 2, 2); // strided rows, split
            assertArrayEquals(columns.toFloats(), heads.toFloats());
            assertArrayEquals(
                    new float[] {3, 5, 9, 11, 15, 17, 21, 23},
                    heads.columns(1, 2).toFloats());
            assertArrayEquals(columns.toFloats(), heads.reshape(4, 4).toFloats());
            assertArrayEquals(counting, tensor.reshape(2, 2, 3, 2).reshape(24).toFloats());
            assertArrayEquals(new float[0], tensor.rows(2, 2).toFloats());

            assertRefused(() -> tensor.rows(3, 5), "[3, 5)", "dimension 0 of F32[4, 6]");
            assertRefused(() -> tensor.columns(2, 1), "[2, 1)", "dimension 1");
            assertRefused(() -> tensor.reshape(5, 5), "F32[4, 6] to [5, 5]");
            assertRefused(() -> columns.reshape(2, 8), "rows do not lie side by side");
            assertRefused(() -> tensor.columns(0, 1).reshape(4), "rows do not lie side by side");
            assertRefused(() -> columns.write(new float[16]), "not contiguous");
            assertRefused(() -> columns.read(0, new float[4], 0, 4), "not contiguous", "toFloats");
            columns.close(); // a view owns nothing
            assertEquals(23, tensor.reshape(24).rows(23, 24).scalar());
        }
    }

    @Test
    void wrongShapesAndTypesAreRefused() {
        assertRefused(() -> context.zeros(DType.F32), "[]", "1 to 4 dimensions");
        assertRefused(() -> context.zeros(DType.F32, 1, 1, 1, 1, 1), "1 to 4 dimensions");
        assertRefused(() -> context.zeros(DType.F32, 2, -1), "[2, -1]", "negative");
        assertRefused(() -> context.zeros(DType.F32, Long.MAX_VALUE, 4), "overflows");
        assertRefused(() -> context.zeros(DType.F32, Long.MAX_VALUE / 2), "no memory is large enough");
        assertRefused(() -> context.of(new float[3], 2, 2), "3 values", "[2, 2]");
        try (Tensor ints = context.of(new int[] {1, 2});
                Tensor halves = context.zeros(DType.BF16, 2)) {
            assertRefused(ints::toFloats, "I32[2] holds I32, not F32");
            assertRefused(halves::toFloats, "BF16[2] holds BF16", "convert");
            assertRefused(() -> ints.write(new float[2]), "not F32");
            assertRefused(() -> ints.write(new int[3]), "3 values do not fill I32[2]");
        }
    }

    @Test
    void tooMuchMemoryIsAnErrorOfItsOwn() {
        assertThrows(DeviceOutOfMemoryException.class, () -> context.zeros(DType.F32, 1L << 58));
    }

    @Test
    void aClosedTensorIsRefused() {
        Tensor tensor = context.of(new float[] {1, 2, 3, 4}, 2, 2);
        Tensor view = tensor.rows(0, 1);
        tensor.close();
        tensor.close();
        try (Tensor other = context.zeros(DType.F32, 2, 2)) { // may sit in the same place
            assertRefused(tensor::toFloats, "buffer_read", "closed");
            assertRefused(() -> tensor.write(new float[4]), "buffer_write", "closed");
            assertRefused(() -> ops.fill(view, 1), "fill: out", "closed");
            assertRefused(() -> ops.convert(other, tensor), "convert: in", "closed");
            assertArrayEquals(new float[4], other.toFloats());
        }
    }

    @Test
    void aMappedFileIsReadWithoutACopy(@TempDir Path folder) throws IOException {
        if (!DEVICE.equals("cpu")) {
            ByteBuffer host = ByteBuffer.allocateDirect(4);
            assertRefused(() -> context.wrap(host, DType.F32, 1), "host memory");
            return;
        }
        Path file = folder.resolve("weights");
        float[] values = randoms(1003);
        ByteBuffer bytes = ByteBuffer.allocate(4 * values.length).order(ByteOrder.nativeOrder());
        bytes.asFloatBuffer().put(values);
        Files.write(file, bytes.array());
        long before = Context.liveBytes(DEVICE);
        Tensor tensor;
        try (FileChannel channel = FileChannel.open(file)) {
            ByteBuffer mapped = channel.map(FileChannel.MapMode.READ_ONLY, 0, 4000);
            tensor = context.wrap(mapped.position(40), DType.F32, 99, 10);
        }
        System.gc(); // the pages stay mapped although nobody but the tensor knows the buffer
        assertEquals(before, Context.liveBytes(DEVICE));
        assertArrayEquals(Arrays.copyOfRange(values, 10, 1000), tensor.toFloats());
        assertRefused(() -> ops.fill(tensor, 1), "read-only");
        assertRefused(() -> tensor.write(0, values, 0, 990), "read-only");
        tensor.close();
        tensor.close();
        assertRefused(tensor::toFloats, "closed");
        assertRefused(() -> context.wrap(ByteBuffer.allocate(4), DType.F32, 1), "direct");
        assertRefused(() -> context.wrap(ByteBuffer.allocateDirect(8), DType.F32, 1), "exactly 4");
    }
}
