package org.hllm4j.serve;

import org.hllm4j.HllmException;

/** The disk does not take what is to be kept: it may or may not be there after a restart. */
public final class DiskException extends HllmException {
    private static final long serialVersionUID = 1L;

    DiskException(String message, Throwable cause) {
        super(message, cause);
    }
}
