package org.hllm4j.train;

import java.util.ArrayList;
import java.util.List;

/**
 * Keeps the steps of a training, and stops it.
 *
 * @param stopAfter so many steps; -1: it is not stopped
 */
record StepRecorder(List<StepLog> steps, int stopAfter) implements TrainListener {
    StepRecorder(int stopAfter) {
        this(new ArrayList<>(), stopAfter);
    }

    List<Double> losses() {
        return steps.stream().map(log -> log.result().loss()).toList();
    }

    @Override
    public void step(StepLog log) {
        steps.add(log);
    }

    @Override
    public boolean stopRequested() {
        return steps.size() == stopAfter;
    }
}
