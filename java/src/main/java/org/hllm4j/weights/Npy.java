package org.hllm4j.weights;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.hllm4j.HllmException;

/** NumPy's array files: a matrix of float32 written by rows (see {@link RowFile}); arrays read back. */
public final class Npy {
    private static final byte[] MAGIC = {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y'};
    private static final Pattern HEADER = Pattern.compile("\\{\\s*'descr'\\s*:\\s*'([^']*)'\\s*,"
            + "\\s*'fortran_order'\\s*:\\s*(True|False)\\s*,"
            + "\\s*'shape'\\s*:\\s*\\(([0-9, ]*)\\)\\s*,?\\s*\\}\\s*");

    private Npy() {}

    /** Starts a float32 matrix [rows, columns] in {@code <target>.partial}, replacing an earlier partial file. */
    public static RowFile create(Path target, long rows, int columns) {
        return new RowFile(target, header(rows, columns), rows, columns, false);
    }

    /** Continues {@code <target>.partial}, which must have been begun with the same shape, or starts it. */
    public static RowFile resume(Path target, long rows, int columns) {
        return new RowFile(target, header(rows, columns), rows, columns, true);
    }

    /** Maps a file of float32, float64 or int64 in C order. */
    public static Reader open(Path file) {
        return new Reader(file);
    }

    private static byte[] header(long rows, int columns) {
        String text = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + rows + ", " + columns + "), }";
        int size = Math.ceilDiv(MAGIC.length + 4 + text.length() + 1, 64) * 64;
        ByteBuffer header = ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN);
        header.put(MAGIC).put((byte) 1).put((byte) 0).putShort((short) (size - MAGIC.length - 4));
        header.put(text.getBytes(StandardCharsets.US_ASCII));
        Arrays.fill(header.array(), header.position(), size - 1, (byte) ' ');
        header.put(size - 1, (byte) '\n');
        return header.array();
    }

    /** A mapped array; thread-safe for reading. */
    public static final class Reader implements AutoCloseable {
        private final MappedFile file;
        private final StoredTensor.Contiguous array;

        private Reader(Path path) {
            file = new MappedFile(path);
            try {
                array = parse();
            } catch (RuntimeException e) {
                file.close();
                throw e;
            }
        }

        private StoredTensor.Contiguous parse() {
            String origin = file.origin();
            ByteCursor in = new ByteCursor(file.bytes(), origin);
            if (!Arrays.equals(in.bytes(MAGIC.length, "magic"), MAGIC)) {
                throw new HllmException(origin + ": not an .npy file");
            }
            int major = in.u8("version");
            in.u8("version");
            long length = major == 1 ? in.u16("header length") : in.u32("header length");
            if (major < 1 || major > 3 || length > 1 << 16) {
                throw new HllmException(
                        origin + ": .npy version " + major + " with a header of " + length + " bytes " + "is not read");
            }
            String header = in.utf8(length, "header");
            Matcher matcher = HEADER.matcher(header);
            if (!matcher.matches() || matcher.group(2).equals("True")) {
                throw new HllmException(origin + ": expected a plain array in C order, header is " + header.strip());
            }
            StoredType type = switch (matcher.group(1)) {
                case "<f4" -> StoredType.F32;
                case "<f8" -> StoredType.F64;
                case "<i8" -> StoredType.I64;
                default ->
                    throw new HllmException(origin + ": elements are '" + matcher.group(1)
                            + "', expected float32, float64 or int64 ('<f4', '<f8', '<i8')");
            };
            TensorInfo info;
            try {
                long[] shape = Arrays.stream(matcher.group(3).split(","))
                        .map(String::strip)
                        .filter(dimension -> !dimension.isEmpty())
                        .mapToLong(Long::parseLong)
                        .toArray();
                info = TensorInfo.in(origin, "array", type, shape);
            } catch (NumberFormatException e) {
                throw new HllmException(origin + ": shape (" + matcher.group(3) + ") is not a list of numbers", e);
            }
            if (info.bytes() != in.remaining()) {
                throw new HllmException(origin + ": " + in.remaining() + " bytes of data, expected " + info.bytes()
                        + " for shape " + Arrays.toString(info.shape()) + "; the file is truncated or damaged");
            }
            return new StoredTensor.Contiguous(info, file.bytes().asSlice(in.position()));
        }

        /** Outermost dimension first. */
        public long[] shape() {
            return array.info().shape();
        }

        /** F32, F64 or I64. */
        public StoredType type() {
            return array.info().type();
        }

        /** Reads elements [first, first + out.remaining()) as float32. */
        public void read(long first, FloatBuffer out) {
            if (first < 0 || first > array.info().elements() - out.remaining()) {
                throw new HllmException(file.origin() + ": has " + array.info().elements() + " elements, asked for "
                        + out.remaining() + " from " + first);
            }
            try {
                array.read(first, out);
            } catch (IllegalStateException e) {
                throw new HllmException(file.origin() + ": read after close", e);
            }
        }

        /** All elements of an int64 array. */
        public long[] readLongs() {
            if (type() != StoredType.I64 || array.info().bytes() > Integer.MAX_VALUE) {
                throw new HllmException(file.origin() + ": is " + array.info() + ", expected int64 of at most 2 GB");
            }
            try {
                long[] values = new long[(int) array.info().elements()];
                array.data()
                        .asByteBuffer()
                        .order(ByteOrder.LITTLE_ENDIAN)
                        .asLongBuffer()
                        .get(values);
                return values;
            } catch (IllegalStateException e) {
                throw new HllmException(file.origin() + ": read after close", e);
            }
        }

        @Override
        public void close() {
            file.close();
        }
    }
}
