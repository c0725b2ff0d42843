package org.hllm4j.nn;

import java.util.Objects;
import java.util.stream.Stream;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Plan;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.weights.ModelConfig;

/**
 * One decoder layer of the Llama family: x += attention(norm(x)), then x += mlp(norm(x)); grouped-query attention with
 * rotary positions, SwiGLU.
 *
 * <p>With a {@link Packing.Tail} the layer is finished for I of the T rows only: they alone need a query and an MLP.
 */
final class Block implements AutoCloseable {
    private final Ops ops;
    private final int layer;
    private final int heads;
    private final int kvHeads;
    private final int headDim;
    private final int intermediate;
    private final RmsNorm inputNorm;
    private final RmsNorm mlpNorm;
    private final Linear qkv;
    private final Linear q; // rows of qkv, in the last layer only: with a tail it computes them apart
    private final Linear kv;
    private final Linear out;
    private final Linear gateUp;
    private final Linear down;

    /** What of a forward stays in the workspace. */
    enum Keep {
        /** The result, which overwrites x where it has its shape. */
        NOTHING,
        /** Input and result. */
        INPUT,
        /** Input, result, and what backward needs. */
        ALL
    }

    /** What backward needs of one forward. Tensors live in the workspace. */
    record Saved(
            Tensor x,
            Tensor normed,
            Tensor rstd,
            Tensor q,
            Tensor k,
            Tensor v,
            Tensor attended,
            Tensor lse,
            Tensor middle,
            Tensor mlpNormed,
            Tensor mlpRstd,
            Tensor gateUp,
            Tensor activated) {}

    /** Declares the parameters of layer {@code prefix} by their Hugging Face names. */
    static void declare(Parameters.Layout layout, String prefix, ModelConfig config, boolean trainable) {
        long d = config.hiddenSize();
        long wide = (long) config.heads() * config.headDim();
        long narrow = (long) config.kvHeads() * config.headDim();
        String a = prefix + "self_attn.";
        String m = prefix + "mlp.";
        layout.vector(prefix + "input_layernorm.weight", d, trainable)
                .matrices(
                        new String[] {a + "q_proj.weight", a + "k_proj.weight", a + "v_proj.weight"},
                        new long[] {wide, narrow, narrow},
                        d,
                        trainable)
                .matrix(a + "o_proj.weight", d, wide, trainable)
                .vector(prefix + "post_attention_layernorm.weight", d, trainable)
                .matrices(
                        new String[] {m + "gate_proj.weight", m + "up_proj.weight"},
                        new long[] {config.intermediateSize(), config.intermediateSize()},
                        d,
                        trainable)
                .matrix(m + "down_proj.weight", d, config.intermediateSize(), trainable);
    }

    Block(Context context, Parameters parameters, String prefix, ModelConfig config, int layer) {
        this.layer = layer;
        boolean last = layer == config.layers() - 1;
        ops = context.ops();
        heads = config.heads();
        kvHeads = config.kvHeads();
        headDim = config.headDim();
        intermediate = config.intermediateSize();
        inputNorm = new RmsNorm(ops, parameters.get(prefix + "input_layernorm.weight"), config.rmsNormEps());
        mlpNorm = new RmsNorm(ops, parameters.get(prefix + "post_attention_layernorm.weight"), config.rmsNormEps());
        Parameter fused = parameters.fused(prefix + "self_attn.q_proj.weight");
        long wide = (long) heads * headDim;
        qkv = new Linear(context, fused);
        q = last ? new Linear(context, fused.rows(0, wide)) : null;
        kv = last ? new Linear(context, fused.rows(wide, fused.value().size(0))) : null;
        out = new Linear(context, parameters.get(prefix + "self_attn.o_proj.weight"));
        gateUp = new Linear(context, parameters.fused(prefix + "mlp.gate_proj.weight"));
        down = new Linear(context, parameters.get(prefix + "mlp.down_proj.weight"));
    }

    /**
     * Runs the layer on the residual stream x [T, D].
     *
     * @return the new residual stream, [T, D] or [I, D] with a tail, and what backward needs (null unless all is kept)
     */
    Result forward(Workspace workspace, Tensor x, Packing packing, Packing.Tail tail, Tensor ropeTable, Keep keep) {
        long finished = tail == null ? x.size(0) : tail.rows().size(0);
        Tensor result = keep == Keep.NOTHING && tail == null ? x : workspace.floats(finished, x.size(1));
        long mark = workspace.mark();
        boolean all = keep == Keep.ALL;
        Tensor middle = all ? workspace.floats(finished, x.size(1)) : result;
        Saved saved = untilDown(workspace, middle, x, packing, tail, ropeTable, all);
        if (all) {
            ops.convert(result, middle);
        }
        down.forward(result, saved.activated, true);
        if (!all) {
            workspace.release(mark);
        }
        return new Result(result, all ? saved : null);
    }

    record Result(Tensor x, Saved saved) {}

    /** What {@link #forward} would have kept of the same input, for a backward that follows at once. */
    Saved again(Workspace workspace, Tensor x, Packing packing, Packing.Tail tail, Tensor ropeTable) {
        Tensor middle = workspace.floats(tail == null ? x.size(0) : tail.rows().size(0), x.size(1));
        return untilDown(workspace, middle, x, packing, tail, ropeTable, true);
    }

    /**
     * All of the layer but its last product.
     *
     * @param middle the stream between attention and MLP: overwritten; x itself to add in place
     */
    private Saved untilDown(
            Workspace workspace,
            Tensor middle,
            Tensor x,
            Packing packing,
            Packing.Tail tail,
            Tensor ropeTable,
            boolean saveLse) {
        long rows = x.size(0);
        long d = x.size(1);
        long finished = middle.size(0);
        long wide = (long) heads * headDim;
        long narrow = (long) kvHeads * headDim;

        Tensor normed = workspace.activations(rows, d);
        Tensor rstd = workspace.floats(rows);
        inputNorm.forward(normed, rstd, x);
        Tensor query;
        Tensor keyValue;
        if (tail == null) {
            Tensor all = workspace.activations(rows, wide + 2 * narrow);
            qkv.forward(all, normed, false);
            query = all.columns(0, wide);
            keyValue = all.columns(wide, wide + 2 * narrow);
        } else {
            query = workspace.activations(finished, wide);
            keyValue = workspace.activations(rows, 2 * narrow);
            q.forward(query, gathered(workspace, normed, tail), false);
            kv.forward(keyValue, normed, false);
        }
        query = query.reshape(finished, heads, headDim);
        Tensor key = keyValue.columns(0, narrow).reshape(rows, kvHeads, headDim);
        Tensor value = keyValue.columns(narrow, 2 * narrow).reshape(rows, kvHeads, headDim);
        boolean together = packing.store() != null && tail == null; // queries are at the same positions
        if (!together) {
            ops.rope(query, tail == null ? packing.positions() : tail.positions(), ropeTable, false);
        }
        if (packing.store() == null) {
            ops.rope(key, packing.positions(), ropeTable, false);
        } else {
            KeyValueArena arena = packing.store().arena();
            Tensor keys = arena.keys(layer).reshape(arena.rows(), kvHeads, headDim);
            Tensor values = arena.values(layer).reshape(arena.rows(), kvHeads, headDim);
            ops.ropeScatter(
                    together ? query : null,
                    keys,
                    values,
                    key,
                    value,
                    packing.positions(),
                    ropeTable,
                    packing.store().rows());
            key = keys;
            value = values;
        }
        Tensor attended = workspace.activations(finished, wide);
        Tensor lse = saveLse ? workspace.floats(heads, finished) : null;
        ops.attentionForward(
                attended.reshape(finished, heads, headDim), lse, query, key, value, plan(packing, tail), scale());

        if (tail != null) {
            ops.gatherRows(middle, x, tail.rows());
        } else if (middle != x) {
            ops.convert(middle, x);
        }
        out.forward(middle, attended, true);

        Tensor mlpNormed = workspace.activations(finished, d);
        Tensor mlpRstd = workspace.floats(finished);
        mlpNorm.forward(mlpNormed, mlpRstd, middle);
        Tensor gu = workspace.activations(finished, 2L * intermediate);
        gateUp.forward(gu, mlpNormed, false);
        Tensor activated = workspace.activations(finished, intermediate);
        ops.swigluForward(activated, gu);
        return new Saved(x, normed, rstd, query, key, value, attended, lse, middle, mlpNormed, mlpRstd, gu, activated);
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
        long rows = saved.x.size(0);
        long width = saved.x.size(1);
        long finished = d.size(0);
        long mark = workspace.mark();

        Tensor dactivated = workspace.activations(finished, intermediate);
        down.backward(dactivated, workspace.activation(d), saved.activated, false);
        Tensor dgateUp = workspace.activations(finished, 2L * intermediate);
        ops.swigluBackward(dgateUp, dactivated, saved.gateUp);
        Tensor dnormed = workspace.activations(finished, width);
        gateUp.backward(dnormed, dgateUp, saved.mlpNormed, false);
        mlpNorm.backward(d, dnormed, saved.mlpRstd, saved.middle, true);
        workspace.release(mark);

        long wide = (long) heads * headDim;
        long narrow = (long) kvHeads * headDim;
        Tensor dattended = workspace.activations(finished, wide);
        out.backward(dattended, workspace.activation(d), saved.attended, false);
        Tensor dqkv = tail == null ? workspace.activations(rows, wide + 2 * narrow) : null;
        Tensor dq = tail == null ? dqkv.columns(0, wide) : workspace.activations(finished, wide);
        Tensor dkv = tail == null ? dqkv.columns(wide, wide + 2 * narrow) : workspace.activations(rows, 2 * narrow);
        Tensor dquery = dq.reshape(finished, heads, headDim);
        Tensor dkey = dkv.columns(0, narrow).reshape(rows, kvHeads, headDim);
        ops.attentionBackward(
                dquery,
                dkey,
                dkv.columns(narrow, 2 * narrow).reshape(rows, kvHeads, headDim),
                saved.attended.reshape(finished, heads, headDim),
                saved.lse,
                dattended.reshape(finished, heads, headDim),
                saved.q,
                saved.k,
                saved.v,
                plan(packing, tail),
                scale());
        ops.rope(dquery, tail == null ? packing.positions() : tail.positions(), ropeTable, true);
        ops.rope(dkey, packing.positions(), ropeTable, true);
        if (tail == null) {
            Tensor dinput = workspace.activations(rows, width);
            qkv.backward(dinput, dqkv, saved.normed, false);
            inputNorm.backward(dx, dinput, saved.rstd, saved.x, true);
        } else {
            Tensor dinput = workspace.floats(rows, width); // float32, as rows are added
            kv.backward(dinput, dkv, saved.normed, false);
            Tensor dtail = workspace.floats(finished, width);
            q.backward(dtail, dq, gathered(workspace, saved.normed, tail), false);
            ops.scatterAddRows(dinput, dtail, tail.rows());
            inputNorm.backward(dx, dinput, saved.rstd, saved.x, false);
            ops.scatterAddRows(dx, d, tail.rows());
        }
        workspace.release(mark);
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

    void pack() {
        linears().forEach(Linear::pack);
    }

    void refresh() {
        linears().forEach(Linear::refresh);
    }

    @Override
    public void close() {
        linears().forEach(Linear::close);
    }

    private Stream<Linear> linears() {
        return Stream.of(qkv, q, kv, out, gateUp, down).filter(Objects::nonNull);
    }
}
