package org.hllm4j.engine;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import org.hllm4j.bindings.Hllm;

/** Which keys each query sees, prepared once from a {@link PlanSpec} for all layers, forward and backward. */
public final class Plan implements AutoCloseable {
    private final int queryRows;
    private final int keyRows;
    private final Context context;
    private final MemorySegment handle;
    private long pairs;
    private boolean open = true;

    Plan(Context context, PlanSpec spec, MemorySegment handle) {
        this.context = context;
        queryRows = spec.queryRows();
        keyRows = spec.keyRows();
        pairs = spec.pairs();
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

    /** Pairs of a query row and a key row that it sees: what attention has to compute. */
    public long pairs() {
        return pairs;
    }

    /**
     * Takes other segments and spans, at most as many of each as at the start, over as many query and key rows. A captured
     * {@link Graph} sees them.
     */
    public void update(PlanSpec spec) {
        try (Arena arena = Arena.ofConfined()) {
            NativeException.check(
                    Hllm.hllm_plan_update(context.handle(), handle, Context.planArgs(arena, spec)), "hllm_plan_update");
            pairs = spec.pairs();
        }
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
