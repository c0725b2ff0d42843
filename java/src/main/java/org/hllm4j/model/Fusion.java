package org.hllm4j.model;

/** Where a ranker brings user and target together. */
public enum Fusion {
    /** A learned [USER] token ends the history; its state, which knows no target, meets the target in the head. */
    LATE,

    /** The target ends the history; the head reads its state, which has seen both. */
    EARLY
}
