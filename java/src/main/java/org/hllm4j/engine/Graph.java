package org.hllm4j.engine;

import java.lang.foreign.MemorySegment;
import org.hllm4j.bindings.Hllm;

/**
 * Operations of a context that launch as one, see {@link Context#capture}. A launch reads tensors and plans as they are then:
 * new values are written ({@link Tensor#write}) and plans updated ({@link Plan#update}) in between. What the operations use
 * stays alive with the graph, closed or not.
 */
public final class Graph implements AutoCloseable {
    private final Context context;
    private final MemorySegment handle;
    private boolean open = true;

    Graph(Context context, MemorySegment handle) {
        this.context = context;
        this.handle = handle;
    }

    /** Enqueues all its operations, on the context that captured them. */
    public void launch() {
        NativeException.check(Hllm.hllm_graph_launch(context.handle(), handle), "hllm_graph_launch");
    }

    /** Frees the graph; a second call does nothing. */
    @Override
    public void close() {
        if (open) {
            NativeException.check(Hllm.hllm_graph_destroy(handle), "hllm_graph_destroy");
            open = false;
        }
    }
}
