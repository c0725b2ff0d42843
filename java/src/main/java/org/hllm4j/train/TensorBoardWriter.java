package org.hllm4j.train;

import java.io.BufferedOutputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.zip.CRC32C;

/**
 * Scalars in TensorBoard's event format: records of a little-endian length, its checksum, a protobuf {@code Event}, and
 * its checksum.
 */
final class TensorBoardWriter implements AutoCloseable {
    private final OutputStream out;

    /** @param step where a resumed run continues: viewers then drop later points of earlier files */
    TensorBoardWriter(Path folder, long step) throws IOException {
        long now = System.currentTimeMillis();
        out = new BufferedOutputStream(Files.newOutputStream(folder.resolve("events.out.tfevents." + now / 1000
                + ".hllm4j." + ProcessHandle.current().pid())));
        Message version = event(0);
        version.string(3, "brain.Event:2");
        record(version);
        if (step > 0) {
            Message restart = event(step);
            Message session = new Message();
            session.number(1, 1); // SessionLog.START
            restart.message(7, session);
            record(restart);
        }
    }

    void scalar(long step, String tag, double value) {
        Message scalar = new Message();
        scalar.string(1, tag);
        scalar.float32(2, (float) value);
        Message summary = new Message();
        summary.message(1, scalar);
        Message event = event(step);
        event.message(5, summary);
        record(event);
    }

    private static Message event(long step) {
        Message event = new Message();
        event.float64(1, System.currentTimeMillis() / 1000.0);
        event.number(2, step);
        return event;
    }

    private void record(Message message) {
        byte[] data = message.bytes.toByteArray();
        byte[] length = ByteBuffer.allocate(8)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putLong(data.length)
                .array();
        try {
            out.write(length);
            out.write(checksum(length));
            out.write(data);
            out.write(checksum(data));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** CRC32C, rotated and offset so that a checksum of data with checksums in it stays useful. */
    private static byte[] checksum(byte[] data) {
        CRC32C crc = new CRC32C();
        crc.update(data, 0, data.length);
        int masked = Integer.rotateRight((int) crc.getValue(), 15) + 0xa282ead8;
        return ByteBuffer.allocate(4)
                .order(ByteOrder.LITTLE_ENDIAN)
                .putInt(masked)
                .array();
    }

    void flush() throws IOException {
        out.flush();
    }

    @Override
    public void close() throws IOException {
        out.close();
    }

    /** The few protobuf field kinds that events need. */
    private static final class Message {
        private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();

        void number(int field, long value) {
            varint(field << 3);
            varint(value);
        }

        void float64(int field, double value) {
            varint(field << 3 | 1);
            bytes.writeBytes(ByteBuffer.allocate(8)
                    .order(ByteOrder.LITTLE_ENDIAN)
                    .putDouble(value)
                    .array());
        }

        void float32(int field, float value) {
            varint(field << 3 | 5);
            bytes.writeBytes(ByteBuffer.allocate(4)
                    .order(ByteOrder.LITTLE_ENDIAN)
                    .putFloat(value)
                    .array());
        }

        void string(int field, String value) {
            delimited(field, value.getBytes(StandardCharsets.UTF_8));
        }

        void message(int field, Message value) {
            delimited(field, value.bytes.toByteArray());
        }

        private void delimited(int field, byte[] value) {
            varint(field << 3 | 2);
            varint(value.length);
            bytes.writeBytes(value);
        }

        private void varint(long value) {
            while ((value & ~0x7fL) != 0) {
                bytes.write((int) (value & 0x7f | 0x80));
                value >>>= 7;
            }
            bytes.write((int) value);
        }
    }
}
