package org.hllm4j.data;

/**
 * Events of one user that train together: inputs are {@code items[0..n-2]}, targets {@code items[1..n-1]}.
 *
 * @param user number of the user in {@link Interactions}
 * @param items at least two item rows, oldest first
 */
public record TrainingSequence(int user, int[] items) {}
