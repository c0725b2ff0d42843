package org.hllm4j.nn;

import java.util.Objects;
import java.util.stream.Stream;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Plan;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.weights.LayerNames;
import org.hllm4j.weights.ModelConfig;

/**
 * One layer of any family. A decoder's: x += attention(norm(x)), then x += mlp(norm(x)). An encoder's has its norms
 * behind: x = norm(x + attention(x)), then x = norm(x + mlp(x)). What attention and MLP are made of, the config says.
 *
 * <p>With a {@link Packing.Tail} the layer is finished for I of the T rows only: they alone need a query and an MLP.
 */
final class Block implements AutoCloseable {
    private final Ops ops;
    private final int layer;
    private final int heads;
    private final int kvHeads;
    private final int headDim;
    private final boolean normsFirst;
    private final Norm attentionNorm;
    private final Norm mlpNorm;
    private final Linear qkv;
    private final Linear q; // rows of qkv, in the last layer only: with a tail it computes them apart
    private final Linear kv;
    private final HeadNorm queryNorm; // null in most families
    private final HeadNorm keyNorm;
    private final Linear out;
    private final Mlp mlp;

    /** What of a forward stays in the workspace. */
    enum Keep {
        /** The result, which overwrites x where it has its shape. */
        NOTHING,
        /** Input and result. */
        INPUT,
        /** Input, result, and what backward needs. */
        ALL
    }

    /**
     * What backward needs of one forward. Tensors live in the workspace.
     *
     * @param normed input of the attention half's products
     * @param attention what its norm has seen, and {@code attentionStats} what it has kept
     * @param queries of the norm of queries, where there is one
     * @param mlp of the MLP
     * @param mlpSum what the MLP half's norm has seen, and {@code mlpStats} what it has kept
     */
    record Saved(
            Tensor normed,
            Tensor attention,
            Tensor attentionStats,
            HeadNorm.Saved queries,
            HeadNorm.Saved keys,
            Tensor q,
            Tensor k,
            Tensor v,
            Tensor attended,
            Tensor lse,
            Mlp.Saved mlp,
            Tensor mlpSum,
            Tensor mlpStats) {}

    Block(Context context, Parameters parameters, String prefix, ModelConfig config, int layer) {
        this.layer = layer;
        boolean last = layer == config.layers() - 1;
        LayerNames names = config.family().layerNames();
        ops = context.ops();
        heads = config.heads();
        kvHeads = config.kvHeads();
        headDim = config.headDim();
        normsFirst = !config.family().encoder();
        attentionNorm = Norm.of(ops, parameters, prefix + names.attentionNorm(), config);
        mlpNorm = Norm.of(ops, parameters, prefix + names.mlpNorm(), config);
        String first = prefix + names.qkv().getFirst();
        Parameter fused = parameters.fused(first + ".weight");
        Parameter bias = parameters.fused(first + ".bias");
        long wide = (long) heads * headDim;
        long all = fused.value().size(0);
        qkv = new Linear(context, fused, bias);
        q = last ? new Linear(context, fused.rows(0, wide), bias == null ? null : bias.rows(0, wide)) : null;
        kv = last ? new Linear(context, fused.rows(wide, all), bias == null ? null : bias.rows(wide, all)) : null;
        boolean headNorms = config.family().normalisesHeads();
        queryNorm = headNorms ? headNorm(parameters, prefix + names.queryNorm(), config) : null;
        keyNorm = headNorms ? headNorm(parameters, prefix + names.keyNorm(), config) : null;
        out = Linear.of(context, parameters, prefix + names.out());
        mlp = new Mlp(context, parameters, prefix, config);
    }

    private HeadNorm headNorm(Parameters parameters, String module, ModelConfig config) {
        return new HeadNorm(ops, parameters.get(module + ".weight"), config.normEps());
    }

    /**
     * Runs the layer on the residual stream x [T, D].
     *
     * @param ropeTable null: positions are no business of attention
     * @return the new residual stream, [T, D] or [I, D] with a tail, and what backward needs (null unless all is kept)
     */
    Result forward(Workspace workspace, Tensor x, Packing packing, Packing.Tail tail, Tensor ropeTable, Keep keep) {
        long finished = tail == null ? x.size(0) : tail.rows().size(0);
        Tensor result = keep == Keep.NOTHING && tail == null ? x : workspace.floats(finished, x.size(1));
        long mark = workspace.mark();
        Saved saved = run(workspace, result, x, packing, tail, ropeTable, keep == Keep.ALL, true);
        if (keep != Keep.ALL) {
            workspace.release(mark);
        }
        return new Result(result, keep == Keep.ALL ? saved : null);
    }

    record Result(Tensor x, Saved saved) {}

    /** What {@link #forward} would have kept of the same input, for a backward that follows at once. */
    Saved again(Workspace workspace, Tensor x, Packing packing, Packing.Tail tail, Tensor ropeTable) {
        Tensor result = workspace.floats(tail == null ? x.size(0) : tail.rows().size(0), x.size(1));
        // With its norm in front, a half ends in a product that backward does not ask for.
        return run(workspace, result, x, packing, tail, ropeTable, true, !normsFirst);
    }

    /**
     * @param result overwritten; x itself to add in place
     * @param save whether backward will follow
     * @param finish false: the result is not wanted
     */
    private Saved run(
            Workspace workspace,
            Tensor result,
            Tensor x,
            Packing packing,
            Packing.Tail tail,
            Tensor ropeTable,
            boolean save,
            boolean finish) {
        long rows = x.size(0);
        long d = x.size(1);
        long finished = result.size(0);

        Tensor attentionStats = attentionNorm.saved(workspace, normsFirst ? rows : finished);
        Tensor normed;
        if (normsFirst) {
            normed = workspace.activations(rows, d);
            attentionNorm.forward(normed, attentionStats, x);
        } else {
            normed = workspace.activation(x);
        }
        Attended a = attend(workspace, normed, finished, packing, tail, ropeTable, save);

        // The stream between the halves.
        Tensor middle = save && finish ? workspace.floats(finished, d) : result;
        Tensor sum = normsFirst ? middle : workspace.floats(finished, d);
        if (tail != null) {
            ops.gatherRows(sum, x, tail.rows());
        } else if (sum != x) {
            ops.convert(sum, x);
        }
        Tensor added = added(workspace, packing, sum);
        out.forward(workspace, added, a.out, true);
        join(workspace, packing, 0, sum, added);

        Tensor mlpStats = mlpNorm.saved(workspace, finished);
        Tensor mlpInput;
        if (normsFirst) {
            mlpInput = workspace.activations(finished, d);
            mlpNorm.forward(mlpInput, mlpStats, middle);
        } else {
            attentionNorm.forward(middle, attentionStats, sum);
            mlpInput = workspace.activation(middle);
        }
        Mlp.Saved saved = mlp.start(workspace, mlpInput);
        Tensor mlpSum = middle;
        if (!normsFirst) {
            mlpSum = workspace.floats(finished, d);
            ops.convert(mlpSum, middle);
            added = added(workspace, packing, mlpSum);
            mlp.finish(workspace, added, saved);
            join(workspace, packing, 1, mlpSum, added);
            mlpNorm.forward(result, mlpStats, mlpSum);
        } else if (finish) {
            if (middle != result) {
                ops.convert(result, middle);
            }
            added = added(workspace, packing, result);
            mlp.finish(workspace, added, saved);
            join(workspace, packing, 1, result, added);
        }
        return new Saved(
                normed,
                normsFirst ? x : sum,
                attentionStats,
                a.queries,
                a.keys,
                a.q,
                a.k,
                a.v,
                a.out,
                a.lse,
                saved,
                mlpSum,
                mlpStats);
    }

    /** Where a half's result is added up: the stream itself, or zeros where dropout comes before it. */
    private Tensor added(Workspace workspace, Packing packing, Tensor stream) {
        if (packing.dropout() == null) {
            return stream;
        }
        Tensor added = workspace.floats(stream.shape());
        ops.fill(added, 0);
        return added;
    }

    /** Adds to the stream what dropout leaves of a half's result, unless it was added there. */
    private void join(Workspace workspace, Packing packing, int half, Tensor stream, Tensor added) {
        if (added != stream) {
            ops.mul(stream, added, packing.dropout().mask(workspace, Dropout.site(layer, half), added), true);
        }
    }

    /** From the gradient of the stream to that of a half's result, as activations. */
    private Tensor thinned(Workspace workspace, Packing packing, int half, Tensor d) {
        return workspace.activation(packing.thinned(ops, workspace, Dropout.site(layer, half), d));
    }

    private record Attended(
            Tensor q, HeadNorm.Saved queries, Tensor k, HeadNorm.Saved keys, Tensor v, Tensor lse, Tensor out) {}

    /** Attention's output before its last product, [finished, H * Dh], from the layer's (normalised) input. */
    private Attended attend(
            Workspace workspace,
            Tensor normed,
            long finished,
            Packing packing,
            Packing.Tail tail,
            Tensor ropeTable,
            boolean saveLse) {
        long rows = normed.size(0);
        long wide = (long) heads * headDim;
        long narrow = (long) kvHeads * headDim;
        Tensor query;
        Tensor keyValue;
        if (tail == null) {
            Tensor all = workspace.activations(rows, wide + 2 * narrow);
            qkv.forward(workspace, all, normed, false);
            query = all.columns(0, wide);
            keyValue = all.columns(wide, wide + 2 * narrow);
        } else {
            query = workspace.activations(finished, wide);
            keyValue = workspace.activations(rows, 2 * narrow);
            q.forward(workspace, query, gathered(workspace, normed, tail), false);
            kv.forward(workspace, keyValue, normed, false);
        }
        query = query.reshape(finished, heads, headDim);
        Tensor key = keyValue.columns(0, narrow).reshape(rows, kvHeads, headDim);
        Tensor value = keyValue.columns(narrow, 2 * narrow).reshape(rows, kvHeads, headDim);
        HeadNorm.Saved queries = null;
        HeadNorm.Saved keys = null;
        if (queryNorm != null) {
            HeadNorm.Result normedQuery = queryNorm.forward(workspace, query);
            HeadNorm.Result normedKey = keyNorm.forward(workspace, key);
            query = normedQuery.y();
            queries = normedQuery.saved();
            key = normedKey.y();
            keys = normedKey.saved();
        }
        boolean together = packing.store() != null && tail == null; // queries are at the same positions
        if (ropeTable != null && !together) {
            ops.rope(query, tail == null ? packing.positions() : tail.positions(), ropeTable, false);
        }
        if (packing.store() != null) {
            KeyValueArena arena = packing.store().arena();
            Tensor stored = arena.keys(layer).reshape(arena.rows(), kvHeads, headDim);
            Tensor values = arena.values(layer).reshape(arena.rows(), kvHeads, headDim);
            ops.ropeScatter(
                    together ? query : null,
                    stored,
                    values,
                    key,
                    value,
                    packing.positions(),
                    ropeTable,
                    packing.store().rows());
            key = stored;
            value = values;
        } else if (ropeTable != null) {
            ops.rope(key, packing.positions(), ropeTable, false);
        }
        Tensor attended = workspace.activations(finished, wide);
        Tensor lse = saveLse ? workspace.floats(heads, finished) : null;
        ops.attentionForward(
                attended.reshape(finished, heads, headDim), lse, query, key, value, plan(packing, tail), scale());
        return new Attended(query, queries, key, keys, value, lse, attended);
    }

    /**
     * The way back.
     *
     * @param dx gradient of the layer's input [T, D]: overwritten; d itself without a tail
     * @param d gradient of the layer's result, [T, D] or [I, D] with a tail; overwritten
     */
    void backward(
            Workspace workspace,
            Tensor dx,
            Tensor d,
            Saved saved,
            Packing packing,
            Packing.Tail tail,
            Tensor ropeTable) {
        long rows = saved.normed.size(0);
        long width = saved.normed.size(1);
        long mark = workspace.mark();
        if (normsFirst) {
            Tensor dnormed = workspace.activations(d.shape());
            mlp.backward(workspace, dnormed, thinned(workspace, packing, 1, d), saved.mlp, false);
            mlpNorm.backward(d, dnormed, saved.mlpStats, saved.mlpSum, true);
            workspace.release(mark);
            Gradients g = attendBackward(workspace, thinned(workspace, packing, 0, d), saved, packing, tail, ropeTable);
            if (tail == null) {
                Tensor dinput = workspace.activations(rows, width);
                qkv.backward(workspace, dinput, g.qkv, saved.normed, false);
                attentionNorm.backward(dx, dinput, saved.attentionStats, saved.attention, true);
            } else {
                Tensor dinput = workspace.floats(rows, width); // float32, as rows are added
                inputGradient(workspace, dinput, g, saved, tail);
                attentionNorm.backward(dx, dinput, saved.attentionStats, saved.attention, false);
                ops.scatterAddRows(dx, d, tail.rows());
            }
        } else {
            Tensor dmiddle = workspace.floats(d.shape());
            mlpNorm.backward(dmiddle, d, saved.mlpStats, saved.mlpSum, false);
            mlp.backward(workspace, dmiddle, thinned(workspace, packing, 1, dmiddle), saved.mlp, true);
            attentionNorm.backward(d, dmiddle, saved.attentionStats, saved.attention, false);
            workspace.release(mark);
            Gradients g = attendBackward(workspace, thinned(workspace, packing, 0, d), saved, packing, tail, ropeTable);
            if (tail == null) {
                qkv.backward(workspace, dx, g.qkv, saved.normed, true);
            } else {
                inputGradient(workspace, dx, g, saved, tail);
                ops.scatterAddRows(dx, d, tail.rows());
            }
        }
        workspace.release(mark);
    }

    /** Of queries [T, H * Dh] and keys and values, in one tensor without a tail. */
    private record Gradients(Tensor qkv, Tensor q, Tensor kv) {}

    /** From the gradient of the attention half's last product, activations, to those of its first. */
    private Gradients attendBackward(
            Workspace workspace, Tensor dout, Saved saved, Packing packing, Packing.Tail tail, Tensor ropeTable) {
        long rows = saved.normed.size(0);
        long finished = dout.size(0);
        long wide = (long) heads * headDim;
        long narrow = (long) kvHeads * headDim;
        Tensor dattended = workspace.activations(finished, wide);
        out.backward(workspace, dattended, dout, saved.attended, false);
        Tensor dqkv = tail == null ? workspace.activations(rows, wide + 2 * narrow) : null;
        Tensor dq = tail == null ? dqkv.columns(0, wide) : workspace.activations(finished, wide);
        Tensor dkv = tail == null ? dqkv.columns(wide, wide + 2 * narrow) : workspace.activations(rows, 2 * narrow);
        Tensor dquery = dq.reshape(finished, heads, headDim);
        Tensor dkey = dkv.columns(0, narrow).reshape(rows, kvHeads, headDim);
        Tensor dturnedQuery = queryNorm == null ? dquery : workspace.activations(dquery.shape());
        Tensor dturnedKey = keyNorm == null ? dkey : workspace.activations(dkey.shape());
        ops.attentionBackward(
                dturnedQuery,
                dturnedKey,
                dkv.columns(narrow, 2 * narrow).reshape(rows, kvHeads, headDim),
                saved.attended.reshape(finished, heads, headDim),
                saved.lse,
                dattended.reshape(finished, heads, headDim),
                saved.q,
                saved.k,
                saved.v,
                plan(packing, tail),
                scale());
        if (ropeTable != null) {
            ops.rope(dturnedQuery, tail == null ? packing.positions() : tail.positions(), ropeTable, true);
            ops.rope(dturnedKey, packing.positions(), ropeTable, true);
        }
        if (queryNorm != null) {
            queryNorm.backward(workspace, dquery, dturnedQuery, saved.queries);
            keyNorm.backward(workspace, dkey, dturnedKey, saved.keys);
        }
        return new Gradients(dqkv, dq, dkv);
    }

    /** With a tail: the gradient of the first product's input [T, D], float32, as rows are added. */
    private void inputGradient(Workspace workspace, Tensor dinput, Gradients g, Saved saved, Packing.Tail tail) {
        kv.backward(workspace, dinput, g.kv, saved.normed, false);
        Tensor dtail = workspace.floats(g.q.size(0), dinput.size(1));
        q.backward(workspace, dtail, g.q, gathered(workspace, saved.normed, tail), false);
        ops.scatterAddRows(dinput, dtail, tail.rows());
    }

    private Tensor gathered(Workspace workspace, Tensor in, Packing.Tail tail) {
        Tensor out = workspace.activations(tail.rows().size(0), in.size(1));
        ops.gatherRows(out, in, tail.rows());
        return out;
    }

    private static Plan plan(Packing packing, Packing.Tail tail) {
        return tail == null ? packing.plan() : tail.plan();
    }

    private float scale() {
        return (float) (1 / Math.sqrt(headDim));
    }

    /** Whether a backward adds to gradients of its matrices, or of their adapters. */
    boolean trains() {
        return linears().anyMatch(Linear::trains);
    }

    void pack() {
        linears().forEach(Linear::pack);
    }

    void refresh(boolean trainedOnly) {
        linears().forEach(linear -> linear.refresh(trainedOnly));
    }

    @Override
    public void close() {
        linears().forEach(Linear::close);
    }

    private Stream<Linear> linears() {
        return Stream.concat(Stream.of(qkv, q, kv, out).filter(Objects::nonNull), mlp.linears());
    }
}
