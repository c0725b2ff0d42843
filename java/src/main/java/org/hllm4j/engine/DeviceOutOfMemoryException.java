package org.hllm4j.engine;

/** The device has no memory left for an allocation. Smaller batches, or closing tensors that are done with, help. */
public final class DeviceOutOfMemoryException extends NativeException {
    private static final long serialVersionUID = 1L;

    DeviceOutOfMemoryException(String op, String message) {
        super(Status.OUT_OF_MEMORY, op, message);
    }
}
