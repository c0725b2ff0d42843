package org.hllm4j.data;

/**
 * One training step's data, as item rows.
 *
 * @param step number of the step since the start of training, from 0
 * @param members numbers of the training sequences, [B]
 * @param sequences their items, 2 to {@code maxHistory + 1} each (a ranker's may be one)
 * @param negatives M items, shared by all positions of the batch; repeats are possible
 * @param epoch from 0
 * @param indexInEpoch number of the batch in its epoch, from 0
 */
public record Batch(long step, int[] members, int[][] sequences, int[] negatives, int epoch, int indexInEpoch) {}
