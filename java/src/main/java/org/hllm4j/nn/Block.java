package org.hllm4j.nn;

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
    private final int heads;
    private final int kvHeads;
    private final int headDim;
    private final int intermediate;
    private final RmsNorm inputNorm;
    private final RmsNorm mlpNorm;
    private final Linear qkv;
    private final Linear q; // views of the rows of qkv: the last layer with a tail computes them apart
    private final Linear kv;
    private final Linear out;
    private final Linear gateUp;
    private final Linear down;

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

    Block(Context context, Parameters parameters, String prefix, ModelConfig config) {
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
        q = new Linear(context, fused.rows(0, wide));
        kv = new Linear(context, fused.rows(wide, fused.value().size(0)));
        out = new Linear(context, parameters.get(prefix + "self_attn.o_proj.weight"));
        gateUp = new Linear(context, parameters.fused(prefix + "mlp.gate_proj.weight"));
        down = new Linear(context, parameters.get(prefix + "mlp.down_proj.weight"));
    }

    /**
     * Runs the layer on the residual stream x [T, D].
     *
     * @param save false: x is overwritten in place (without a tail) and nothing is kept
     * @return the new residual stream, [T, D] or [I, D] with a tail, and what backward needs (null without save)
     */
    Result forward(Workspace workspace, Tensor x, Packing packing, Packing.Tail tail, Tensor ropeTable, boolean save) {
        long rows = x.size(0);
        long d = x.size(1);
        long finished = tail == null ? rows : tail.rows().size(0);
        Tensor result = save || tail != null ? workspace.floats(finished, d) : x;
        long mark = workspace.mark();

        Tensor normed = workspace.floats(rows, d);
        Tensor rstd = workspace.floats(rows);
        inputNorm.forward(normed, rstd, x);
        long wide = (long) heads * headDim;
        long narrow = (long) kvHeads * headDim;
        Tensor query;
        Tensor keyValue;
        if (tail == null) {
            Tensor all = workspace.floats(rows, wide + 2 * narrow);
            qkv.forward(all, normed, false);
            query = all.columns(0, wide);
            keyValue = all.columns(wide, wide + 2 * narrow);
        } else {
            query = workspace.floats(finished, wide);
            keyValue = workspace.floats(rows, 2 * narrow);
            q.forward(query, gathered(workspace, normed, tail), false);
            kv.forward(keyValue, normed, false);
        }
        query = query.reshape(finished, heads, headDim);
        Tensor key = keyValue.columns(0, narrow).reshape(rows, kvHeads, headDim);
        Tensor value = keyValue.columns(narrow, 2 * narrow).reshape(rows, kvHeads, headDim);
        ops.rope(query, tail == null ? packing.positions() : tail.positions(), ropeTable, false);
        ops.rope(key, packing.positions(), ropeTable, false);
        Tensor attended = workspace.floats(finished, wide);
        Tensor lse = save ? workspace.floats(heads, finished) : null;
        ops.attentionForward(
                attended.reshape(finished, heads, headDim), lse, query, key, value, plan(packing, tail), scale());

        Tensor middle = save ? workspace.floats(finished, d) : result;
        if (tail != null) {
            ops.gatherRows(middle, x, tail.rows());
        } else if (save) {
            ops.convert(middle, x);
        }
        out.forward(middle, attended, true);

        Tensor mlpNormed = workspace.floats(finished, d);
        Tensor mlpRstd = workspace.floats(finished);
        mlpNorm.forward(mlpNormed, mlpRstd, middle);
        Tensor gu = workspace.floats(finished, 2L * intermediate);
        gateUp.forward(gu, mlpNormed, false);
        Tensor activated = workspace.floats(finished, intermediate);
        ops.swigluForward(activated, gu);
        if (save) {
            ops.convert(result, middle);
        }
        down.forward(result, activated, true);
        if (!save) {
            workspace.release(mark);
            return new Result(result, null);
        }
        return new Result(
                result,
                new Saved(
                        x, normed, rstd, query, key, value, attended, lse, middle, mlpNormed, mlpRstd, gu, activated));
    }

    record Result(Tensor x, Saved saved) {}

    /**
     * The way back.
     *
     * @param d gradient of the layer's result, [T, D] or [I, D] with a tail; overwritten
     * @return gradient of its input [T, D]: d itself without a tail
     */
    Tensor backward(Workspace workspace, Tensor d, Saved saved, Packing packing, Packing.Tail tail, Tensor ropeTable) {
        long rows = saved.x.size(0);
        long width = saved.x.size(1);
        long finished = d.size(0);
        Tensor dx = tail == null ? d : workspace.floats(rows, width);
        long mark = workspace.mark();

        Tensor dactivated = workspace.floats(finished, intermediate);
        down.backward(dactivated, d, saved.activated, false);
        Tensor dgateUp = workspace.floats(finished, 2L * intermediate);
        ops.swigluBackward(dgateUp, dactivated, saved.gateUp);
        Tensor dnormed = workspace.floats(finished, width);
        gateUp.backward(dnormed, dgateUp, saved.mlpNormed, false);
        mlpNorm.backward(d, dnormed, saved.mlpRstd, saved.middle, true);
        workspace.release(mark);

        long wide = (long) heads * headDim;
        long narrow = (long) kvHeads * headDim;
        Tensor dattended = workspace.floats(finished, wide);
        out.backward(dattended, d, saved.attended, false);
        Tensor dqkv = tail == null ? workspace.floats(rows, wide + 2 * narrow) : null;
        Tensor dq = tail == null ? dqkv.columns(0, wide) : workspace.floats(finished, wide);
        Tensor dkv = tail == null ? dqkv.columns(wide, wide + 2 * narrow) : workspace.floats(rows, 2 * narrow);
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
        Tensor dinput = workspace.floats(rows, width);
        if (tail == null) {
            qkv.backward(dinput, dqkv, saved.normed, false);
            inputNorm.backward(dx, dinput, saved.rstd, saved.x, true);
        } else {
            kv.backward(dinput, dkv, saved.normed, false);
            Tensor dtail = workspace.floats(finished, width);
            q.backward(dtail, dq, gathered(workspace, saved.normed, tail), false);
            ops.scatterAddRows(dinput, dtail, tail.rows());
            inputNorm.backward(dx, dinput, saved.rstd, saved.x, false);
            ops.scatterAddRows(dx, d, tail.rows());
        }
        workspace.release(mark);
        return dx;
    }

    private Tensor gathered(Workspace workspace, Tensor in, Packing.Tail tail) {
        Tensor out = workspace.floats(tail.rows().size(0), in.size(1));
        ops.gatherRows(out, in, tail.rows());
        return out;
    }

    private static Plan plan(Packing packing, Packing.Tail tail) {
        return tail == null ? packing.plan() : tail.plan();
    }

    private float scale() {
        return (float) (1 / Math.sqrt(headDim));
    }

    void refresh() {
        for (Linear linear : new Linear[] {qkv, q, kv, out, gateUp, down}) {
            linear.refresh();
        }
    }

    @Override
    public void close() {
        for (Linear linear : new Linear[] {qkv, q, kv, out, gateUp, down}) {
            linear.close();
        }
    }
}
