package org.hllm4j.model;

import java.util.Arrays;
import org.hllm4j.HllmException;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.PlanSpec;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.nn.Packing;
import org.hllm4j.nn.Parameters;
import org.hllm4j.nn.Transformer;
import org.hllm4j.weights.ModelConfig;

/** A user's item vectors to predictions (HLLM section 3.2): the output at an event is the prediction of the next item. */
public final class UserLlm implements AutoCloseable {
    static final String PREFIX = "user_llm.model.";

    private final Context context;
    private final Transformer transformer;

    static void declare(Parameters.Layout layout, ModelConfig config, boolean trainable) {
        Transformer.declare(layout, PREFIX, config, trainable);
    }

    UserLlm(Context context, Parameters parameters, HllmConfig config) {
        this.context = context;
        transformer = new Transformer(context, parameters, PREFIX, config.user(), config.maxHistory());
    }

    /** One forward pass; close it to free its device index arrays. */
    public static final class Pass implements AutoCloseable {
        private final Packing packing;
        private Transformer.Pass states;

        private Pass(Packing packing) {
            this.packing = packing;
        }

        /** [T, D], or [I, D] when only some outputs were asked for. */
        public Tensor output() {
            return states.output();
        }

        @Override
        public void close() {
            packing.close();
        }
    }

    /**
     * @param x item vectors [T, D] of the histories, one after the other, in the workspace; overwritten unless {@code save}
     * @param lengths events of each history, at least 1, at most max history
     * @param wanted rows of x whose outputs are wanted, ascending; null: all
     */
    public Pass forward(Workspace workspace, Tensor x, int[] lengths, int[] wanted, boolean save) {
        for (int length : lengths) {
            if (length > transformer.maxPositions()) {
                throw new HllmException("a history has " + length + " events, more than the model's max history of "
                        + transformer.maxPositions());
            }
        }
        int[] positions = PackedTokens.sequences(lengths).positions();
        Pass pass = new Pass(new Packing(
                context.of(positions),
                context.plan(PlanSpec.causalSequences(lengths)),
                wanted == null ? null : tail(positions, wanted)));
        pass.states = transformer.forward(workspace, x, pass.packing, save);
        return pass;
    }

    /** A wanted event sees its history from the first event to itself. */
    private Packing.Tail tail(int[] positions, int[] wanted) {
        int[] offsets = new int[wanted.length + 1];
        int[] begin = new int[wanted.length];
        int[] length = new int[wanted.length];
        for (int i = 0; i < wanted.length; i++) {
            offsets[i + 1] = i + 1;
            begin[i] = wanted[i] - positions[wanted[i]];
            length[i] = positions[wanted[i]] + 1;
        }
        return Packing.Tail.of(context, positions, wanted, offsets, begin, length);
    }

    /** The last rows of histories of these lengths. */
    public static int[] lastRows(int[] lengths) {
        int[] rows = lengths.clone();
        Arrays.parallelPrefix(rows, Integer::sum);
        Arrays.setAll(rows, i -> rows[i] - 1);
        return rows;
    }

    /** Adds the gradients of the user side's parameters; returns that of x [T, D], in the workspace. */
    public Tensor backward(Workspace workspace, Pass pass, Tensor doutput) {
        return transformer.backward(workspace, pass.states, doutput);
    }

    void refresh() {
        transformer.refresh();
    }

    @Override
    public void close() {
        transformer.close();
    }
}
