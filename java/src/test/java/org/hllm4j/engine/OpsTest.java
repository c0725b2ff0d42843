package org.hllm4j.engine;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.function.Supplier;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * Each operation reaches its native function with the arguments in their places: small shapes, all dimensions
 * different, against plain Java or against finite differences. The kernels themselves are tested in native/test.
 */
class OpsTest extends EngineTest {
    private Workspace workspace;

    @BeforeEach
    void workspace() {
        workspace = context.workspace();
    }

    @AfterEach
    void closeWorkspace() {
        if (workspace != null) {
            workspace.close();
        }
    }

    private Tensor tensor(long... shape) {
        Tensor tensor = workspace.floats(shape);
        tensor.write(randoms(tensor.elements()));
        return tensor;
    }

    private Tensor tensor(float[] values, long... shape) {
        Tensor tensor = workspace.floats(shape);
        tensor.write(values);
        return tensor;
    }

    private Tensor zeros(long... shape) {
        Tensor tensor = workspace.floats(shape);
        ops.fill(tensor, 0);
        return tensor;
    }

    private static double dot(Tensor a, Tensor b) {
        float[] x = a.toFloats();
        float[] y = b.toFloats();
        assertEquals(x.length, y.length);
        double sum = 0;
        for (int i = 0; i < x.length; i++) {
            sum += (double) x[i] * y[i];
        }
        return sum;
    }

    /** {@code gradient} of the scalar function at {@code x}, against central differences in every coordinate. */
    private static void assertGradient(String name, Supplier<Double> function, Tensor x, Tensor gradient) {
        float[] at = x.toFloats();
        float[] analytic = gradient.toFloats();
        assertEquals(at.length, analytic.length, name);
        double difference = 0;
        double size = 0;
        float h = 1e-2f;
        for (int i = 0; i < at.length; i++) {
            float[] moved = at.clone();
            moved[i] = at[i] + h;
            x.write(moved);
            double above = function.get();
            moved[i] = at[i] - h;
            x.write(moved);
            double slope = (above - function.get()) / (2 * h);
            difference += Math.pow(slope - analytic[i], 2);
            size += slope * slope;
        }
        x.write(at);
        double error = Math.sqrt(difference);
        double norm = Math.sqrt(size);
        // The second term is what rounding of the function's float leaves in a difference quotient.
        assertTrue(norm > 1e-4 && error < 5e-3 * norm + 5e-5, name + ": error " + error + ", norm " + norm);
    }

    private double[] product(Tensor a, Tensor b, boolean transposeA, boolean transposeB) {
        float[] x = a.toFloats();
        float[] y = b.toFloats();
        int m = (int) a.size(transposeA ? 1 : 0);
        int k = (int) a.size(transposeA ? 0 : 1);
        int n = (int) b.size(transposeB ? 0 : 1);
        double[] c = new double[m * n];
        for (int i = 0; i < m; i++) {
            for (int j = 0; j < n; j++) {
                for (int l = 0; l < k; l++) {
                    c[i * n + j] +=
                            (double) x[transposeA ? l * m + i : i * k + l] * y[transposeB ? j * k + l : l * n + j];
                }
            }
        }
        return c;
    }

    private static double[] doubled(double[] values) {
        double[] twice = values.clone();
        for (int i = 0; i < twice.length; i++) {
            twice[i] *= 2;
        }
        return twice;
    }

    // ---- Elements and products ----

    @Test
    void fillAndConvert() {
        Tensor x = tensor(3, 5);
        ops.fill(x.columns(1, 2), 2.5f);
        assertEquals(2.5f, x.rows(2, 3).columns(1, 2).scalar());
        Tensor copy = zeros(3, 2);
        ops.convert(copy, x.columns(1, 3));
        assertArrayEquals(x.columns(1, 3).toFloats(), copy.toFloats());
        try (Tensor half = context.zeros(DType.BF16, 2)) {
            ops.convert(half, tensor(new float[] {1.001f, -3.5f}, 2));
            Tensor back = zeros(2);
            ops.convert(back, half);
            assertArrayEquals(new float[] {1, -3.5f}, back.toFloats());
        }
    }

    @ParameterizedTest
    @CsvSource({"false,false", "true,false", "false,true", "true,true"})
    void matmulIsTheProduct(boolean transposeA, boolean transposeB) {
        int m = 7;
        int k = 5;
        int n = 3;
        Tensor a = transposeA ? tensor(k, m) : tensor(m, k);
        Tensor b = transposeB ? tensor(n, k) : tensor(k, n);
        Tensor c = tensor(m, n);
        ops.matmul(c, a, b, transposeA, transposeB, false);
        double[] expected = product(a, b, transposeA, transposeB);
        assertClose(expected, c);
        ops.matmul(c, a, b, transposeA, transposeB, true);
        assertClose(doubled(expected), c);
        NativeException e = assertThrows(
                NativeException.class, () -> ops.matmul(c, a, tensor(k + 1, n + 1), transposeA, transposeB, false));
        assertEquals(NativeException.Status.INVALID_ARGUMENT, e.status());
        assertEquals("hllm_matmul", e.op());
        assertTrue(e.getMessage().startsWith("matmul: [7,3]"), e::getMessage);
        assertRefused(
                () -> ops.matmul(c, workspace.ints(new int[] {1}).reshape(1, 1), b, false, false, false), "a is i32");
        assertRefused(() -> ops.matmul(null, a, b, false, false, false), "c is NULL");
    }

    @Test
    void linearForwardAndBackward() {
        int t = 7;
        int n = 3;
        int k = 5;
        try (Tensor w = context.of(randoms((long) n * k), n, k);
                Weight weight = context.weight(w, DType.F32);
                Weight rounded = context.weight(w, DType.BF16)) {
            Tensor x = tensor(t, k);
            Tensor y = tensor(t, n);
            ops.linearForward(y, x, weight, false);
            assertClose(product(x, w, false, true), y);
            ops.linearForward(y, x, weight, true);
            assertClose(doubled(product(x, w, false, true)), y);
            Tensor dy = tensor(t, n);
            Tensor dx = tensor(t, k);
            ops.linearBackwardInput(dx, dy, weight, false);
            assertClose(product(dy, w, false, false), dx);
            Tensor dw = zeros(n, k);
            ops.linearBackwardWeight(dw, dy, x);
            ops.linearBackwardWeight(dw, dy, x);
            assertClose(doubled(product(dy, x, true, false)), dw);

            ops.fill(w, 1.001f); // 1 in bf16
            rounded.refresh();
            ops.fill(x, 1);
            ops.linearForward(y, x, rounded, false);
            assertEquals(k, y.toFloats()[0]);
            assertRefused(() -> ops.linearForward(y, x, null, false), "weight is NULL");
        }
    }

    // ---- Rows ----

    @Test
    void embeddingTakesRowsAndTheSpecialOne() {
        Tensor table = tensor(new float[] {0, 1, 2, 3, 4, 5}, 3, 2);
        Tensor special = tensor(new float[] {8, 9}, 2);
        Tensor ids = workspace.ints(new int[] {2, -1, 0, 2});
        Tensor out = zeros(4, 2);
        ops.embeddingForward(out, ids, table, special);
        assertArrayEquals(new float[] {4, 5, 8, 9, 0, 1, 4, 5}, out.toFloats());
        assertRefused(
                () -> {
                    ops.embeddingForward(out, ids, table, null);
                    context.synchronize(); // a GPU finds a wrong index while it works
                },
                "-1");
        Tensor dtable = zeros(3, 2);
        Tensor dspecial = zeros(2);
        ops.embeddingBackward(dtable, dspecial, out, ids);
        assertArrayEquals(new float[] {0, 1, 0, 0, 8, 10}, dtable.toFloats());
        assertArrayEquals(new float[] {8, 9}, dspecial.toFloats());
        ops.embeddingBackward(null, dspecial, out, ids);
        assertArrayEquals(new float[] {16, 18}, dspecial.toFloats());
    }

    @Test
    void rowsAreGatheredAndScattered() {
        Tensor in = tensor(new float[] {0, 1, 2, 3, 4, 5}, 3, 2);
        Tensor index = workspace.ints(new int[] {2, 0, 2, 1});
        Tensor out = zeros(4, 2);
        ops.gatherRows(out, in, index);
        assertArrayEquals(new float[] {4, 5, 0, 1, 4, 5, 2, 3}, out.toFloats());
        Tensor sum = zeros(3, 2);
        ops.scatterAddRows(sum, out, index);
        assertArrayEquals(new float[] {0, 1, 2, 3, 8, 10}, sum.toFloats());
    }

    @Test
    void segmentsAreAveraged() {
        Tensor in = tensor(new float[] {0, 2, 4, 6, 10, 20}, 3, 2);
        Tensor offsets = workspace.ints(new int[] {0, 2, 3});
        Tensor rows = workspace.ints(new int[] {0, 1, 1});
        Tensor out = zeros(2, 2);
        ops.segmentMeanForward(out, in, offsets, rows);
        assertArrayEquals(new float[] {2, 4, 4, 6}, out.toFloats());
        Tensor din = tensor(3, 2);
        ops.segmentMeanBackward(din, out, offsets, rows);
        assertArrayEquals(new float[] {1, 2, 5, 8, 0, 0}, din.toFloats());
    }

    @Test
    void rowsAreNormalised() {
        Tensor x = tensor(new float[] {3, 4, 0, 0}, 2, 2);
        ops.normalizeRows(x, x);
        assertClose(new double[] {0.6, 0.8, 0, 0}, x);
    }

    // ---- Layers ----

    @Test
    void rmsnorm() {
        Tensor x = tensor(3, 4);
        Tensor weight = tensor(4);
        Tensor rstd = tensor(3);
        Tensor y = tensor(3, 4);
        Tensor dy = tensor(3, 4);
        ops.rmsnormForward(y, rstd, x, weight, 1e-5f);
        float[] v = x.toFloats();
        double[] expected = new double[12];
        for (int i = 0; i < 12; i++) {
            double squares = 0;
            for (int j = 0; j < 4; j++) {
                squares += v[i / 4 * 4 + j] * v[i / 4 * 4 + j];
            }
            expected[i] = v[i] * weight.toFloats()[i % 4] / Math.sqrt(squares / 4 + 1e-5);
        }
        assertClose(expected, y);
        Tensor dx = tensor(3, 4);
        Tensor dweight = zeros(4);
        ops.rmsnormBackward(dx, dweight, dy, rstd, x, weight, false);
        Supplier<Double> loss = () -> {
            ops.rmsnormForward(y, null, x, weight, 1e-5f);
            return dot(y, dy);
        };
        assertGradient("dx", loss, x, dx);
        assertGradient("dweight", loss, weight, dweight);
        double first = 2.0 * dx.toFloats()[0];
        ops.rmsnormBackward(dx, null, dy, rstd, x, weight, true);
        assertEquals(first, dx.toFloats()[0], 1e-5);
    }

    @Test
    void layernorm() {
        Tensor x = tensor(3, 4);
        Tensor weight = tensor(4);
        Tensor bias = tensor(4);
        Tensor saved = tensor(3, 2);
        Tensor y = tensor(3, 4);
        Tensor dy = tensor(3, 4);
        ops.layernormForward(y, saved, x, weight, bias, 1e-5f);
        float[] v = x.toFloats();
        double[] expected = new double[12];
        for (int i = 0; i < 12; i++) {
            double mean = 0;
            double squares = 0;
            for (int j = 0; j < 4; j++) {
                mean += v[i / 4 * 4 + j] / 4;
                squares += v[i / 4 * 4 + j] * v[i / 4 * 4 + j];
            }
            double rstd = 1 / Math.sqrt(squares / 4 - mean * mean + 1e-5);
            expected[i] = (v[i] - mean) * rstd * weight.toFloats()[i % 4] + bias.toFloats()[i % 4];
            assertEquals(mean, saved.toFloats()[i / 4 * 2], 1e-5);
        }
        assertClose(expected, y);
        Tensor dx = tensor(3, 4);
        Tensor dweight = zeros(4);
        Tensor dbias = zeros(4);
        ops.layernormBackward(dx, dweight, dy, saved, x, weight, false);
        ops.biasBackward(dbias, dy);
        Supplier<Double> loss = () -> {
            ops.layernormForward(y, null, x, weight, bias, 1e-5f);
            return dot(y, dy);
        };
        assertGradient("dx", loss, x, dx);
        assertGradient("dweight", loss, weight, dweight);
        assertGradient("dbias", loss, bias, dbias);
        double first = 2.0 * dx.toFloats()[0];
        ops.layernormBackward(dx, null, dy, saved, x, weight, true);
        assertEquals(first, dx.toFloats()[0], 1e-5);
    }

    @Test
    void biasAndGelu() {
        Tensor x = tensor(3, 4);
        Tensor bias = tensor(4);
        Tensor sum = zeros(3, 4);
        Tensor y = tensor(3, 4);
        Tensor dy = tensor(3, 4);
        Supplier<Double> loss = () -> {
            ops.convert(sum, x);
            ops.biasForward(sum, bias);
            ops.geluForward(y, sum);
            return dot(y, dy);
        };
        loss.get();
        assertEquals(x.toFloats()[5] + bias.toFloats()[1], sum.toFloats()[5], 1e-6);
        Tensor dx = tensor(3, 4);
        Tensor dbias = zeros(4);
        ops.geluBackward(dx, dy, sum);
        ops.biasBackward(dbias, dx);
        assertGradient("dx", loss, x, dx);
        assertGradient("dbias", loss, bias, dbias);
        Tensor two = zeros(1, 2);
        ops.geluForward(two, tensor(new float[] {1, -1}, 1, 2));
        assertClose(new double[] {0.841344746, -0.158655254}, two);
    }

    @Test
    void ropeTurnsAndTurnsBack() {
        double angle = 0.5;
        float cos = (float) Math.cos(angle);
        float sin = (float) Math.sin(angle);
        Tensor table = tensor(new float[] {1, 0, cos, sin}, 2, 2); // width 2: one cosine, one sine
        Tensor x = tensor(new float[] {1, 0, 0, 1, 3, 4, 5, 6}, 2, 2, 2);
        float[] before = x.toFloats();
        Tensor positions = workspace.ints(new int[] {1, 0});
        ops.rope(x, positions, table, false);
        assertClose(new double[] {cos, sin, -sin, cos, 3, 4, 5, 6}, x);
        ops.rope(x, positions, table, true);
        assertArrayEquals(before, x.toFloats(), 1e-6f);
    }

    @Test
    void ropeScatterIsRopeAndTwoScatters() {
        Tensor table = tensor(5, 4);
        Tensor[] qkv = {tensor(3, 2, 4), tensor(3, 1, 4), tensor(3, 1, 4)};
        Tensor[] expected = {workspace.floats(3, 2, 4), workspace.floats(3, 1, 4)};
        Tensor positions = workspace.ints(new int[] {4, 0, 2});
        Tensor index = workspace.ints(new int[] {1, 5, 0});
        Tensor[] stored = new Tensor[4];
        for (int i = 0; i < stored.length; i++) {
            stored[i] = workspace.floats(6, 1, 4);
            ops.fill(stored[i], 7);
        }
        for (int i : new int[] {0, 1}) {
            ops.convert(expected[i], qkv[i]);
            ops.rope(expected[i], positions, table, false);
        }
        ops.scatterRows(stored[0].reshape(6, 4), expected[1].reshape(3, 4), index);
        ops.scatterRows(stored[1].reshape(6, 4), qkv[2].reshape(3, 4), index);
        ops.ropeScatter(qkv[0], stored[2], stored[3], qkv[1], qkv[2], positions, table, index);
        assertArrayEquals(expected[0].toFloats(), qkv[0].toFloats(), 1e-6f);
        assertArrayEquals(stored[0].toFloats(), stored[2].toFloats(), 1e-6f);
        assertArrayEquals(stored[1].toFloats(), stored[3].toFloats());
        ops.ropeScatter(null, stored[2], stored[3], qkv[1], qkv[2], positions, table, index);
        assertArrayEquals(expected[0].toFloats(), qkv[0].toFloats(), 1e-6f);
    }

    @Test
    void swiglu() {
        Tensor gateUp = tensor(2, 6);
        Tensor y = tensor(2, 3);
        Tensor dy = tensor(2, 3);
        Tensor dgateUp = tensor(2, 6);
        Supplier<Double> loss = () -> {
            ops.swigluForward(y, gateUp);
            return dot(y, dy);
        };
        loss.get();
        float[] v = gateUp.toFloats();
        double[] expected = new double[6];
        for (int i = 0; i < 6; i++) {
            double gate = v[i / 3 * 6 + i % 3];
            expected[i] = gate / (1 + Math.exp(-gate)) * v[i / 3 * 6 + 3 + i % 3];
        }
        assertClose(expected, y);
        ops.swigluBackward(dgateUp, dy, gateUp);
        assertGradient("dgate_up", loss, gateUp, dgateUp);
    }

    @Test
    void attentionOfPackedCausalSequences() {
        int[] lengths = {3, 1, 2};
        int tokens = 6;
        int heads = 4;
        int width = 8;
        float scale = 0.3f;
        // q, k and v side by side, as one projection leaves them; two query heads share a key head
        Tensor qkv = tensor(tokens, (heads + 2 * 2) * width);
        Tensor q = qkv.columns(0, 32).reshape(tokens, heads, width);
        Tensor k = qkv.columns(32, 48).reshape(tokens, 2, width);
        Tensor v = qkv.columns(48, 64).reshape(tokens, 2, width);
        Tensor out = tensor(tokens, heads, width);
        Tensor lse = tensor(heads, tokens);
        Tensor dout = tensor(tokens, heads, width);
        try (Plan plan = context.plan(PlanSpec.causalSequences(lengths))) {
            ops.attentionForward(out, lse, q, k, v, plan, scale);
            assertClose(attention(q, k, v, lengths, scale), out);
            Tensor dqkv = tensor(tokens, 64);
            ops.attentionBackward(
                    dqkv.columns(0, 32).reshape(tokens, heads, width),
                    dqkv.columns(32, 48).reshape(tokens, 2, width),
                    dqkv.columns(48, 64).reshape(tokens, 2, width),
                    out,
                    lse,
                    dout,
                    q,
                    k,
                    v,
                    plan,
                    scale);
            Tensor again = tensor(tokens, heads, width);
            assertGradient(
                    "dqkv",
                    () -> {
                        ops.attentionForward(again, null, q, k, v, plan, scale);
                        return dot(again, dout);
                    },
                    qkv,
                    dqkv);
            assertRefused(() -> ops.attentionForward(out, lse, q, k, v, null, scale), "plan is NULL");
        }
    }

    private static double[] attention(Tensor q, Tensor k, Tensor v, int[] lengths, float scale) {
        int heads = (int) q.size(1);
        int keyHeads = (int) k.size(1);
        int width = (int) q.size(2);
        float[] qs = q.toFloats();
        float[] ks = k.toFloats();
        float[] vs = v.toFloats();
        double[] out = new double[qs.length];
        int begin = 0;
        for (int length : lengths) {
            for (int i = begin; i < begin + length; i++) {
                for (int h = 0; h < heads; h++) {
                    int keyHead = h / (heads / keyHeads);
                    double sum = 0;
                    for (int j = begin; j <= i; j++) {
                        double score = 0;
                        for (int d = 0; d < width; d++) {
                            score +=
                                    (double) qs[(i * heads + h) * width + d] * ks[(j * keyHeads + keyHead) * width + d];
                        }
                        double weight = Math.exp(score * scale);
                        sum += weight;
                        for (int d = 0; d < width; d++) {
                            out[(i * heads + h) * width + d] += weight * vs[(j * keyHeads + keyHead) * width + d];
                        }
                    }
                    for (int d = 0; d < width; d++) {
                        out[(i * heads + h) * width + d] /= sum;
                    }
                }
            }
            begin += length;
        }
        return out;
    }

    // ---- Loss, optimiser, ranking ----

    @Test
    void infonceMasksTheTargetAndGivesGradients() {
        int t = 3;
        int m = 4;
        int width = 5;
        Tensor u = tensor(t, width);
        Tensor p = tensor(t, width);
        Tensor n = tensor(m, width);
        Tensor logitScale = tensor(new float[] {0.7f}, 1);
        Tensor targets = workspace.ints(new int[] {10, 11, 12});
        Tensor negatives = workspace.ints(new int[] {20, 11, 21, 22}); // one of them is the second target
        Tensor metrics = tensor(Ops.InfoNceMetric.values().length);
        Tensor du = tensor(t, width);
        Tensor dp = tensor(t, width);
        Tensor dn = tensor(m, width);
        Tensor dscale = zeros(1);
        ops.infonce(new Ops.InfoNce(1.1f, t, metrics, du, dp, dn, dscale, u, p, n, targets, negatives, logitScale));
        double expected = 0;
        for (int i = 0; i < t; i++) {
            double positive = Math.exp(Math.exp(0.7) * cosine(u, i, p, i));
            double all = positive;
            for (int j = 0; j < m; j++) {
                all += i == 1 && j == 1 ? 0 : Math.exp(Math.exp(0.7) * cosine(u, i, n, j));
            }
            expected -= Math.log(positive / all);
        }
        float[] sums = metrics.toFloats();
        assertEquals(expected, sums[Ops.InfoNceMetric.LOSS.ordinal()], 1e-4);
        assertEquals(t * (1 + m) - 1, sums[Ops.InfoNceMetric.SAMPLES.ordinal()]);
        assertEquals(t, sums[Ops.InfoNceMetric.TOP5.ordinal()]); // of 5 logits, the target is always among 5

        Supplier<Double> loss = () -> {
            ops.infonce(
                    new Ops.InfoNce(1.1f, t, metrics, null, null, null, null, u, p, n, targets, negatives, logitScale));
            return metrics.toFloats()[0] / (double) t;
        };
        assertGradient("du", loss, u, du);
        assertGradient("dp", loss, p, dp);
        assertGradient("dn", loss, n, dn);
        assertGradient("dlogit_scale", loss, logitScale, dscale);
        assertRefused(
                () -> ops.infonce(
                        new Ops.InfoNce(1.1f, t, metrics, null, null, null, null, u, p, n, targets, null, logitScale)),
                "infonce: target_ids and negative_ids");
    }

    private static double cosine(Tensor a, int i, Tensor b, int j) {
        Tensor x = a.rows(i, i + 1);
        Tensor y = b.rows(j, j + 1);
        return dot(x, y) / Math.sqrt(dot(x, x) * dot(y, y));
    }

    @Test
    void normAndClamp() {
        Tensor x = tensor(new float[] {3, -4, 0}, 3);
        Tensor out = zeros(1);
        ops.norm(out, x);
        assertEquals(5, out.scalar());
        ops.clamp(x, -1, 2);
        assertArrayEquals(new float[] {2, -1, 0}, x.toFloats());
    }

    @Test
    void adamwFollowsItsFormula() {
        int n = 5;
        Tensor parameters = tensor(n);
        Tensor gradients = tensor(n);
        Tensor moment1 = zeros(n);
        Tensor moment2 = zeros(n);
        double[] p = new double[n];
        double[] m = new double[n];
        double[] v = new double[n];
        for (int i = 0; i < n; i++) {
            p[i] = parameters.toFloats()[i];
        }
        for (int step = 1; step <= 3; step++) {
            ops.adamw(new Ops.AdamW(
                    0.01f, 0.9f, 0.99f, 1e-8f, 0.1f, 0.5f, step, parameters, gradients, moment1, moment2));
            for (int i = 0; i < n; i++) {
                double g = 0.5 * gradients.toFloats()[i];
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.99 * v[i] + 0.01 * g * g;
                p[i] *= 1 - 0.01 * 0.1;
                p[i] -= 0.01
                        * (m[i] / (1 - Math.pow(0.9, step)))
                        / (Math.sqrt(v[i] / (1 - Math.pow(0.99, step))) + 1e-8);
            }
        }
        assertClose(p, parameters);
        assertClose(m, moment1);
        assertClose(v, moment2);
    }

    @Test
    void bestRowsAndRanks() {
        Tensor table = tensor(new float[] {1, 0, 0, 1, 2, 0, 0, 3, 2, 0}, 5, 2);
        Tensor queries = tensor(new float[] {1, 0, 0, 1}, 2, 2); // scores 1 0 2 0 2 and 0 1 0 3 0
        Tensor scores = tensor(2, 3);
        try (Tensor rows = context.of(new int[6]);
                Tensor ranks = context.of(new int[2])) {
            Tensor best = rows.reshape(2, 3);
            ops.topk(scores, best, queries, table, null, null);
            assertArrayEquals(new int[] {2, 4, 0, 3, 1, 0}, rows.toInts());
            assertArrayEquals(new float[] {2, 2, 1, 3, 1, 0}, scores.toFloats());
            Tensor targets = workspace.ints(new int[] {0, 1});
            ops.rank(ranks, queries, table, targets, null, null);
            assertArrayEquals(new int[] {3, 2}, ranks.toInts());

            Tensor offsets = workspace.ints(new int[] {0, 3, 4});
            Tensor excluded = workspace.ints(new int[] {2, 1, 3, 1});
            ops.topk(scores, best, queries, table, offsets, excluded);
            assertArrayEquals(new int[] {4, 0, -1, 3, 0, 2}, rows.toInts());
            assertEquals(Float.NEGATIVE_INFINITY, scores.toFloats()[2]);
            ops.rank(ranks, queries, table, targets, offsets, excluded);
            assertArrayEquals(new int[] {2, 6}, ranks.toInts());
        }
    }
}
