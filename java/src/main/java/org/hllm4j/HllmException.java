package org.hllm4j;

/**
 * Root of every error that hllm4j raises on purpose. The message says what was wrong (file, line, tensor or option),
 * what was expected, and what to do.
 */
public class HllmException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    public HllmException(String message) {
        super(message);
    }

    public HllmException(String message, Throwable cause) {
        super(message, cause);
    }
}
