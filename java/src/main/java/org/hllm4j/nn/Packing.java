package org.hllm4j.nn;

import org.hllm4j.engine.Context;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Plan;
import org.hllm4j.engine.PlanSpec;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;

/**
 * A packed batch as the device sees it. Owns its tensors and plans.
 *
 * @param positions i32 [T] place of each token in its sequence
 * @param plan which tokens see which
 * @param tail the tokens whose last hidden state is wanted; null: all of them
 * @param store where the tokens' keys and values go, and the plans find them with those of earlier batches; null: the keys
 *     are the tokens' own. For inference only
 * @param dropout of this pass; null: none
 */
public record Packing(Tensor positions, Plan plan, Tail tail, Store store, Dropout dropout) implements AutoCloseable {
    public Packing(Tensor positions, Plan plan, Tail tail) {
        this(positions, plan, tail, null, null);
    }

    /** The same, in place of this one. */
    public Packing with(Dropout thinning) {
        return new Packing(positions, plan, tail, store, thinning);
    }

    /** x, or what the dropout leaves of it. */
    Tensor thinned(Ops ops, Workspace workspace, int site, Tensor x) {
        if (dropout == null) {
            return x;
        }
        Tensor left = workspace.floats(x.shape());
        ops.mul(left, x, dropout.mask(workspace, site, x), false);
        return left;
    }

    /**
     * @param arena whose rows are the plans' key rows; not owned
     * @param rows i32 [T] the arena row of each token, all distinct
     */
    public record Store(KeyValueArena arena, Tensor rows) {}

    /**
     * The last layer for I of the T tokens only: queries, output projection and MLP at those, keys and values for all.
     *
     * @param rows i32 [I] ascending token rows
     * @param positions i32 [I]
     * @param plan I queries of one row each over the T keys
     */
    public record Tail(Tensor rows, Tensor positions, Plan plan) {
        /**
         * @param allPositions [T] of the whole pack
         * @param rows [I] ascending
         * @param spanOffsets [I + 1] the key spans of each wanted row, itself included at the end
         * @param window of {@link PlanSpec#within}
         */
        public static Tail of(
                Context context,
                int[] allPositions,
                int[] rows,
                int[] spanOffsets,
                int[] spanBegin,
                int[] spanLength,
                int window) {
            int[] begin = new int[rows.length];
            int[] length = new int[rows.length];
            int[] positions = new int[rows.length];
            for (int i = 0; i < rows.length; i++) {
                begin[i] = i;
                length[i] = 1;
                positions[i] = allPositions[rows[i]];
            }
            PlanSpec spec = new PlanSpec(
                    true, rows.length, allPositions.length, begin, length, spanOffsets, spanBegin, spanLength);
            return new Tail(context.of(rows), context.of(positions), context.plan(spec.within(window)));
        }
    }

    public long rows() {
        return positions.size(0);
    }

    @Override
    public void close() {
        positions.close();
        plan.close();
        if (tail != null) {
            tail.rows.close();
            tail.positions.close();
            tail.plan.close();
        }
        if (store != null) {
            store.rows.close();
        }
    }
}
