package org.hllm4j.weights;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.util.Set;

/** A read-only set of named tensors in one or more files; mapped, never loaded whole. Thread-safe for reading. */
public interface TensorSource extends AutoCloseable {
    /** The file or folder, for messages. */
    String origin();

    /** All names, in the order of the file. */
    Set<String> names();

    /** Describes a tensor; HllmException listing similar names when there is none of that name. */
    TensorInfo info(String name);

    /**
     * Widens or dequantises elements [first, first + out.remaining()) of the tensor, in row-major order, to float32.
     *
     * @param out filled to its limit; its position advances
     * @throws org.hllm4j.HllmException when the name is absent, the range is outside the tensor, or this is closed
     */
    void read(String name, long first, FloatBuffer out);

    /**
     * The bytes of a tensor where they lie in its mapped file: row-major, little-endian, aligned to their elements. Valid
     * until this is closed.
     *
     * @return null for a tensor that does not lie so, or is more than one buffer can hold (2 GB)
     */
    default ByteBuffer stored(String name) {
        return null;
    }

    /** Gives the memory of a tensor's pages back to the system; who reads them later has them from the file again. */
    default void unload(String name) {}

    /** Unmaps the files; closing twice is fine. */
    @Override
    void close();
}
