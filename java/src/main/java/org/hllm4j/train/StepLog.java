package org.hllm4j.train;

/**
 * One line of the step log.
 *
 * @param step from 1
 * @param steps planned
 * @param lr rate that was applied
 * @param gradientNorm before clipping
 * @param seconds of this step
 */
public record StepLog(
        long step, long steps, int epoch, double lr, StepResult result, double gradientNorm, double seconds) {}
