package org.hllm4j.http;

import java.nio.file.Path;
import org.hllm4j.serve.Snapshot;

/** Opens the model that a reload asks for, on the device and in the precision of the first. May take minutes. */
@FunctionalInterface
public interface SnapshotLoader {
    /**
     * @param run folder; null: the one that was opened last
     * @param items file; null: the one that was opened last
     * @return the caller's to close
     */
    Snapshot open(Path run, Path items);
}
