package org.hllm4j.engine;

import static org.hllm4j.engine.OperationEvent.started;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.ref.Reference;
import java.util.function.LongSupplier;
import org.hllm4j.bindings.Hllm;
import org.hllm4j.bindings.hllm_adamw_args;
import org.hllm4j.bindings.hllm_attention_backward_args;
import org.hllm4j.bindings.hllm_infonce_args;
import org.hllm4j.bindings.hllm_rope_scatter_args;

/**
 * The operations of the device, one method per function of {@code hllm.h}, arguments in the same order: outputs, saved
 * values, inputs, weights, options. Everything is f32 unless said otherwise; ids, positions, rows and offsets are i32.
 *
 * <p>Gradients of parameters <b>add</b> to what is there, gradients of activations <b>overwrite</b> unless
 * {@code accumulate}. Outputs must not overlap inputs unless "in place" is said. A gradient that may be null is not
 * computed then. Rank, shape, dtype, device and bounds are checked by the native library, which refuses with a
 * {@link NativeException} and leaves the outputs as they were.
 *
 * <p>Dimensions: T packed tokens, D hidden, F feed-forward, V vocabulary, H query heads, Hkv key/value heads, Dh head
 * width, B users, M negatives, K top-k, N catalogue rows.
 */
public final class Ops {
    private final Context context;
    // The structs of these four are filled anew by each call: a context serves one thread at a time.
    private final MemorySegment attentionBackwardArgs;
    private final MemorySegment infonceArgs;
    private final MemorySegment adamwArgs;
    private final MemorySegment ropeScatterArgs;

    Ops(Context context) {
        this.context = context;
        Arena arena = Arena.ofAuto();
        attentionBackwardArgs = hllm_attention_backward_args.allocate(arena);
        infonceArgs = hllm_infonce_args.allocate(arena);
        adamwArgs = hllm_adamw_args.allocate(arena);
        ropeScatterArgs = hllm_rope_scatter_args.allocate(arena);
        hllm_attention_backward_args.struct_size(attentionBackwardArgs, (int) attentionBackwardArgs.byteSize());
        hllm_infonce_args.struct_size(infonceArgs, (int) infonceArgs.byteSize());
        hllm_adamw_args.struct_size(adamwArgs, (int) adamwArgs.byteSize());
        hllm_rope_scatter_args.struct_size(ropeScatterArgs, (int) ropeScatterArgs.byteSize());
    }

    // ---- Elements ---------------------------------------------------------------------------------------------------

    /** Sets every element; f32, or i32 with the value rounded towards zero. */
    public void fill(Tensor out, float value) {
        done(started(), Hllm.hllm_fill(context(), descriptor(out), value), "hllm_fill", out);
    }

    /** Copies between equal shapes; f32 and bf16 in any combination (rounding to nearest even), i32 to i32. */
    public void convert(Tensor out, Tensor in) {
        done(started(), Hllm.hllm_convert(context(), descriptor(out), descriptor(in)), "hllm_convert", out);
    }

    // ---- Matrix products --------------------------------------------------------------------------------------------

    /** c [m, n] = op(a) op(b), or c += with accumulate; op transposes when its flag is set. */
    public void matmul(Tensor c, Tensor a, Tensor b, boolean transposeA, boolean transposeB, boolean accumulate) {
        done(
                started(),
                Hllm.hllm_matmul(
                        context(),
                        descriptor(c),
                        descriptor(a),
                        descriptor(b),
                        flag(transposeA),
                        flag(transposeB),
                        flag(accumulate)),
                "hllm_matmul",
                c,
                () -> 2 * c.elements() * a.size(transposeA ? 0 : 1));
    }

    /** y [T, N] = x [T, K] w^T, or y += with accumulate (the residual stream). */
    public void linearForward(Tensor y, Tensor x, Weight weight, boolean accumulate) {
        done(
                started(),
                Hllm.hllm_linear_forward(context(), descriptor(y), descriptor(x), handle(weight), flag(accumulate)),
                "hllm_linear_forward",
                y,
                () -> 2 * y.elements() * weight.columns());
    }

    /** dx [T, K] = dy [T, N] w, or dx += with accumulate. */
    public void linearBackwardInput(Tensor dx, Tensor dy, Weight weight, boolean accumulate) {
        done(
                started(),
                Hllm.hllm_linear_backward_input(
                        context(), descriptor(dx), descriptor(dy), handle(weight), flag(accumulate)),
                "hllm_linear_backward_input",
                dx,
                () -> 2 * dx.elements() * weight.rows());
    }

    /** dweight [N, K] += dy [T, N]^T x [T, K]. */
    public void linearBackwardWeight(Tensor dweight, Tensor dy, Tensor x) {
        done(
                started(),
                Hllm.hllm_linear_backward_weight(context(), descriptor(dweight), descriptor(dy), descriptor(x)),
                "hllm_linear_backward_weight",
                dy,
                () -> 2 * dweight.elements() * dy.size(0));
    }

    // ---- Rows -------------------------------------------------------------------------------------------------------

    /**
     * out[t] = ids[t] >= 0 ? table[ids[t]] : special.
     *
     * @param out [T, D]
     * @param ids i32 [T]
     * @param table [V, D]
     * @param special [D], or null: then every id must be at least 0
     */
    public void embeddingForward(Tensor out, Tensor ids, Tensor table, Tensor special) {
        done(
                started(),
                Hllm.hllm_embedding_forward(
                        context(), descriptor(out), descriptor(ids), descriptor(table), descriptor(special)),
                "hllm_embedding_forward",
                out);
    }

    /** dtable[ids[t]] += dout[t], and dspecial += dout[t] where {@code ids[t] < 0}. Either gradient may be null. */
    public void embeddingBackward(Tensor dtable, Tensor dspecial, Tensor dout, Tensor ids) {
        done(
                started(),
                Hllm.hllm_embedding_backward(
                        context(), descriptor(dtable), descriptor(dspecial), descriptor(dout), descriptor(ids)),
                "hllm_embedding_backward",
                dout);
    }

    /** out[n] = in[index[n]]; out [N, D], in [R, D], index i32 [N]. */
    public void gatherRows(Tensor out, Tensor in, Tensor index) {
        done(
                started(),
                Hllm.hllm_gather_rows(context(), descriptor(out), descriptor(in), descriptor(index)),
                "hllm_gather_rows",
                out);
    }

    /** out[index[n]] = in[n] for distinct rows: new keys and values into a cache. Each is F32 or BF16. */
    public void scatterRows(Tensor out, Tensor in, Tensor index) {
        done(
                started(),
                Hllm.hllm_scatter_rows(context(), descriptor(out), descriptor(in), descriptor(index)),
                "hllm_scatter_rows",
                in);
    }

    /** out[index[n]] += in[n], in the order of n: the gradient of {@link #gatherRows}. */
    public void scatterAddRows(Tensor out, Tensor in, Tensor index) {
        done(
                started(),
                Hllm.hllm_scatter_add_rows(context(), descriptor(out), descriptor(in), descriptor(index)),
                "hllm_scatter_add_rows",
                in);
    }

    /**
     * out[s] = mean of in[rows[j]] over {@code offsets[s] <= j < offsets[s + 1]}, at least one: mean pooling over rows
     * that segments may share.
     *
     * @param out [S, D]
     * @param in [T, D]
     * @param offsets i32 [S + 1]
     * @param rows i32 [offsets[S]]
     */
    public void segmentMeanForward(Tensor out, Tensor in, Tensor offsets, Tensor rows) {
        done(
                started(),
                Hllm.hllm_segment_mean_forward(
                        context(), descriptor(out), descriptor(in), descriptor(offsets), descriptor(rows)),
                "hllm_segment_mean_forward",
                out);
    }

    /** Overwrites din [T, D]; rows that no segment uses become 0. */
    public void segmentMeanBackward(Tensor din, Tensor dout, Tensor offsets, Tensor rows) {
        done(
                started(),
                Hllm.hllm_segment_mean_backward(
                        context(), descriptor(din), descriptor(dout), descriptor(offsets), descriptor(rows)),
                "hllm_segment_mean_backward",
                din);
    }

    /** out[t] = in[t] / |in[t]|, [T, D]; a zero row stays zero. In place allowed. */
    public void normalizeRows(Tensor out, Tensor in) {
        done(
                started(),
                Hllm.hllm_normalize_rows(context(), descriptor(out), descriptor(in)),
                "hllm_normalize_rows",
                out);
    }

    /** out = a * b element by element, or out += with accumulate; all [T, D]. In place allowed; a or b may be repeated. */
    public void mul(Tensor out, Tensor a, Tensor b, boolean accumulate) {
        done(
                started(),
                Hllm.hllm_mul(context(), descriptor(out), descriptor(a), descriptor(b), flag(accumulate)),
                "hllm_mul",
                out);
    }

    // ---- Layers -----------------------------------------------------------------------------------------------------

    /** y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps); x, y [T, D], weight [D], savedRstd [T] or null. */
    public void rmsnormForward(Tensor y, Tensor savedRstd, Tensor x, Tensor weight, float eps) {
        done(
                started(),
                Hllm.hllm_rmsnorm_forward(
                        context(), descriptor(y), descriptor(savedRstd), descriptor(x), descriptor(weight), eps),
                "hllm_rmsnorm_forward",
                y);
    }

    /** dx [T, D] (added to with accumulate: the residual stream); dweight [D] +=, may be null. */
    public void rmsnormBackward(
            Tensor dx, Tensor dweight, Tensor dy, Tensor savedRstd, Tensor x, Tensor weight, boolean accumulate) {
        done(
                started(),
                Hllm.hllm_rmsnorm_backward(
                        context(),
                        descriptor(dx),
                        descriptor(dweight),
                        descriptor(dy),
                        descriptor(savedRstd),
                        descriptor(x),
                        descriptor(weight),
                        flag(accumulate)),
                "hllm_rmsnorm_backward",
                dx);
    }

    /**
     * y = (x - mean) * rstd * weight + bias, rstd = 1 / sqrt(variance + eps).
     *
     * @param y [T, D]
     * @param saved [T, 2] mean and rstd of each row for the backward, or null without one
     * @param x [T, D]
     * @param weight [D]
     * @param bias [D]
     */
    public void layernormForward(Tensor y, Tensor saved, Tensor x, Tensor weight, Tensor bias, float eps) {
        done(
                started(),
                Hllm.hllm_layernorm_forward(
                        context(),
                        descriptor(y),
                        descriptor(saved),
                        descriptor(x),
                        descriptor(weight),
                        descriptor(bias),
                        eps),
                "hllm_layernorm_forward",
                y);
    }

    /**
     * dx [T, D] (added to with accumulate); dweight [D] +=, may be null. The bias's gradient is {@link #biasBackward} of
     * dy.
     */
    public void layernormBackward(
            Tensor dx, Tensor dweight, Tensor dy, Tensor saved, Tensor x, Tensor weight, boolean accumulate) {
        done(
                started(),
                Hllm.hllm_layernorm_backward(
                        context(),
                        descriptor(dx),
                        descriptor(dweight),
                        descriptor(dy),
                        descriptor(saved),
                        descriptor(x),
                        descriptor(weight),
                        flag(accumulate)),
                "hllm_layernorm_backward",
                dx);
    }

    /** y[t] += bias, in place: what a product lacks that has one. y [T, N], bias [N]. */
    public void biasForward(Tensor y, Tensor bias) {
        done(started(), Hllm.hllm_bias_forward(context(), descriptor(y), descriptor(bias)), "hllm_bias_forward", y);
    }

    /** dbias [N] += sum of dy[t]; dy [T, N]. */
    public void biasBackward(Tensor dbias, Tensor dy) {
        done(
                started(),
                Hllm.hllm_bias_backward(context(), descriptor(dbias), descriptor(dy)),
                "hllm_bias_backward",
                dy);
    }

    /** y = x * (1 + erf(x / sqrt(2))) / 2; x, y [T, F]. */
    public void geluForward(Tensor y, Tensor x) {
        done(started(), Hllm.hllm_gelu_forward(context(), descriptor(y), descriptor(x)), "hllm_gelu_forward", y);
    }

    /** dx [T, F] from dy [T, F] and the forward's x. */
    public void geluBackward(Tensor dx, Tensor dy, Tensor x) {
        done(
                started(),
                Hllm.hllm_gelu_backward(context(), descriptor(dx), descriptor(dy), descriptor(x)),
                "hllm_gelu_backward",
                dx);
    }

    /**
     * Rotary position embedding, in place, halves convention (i, i + Dh / 2).
     *
     * @param x [T, heads, Dh]; strided rows allowed
     * @param positions i32 [T]
     * @param table [P, Dh]: of each position Dh / 2 cosines, then Dh / 2 sines
     * @param inverse rotates back: the gradient
     */
    public void rope(Tensor x, Tensor positions, Tensor table, boolean inverse) {
        done(
                started(),
                Hllm.hllm_rope(context(), descriptor(x), descriptor(positions), descriptor(table), flag(inverse)),
                "hllm_rope",
                x);
    }

    /**
     * A layer's new keys and values into its cache, in one pass: q is rotated in place as by {@link #rope}, and for
     * distinct index[t], keys[index[t]] = k[t] rotated and values[index[t]] = v[t]; other rows stay as they are.
     *
     * @param q [T, H, Dh], or null
     * @param keys [R, Hkv, Dh], f32 or bf16
     * @param values [R, Hkv, Dh], of the same type
     * @param k [T, Hkv, Dh], not rotated; strided rows allowed, as of q and v
     * @param v [T, Hkv, Dh]
     * @param positions i32 [T]
     * @param table [P, Dh], as of rope
     * @param index i32 [T]
     */
    public void ropeScatter(
            Tensor q, Tensor keys, Tensor values, Tensor k, Tensor v, Tensor positions, Tensor table, Tensor index) {
        MemorySegment args = ropeScatterArgs;
        hllm_rope_scatter_args.q(args, descriptor(q));
        hllm_rope_scatter_args.keys(args, descriptor(keys));
        hllm_rope_scatter_args.values(args, descriptor(values));
        hllm_rope_scatter_args.k(args, descriptor(k));
        hllm_rope_scatter_args.v(args, descriptor(v));
        hllm_rope_scatter_args.positions(args, descriptor(positions));
        hllm_rope_scatter_args.table(args, descriptor(table));
        hllm_rope_scatter_args.index(args, descriptor(index));
        Tensor[] used = {q, keys, values, k, v, positions, table, index};
        try {
            done(started(), Hllm.hllm_rope_scatter(context(), args), "hllm_rope_scatter", k);
        } finally {
            Reference.reachabilityFence(used);
        }
    }

    /** y [T, F] = silu(gate) * up, gateUp [T, 2F]: gate, then up. */
    public void swigluForward(Tensor y, Tensor gateUp) {
        done(
                started(),
                Hllm.hllm_swiglu_forward(context(), descriptor(y), descriptor(gateUp)),
                "hllm_swiglu_forward",
                y);
    }

    /** dgateUp [T, 2F] from dy [T, F] and the forward's gateUp. */
    public void swigluBackward(Tensor dgateUp, Tensor dy, Tensor gateUp) {
        done(
                started(),
                Hllm.hllm_swiglu_backward(context(), descriptor(dgateUp), descriptor(dy), descriptor(gateUp)),
                "hllm_swiglu_backward",
                dgateUp);
    }

    // ---- Attention --------------------------------------------------------------------------------------------------

    /**
     * out = softmax(scale * q k^T) v by the segments of the plan. Query head h reads key head h / (H / Hkv).
     *
     * @param out [Tq, H, Dh]
     * @param savedLse [H, Tq] log-sum-exp for the backward, or null without one
     * @param q [Tq, H, Dh]
     * @param k [Tk, Hkv, Dh], rotated
     * @param v [Tk, Hkv, Dh]
     */
    public void attentionForward(Tensor out, Tensor savedLse, Tensor q, Tensor k, Tensor v, Plan plan, float scale) {
        done(
                started(),
                Hllm.hllm_attention_forward(
                        context(),
                        descriptor(out),
                        descriptor(savedLse),
                        descriptor(q),
                        descriptor(k),
                        descriptor(v),
                        plan == null ? MemorySegment.NULL : plan.handle(),
                        scale),
                "hllm_attention_forward",
                q,
                () -> 4 * plan.pairs() * q.size(1) * q.size(2));
    }

    /**
     * Gradients of {@link #attentionForward}. dk and dv sum over all segments that read a row, in a fixed order, and
     * are 0 where none does.
     */
    public void attentionBackward(
            Tensor dq,
            Tensor dk,
            Tensor dv,
            Tensor savedOut,
            Tensor savedLse,
            Tensor dout,
            Tensor q,
            Tensor k,
            Tensor v,
            Plan plan,
            float scale) {
        MemorySegment args = attentionBackwardArgs;
        hllm_attention_backward_args.scale(args, scale);
        hllm_attention_backward_args.dq(args, descriptor(dq));
        hllm_attention_backward_args.dk(args, descriptor(dk));
        hllm_attention_backward_args.dv(args, descriptor(dv));
        hllm_attention_backward_args.saved_out(args, descriptor(savedOut));
        hllm_attention_backward_args.saved_lse(args, descriptor(savedLse));
        hllm_attention_backward_args.dout(args, descriptor(dout));
        hllm_attention_backward_args.q(args, descriptor(q));
        hllm_attention_backward_args.k(args, descriptor(k));
        hllm_attention_backward_args.v(args, descriptor(v));
        hllm_attention_backward_args.plan(args, plan == null ? MemorySegment.NULL : plan.handle());
        // The struct holds bare addresses: the descriptors live as long as their tensors do.
        Tensor[] used = {dq, dk, dv, savedOut, savedLse, dout, q, k, v};
        try {
            done(
                    started(),
                    Hllm.hllm_attention_backward(context(), args),
                    "hllm_attention_backward",
                    q,
                    () -> 10 * plan.pairs() * q.size(1) * q.size(2));
        } finally {
            Reference.reachabilityFence(used);
        }
    }

    // ---- Loss -------------------------------------------------------------------------------------------------------

    /** Places in {@link InfoNce#metrics}: sums over the positions. */
    public enum InfoNceMetric {
        /** Cross entropy. */
        LOSS,
        /** Unmasked logits, the target included. */
        SAMPLES,
        /** 1 where the target is among the k best. */
        TOP1,
        TOP5,
        TOP10,
        TOP50,
        TOP100
    }

    /**
     * Arguments of {@link #infonce}.
     *
     * @param threshold a negative closer (cosine) to the target than this is left out; 0.99 in the paper's code
     * @param positions divisor of the gradients: the positions of the whole (global) batch
     * @param metrics [7] overwritten, see {@link InfoNceMetric}
     * @param du [T, D] overwritten, or null: forward only
     * @param dp [T, D] overwritten
     * @param dn [M, D] overwritten
     * @param dlogitScale [1] added to; may be null
     * @param u [T, D] predictions
     * @param p [T, D] targets
     * @param n [M, D] negatives
     * @param targetIds i32 [T]; with negativeIds, or both null
     * @param negativeIds i32 [M]
     * @param logitScale [1], natural logarithm
     */
    public record InfoNce(
            float threshold,
            long positions,
            Tensor metrics,
            Tensor du,
            Tensor dp,
            Tensor dn,
            Tensor dlogitScale,
            Tensor u,
            Tensor p,
            Tensor n,
            Tensor targetIds,
            Tensor negativeIds,
            Tensor logitScale) {}

    /**
     * Cosine InfoNCE with shared negatives: per position t, logits = exp(logitScale) * [cos(u_t, p_t), cos(u_t, n_1),
     * ..., cos(u_t, n_M)] and loss_t = -log softmax(logits)_0. Negative j is left out if cos(p_t, n_j) > threshold or
     * negativeIds[j] == targetIds[t]. Gradients are those of (total loss / positions).
     */
    public void infonce(InfoNce call) {
        MemorySegment args = infonceArgs;
        hllm_infonce_args.threshold(args, call.threshold);
        hllm_infonce_args.positions(args, call.positions);
        hllm_infonce_args.metrics(args, descriptor(call.metrics));
        hllm_infonce_args.du(args, descriptor(call.du));
        hllm_infonce_args.dp(args, descriptor(call.dp));
        hllm_infonce_args.dn(args, descriptor(call.dn));
        hllm_infonce_args.dlogit_scale(args, descriptor(call.dlogitScale));
        hllm_infonce_args.u(args, descriptor(call.u));
        hllm_infonce_args.p(args, descriptor(call.p));
        hllm_infonce_args.n(args, descriptor(call.n));
        hllm_infonce_args.target_ids(args, descriptor(call.targetIds));
        hllm_infonce_args.negative_ids(args, descriptor(call.negativeIds));
        hllm_infonce_args.logit_scale(args, descriptor(call.logitScale));
        try {
            done(
                    started(),
                    Hllm.hllm_infonce(context(), args),
                    "hllm_infonce",
                    call.u,
                    () -> (call.du == null ? 4 : 8) * call.u.elements() * call.n.size(0));
        } finally {
            Reference.reachabilityFence(call);
        }
    }

    /**
     * Binary cross entropy of logits z and labels y, 0 or 1.
     *
     * @param loss [1] overwritten: the sum of log(1 + exp(z)) - y z
     * @param dlogits [T] overwritten: (sigmoid(z) - y) / positions; may be null
     * @param logits [T]
     * @param labels [T]
     * @param positions divisor of the gradients: the labels of the whole (global) batch
     */
    public void bce(Tensor loss, Tensor dlogits, Tensor logits, Tensor labels, long positions) {
        done(
                started(),
                Hllm.hllm_bce(
                        context(),
                        descriptor(loss),
                        descriptor(dlogits),
                        descriptor(logits),
                        descriptor(labels),
                        positions),
                "hllm_bce",
                logits);
    }

    // ---- Optimiser --------------------------------------------------------------------------------------------------

    /** out[0] = sqrt(sum of squares) of a contiguous rank-1 tensor, accumulated in double. */
    public void norm(Tensor out, Tensor in) {
        done(started(), Hllm.hllm_norm(context(), descriptor(out), descriptor(in)), "hllm_norm", in);
    }

    /** in = min(max(in, low), high), in place. */
    public void clamp(Tensor in, float low, float high) {
        done(started(), Hllm.hllm_clamp(context(), descriptor(in), low, high), "hllm_clamp", in);
    }

    /**
     * Arguments of {@link #adamw}: flat contiguous tensors of one length.
     *
     * @param gradientScale factor on the gradients: min(1, clip / norm)
     * @param step 1 for the first update
     * @param parameters updated
     * @param gradients read
     * @param moment1 updated
     * @param moment2 updated
     */
    public record AdamW(
            float lr,
            float beta1,
            float beta2,
            float eps,
            float weightDecay,
            float gradientScale,
            long step,
            Tensor parameters,
            Tensor gradients,
            Tensor moment1,
            Tensor moment2) {}

    /**
     * AdamW: g = gradient * gradientScale; p *= 1 - lr * weightDecay; m, v = moments; p -= lr * m_hat / (sqrt(v_hat) +
     * eps).
     */
    public void adamw(AdamW call) {
        MemorySegment args = adamwArgs;
        hllm_adamw_args.lr(args, call.lr);
        hllm_adamw_args.beta1(args, call.beta1);
        hllm_adamw_args.beta2(args, call.beta2);
        hllm_adamw_args.eps(args, call.eps);
        hllm_adamw_args.weight_decay(args, call.weightDecay);
        hllm_adamw_args.gradient_scale(args, call.gradientScale);
        hllm_adamw_args.step(args, call.step);
        hllm_adamw_args.parameters(args, descriptor(call.parameters));
        hllm_adamw_args.gradients(args, descriptor(call.gradients));
        hllm_adamw_args.moment1(args, descriptor(call.moment1));
        hllm_adamw_args.moment2(args, descriptor(call.moment2));
        try {
            done(started(), Hllm.hllm_adamw(context(), args), "hllm_adamw", call.parameters);
        } finally {
            Reference.reachabilityFence(call);
        }
    }

    // ---- Ranking ----------------------------------------------------------------------------------------------------

    /**
     * The K best rows of the table by inner product for each query, best first, ties to the lower row. Where fewer than
     * K are left: score -infinity, row -1.
     *
     * @param scores [B, K]
     * @param rows i32 [B, K]
     * @param queries [B, D]
     * @param table [N, D]
     * @param excludedOffsets i32 [B + 1], or null together with excludedRows
     * @param excludedRows i32: query b leaves out excludedOffsets[b] .. excludedOffsets[b + 1] of these
     */
    public void topk(
            Tensor scores, Tensor rows, Tensor queries, Tensor table, Tensor excludedOffsets, Tensor excludedRows) {
        done(
                started(),
                Hllm.hllm_topk(
                        context(),
                        descriptor(scores),
                        descriptor(rows),
                        descriptor(queries),
                        descriptor(table),
                        descriptor(excludedOffsets),
                        descriptor(excludedRows)),
                "hllm_topk",
                queries,
                () -> 2 * queries.size(0) * table.elements());
    }

    /**
     * ranks (i32 [B]) = 1 + number of rows that score strictly higher than targets[b] (i32 [B]). Excluded rows, given
     * as for {@link #topk}, do not count; a target that is itself excluded ranks N + 1, a certain miss.
     */
    public void rank(
            Tensor ranks, Tensor queries, Tensor table, Tensor targets, Tensor excludedOffsets, Tensor excludedRows) {
        done(
                started(),
                Hllm.hllm_rank(
                        context(),
                        descriptor(ranks),
                        descriptor(queries),
                        descriptor(table),
                        descriptor(targets),
                        descriptor(excludedOffsets),
                        descriptor(excludedRows)),
                "hllm_rank",
                queries,
                () -> 2 * queries.size(0) * table.elements());
    }

    // ---- Arguments --------------------------------------------------------------------------------------------------

    static MemorySegment descriptor(Tensor tensor) {
        return tensor == null ? MemorySegment.NULL : tensor.descriptor();
    }

    private static MemorySegment handle(Weight weight) {
        return weight == null ? MemorySegment.NULL : weight.handle();
    }

    private static int flag(boolean value) {
        return value ? 1 : 0;
    }

    /**
     * Checks what a native call returned, and tells the flight recorder of it. As arguments are evaluated from left to
     * right, the clock was started before the call.
     *
     * @param tensor whose shape tells the amount of work
     */
    private void done(OperationEvent event, int status, String op, Tensor tensor) {
        done(event, status, op, tensor, () -> 0);
    }

    private void done(OperationEvent event, int status, String op, Tensor tensor, LongSupplier flops) {
        NativeException.check(status, op);
        event.done(op, context.device(), tensor, flops);
    }

    private MemorySegment context() {
        return context.handle();
    }
}
