package org.hllm4j.model;

import java.util.Arrays;
import java.util.List;
import java.util.function.Consumer;
import org.hllm4j.HllmException;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.PlanSpec;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.nn.Dropout;
import org.hllm4j.nn.KeyValueArena;
import org.hllm4j.nn.Lora;
import org.hllm4j.nn.Packing;
import org.hllm4j.nn.Parameters;
import org.hllm4j.nn.Transformer;
import org.hllm4j.weights.ModelConfig;

/** A user's item vectors to predictions (HLLM section 3.2): the output at an event is the prediction of the next item. */
public final class UserLlm implements AutoCloseable {
    static final String PREFIX = "user_llm.";

    private final Context context;
    private final Transformer transformer;
    private final int maxHistory;

    static void declare(Parameters.Layout layout, ModelConfig config, boolean trainable, Lora lora) {
        Transformer.declare(layout, PREFIX + config.family().stem(), config, trainable, lora);
    }

    UserLlm(Context context, Parameters parameters, HllmConfig config) {
        this.context = context;
        maxHistory = config.maxHistory();
        String prefix = PREFIX + config.user().family().stem();
        transformer = new Transformer(context, parameters, prefix, config.user(), positions(config));
    }

    /** Positions from 0: learned ones for what was trained, else as many as a cached history may grow to. */
    private static int positions(HllmConfig config) {
        return config.user().family().encoder() ? config.maxHistory() : 2 * config.maxHistory() + 1;
    }

    /** One forward pass; close it to free its device index arrays. */
    public static final class Pass implements AutoCloseable {
        private final Packing packing;
        private final Transformer.Pass states;

        private Pass(Packing packing, Transformer.Pass states) {
            this.packing = packing;
            this.states = states;
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
        return forward(workspace, x, lengths, wanted, save, null);
    }

    /** The same with what a training step leaves out; null: nothing. */
    public Pass forward(Workspace workspace, Tensor x, int[] lengths, int[] wanted, boolean save, Dropout dropout) {
        check(Arrays.stream(lengths).max().orElse(0));
        int[] positions = PackedTokens.sequences(lengths).positions();
        Packing packing = new Packing(
                context.of(positions),
                context.plan(PlanSpec.causalSequences(lengths).within(transformer.window())),
                wanted == null ? null : tail(positions, wanted));
        return forward(workspace, x, packing.with(dropout), save);
    }

    /**
     * @param x vectors [T, D] of the events of the histories and of the branches, in the workspace; overwritten unless
     *     {@code save}
     * @param all whether the output has the histories' rows too, [T, D], and not the branches' alone
     */
    public Pass forward(Workspace workspace, Tensor x, Branches branches, boolean all, boolean save) {
        check(branches.longest());
        return forward(workspace, x, branches.packing(context, all, transformer.window()), save);
    }

    /**
     * New events and branches over histories whose keys and values lie in an arena, where the new ones are added: what was
     * computed before is not computed again (HLLM section 3.5, caching).
     *
     * @param x vectors [T, D] of each history's fresh events, then of its branches, history after history, in the
     *     workspace; overwritten
     * @return a pass whose output has the branches of each history, or its last event if it has none
     */
    public Pass forward(Workspace workspace, Tensor x, KeyValueArena arena, List<CachedHistory> histories) {
        return forward(workspace, x, step(arena, histories).packing(context, arena), false);
    }

    /** @param packing is the pass's, and closed where this fails */
    private Pass forward(Workspace workspace, Tensor x, Packing packing, boolean save) {
        try {
            return new Pass(packing, transformer.forward(workspace, x, packing, save));
        } catch (RuntimeException | Error e) {
            packing.close();
            throw e;
        }
    }

    /**
     * The same as a graph, for a device that has them; the caller closes it, before the arena.
     *
     * @param histories whose outputs are computed to begin with
     * @param spans runs of neighbouring rows that a history and its branch may have
     */
    public AppendGraph appendGraph(KeyValueArena arena, List<CachedHistory> histories, int spans) {
        int readers = transformer.window() == 0 ? 1 : rows(histories); // of the spans of one history
        return new AppendGraph(
                context, transformer, arena, of -> step(arena, of), histories, spans * histories.size() * readers);
    }

    /** Events beyond max history that a cached history may grow to: none where positions are learned. */
    public int mostSlack() {
        return Math.min(maxHistory, transformer.maxPositions() - maxHistory);
    }

    private CachedHistory.Step step(KeyValueArena arena, List<CachedHistory> histories) {
        for (CachedHistory history : histories) {
            int positions = history.rows().length + Math.min(1, history.branches().length);
            if (positions > transformer.maxPositions()) {
                throw new HllmException("a cached history takes " + positions + " positions, more than the "
                        + transformer.maxPositions() + " of a model whose max history is " + maxHistory);
            }
        }
        return CachedHistory.step(histories, arena.rows()).within(transformer.window());
    }

    private static int rows(List<CachedHistory> histories) {
        return histories.stream()
                .mapToInt(h -> h.fresh() + h.branches().length)
                .max()
                .orElse(0);
    }

    private void check(int longest) {
        if (longest > maxHistory) {
            throw new HllmException(
                    "a history has " + longest + " events, more than the model's max history of " + maxHistory);
        }
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
        return Packing.Tail.of(context, positions, wanted, offsets, begin, length, transformer.window());
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

    void recompute(boolean on) {
        transformer.recompute(on);
    }

    void pack(Consumer<String> fill) {
        transformer.pack(fill);
        fill.accept("");
    }

    void refresh(boolean trainedOnly) {
        transformer.refresh(trainedOnly);
    }

    @Override
    public void close() {
        transformer.close();
    }
}
