package org.hllm4j.engine;

import java.lang.foreign.MemorySegment;
import org.hllm4j.bindings.Hllm;

/** Which keys each query sees, prepared once from a {@link PlanSpec} for all layers, forward and backward. */
public final class Plan implements AutoCloseable {
    private final int queryRows;
    private final int keyRows;
    private final MemorySegment handle;
    private boolean open = true;

    Plan(int queryRows, int keyRows, MemorySegment handle) {
        this.queryRows = queryRows;
        this.keyRows = keyRows;
        this.handle = handle;
    }

    /** Tq, the rows of q. */
    public int queryRows() {
        return queryRows;
    }

    /** Tk, the rows of k and v. */
    public int keyRows() {
        return keyRows;
    }

    /** Frees the plan; a second call does nothing. */
    @Override
    public void close() {
        if (open) {
            NativeException.check(Hllm.hllm_plan_destroy(handle), "hllm_plan_destroy");
            open = false;
        }
    }

    MemorySegment handle() {
        return handle;
    }
}
