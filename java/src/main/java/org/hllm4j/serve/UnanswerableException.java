package org.hllm4j.serve;

import org.hllm4j.HllmException;

/** This model, its items or this user's events do not allow what is asked; asking again will not help. */
public final class UnanswerableException extends HllmException {
    private static final long serialVersionUID = 1L;

    UnanswerableException(String message) {
        super(message);
    }
}
