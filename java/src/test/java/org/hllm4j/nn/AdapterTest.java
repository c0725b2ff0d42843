package org.hllm4j.nn;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.weights.TensorGroup;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** A product with an adapter against the same in double precision: y = x (w + s up down)^T, and its way back. */
class AdapterTest {
    @AfterEach
    void nothingIsLeft() {
        assertEquals(0, Context.liveBytes(Tiny.device()));
    }

    @ParameterizedTest
    @CsvSource({"1, 7, 5, 1", "9, 33, 17, 3", "40, 24, 50, 8", "13, 20, 20, 20"})
    void forwardBackwardAndMergedAreThoseOfDoublePrecision(int rows, int inputs, int outputs, int rank) {
        long seed = Tiny.seed();
        System.out.println("seed " + seed);
        Random random = new Random(seed);
        Lora lora = new Lora(rank, 2.5);
        double scale = 2.5 / rank;
        Parameters.Layout layout = new Parameters.Layout().adapted(two(inputs, outputs), lora);
        for (DType storage : List.of(DType.F32, DType.BF16)) {
            try (Context context = Context.open(Tiny.device(), DType.F32);
                    Parameters parameters = new Parameters(context, layout, storage);
                    Linear linear = new Linear(context, parameters.fused("a"));
                    Workspace workspace = context.workspace()) {
                Parameter whole = parameters.fused("a");
                LowRank adapter = whole.adapter();
                float[] w = floats(random, outputs * inputs, storage == DType.BF16);
                float[] down = floats(random, rank * inputs, false);
                float[] up = floats(random, outputs * rank, false);
                context.ops().convert(whole.value(), tensor(workspace, w, outputs, inputs));
                adapter.down().value().write(down);
                adapter.up().value().write(up);
                linear.refresh(false);

                double[] merged = widened(w);
                add(merged, scale, up, down, outputs, rank, inputs);
                // A processor that multiplies bf16 rounds the inputs of packed bf16 weights too.
                double tolerance = storage == DType.F32 ? 1e-5 : 1e-2;
                float[] x = floats(random, rows * inputs, false);
                float[] dy = floats(random, rows * outputs, false);
                float[] before = floats(random, rows * outputs, false);
                Tensor in = tensor(workspace, x, rows, inputs);
                Tensor out = tensor(workspace, before, rows, outputs);
                linear.forward(workspace, out, in, true);
                double[] y = widened(before);
                product(y, x, merged, rows, outputs, inputs);
                near("y", y, out.toFloats(), tolerance);

                Tensor din = tensor(workspace, floats(random, rows * inputs, false), rows, inputs);
                Tensor dout = tensor(workspace, dy, rows, outputs);
                linear.backward(workspace, din, dout, in, false);
                double[] dx = new double[rows * inputs];
                product(dx, dy, transposed(merged, outputs, inputs), rows, inputs, outputs);
                near("dx", dx, din.toFloats(), 1e-5);
                double[] dmerged = new double[outputs * inputs]; // dy^T x
                for (int t = 0; t < rows; t++) {
                    for (int n = 0; n < outputs; n++) {
                        for (int k = 0; k < inputs; k++) {
                            dmerged[n * inputs + k] += (double) dy[t * outputs + n] * x[t * inputs + k];
                        }
                    }
                }
                double[] ddown = new double[rank * inputs];
                double[] dup = new double[outputs * rank];
                for (int n = 0; n < outputs; n++) {
                    for (int r = 0; r < rank; r++) {
                        for (int k = 0; k < inputs; k++) {
                            ddown[r * inputs + k] += scale * up[n * rank + r] * dmerged[n * inputs + k];
                            dup[n * rank + r] += scale * down[r * inputs + k] * dmerged[n * inputs + k];
                        }
                    }
                }
                near("d(down)", ddown, adapter.down().gradient().toFloats(), 1e-5);
                near("d(up)", dup, adapter.up().gradient().toFloats(), 1e-5);

                parameters.read(whole, values -> near("merged", merged, values.toFloats(), 1e-6));
                int half = outputs / 2 * inputs; // the second of the two matrices
                double[] second = Arrays.copyOfRange(merged, half, merged.length);
                parameters.read(parameters.get("b"), values -> near("merged rows", second, values.toFloats(), 1e-6));
                parameters.read(whole.bare(), values -> assertArrayEquals(w, values.toFloats()));
            }
        }
    }

    /** Rows of a matrix, as the last layer uses them, have the rows of its adapter. */
    @Test
    void rowsOfAMatrixHaveTheRowsOfItsAdapter() {
        Parameters.Layout layout = new Parameters.Layout().adapted(two(6, 9), new Lora(2, 4));
        try (Context context = Context.open(Tiny.device(), DType.F32);
                Parameters parameters = new Parameters(context, layout, DType.F32)) {
            Parameter whole = parameters.fused("a");
            float[] up = floats(new Random(1), 18, false);
            whole.adapter().up().value().write(up);
            Parameter part = whole.rows(4, 9);
            assertArrayEquals(
                    Arrays.copyOfRange(up, 8, 18), part.adapter().up().value().toFloats());
            assertArrayEquals(new long[] {2, 6}, part.adapter().down().value().shape());
            assertEquals(
                    List.of("a", "b"),
                    parameters.all().stream().map(Parameter::name).toList());
            assertEquals(1, parameters.adapters().size());
            assertEquals(2 * 6 + 4 + 9 * 2 + 14, layout.trainableElements()); // each from a cache line on
            assertEquals(54, layout.frozenElements());
        }
    }

    @Test
    void aRankBeyondTheMatrixIsRefused() {
        HllmException refused =
                assertThrows(HllmException.class, () -> new Parameters.Layout().adapted(two(6, 9), new Lora(7, 4)));
        assertTrue(refused.getMessage().contains("rank 7"), refused.getMessage());
    }

    private static TensorGroup two(long columns, long rows) {
        return new TensorGroup(TensorGroup.Kind.MATRIX, List.of("a", "b"), List.of(rows / 2, rows - rows / 2), columns);
    }

    private static Tensor tensor(Workspace workspace, float[] values, long... shape) {
        Tensor tensor = workspace.floats(shape);
        tensor.write(values);
        return tensor;
    }

    private static float[] floats(Random random, int n, boolean bf16) {
        float[] values = new float[n];
        for (int i = 0; i < n; i++) {
            float value = (float) random.nextGaussian();
            values[i] = bf16 ? Float.intBitsToFloat(Float.floatToRawIntBits(value) & 0xffff0000) : value;
        }
        return values;
    }

    private static double[] widened(float[] values) {
        double[] wide = new double[values.length];
        Arrays.setAll(wide, i -> values[i]);
        return wide;
    }

    /** w [N, K] += scale * up [N, R] down [R, K]. */
    private static void add(double[] w, double scale, float[] up, float[] down, int n, int r, int k) {
        for (int i = 0; i < n; i++) {
            for (int j = 0; j < r; j++) {
                for (int l = 0; l < k; l++) {
                    w[i * k + l] += scale * up[i * r + j] * down[j * k + l];
                }
            }
        }
    }

    /** y [T, N] += x [T, K] w^T. */
    private static void product(double[] y, float[] x, double[] w, int t, int n, int k) {
        for (int i = 0; i < t; i++) {
            for (int j = 0; j < n; j++) {
                for (int l = 0; l < k; l++) {
                    y[i * n + j] += x[i * k + l] * w[j * k + l];
                }
            }
        }
    }

    private static double[] transposed(double[] w, int n, int k) {
        double[] out = new double[w.length];
        for (int i = 0; i < n; i++) {
            for (int j = 0; j < k; j++) {
                out[j * n + i] = w[i * k + j];
            }
        }
        return out;
    }

    private static void near(String what, double[] expected, float[] found, double tolerance) {
        assertEquals(expected.length, found.length, what);
        double difference = 0;
        double norm = 0;
        for (int i = 0; i < found.length; i++) {
            difference += Math.pow(expected[i] - found[i], 2);
            norm += Math.pow(expected[i], 2);
        }
        double relative = Math.sqrt(difference / norm);
        assertTrue(relative < tolerance, () -> what + ": relative error " + relative);
    }
}
