package org.hllm4j.engine;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import org.hllm4j.bindings.Hllm;

/**
 * A point in the work of a context: to let another context, or the program, wait for it, and to time what lies between two.
 * On a GPU all of this happens on the device; on the CPU events are times.
 */
public final class Event implements AutoCloseable {
    private final MemorySegment handle;
    private boolean open = true;

    Event(MemorySegment handle) {
        this.handle = handle;
    }

    /** Marks the point after all that {@code context} was given so far; may be repeated. */
    public void record(Context context) {
        NativeException.check(Hllm.hllm_event_record(context.handle(), handle), "hllm_event_record");
    }

    /** Lets all that {@code context} is given from here on wait for the event; the caller does not wait. */
    public void holdBack(Context context) {
        NativeException.check(Hllm.hllm_event_wait(context.handle(), handle), "hllm_event_wait");
    }

    /** Waits until the point is reached. */
    public void synchronize() {
        NativeException.check(Hllm.hllm_event_synchronize(handle), "hllm_event_synchronize");
    }

    /** Seconds from this event to {@code end}, for which it waits. */
    public double secondsTo(Event end) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment seconds = arena.allocate(Hllm.C_DOUBLE);
            NativeException.check(Hllm.hllm_event_elapsed(handle, end.handle, seconds), "hllm_event_elapsed");
            return seconds.get(Hllm.C_DOUBLE, 0);
        }
    }

    /** Frees the event; a second call does nothing. */
    @Override
    public void close() {
        if (open) {
            NativeException.check(Hllm.hllm_event_destroy(handle), "hllm_event_destroy");
            open = false;
        }
    }
}
