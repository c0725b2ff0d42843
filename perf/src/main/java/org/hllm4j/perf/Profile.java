package org.hllm4j.perf;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import jdk.jfr.Recording;
import jdk.jfr.consumer.RecordedEvent;
import jdk.jfr.consumer.RecordingFile;
import org.hllm4j.HllmException;

/**
 * Where the time of a run went, by the native operations that Java Flight Recorder saw.
 *
 * @param seconds of the whole run
 * @param ops the longest first
 */
record Profile(double seconds, List<Op> ops) {
    private static final String EVENT = "org.hllm4j.Operation";

    /** @param flops floating point operations, where the operation tells them */
    record Op(String name, int calls, double seconds, double flops) {
        Op plus(Op other) {
            return new Op(name, calls + other.calls, seconds + other.seconds, flops + other.flops);
        }

        String rate() {
            return flops == 0 ? "" : Report.number(flops / seconds / 1e9) + " GFLOP/s";
        }
    }

    /** Runs the work once. */
    static Profile of(Runnable work) {
        try (Scratch scratch = Scratch.open();
                Recording recording = new Recording()) {
            recording.enable(EVENT).withoutThreshold().withoutStackTrace();
            recording.start();
            double seconds = Timing.once(work);
            recording.stop();
            Path file = scratch.file("ops.jfr");
            recording.dump(file);
            Map<String, Op> ops = new HashMap<>();
            try (RecordingFile events = new RecordingFile(file)) {
                while (events.hasMoreEvents()) {
                    RecordedEvent event = events.readEvent();
                    if (event.getEventType().getName().equals(EVENT)) {
                        double took = event.getDuration().toNanos() / 1e9;
                        Op op = new Op(event.getString("operation"), 1, took, event.getLong("flops"));
                        ops.merge(op.name, op, Op::plus);
                    }
                }
            }
            List<Op> sorted = new ArrayList<>(ops.values());
            sorted.sort(Comparator.comparingDouble(Op::seconds).reversed());
            return new Profile(seconds, sorted);
        } catch (IOException e) {
            throw new HllmException("the recording of operations: " + e, e);
        }
    }

    /** Fraction of the time that is not in native operations: Java, packing, plans, copies, waiting. */
    double outside() {
        return 1 - ops.stream().mapToDouble(Op::seconds).sum() / seconds;
    }

    double share(Op op) {
        return op.seconds / seconds;
    }

    /** The operations that take most of the time. */
    String text() {
        return ops.stream()
                        .limit(4)
                        .map(op -> Report.text("%s %.1f %%", op.name, 100 * share(op))
                                + (op.flops == 0 ? "" : " (" + op.rate() + ")"))
                        .collect(Collectors.joining(", "))
                + Report.text(", outside native operations %.1f %%", 100 * outside());
    }
}
