package org.hllm4j.train;

import java.util.Map;

/** Told how training goes; called on the training thread. */
public interface TrainListener {
    /** Listens to nothing, stops nothing. */
    TrainListener SILENT = new TrainListener() {};

    /**
     * Training continues from a checkpoint after this many steps.
     *
     * @param otherEnvironment null; or the native library and instruction set that the checkpoint comes from, where they
     *     are not those of now: numbers then go on in the same way, but no longer bit for bit
     */
    default void resumed(long step, String otherEnvironment) {}

    default void step(StepLog log) {}

    /** A long part of the work that is not a step, such as "frozen items" or "validation users"; its last word counts. */
    default void progress(String what, long done, long total) {}

    /** @param best whether this model is the best so far, and saved */
    default void epoch(int epoch, Map<String, Double> validation, boolean best) {}

    /** Asked after every step: true writes a checkpoint and ends. */
    default boolean stopRequested() {
        return false;
    }
}
