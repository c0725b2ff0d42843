package org.hllm4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.text.DecimalFormat;
import java.time.Duration;
import java.util.Locale;
import java.util.function.LongConsumer;
import me.tongfei.progressbar.ConsoleProgressBarConsumer;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarBuilder;
import me.tongfei.progressbar.ProgressBarStyle;

/**
 * How far the work is, with rate and time left, on standard error: a bar on a terminal, else a line every few seconds.
 * One task at a time; a report for another one ends the last.
 */
final class Progress implements AutoCloseable {
    private static final long LINE_NANOS = 5_000_000_000L;

    private final PrintWriter err;
    private final boolean terminal;
    private String task;
    private ProgressBar bar;
    private long firstDone;
    private long begin;
    private long lastLine;

    Progress(PrintWriter err) {
        this.err = err;
        terminal = standardErrorIsTerminal();
    }

    /** System.console() tells of input and output only. */
    private static boolean standardErrorIsTerminal() {
        try {
            Path target = Files.readSymbolicLink(Path.of("/proc/self/fd/2"));
            return target.startsWith("/dev/pts") || target.toString().matches("/dev/(tty.*|console)");
        } catch (IOException | UnsupportedOperationException e) {
            return false;
        }
    }

    /** A listener for work that reports how much is done. */
    LongConsumer counter(String what, String unit, long total) {
        return done -> at(what, unit, done, total, "");
    }

    /**
     * @param what the task
     * @param unit of done and total
     * @param note a few words on the present state, or empty
     */
    synchronized void at(String what, String unit, long done, long total, String note) {
        long now = System.nanoTime();
        if (!what.equals(task)) {
            end();
            task = what;
            // The first report comes after some work of unknown extent: the rate is measured from here.
            firstDone = done;
            begin = now;
            lastLine = now;
            if (terminal) {
                bar = new ProgressBarBuilder()
                        .setTaskName(what)
                        .setUnit(" " + unit, 1)
                        .setInitialMax(total)
                        .startsFrom(done, Duration.ZERO)
                        .setStyle(ProgressBarStyle.ASCII)
                        .setUpdateIntervalMillis(500)
                        .showSpeed(new DecimalFormat("0.0"))
                        .setConsumer(new ConsoleProgressBarConsumer(System.err))
                        .build();
            }
        }
        if (bar != null) {
            bar.stepTo(done).setExtraMessage(" " + note);
        } else if (now - lastLine >= LINE_NANOS) {
            lastLine = now;
            err.println(line(what, unit, done, total, note, (done - firstDone) / ((now - begin) / 1e9)));
        }
        if (done >= total) {
            end();
        }
    }

    private static String line(String what, String unit, long done, long total, String note, double rate) {
        String left = rate > 0 ? ", " + duration((total - done) / rate) + " left" : "";
        return String.format(
                Locale.ROOT,
                "%s: %d of %d %s (%d %%), %s %s/s%s%s",
                what,
                done,
                total,
                unit,
                total == 0 ? 100 : 100 * done / total,
                String.format(Locale.ROOT, rate < 100 ? "%.1f" : "%.0f", rate),
                unit,
                left,
                note.isEmpty() ? "" : "; " + note);
    }

    static String duration(double seconds) {
        long s = Math.round(seconds);
        return s < 60
                ? s + " s"
                : s < 3600 ? s / 60 + " min " + s % 60 + " s" : s / 3600 + " h " + s % 3600 / 60 + " min";
    }

    /** A line of its own. */
    synchronized void say(String line) {
        end();
        err.println(line);
    }

    private void end() {
        if (bar != null) {
            bar.close();
            bar = null;
        }
        task = null;
    }

    @Override
    public synchronized void close() {
        end();
    }
}
