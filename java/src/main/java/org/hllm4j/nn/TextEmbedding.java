package org.hllm4j.nn;

import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.weights.ModelConfig;

/** What an encoder does to word vectors before its first layer: adds a learned vector of the position and one of the text, normalises. */
final class TextEmbedding implements AutoCloseable {
    private final Ops ops;
    private final Parameter positions;
    private final Parameter types; // null: there is one kind of input
    private final Norm norm;
    private final Tensor ones;

    TextEmbedding(Context context, Parameters parameters, String prefix, ModelConfig config) {
        ops = context.ops();
        positions = parameters.get(prefix + "embeddings.position_embeddings.weight");
        types = config.tokenTypes() == 0 ? null : parameters.get(prefix + "embeddings.token_type_embeddings.weight");
        norm = Norm.of(ops, parameters, prefix + "embeddings.LayerNorm", config);
        ones = context.zeros(DType.F32, 1, config.hiddenSize());
        ops.fill(ones, 1);
    }

    record Saved(Tensor sum, Tensor stats) {}

    record Result(Tensor y, Saved saved) {}

    /** @param x word vectors [T, D]: overwritten */
    Result forward(Workspace workspace, Tensor x, Packing packing) {
        long rows = x.size(0);
        Tensor places = workspace.floats(rows, x.size(1));
        ops.gatherRows(places, positions.value(), packing.positions());
        ops.mul(x, places, ones.repeat(rows), true);
        if (types != null) {
            ops.biasForward(x, textType(types.value()));
        }
        Tensor stats = norm.saved(workspace, rows);
        norm.forward(places, stats, x);
        return new Result(places, new Saved(x, stats));
    }

    /** From the gradient of the result [T, D] to that of the word vectors, in the workspace. */
    Tensor backward(Workspace workspace, Tensor dy, Saved saved, Packing packing) {
        Tensor dx = workspace.floats(dy.shape());
        norm.backward(dx, dy, saved.stats, saved.sum, false);
        if (positions.trainable()) {
            ops.scatterAddRows(positions.gradient(), dx, packing.positions());
            if (types != null) {
                ops.biasBackward(textType(types.gradient()), dx);
            }
        }
        return dx;
    }

    /** All of an item's text is of the first type. */
    private static Tensor textType(Tensor types) {
        return types.rows(0, 1).reshape(types.size(1));
    }

    @Override
    public void close() {
        ones.close();
    }
}
