package org.hllm4j.model;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.IntStream;
import org.hllm4j.Tiny;
import org.hllm4j.data.DropoutMask;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.nn.Dropout;
import org.hllm4j.nn.Parameter;
import org.hllm4j.run.IdStart;
import org.hllm4j.weights.ModelConfig;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** SASRec's user side against the same written out plainly in double precision, its gradients against differences. */
class SasrecTest {
    private static final int WIDTH = 6;
    private static final int HEADS = 3;
    private static final int LAYERS = 2;
    private static final int HISTORY = 5;
    private static final String LAYER = "user_llm.encoder.layer.%d.";

    @ParameterizedTest
    @ValueSource(doubles = {0, 0.4})
    void outputsAndGradientsAreThoseOfThePlainModel(double rate) {
        long seed = Tiny.seed();
        System.out.println("seed " + seed);
        Random random = new Random(seed);
        int[] lengths = {1, HISTORY, 3};
        int rows = Arrays.stream(lengths).sum();
        ModelConfig user =
                IdStart.sasrec(WIDTH, LAYERS, HEADS, HISTORY, List.of(), seed).user();
        HllmConfig config = new HllmConfig(new IdTable(4, WIDTH), user, HISTORY);
        double[] x = gaussian(random, rows * WIDTH);
        double[] d = gaussian(random, rows * WIDTH);
        Dropout dropout = rate == 0 ? null : new Dropout(rate, seed, 7);
        float[][] left = rate == 0 ? null : new float[1 + 2 * LAYERS][rows * WIDTH]; // by site
        for (int site = 0; rate > 0 && site < left.length; site++) {
            DropoutMask.fill(seed, 7, site, rate, left[site]);
        }
        Plain plain = new Plain(lengths, left);
        try (Context context = Context.open(Tiny.device(), DType.F32);
                Hllm model = new Hllm(context, config, new Hllm.Trained(true, true), DType.F32);
                Workspace workspace = context.workspace()) {
            Map<String, double[]> values = new HashMap<>();
            for (Parameter parameter : model.of(Hllm.Side.USER)) {
                // Large, so that attention and GELU leave their linear part; no two numbers alike.
                double[] drawn =
                        gaussian(random, Math.toIntExact(parameter.value().elements()));
                parameter.value().write(floats(drawn));
                values.put(parameter.name(), drawn);
            }
            model.refresh();
            Tensor input = workspace.floats(rows, WIDTH);
            input.write(floats(x));
            try (UserLlm.Pass pass = model.users().forward(workspace, input, lengths, null, true, dropout)) {
                near("output", plain.outputs(values, x), pass.output().toFloats());
                Tensor doutput = workspace.floats(rows, WIDTH);
                doutput.write(floats(d));
                Tensor dx = model.users().backward(workspace, pass, doutput);
                near("input", plain.differences(values, x, d, x), dx.toFloats());
                for (Parameter parameter : model.of(Hllm.Side.USER)) {
                    near(
                            parameter.name(),
                            plain.differences(values, x, d, values.get(parameter.name())),
                            parameter.gradient().toFloats());
                }
            }
            workspace.release(0);
            Tensor again = workspace.floats(rows, WIDTH);
            again.write(floats(x));
            int[] last = UserLlm.lastRows(lengths);
            try (UserLlm.Pass pass = model.users().forward(workspace, again, lengths, last, false)) {
                double[] all = new Plain(lengths, null).outputs(values, x);
                double[] wanted = IntStream.of(last)
                        .flatMap(row -> IntStream.range(row * WIDTH, (row + 1) * WIDTH))
                        .mapToDouble(i -> all[i])
                        .toArray();
                near("last rows", wanted, pass.output().toFloats());
            }
        }
    }

    private static double[] gaussian(Random random, int n) {
        return random.doubles(n).map(u -> (float) random.nextGaussian()).toArray();
    }

    private static float[] floats(double[] values) {
        float[] floats = new float[values.length];
        IntStream.range(0, values.length).forEach(i -> floats[i] = (float) values[i]);
        return floats;
    }

    private static void near(String what, double[] expected, float[] found) {
        assertEquals(expected.length, found.length, what);
        double most = Arrays.stream(expected).map(Math::abs).max().orElse(0);
        for (int i = 0; i < found.length; i++) {
            assertEquals(expected[i], found[i], 2e-5 * (1 + most), what + " " + i);
        }
        assertTrue(most > 1e-3 || what.endsWith("key.bias"), what + ": nothing was compared"); // softmax ignores it
    }

    private static double dot(double[] a, double[] b) {
        return IntStream.range(0, a.length).mapToDouble(i -> a[i] * b[i]).sum();
    }

    /** @param left what dropout multiplies with at each site, by row; null: there is none */
    private record Plain(int[] lengths, float[][] left) {
        /** d(sum of outputs * d) / d(values) by central differences. */
        double[] differences(Map<String, double[]> parameters, double[] x, double[] d, double[] values) {
            double[] gradient = new double[values.length];
            double step = 1e-5;
            for (int i = 0; i < values.length; i++) {
                double kept = values[i];
                values[i] = kept + step;
                double above = dot(outputs(parameters, x), d);
                values[i] = kept - step;
                double below = dot(outputs(parameters, x), d);
                values[i] = kept;
                gradient[i] = (above - below) / (2 * step);
            }
            return gradient;
        }

        double[] outputs(Map<String, double[]> p, double[] x) {
            double[] out = new double[x.length];
            int begin = 0;
            for (int length : lengths) {
                double[][] h = new double[length][WIDTH];
                double[] positions = p.get("user_llm.embeddings.position_embeddings.weight");
                for (int t = 0; t < length; t++) {
                    for (int k = 0; k < WIDTH; k++) {
                        h[t][k] = x[(begin + t) * WIDTH + k] + positions[t * WIDTH + k];
                    }
                }
                h = thinned(0, begin, norm(p, "user_llm.embeddings.LayerNorm", h));
                for (int layer = 0; layer < LAYERS; layer++) {
                    String name = LAYER.formatted(layer);
                    double[][] attended = thinned(1 + 2 * layer, begin, attention(p, name + "attention.", h));
                    h = norm(p, name + "attention.output.LayerNorm", sum(h, attended));
                    double[][] inner = product(p, name + "intermediate.dense", h);
                    for (double[] row : inner) {
                        Arrays.setAll(row, k -> gelu(row[k]));
                    }
                    double[][] added = thinned(2 + 2 * layer, begin, product(p, name + "output.dense", inner));
                    h = norm(p, name + "output.LayerNorm", sum(h, added));
                }
                for (int t = 0; t < length; t++) {
                    System.arraycopy(h[t], 0, out, (begin + t) * WIDTH, WIDTH);
                }
                begin += length;
            }
            return out;
        }

        private double[][] thinned(int site, int begin, double[][] x) {
            for (int t = 0; left != null && t < x.length; t++) {
                for (int k = 0; k < WIDTH; k++) {
                    x[t][k] *= left[site][(begin + t) * WIDTH + k];
                }
            }
            return x;
        }
    }

    private static double[][] attention(Map<String, double[]> p, String name, double[][] h) {
        double[][] q = product(p, name + "self.query", h);
        double[][] k = product(p, name + "self.key", h);
        double[][] v = product(p, name + "self.value", h);
        double[][] mixed = new double[h.length][WIDTH];
        int size = WIDTH / HEADS;
        for (int head = 0; head < HEADS; head++) {
            int first = head * size;
            for (int t = 0; t < h.length; t++) {
                double[] weight = new double[t + 1];
                for (int s = 0; s <= t; s++) {
                    double score = 0;
                    for (int i = first; i < first + size; i++) {
                        score += q[t][i] * k[s][i];
                    }
                    weight[s] = Math.exp(score / Math.sqrt(size));
                }
                double all = Arrays.stream(weight).sum();
                for (int s = 0; s <= t; s++) {
                    for (int i = first; i < first + size; i++) {
                        mixed[t][i] += weight[s] / all * v[s][i];
                    }
                }
            }
        }
        return product(p, name + "output.dense", mixed);
    }

    private static double[][] product(Map<String, double[]> p, String name, double[][] x) {
        double[] weight = p.get(name + ".weight");
        double[] bias = p.get(name + ".bias");
        double[][] y = new double[x.length][bias.length];
        for (int t = 0; t < x.length; t++) {
            for (int n = 0; n < bias.length; n++) {
                y[t][n] = bias[n];
                for (int k = 0; k < x[t].length; k++) {
                    y[t][n] += weight[n * x[t].length + k] * x[t][k];
                }
            }
        }
        return y;
    }

    private static double[][] norm(Map<String, double[]> p, String name, double[][] x) {
        double[] weight = p.get(name + ".weight");
        double[] bias = p.get(name + ".bias");
        double[][] y = new double[x.length][WIDTH];
        for (int t = 0; t < x.length; t++) {
            double[] row = x[t];
            double mean = Arrays.stream(row).average().orElseThrow();
            double variance = Arrays.stream(row)
                    .map(v -> (v - mean) * (v - mean))
                    .average()
                    .orElseThrow();
            for (int k = 0; k < WIDTH; k++) {
                y[t][k] = (row[k] - mean) / Math.sqrt(variance + 1e-12) * weight[k] + bias[k];
            }
        }
        return y;
    }

    private static double[][] sum(double[][] a, double[][] b) {
        double[][] c = new double[a.length][WIDTH];
        for (int t = 0; t < a.length; t++) {
            int row = t;
            Arrays.setAll(c[t], k -> a[row][k] + b[row][k]);
        }
        return c;
    }

    private static double gelu(double x) {
        return x * 0.5 * (1 + erf(x / Math.sqrt(2)));
    }

    /** Near 0 by its series, elsewhere by the continued fraction of its complement. */
    private static double erf(double x) {
        double sum = 0;
        if (Math.abs(x) < 2) {
            double term = x;
            for (int n = 0; n < 60; n++) {
                sum += term / (2 * n + 1);
                term *= -x * x / (n + 1);
            }
            return 2 / Math.sqrt(Math.PI) * sum;
        }
        double positive = Math.abs(x);
        for (int n = 100; n > 0; n--) {
            sum = n / 2.0 / (positive + sum);
        }
        return Math.signum(x) * (1 - Math.exp(-x * x) / Math.sqrt(Math.PI) / (positive + sum));
    }
}
