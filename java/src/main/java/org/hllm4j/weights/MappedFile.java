package org.hllm4j.weights;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import org.hllm4j.HllmException;

/** A whole file mapped read-only, until closed. */
final class MappedFile implements AutoCloseable {
    private final Arena arena = Arena.ofShared();
    private final Path path;
    private final MemorySegment bytes;

    MappedFile(Path path) {
        this.path = path;
        if (!Files.isRegularFile(path)) {
            String what = Files.isDirectory(path) ? "is a folder, expected a file" : "no such file";
            arena.close();
            throw new HllmException(path.toAbsolutePath() + ": " + what);
        }
        try (FileChannel channel = FileChannel.open(path)) {
            bytes = channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size(), arena);
        } catch (IOException e) {
            arena.close();
            throw new HllmException(path.toAbsolutePath() + ": cannot be mapped: " + e.getMessage(), e);
        }
    }

    String origin() {
        return path.toString();
    }

    MemorySegment bytes() {
        return bytes;
    }

    @Override
    public void close() {
        if (arena.scope().isAlive()) {
            arena.close();
        }
    }
}
