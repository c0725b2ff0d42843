package org.hllm4j.http;

import java.util.concurrent.atomic.DoubleAdder;
import java.util.concurrent.atomic.LongAdder;
import java.util.stream.Stream;

/** Counts values by size, as Prometheus wants them. Any thread. */
final class Histogram {
    private final double[] bounds;
    private final LongAdder[] counts; // the last one of what is above all bounds
    private final DoubleAdder sum = new DoubleAdder();

    Histogram(double... bounds) {
        this.bounds = bounds;
        counts = Stream.generate(LongAdder::new).limit(bounds.length + 1).toArray(LongAdder[]::new);
    }

    static Histogram ofSeconds() {
        return new Histogram(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30);
    }

    void add(double value) {
        int place = 0;
        while (place < bounds.length && value > bounds[place]) {
            place++;
        }
        counts[place].increment();
        sum.add(value);
    }

    /** @param labels as {@code a="b"}, or empty */
    void write(StringBuilder out, String name, String labels) {
        String before = labels.isEmpty() ? "" : labels + ",";
        long below = 0;
        for (int i = 0; i < counts.length; i++) {
            below += counts[i].sum();
            String bound = i < bounds.length ? Double.toString(bounds[i]) : "+Inf";
            out.append(name + "_bucket{" + before + "le=\"" + bound + "\"} " + below + "\n");
        }
        String braces = labels.isEmpty() ? "" : "{" + labels + "}";
        out.append(name + "_sum" + braces + " " + sum.sum() + "\n");
        out.append(name + "_count" + braces + " " + below + "\n");
    }
}
