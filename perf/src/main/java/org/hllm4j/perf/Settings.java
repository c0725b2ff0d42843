package org.hllm4j.perf;

import java.util.List;

/**
 * How to measure.
 *
 * @param runs timed runs of a row at least, and pairs of runs with the peer at most
 * @param secondsPerRow runs are repeated until this much time is spent
 * @param threads compute threads, ours and the peer's
 * @param quick small sizes: a smoke test whose numbers mean little
 * @param whole also whole catalogues
 * @param child whether this process measures one row for another one, see {@link Session#child}
 * @param arguments of the command
 */
record Settings(
        int runs,
        double secondsPerRow,
        int threads,
        boolean quick,
        boolean whole,
        boolean child,
        List<String> arguments) {
    /** A first run longer than this is the result: no repetition. */
    double longRun() {
        return 15 * secondsPerRow;
    }

    /** No further pair with the peer is begun after this many seconds. */
    double pairing() {
        return 300 * secondsPerRow;
    }
}
