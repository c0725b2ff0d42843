package org.hllm4j.perf;

import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Plan;
import org.hllm4j.engine.PlanSpec;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Weight;
import org.hllm4j.weights.ModelConfig;

/** Single operations in bf16 at the shapes of a model, with inputs that the card's cache does not hold. */
final class GpuOps {
    static final String GROUP = "gpu op";
    private static final int FEW = 48; // rows that are checked

    private final Gpu gpu;
    private final boolean quick;
    private final String model;
    private final ModelConfig config;
    private final int width;
    private final int rows;

    GpuOps(Gpu gpu, String model, ModelConfig config) {
        this.gpu = gpu;
        this.model = model;
        this.config = config;
        quick = gpu.settings.quick();
        width = config.hiddenSize();
        rows = quick ? 96 : 16384;
    }

    void measure() {
        Work.layer(config).forEach((name, gemm) -> section("linear " + name, () -> linear(name, gemm)));
        for (int length : quick ? new int[] {10, 32} : new int[] {10, 32, 50, 64, 128, 200, 256, 2048}) {
            section("attention " + length, () -> attention(length));
        }
        section("rmsnorm rope swiglu", this::rowwise);
        for (int negatives : quick ? new int[] {64} : new int[] {512, 5632, 28_672}) {
            section("infonce " + negatives, () -> infonce(negatives));
        }
    }

    /** What does not depend on the model but for the width of vectors. */
    void measureRest() {
        section("adamw", this::adamw);
        for (int users : quick ? new int[] {2} : new int[] {1, 8, 32, 64, 128}) {
            section("topk " + users, () -> topk(users));
        }
    }

    private void section(String what, Runnable measure) {
        gpu.rows.section(GROUP, model + " " + what, measure);
    }

    private void row(String name, String size, int few, int all, Gpu.Maker maker) {
        gpu.add(gpu.measure(GROUP, model + " " + name, size, few, all, maker));
    }

    private void row(String name, long columns, Gpu.Maker maker) {
        row(name, rows + " x " + columns, FEW, rows, maker);
    }

    // ---- Linear layers ----------------------------------------------------------------------------------------------

    private void linear(String name, Work.Gemm one) {
        String size = one.rows(rows).toString();
        long n = one.n();
        long k = one.k();
        row(name + " forward", size, FEW, rows, (inputs, m) -> {
            Tensor x = inputs.random(m, k);
            Weight w = inputs.weight(n, k);
            Tensor y = inputs.empty(m, n);
            return gemm(() -> inputs.ops.linearForward(y, x, w, false), one.rows(m), y);
        });
        row(name + " backward input", size, FEW, rows, (inputs, m) -> {
            Tensor dy = inputs.random(m, n);
            Weight w = inputs.weight(n, k);
            Tensor dx = inputs.empty(m, k);
            return gemm(() -> inputs.ops.linearBackwardInput(dx, dy, w, false), one.rows(m), dx);
        });
        row(name + " backward weight", size, FEW, rows, (inputs, m) -> {
            Tensor dy = inputs.random(m, n);
            Tensor x = inputs.random(m, k);
            Tensor dweight = inputs.zeros(n, k);
            return gemm(() -> inputs.ops.linearBackwardWeight(dweight, dy, x), one.rows(m), dweight);
        });
    }

    private static Gpu.Case gemm(Runnable run, Work.Gemm gemm, Tensor result) {
        double bytes = 2.0 * (gemm.m() * gemm.k() + gemm.n() * gemm.k() + gemm.m() * gemm.n());
        return new Gpu.Case(run, gemm.flops(), bytes, result);
    }

    // ---- Attention --------------------------------------------------------------------------------------------------

    /** Packed causal sequences of one length: texts, or histories. */
    private void attention(int length) {
        int count = Math.max(1, rows / length);
        String size = count + " x " + length;
        row("attention forward", size, 2, count, (inputs, sequences) -> {
            Attention a = new Attention(inputs, sequences, length);
            return new Gpu.Case(a::forward, 4 * a.products, 2 * (a.wide + a.narrow) + a.stats, a.out, a.lse);
        });
        row("attention backward", size, 2, count, (inputs, sequences) -> {
            Attention a = new Attention(inputs, sequences, length);
            a.forward();
            double bytes = 4 * (a.wide + a.narrow) + a.stats;
            return new Gpu.Case(a::backward, 10 * a.products, bytes, a.gradients);
        });
    }

    private final class Attention {
        final Inputs inputs;
        final Plan plan;
        final Tensor[] qkv;
        final Tensor[] gradients;
        final Tensor out;
        final Tensor dout;
        final Tensor lse;
        final double products; // multiplications in one product of queries and keys
        final double wide; // bytes of queries
        final double narrow; // of keys
        final double stats;

        Attention(Inputs inputs, int sequences, int length) {
            this.inputs = inputs;
            int[] lengths = new int[sequences];
            Arrays.fill(lengths, length);
            long t = (long) sequences * length;
            int heads = config.heads();
            int kvHeads = config.kvHeads();
            int dim = config.headDim();
            plan = inputs.own(inputs.context.plan(PlanSpec.causalSequences(lengths)), Plan::close);
            qkv = OpRows.split(inputs.random(t, (heads + 2L * kvHeads) * dim), heads, kvHeads, dim);
            gradients = OpRows.split(inputs.empty(t, (heads + 2L * kvHeads) * dim), heads, kvHeads, dim);
            out = inputs.empty(t, heads, dim);
            dout = inputs.random(t, heads, dim);
            lse = inputs.zeros(heads, t);
            products = (double) plan.pairs() * heads * dim;
            wide = 2.0 * t * heads * dim;
            narrow = 2.0 * t * kvHeads * dim;
            stats = 4.0 * t * heads;
        }

        void forward() {
            inputs.ops.attentionForward(out, lse, qkv[0], qkv[1], qkv[2], plan, scale());
        }

        void backward() {
            inputs.ops.attentionBackward(
                    gradients[0], gradients[1], gradients[2], out, lse, dout, qkv[0], qkv[1], qkv[2], plan, scale());
        }

        private float scale() {
            return (float) (1 / Math.sqrt(config.headDim()));
        }
    }

    // ---- One pass over memory ---------------------------------------------------------------------------------------

    private void rowwise() {
        int hidden = config.intermediateSize();
        row("rmsnorm forward", width, (inputs, t) -> {
            Tensor x = inputs.floats(t, width);
            Tensor weight = inputs.floats(width);
            Tensor y = inputs.empty(t, width);
            Tensor rstd = inputs.zeros(t);
            Runnable run = () -> inputs.ops.rmsnormForward(y, rstd, x, weight, 1e-5f);
            return new Gpu.Case(run, 0, 6.0 * t * width, y, rstd);
        });
        row("rmsnorm backward", width, (inputs, t) -> {
            Tensor x = inputs.floats(t, width);
            Tensor dy = inputs.random(t, width);
            Tensor weight = inputs.floats(width);
            Tensor rstd = inputs.zeros(t);
            inputs.ops.rmsnormForward(inputs.empty(t, width), rstd, x, weight, 1e-5f);
            Tensor dx = inputs.zeros(t, width);
            Tensor dweight = inputs.zeros(width);
            Runnable run = () -> inputs.ops.rmsnormBackward(dx, dweight, dy, rstd, x, weight, false);
            return new Gpu.Case(run, 0, 10.0 * t * width, dx, dweight);
        });
        row("rope", width, (inputs, t) -> {
            Tensor x = inputs.random(t, config.heads(), config.headDim());
            Tensor table = inputs.zeros(256, config.headDim());
            inputs.ops.fill(
                    table, (float) Math.sqrt(0.5)); // an eighth of a turn: repeated, it neither grows nor shrinks
            int[] places = IntStream.range(0, t).map(i -> i % 256).toArray();
            Tensor positions = inputs.own(inputs.context.of(places), Tensor::close);
            return new Gpu.Case(() -> inputs.ops.rope(x, positions, table, false), 0, 4.0 * x.elements(), x);
        });
        row("swiglu forward", hidden, (inputs, t) -> {
            Tensor gateUp = inputs.random(t, 2L * hidden);
            Tensor y = inputs.empty(t, hidden);
            return new Gpu.Case(() -> inputs.ops.swigluForward(y, gateUp), 0, 6.0 * t * hidden, y);
        });
        row("swiglu backward", hidden, (inputs, t) -> {
            Tensor gateUp = inputs.random(t, 2L * hidden);
            Tensor dy = inputs.random(t, hidden);
            Tensor dgateUp = inputs.empty(t, 2L * hidden);
            Runnable run = () -> inputs.ops.swigluBackward(dgateUp, dy, gateUp);
            return new Gpu.Case(run, 0, 10.0 * t * hidden, dgateUp);
        });
    }

    private void adamw() {
        int count = quick ? 1 << 12 : 1 << 28;
        row("adamw", count + " parameters", FEW, count, (inputs, n) -> {
            Tensor parameters = inputs.floats(n);
            Tensor gradients = inputs.floats(n);
            Tensor moment1 = inputs.zeros(n);
            Tensor moment2 = inputs.zeros(n);
            Ops.AdamW call =
                    new Ops.AdamW(1e-4f, 0.9f, 0.999f, 1e-8f, 0.01f, 1, 1, parameters, gradients, moment1, moment2);
            // Four arrays are read, three of them written.
            return new Gpu.Case(() -> inputs.ops.adamw(call), 0, 28.0 * n, parameters, moment1, moment2);
        });
    }

    // ---- Loss and retrieval -----------------------------------------------------------------------------------------

    private void infonce(int negatives) {
        int positions = quick ? 96 : 4096;
        String size = positions + " x " + negatives + " x " + width;
        row("InfoNCE forward and backward", size, FEW, positions, (inputs, t) -> {
            Tensor u = inputs.random(t, width);
            Tensor p = inputs.random(t, width);
            Tensor n = inputs.random(negatives, width);
            Tensor du = inputs.zeros(t, width);
            Tensor dp = inputs.zeros(t, width);
            Tensor dn = inputs.zeros(negatives, width);
            Tensor dscale = inputs.zeros(1);
            Tensor metrics = inputs.zeros(Ops.InfoNceMetric.values().length);
            Tensor scale = inputs.own(inputs.context.of(new float[] {2.659f}, 1), Tensor::close);
            Ops.InfoNce call = new Ops.InfoNce(0.99f, t, metrics, du, dp, dn, dscale, u, p, n, null, null, scale);
            double bytes = 6.0 * (2.0 * t + negatives) * width;
            Tensor loss = metrics.rows(0, 1); // the others are counts, which rounding changes by one
            return new Gpu.Case(() -> inputs.ops.infonce(call), 8.0 * t * negatives * width, bytes, loss, du, dp, dn);
        });
    }

    private void topk(int users) {
        int items = quick ? 1000 : 1_000_000;
        int best = quick ? 5 : 200;
        String name = "top " + best + " for " + users + (users == 1 ? " user" : " users");
        row(name, items + " x " + width, 1000, items, (inputs, n) -> {
            Tensor table = inputs.random(n, width);
            Tensor queries = inputs.random(users, width);
            Tensor scores = inputs.zeros(users, best);
            Tensor found = inputs.own(inputs.context.zeros(DType.I32, users, best), Tensor::close);
            Runnable run = () -> inputs.ops.topk(scores, found, queries, table, null, null);
            return new Gpu.Case(run, 2.0 * users * n * width, 2.0 * n * width, scores);
        });
    }

    /** The shapes that are measured, by model. */
    static List<GpuOps> all(Gpu gpu) {
        return gpu.settings.quick()
                ? List.of(new GpuOps(gpu, "small", GpuModel.SMALL))
                : List.of(
                        new GpuOps(gpu, "TinyLlama-1.1B", Session.TINYLLAMA),
                        new GpuOps(gpu, "Baichuan2-7B", Session.BAICHUAN2));
    }
}
