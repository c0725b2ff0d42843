package org.hllm4j.perf;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.stream.Stream;
import org.hllm4j.HllmException;

/** A temporary folder that goes with everything in it. */
record Scratch(Path folder) implements AutoCloseable {
    static Scratch open() {
        try {
            return new Scratch(Files.createTempDirectory("hllm-bench"));
        } catch (IOException e) {
            throw new HllmException("no temporary folder can be made: " + e, e);
        }
    }

    Path file(String name) {
        return folder.resolve(name);
    }

    @Override
    public void close() {
        try (Stream<Path> files = Files.walk(folder)) {
            for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
                Files.delete(file);
            }
        } catch (IOException e) {
            throw new HllmException(folder + ": cannot be deleted: " + e, e);
        }
    }
}
