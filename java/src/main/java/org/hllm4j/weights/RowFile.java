package org.hllm4j.weights;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;
import org.hllm4j.HllmException;

/**
 * A float32 matrix behind a header ({@link Npy}, {@link SafetensorsWriter}), whose rows are written at their places, in any
 * order and across restarts, to {@code <target>.partial}. Rows never written are zero; which ones are done is the caller's
 * record. The target appears with {@link #finish()}; without it the partial file stays, to be resumed. Used by one thread
 * at a time.
 */
public final class RowFile implements AutoCloseable {
    private final Path target;
    private final Path partial;
    private final long rows;
    private final int columns;
    private final int headerBytes;
    private final boolean resumed;
    private final FileChannel channel;
    private final ByteBuffer chunk = ByteBuffer.allocateDirect(1 << 16).order(ByteOrder.LITTLE_ENDIAN);

    RowFile(Path target, byte[] header, long rows, int columns, boolean resume) {
        long size;
        try {
            size = Math.addExact(Math.multiplyExact(Math.multiplyExact(rows, columns), 4L), header.length);
        } catch (ArithmeticException e) {
            size = -1;
        }
        if (rows < 0 || columns < 0 || size < 0) {
            throw new HllmException(target + ": a matrix of " + rows + " x " + columns + " cannot be written");
        }
        this.target = target.toAbsolutePath();
        this.partial = this.target.resolveSibling(target.getFileName() + ".partial");
        this.rows = rows;
        this.columns = columns;
        this.headerBytes = header.length;
        this.resumed = resume && Files.exists(partial);
        try {
            if (resumed && Files.size(partial) != size) {
                throw otherShape();
            }
            channel = resumed
                    ? FileChannel.open(partial, StandardOpenOption.READ, StandardOpenOption.WRITE)
                    : FileChannel.open(
                            partial,
                            StandardOpenOption.CREATE,
                            StandardOpenOption.TRUNCATE_EXISTING,
                            StandardOpenOption.WRITE);
        } catch (IOException e) {
            throw failed(e);
        }
        try {
            if (resumed) {
                ByteBuffer found = ByteBuffer.allocate(header.length);
                channel.read(found, 0);
                if (!Arrays.equals(found.array(), header)) {
                    throw otherShape();
                }
            } else {
                writeFully(ByteBuffer.wrap(header), 0);
                if (size > header.length) {
                    writeFully(ByteBuffer.allocate(1), size - 1); // full size from the start
                }
            }
        } catch (IOException e) {
            close();
            throw failed(e);
        } catch (RuntimeException e) {
            close();
            throw e;
        }
    }

    /** Whether a partial file was continued. */
    public boolean resumed() {
        return resumed;
    }

    /**
     * Writes whole rows.
     *
     * @param firstRow where they go
     * @param values a multiple of {@code columns} values, read to the limit
     */
    public void write(long firstRow, FloatBuffer values) {
        int count = columns == 0 ? 0 : values.remaining() / columns;
        if ((long) count * columns != values.remaining() || firstRow < 0 || firstRow > rows - count) {
            throw new HllmException(target + ": " + values.remaining() + " values at row " + firstRow
                    + " are not whole rows of a " + rows + " x " + columns + " matrix");
        }
        long position = headerBytes + firstRow * columns * 4;
        try {
            while (values.hasRemaining()) {
                int part = Math.min(values.remaining(), chunk.capacity() / 4);
                chunk.clear().limit(part * 4);
                chunk.asFloatBuffer().put(0, values, values.position(), part);
                values.position(values.position() + part);
                writeFully(chunk, position);
                position += part * 4L;
            }
        } catch (IOException e) {
            throw failed(e);
        }
    }

    /** Makes what was written durable, before the caller records it as done. */
    public void force() {
        try {
            channel.force(true);
        } catch (IOException e) {
            throw failed(e);
        }
    }

    /** Puts the file in place; the writer is closed. */
    public void finish() {
        force();
        close();
        try {
            PendingFile.rename(partial, target);
        } catch (IOException e) {
            throw failed(e);
        }
    }

    /** Closes the file; the partial file stays unless {@link #finish()} was called. */
    @Override
    public void close() {
        try {
            channel.close();
        } catch (IOException e) {
            throw failed(e);
        }
    }

    private void writeFully(ByteBuffer bytes, long position) throws IOException {
        while (bytes.hasRemaining()) {
            position += channel.write(bytes, position);
        }
    }

    private HllmException otherShape() {
        return new HllmException(partial + ": was not begun as a " + rows + " x " + columns
                + " float32 matrix; delete it to start again");
    }

    private HllmException failed(IOException e) {
        return new HllmException(partial + ": cannot be written: " + e, e);
    }
}
