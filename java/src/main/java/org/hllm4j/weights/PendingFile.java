package org.hllm4j.weights;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import org.hllm4j.HllmException;

/** A file that appears under its name only when it is complete: written beside, fsynced, renamed. */
public final class PendingFile implements AutoCloseable {
    private final Path target;
    private final Path temporary;
    private final FileChannel channel;

    PendingFile(Path target) {
        this.target = target.toAbsolutePath();
        String unique = ProcessHandle.current().pid() + "-" + System.nanoTime();
        this.temporary = this.target.resolveSibling("." + target.getFileName() + "." + unique + ".tmp");
        try {
            channel = FileChannel.open(temporary, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE);
        } catch (IOException e) {
            throw failed(e);
        }
    }

    /** Writes a whole small file. */
    public static void write(Path target, byte[] bytes) {
        try (PendingFile file = new PendingFile(target)) {
            file.write(ByteBuffer.wrap(bytes), 0);
            file.commit();
        }
    }

    void write(ByteBuffer bytes, long position) {
        try {
            while (bytes.hasRemaining()) {
                position += channel.write(bytes, position);
            }
        } catch (IOException e) {
            throw failed(e);
        }
    }

    void commit() {
        try {
            channel.force(true);
            channel.close();
            rename(temporary, target);
        } catch (IOException e) {
            throw failed(e);
        }
    }

    /** Deletes the temporary file unless it was committed. */
    @Override
    public void close() {
        try {
            channel.close();
            Files.deleteIfExists(temporary);
        } catch (IOException e) {
            throw failed(e);
        }
    }

    /** Renames, and makes the rename itself durable. */
    static void rename(Path from, Path to) throws IOException {
        Files.move(from, to, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
        // Windows can neither open nor sync a folder
        if (to.getFileSystem().supportedFileAttributeViews().contains("posix")) {
            try (FileChannel folder = FileChannel.open(to.toAbsolutePath().getParent())) {
                folder.force(true);
            }
        }
    }

    private HllmException failed(IOException e) {
        return new HllmException(target + ": cannot be written: " + e, e);
    }
}
