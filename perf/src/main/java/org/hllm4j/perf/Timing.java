package org.hllm4j.perf;

import java.util.ArrayList;
import java.util.List;
import java.util.function.DoubleSupplier;

/** Seconds of repeated runs of the same work. */
record Timing(double median, double min, double max, int runs) {
    private static final int MAX_RUNS = 10_000;

    static Timing of(List<Double> seconds) {
        if (seconds.isEmpty()) {
            throw new IllegalArgumentException("no run was timed");
        }
        List<Double> sorted = seconds.stream().sorted().toList();
        return new Timing(median(seconds), sorted.getFirst(), sorted.getLast(), sorted.size());
    }

    static Timing of(Settings settings, Runnable work) {
        return ofRuns(settings, () -> once(work));
    }

    /** One run to warm up, which is the only one where it is long; then the timed ones. */
    static Timing ofRuns(Settings settings, DoubleSupplier run) {
        double first = run.getAsDouble();
        if (first > settings.longRun()) {
            return of(List.of(first));
        }
        List<Double> seconds = new ArrayList<>();
        double spent = 0;
        while (seconds.size() < settings.runs() || spent < settings.secondsPerRow() && seconds.size() < MAX_RUNS) {
            seconds.add(run.getAsDouble());
            spent += seconds.getLast();
        }
        return of(seconds);
    }

    static double once(Runnable work) {
        long start = System.nanoTime();
        work.run();
        return (System.nanoTime() - start) / 1e9;
    }

    static double median(List<Double> values) {
        List<Double> sorted = values.stream().sorted().toList();
        int half = sorted.size() / 2;
        return sorted.size() % 2 == 1 ? sorted.get(half) : (sorted.get(half - 1) + sorted.get(half)) / 2;
    }
}
