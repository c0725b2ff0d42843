package org.hllm4j.serve;

import org.hllm4j.HllmException;

/** The engine's queue is full: the request was not taken, and may be sent again later. */
public final class BusyException extends HllmException {
    private static final long serialVersionUID = 1L;

    BusyException(int waiting) {
        super("busy: " + waiting + " requests are waiting, as many as the queue holds; try again shortly");
    }
}
