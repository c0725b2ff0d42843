package org.hllm4j.model;

import java.util.function.Consumer;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;

/** Items to vectors: an {@link ItemLlm} reads their texts, an {@link ItemTable} looks up their ids. */
public interface ItemEncoder extends AutoCloseable {
    /** One forward pass; close it to free its device index arrays. */
    interface Pass extends AutoCloseable {
        /** [leaves, D]: one vector per distinct item of the pack, in the order of its leaves. */
        Tensor output();

        /** Adds the gradients of the item side's parameters, given that of the output [leaves, D]; of a pass that saved. */
        void backward(Workspace workspace, Tensor doutput);

        @Override
        void close();
    }

    /**
     * Encodes the distinct items of a pack.
     *
     * @param save whether the pass's backward will follow; its tensors stay in the workspace
     */
    Pass forward(Workspace workspace, PackedTokens tokens, boolean save);

    /** See {@link Hllm#recompute}. */
    void recompute(boolean on);

    /**
     * See {@link Hllm#pack}.
     *
     * @param fill see {@link org.hllm4j.nn.Transformer#pack}; told "" at the end, for what belongs to no layer
     */
    void pack(Consumer<String> fill);

    /** Takes over parameter values that were written; {@code trainedOnly}: by an optimiser. */
    void refresh(boolean trainedOnly);

    @Override
    void close();
}
