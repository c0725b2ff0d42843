package org.hllm4j.engine;

import org.hllm4j.HllmException;
import org.hllm4j.bindings.Hllm;

/** The native library refused or failed a call. Nothing was written to the outputs of a refused call. */
public class NativeException extends HllmException {
    private static final long serialVersionUID = 1L;

    /** What kind of failure it is: {@code enum hllm_status}. */
    public enum Status {
        /** A shape, dtype, handle or option is wrong; the message names it. The call had no effect. */
        INVALID_ARGUMENT,
        /** Memory of the device is exhausted: a {@link DeviceOutOfMemoryException}. */
        OUT_OF_MEMORY,
        /** The device, or this build of the library, cannot do it. */
        UNSUPPORTED,
        /** The device reported a fault; the context is best closed. */
        DEVICE_ERROR,
        /** A defect of the native library. */
        INTERNAL
    }

    private final Status status;
    private final String op;

    NativeException(Status status, String op, String message) {
        super(message);
        this.status = status;
        this.op = op;
    }

    public final Status status() {
        return status;
    }

    /** The C function that failed, for example {@code hllm_matmul}. */
    public final String op() {
        return op;
    }

    /**
     * Throws unless {@code code} is {@code HLLM_OK}. To be called directly after the downcall: the error text belongs
     * to the platform thread, and is overwritten by its next call.
     */
    static void check(int code, String op) {
        if (code != Hllm.HLLM_OK()) {
            throw of(code, op, Hllm.hllm_error_message().getString(0));
        }
    }

    private static NativeException of(int code, String op, String text) {
        String name = op.replaceFirst("^hllm_", "");
        String message = text.startsWith(name) ? text : name + ": " + text;
        if (code == Hllm.HLLM_OUT_OF_MEMORY()) {
            return new DeviceOutOfMemoryException(op, message);
        }
        Status status = code == Hllm.HLLM_INVALID_ARGUMENT()
                ? Status.INVALID_ARGUMENT
                : code == Hllm.HLLM_UNSUPPORTED()
                        ? Status.UNSUPPORTED
                        : code == Hllm.HLLM_DEVICE_ERROR() ? Status.DEVICE_ERROR : Status.INTERNAL;
        return new NativeException(status, op, message);
    }
}
