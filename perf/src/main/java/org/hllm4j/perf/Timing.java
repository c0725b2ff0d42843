package org.hllm4j.perf;

import java.util.ArrayList;
import java.util.List;

/** Seconds of repeated runs of the same work. */
record Timing(List<Double> seconds) {
    private static final int MAX_RUNS = 10_000;

    Timing {
        seconds = List.copyOf(seconds);
        if (seconds.isEmpty()) {
            throw new IllegalArgumentException("no run was timed");
        }
    }

    /** One run to warm up, which is the only one where it is long; then the timed ones. */
    static Timing of(Settings settings, Runnable work) {
        double first = once(work);
        if (first > settings.longRun()) {
            return new Timing(List.of(first));
        }
        List<Double> seconds = new ArrayList<>();
        double spent = 0;
        while (seconds.size() < settings.runs() || spent < settings.secondsPerRow() && seconds.size() < MAX_RUNS) {
            double run = once(work);
            seconds.add(run);
            spent += run;
        }
        return new Timing(seconds);
    }

    static double once(Runnable work) {
        long start = System.nanoTime();
        work.run();
        return (System.nanoTime() - start) / 1e9;
    }

    double median() {
        return median(seconds);
    }

    double min() {
        return seconds.stream().mapToDouble(s -> s).min().getAsDouble();
    }

    double max() {
        return seconds.stream().mapToDouble(s -> s).max().getAsDouble();
    }

    static double median(List<Double> values) {
        List<Double> sorted = values.stream().sorted().toList();
        int half = sorted.size() / 2;
        return sorted.size() % 2 == 1 ? sorted.get(half) : (sorted.get(half - 1) + sorted.get(half)) / 2;
    }
}
