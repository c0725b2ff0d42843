package org.hllm4j.data;

/**
 * One held-out event to be ranked among the whole catalogue.
 *
 * @param user number of the user in {@link Interactions}
 * @param history item rows before the target, oldest first, the last {@code maxHistory} of them
 * @param target item row that was held out; when it is in {@code exclude} too it cannot be ranked: a certain miss
 * @param exclude distinct item rows of <em>all</em> events before the target, ascending; they are not ranked
 */
public record EvaluationCase(int user, int[] history, int target, int[] exclude) {}
