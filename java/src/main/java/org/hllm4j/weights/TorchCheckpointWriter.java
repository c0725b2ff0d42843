package org.hllm4j.weights;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.List;
import java.util.zip.CRC32;

/**
 * Writes a state dict of float32 tensors as torch.save does: a zip of a pickle (protocol 2) and of raw storages, stored
 * and aligned to 64 bytes. {@code torch.load(path, weights_only=True)} reads it.
 */
public final class TorchCheckpointWriter extends TensorWriter {
    private static final int ALIGNMENT = 64;
    private static final long MAX_32 = 0xffff_ffffL;
    private static final String ROOT = "archive/";

    private static final class Entry {
        final byte[] name;
        final long size;
        final long header;
        final CRC32 crc = new CRC32();

        Entry(String name, long size, long header) {
            this.name = (ROOT + name).getBytes(StandardCharsets.UTF_8);
            this.size = size;
            this.header = header;
        }

        boolean large() {
            return size >= MAX_32;
        }

        long data() {
            return Math.ceilDiv(header + 30 + name.length + (large() ? 20 : 0) + 4, ALIGNMENT) * ALIGNMENT;
        }

        long end() {
            return data() + size;
        }
    }

    private final List<Entry> entries = new ArrayList<>();
    private final byte[] pickle;
    private final byte[] byteOrder = "little".getBytes(StandardCharsets.US_ASCII);
    private final byte[] version = "3\n".getBytes(StandardCharsets.US_ASCII);

    private TorchCheckpointWriter(Path target, List<TensorInfo> tensors) {
        super(target, tensors, EnumSet.of(StoredType.F32));
        pickle = pickle(tensors);
        add("data.pkl", pickle.length);
        add("byteorder", byteOrder.length);
        add("version", version.length);
        for (int i = 0; i < tensors.size(); i++) {
            add("data/" + i, tensors.get(i).bytes());
        }
    }

    /**
     * Starts a file.
     *
     * @param target appears when the complete writer is closed
     * @param tensors of type F32, in the order in which they will be appended
     */
    public static TorchCheckpointWriter create(Path target, List<TensorInfo> tensors) {
        return new TorchCheckpointWriter(target, tensors);
    }

    private void add(String name, long size) {
        entries.add(
                new Entry(name, size, entries.isEmpty() ? 0 : entries.getLast().end()));
    }

    @Override
    void write(int index, long offset, ByteBuffer bytes) {
        write(entries.get(index + 3), offset, bytes);
    }

    private void write(Entry entry, long offset, ByteBuffer bytes) {
        entry.crc.update(bytes.duplicate());
        file.write(bytes, entry.data() + offset);
    }

    @Override
    void finish() {
        write(entries.get(0), 0, ByteBuffer.wrap(pickle));
        write(entries.get(1), 0, ByteBuffer.wrap(byteOrder));
        write(entries.get(2), 0, ByteBuffer.wrap(version));
        entries.forEach(entry -> file.write(localHeader(entry), entry.header));
        long directory = entries.getLast().end();
        long position = directory;
        for (Entry entry : entries) {
            ByteBuffer header = centralHeader(entry);
            long length = header.remaining();
            file.write(header, position);
            position += length;
        }
        file.write(end(directory, position - directory), position);
    }

    private static ByteBuffer buffer(int size) {
        return ByteBuffer.allocate(size).order(ByteOrder.LITTLE_ENDIAN);
    }

    /** From "version needed" to "uncompressed size", the same in both headers. */
    private static void common(ByteBuffer header, Entry entry, boolean zip64) {
        int size = entry.large() ? -1 : (int) entry.size;
        header.putShort((short) (zip64 ? 45 : 20)).putShort((short) 0x800).putShort((short) 0);
        header.putShort((short) 0).putShort((short) 0x21); // 1980-01-01: the same bytes for the same weights
        header.putInt((int) entry.crc.getValue()).putInt(size).putInt(size);
    }

    private static ByteBuffer localHeader(Entry entry) {
        ByteBuffer header = buffer((int) (entry.data() - entry.header));
        int extra = header.capacity() - 30 - entry.name.length;
        header.putInt(0x04034b50);
        common(header, entry, entry.large());
        header.putShort((short) entry.name.length).putShort((short) extra).put(entry.name);
        if (entry.large()) {
            header.putShort((short) 1).putShort((short) 16).putLong(entry.size).putLong(entry.size);
        }
        // the rest is PyTorch's own padding field
        header.put((byte) 'F').put((byte) 'B').putShort((short) (header.remaining() - 2));
        Arrays.fill(header.array(), header.position(), header.capacity(), (byte) 'Z');
        return header.clear();
    }

    private static ByteBuffer centralHeader(Entry entry) {
        boolean far = entry.header >= MAX_32;
        int extra = (entry.large() ? 16 : 0) + (far ? 8 : 0);
        ByteBuffer header = buffer(46 + entry.name.length + (extra > 0 ? 4 + extra : 0));
        header.putInt(0x02014b50).putShort((short) 45);
        common(header, entry, extra > 0);
        header.putShort((short) entry.name.length).putShort((short) (extra > 0 ? 4 + extra : 0));
        header.putShort((short) 0).putShort((short) 0).putShort((short) 0).putInt(0);
        header.putInt(far ? -1 : (int) entry.header).put(entry.name);
        if (extra > 0) {
            header.putShort((short) 1).putShort((short) extra);
        }
        if (entry.large()) {
            header.putLong(entry.size).putLong(entry.size);
        }
        if (far) {
            header.putLong(entry.header);
        }
        return header.flip();
    }

    private ByteBuffer end(long directory, long size) {
        ByteBuffer end = buffer(56 + 20 + 22);
        int count = entries.size();
        boolean zip64 = count >= 0xffff || directory >= MAX_32 || size >= MAX_32;
        if (zip64) {
            end.putInt(0x06064b50)
                    .putLong(44)
                    .putShort((short) 45)
                    .putShort((short) 45)
                    .putInt(0)
                    .putInt(0);
            end.putLong(count).putLong(count).putLong(size).putLong(directory);
            end.putInt(0x07064b50).putInt(0).putLong(directory + size).putInt(1);
        }
        short shown = (short) (zip64 ? -1 : count);
        end.putInt(0x06054b50)
                .putShort((short) 0)
                .putShort((short) 0)
                .putShort(shown)
                .putShort(shown);
        end.putInt(zip64 ? -1 : (int) size).putInt(zip64 ? -1 : (int) directory).putShort((short) 0);
        return end.flip();
    }

    private static byte[] pickle(List<TensorInfo> tensors) {
        Pickler out = new Pickler();
        out.raw("\u0080\u0002ccollections\nOrderedDict\n)R(");
        for (int i = 0; i < tensors.size(); i++) {
            TensorInfo info = tensors.get(i);
            long[] shape = info.shape();
            long[] strides = new long[shape.length];
            long stride = 1;
            for (int d = shape.length - 1; d >= 0; d--) {
                strides[d] = stride;
                stride *= Math.max(shape[d], 1);
            }
            out.text(info.name());
            out.raw("ctorch._utils\n_rebuild_tensor_v2\n((");
            out.text("storage");
            out.raw("ctorch\nFloatStorage\n");
            out.text(Integer.toString(i));
            out.text("cpu");
            out.integer(info.elements());
            out.raw("tQK\0");
            out.integers(shape);
            out.integers(strides);
            out.raw("\u0089ccollections\nOrderedDict\n)RtR");
        }
        out.raw("u.");
        return out.bytes.toByteArray();
    }

    private static final class Pickler {
        final ByteArrayOutputStream bytes = new ByteArrayOutputStream();

        /** Opcodes and names; each char is one byte. */
        void raw(String opcodes) {
            bytes.writeBytes(opcodes.getBytes(StandardCharsets.ISO_8859_1));
        }

        void text(String value) {
            byte[] utf8 = value.getBytes(StandardCharsets.UTF_8);
            bytes.write('X');
            bytes.writeBytes(buffer(4).putInt(utf8.length).array());
            bytes.writeBytes(utf8);
        }

        void integer(long value) {
            if (value <= Integer.MAX_VALUE) {
                bytes.write('J');
                bytes.writeBytes(buffer(4).putInt((int) value).array());
            } else {
                raw("\u008a\b");
                bytes.writeBytes(buffer(8).putLong(value).array());
            }
        }

        void integers(long[] values) {
            raw("(");
            for (long value : values) {
                integer(value);
            }
            raw("t");
        }
    }
}
