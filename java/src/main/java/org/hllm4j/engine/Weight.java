package org.hllm4j.engine;

import java.lang.foreign.MemorySegment;
import org.hllm4j.bindings.Hllm;

/**
 * A weight matrix [rows, columns] in the form that the linear operations of {@link Ops} want. Close it before its
 * source.
 */
public final class Weight implements AutoCloseable {
    private final Context context;
    private final Tensor source;
    private final DType storage;
    private final MemorySegment handle;
    private boolean open = true;

    Weight(Context context, Tensor source, DType storage, MemorySegment handle) {
        this.context = context;
        this.source = source;
        this.storage = storage;
        this.handle = handle;
    }

    /** Takes over new values of the source: to be called after an optimiser step. */
    public void refresh() {
        NativeException.check(Hllm.hllm_weight_refresh(context.handle(), handle), "hllm_weight_refresh");
    }

    /**
     * Keeps a second copy in the order in which a forward product reads it fastest, where the device knows one; for weights
     * that stay as they are. On a CPU that multiplies bf16, inputs of bf16 weights are rounded to bf16 from then on. After it the source may be closed, if nothing but forward
     * products follows.
     */
    public void pack() {
        NativeException.check(Hllm.hllm_weight_pack(context.handle(), handle), "hllm_weight_pack");
    }

    /** N, the width of the layer's output. */
    public long rows() {
        return source.size(0);
    }

    /** K, the width of the layer's input. */
    public long columns() {
        return source.size(1);
    }

    public DType storage() {
        return storage;
    }

    /** Frees the handle; a second call does nothing. */
    @Override
    public void close() {
        if (open) {
            NativeException.check(Hllm.hllm_weight_destroy(handle), "hllm_weight_destroy");
            open = false;
        }
    }

    MemorySegment handle() {
        return handle;
    }

    @Override
    public String toString() {
        return "weight " + storage + Tensor.text(source.shape());
    }
}
