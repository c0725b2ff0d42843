package org.hllm4j.serve;

import org.hllm4j.HllmException;

/** What was asked is closed, and takes nothing any more. */
public final class ClosedException extends HllmException {
    private static final long serialVersionUID = 1L;

    ClosedException(String what) {
        super(what + " is closed");
    }
}
