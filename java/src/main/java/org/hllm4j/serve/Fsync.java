package org.hllm4j.serve;

import java.time.Duration;
import org.hllm4j.HllmException;

/**
 * When an {@link EventLog} makes the disk keep what it was given. The end of the process, however sudden, loses no
 * acknowledged event under any of them; they differ in what a power failure or a crash of the system takes.
 */
public sealed interface Fsync {
    /** Before an append returns; appends that wait together share one. Nothing is lost. */
    record Always() implements Fsync {}

    /** Now and then: the events of the last interval may be lost. */
    record Every(Duration interval) implements Fsync {
        public Every {
            if (interval.toMillis() < 1) {
                throw new HllmException("fsync every " + interval + "; expected at least a millisecond");
            }
        }
    }

    /** When the system likes to: usually the events of the last half minute may be lost. */
    record Never() implements Fsync {}
}
