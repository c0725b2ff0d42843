package org.hllm4j.model;

import java.util.function.Consumer;
import org.hllm4j.HllmException;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.nn.Parameter;
import org.hllm4j.nn.Parameters;

/** Item id to item vector, as in id-based recommenders: a learned row per item, and a projection where widths differ. */
public final class ItemTable implements ItemEncoder {
    private static final String TABLE = "item_embedding.weight"; // the official names
    private static final String PROJECTION = "item_id_proj_tower.weight";

    private final Ops ops;
    private final Parameter table;
    private final Projection projection;

    static void declare(Parameters.Layout layout, IdTable ids, int width, boolean trainable) {
        layout.table(TABLE, ids.items(), ids.width(), trainable);
        if (ids.width() != width) {
            layout.matrix(PROJECTION, width, ids.width(), trainable);
        }
    }

    ItemTable(Context context, Parameters parameters, HllmConfig config) {
        ops = context.ops();
        table = parameters.get(TABLE);
        projection = new Projection(context, parameters, config.ids().width() == config.width() ? null : PROJECTION);
    }

    private final class Pass implements ItemEncoder.Pass {
        private final Tensor rows;
        private final Projection.Pass projected;

        Pass(Tensor rows, Projection.Pass projected) {
            this.rows = rows;
            this.projected = projected;
        }

        @Override
        public Tensor output() {
            return projected.output();
        }

        @Override
        public void backward(Workspace workspace, Tensor doutput) {
            ops.scatterAddRows(table.gradient(), projection.backward(workspace, projected, doutput), rows);
        }

        @Override
        public void close() {
            // all of it lies in the workspace
        }
    }

    /** @param tokens of {@link IdTable#tokens}, packed without [ITEM] */
    @Override
    public Pass forward(Workspace workspace, PackedTokens tokens, boolean save) {
        int[] rows = new int[tokens.leaves()];
        for (int i = 0; i < rows.length; i++) {
            rows[i] = tokens.ids()[tokens.leafRow()[i]];
            if (rows[i] < 0 || rows[i] >= table.value().size(0)) {
                throw new HllmException("item " + rows[i] + " is none of the "
                        + table.value().size(0) + " items that this model knows");
            }
        }
        Tensor index = workspace.ints(rows);
        Tensor found = workspace.floats(rows.length, table.value().size(1));
        ops.gatherRows(found, table.value(), index);
        return new Pass(index, projection.forward(workspace, found));
    }

    @Override
    public void recompute(boolean on) {
        // a look-up keeps nothing that could be computed again
    }

    @Override
    public void pack(Consumer<String> fill) {
        fill.accept(""); // a look-up needs its rows as they are
        projection.refresh(false);
    }

    @Override
    public void refresh(boolean trainedOnly) {
        projection.refresh(trainedOnly);
    }

    @Override
    public void close() {
        projection.close();
    }
}
