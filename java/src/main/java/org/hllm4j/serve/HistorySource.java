package org.hllm4j.serve;

import java.util.List;

/**
 * Where users' events are kept: a log, a database, a stream. Called by many threads at once; the engine's own thread
 * never calls it, so it may block.
 */
public interface HistorySource extends AutoCloseable {
    /** @param timestamp an integer of any unit */
    record Event(String user, String item, long timestamp) {}

    /**
     * A user's events, oldest first; equal timestamps in the order in which they came.
     *
     * @param items item ids
     * @param timestamps of each
     */
    record Events(List<String> items, long[] timestamps) {
        public static final Events NONE = new Events(List.of(), new long[0]);

        public int size() {
            return items.size();
        }
    }

    /** All events of a user; none for one who is not known. */
    Events history(String user);

    /** Keeps events, all or none; when it returns they are in {@link #history}, as durable as the source promises. */
    void append(List<Event> events);

    @Override
    void close();
}
