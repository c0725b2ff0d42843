package org.hllm4j.train;

import java.util.Map;

/** What a step found. */
public sealed interface StepResult permits GenerativeStep.Result, DiscriminativeStep.Result {
    /** What is made small: the mean over the batch. */
    double loss();

    /** Predictions. */
    int positions();

    /** Distinct items encoded. */
    int items();

    /** Tokens of all item occurrences, [ITEM] and user positions included: what plain code computes. */
    long tokens();

    /** Token rows and user positions that were computed, before any second encoding. */
    long rows();

    /** Seconds until the loss was known. */
    double forward();

    /** Seconds since; 0 when nothing is trained. */
    double backward();

    /** The numbers for the log, by name, in order. */
    Map<String, Double> scalars();
}
