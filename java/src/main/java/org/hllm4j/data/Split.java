package org.hllm4j.data;

/** Which event of a user is held out: the last one for the test, the one before it for validation. */
public enum Split {
    VALIDATION(2),
    TEST(1);

    /** Place of the target, counted from the end of the user's events. */
    final int fromEnd;

    Split(int fromEnd) {
        this.fromEnd = fromEnd;
    }
}
