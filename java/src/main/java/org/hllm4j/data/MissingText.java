package org.hllm4j.data;

/** What to do with an item of the interaction log that has no row in {@code items.csv}. */
public enum MissingText {
    /** Stop and name it. */
    ERROR,
    /** Give it a row of its own without text. */
    ALLOW
}
