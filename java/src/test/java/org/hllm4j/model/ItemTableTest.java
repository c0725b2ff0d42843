package org.hllm4j.model;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.Random;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ItemTableTest {
    private static final int ITEMS = 37;

    /** Vectors and gradients against sums in double precision, with a projection and without. */
    @ParameterizedTest
    @ValueSource(ints = {5, 24})
    void looksUpProjectsAndGoesBack(int width) {
        long seed = Tiny.seed();
        System.out.println("seed " + seed);
        HllmConfig config = new HllmConfig(
                new IdTable(ITEMS, width), Tiny.config(Pooling.MEAN).user(), Tiny.MAX_HISTORY);
        int[] asked = {30, 2, 17, 2, 36, 0};
        int[][] tokens = Arrays.stream(asked).mapToObj(i -> new int[] {i}).toArray(int[][]::new);
        PackedTokens pack = TokenTrie.pack(tokens, false, true);
        try (Context context = Context.open(Tiny.device(), DType.F32);
                Hllm model = new Hllm(context, config, new Hllm.Trained(true, true), DType.F32);
                Workspace workspace = context.workspace()) {
            model.randomise(Hllm.Side.ITEM, seed);
            int d = config.width();
            double[][] table =
                    matrix(model.parameters().get("item_embedding.weight").value());
            double[][] projection = width == d
                    ? null
                    : matrix(model.parameters().get("item_id_proj_tower.weight").value());
            Random random = new Random(seed);
            float[] dleaves = new float[pack.leaves() * d];
            IntStream.range(0, dleaves.length).forEach(i -> dleaves[i] = (float) random.nextGaussian());

            try (ItemEncoder.Pass pass = model.items().forward(workspace, pack, true)) {
                double[][] vectors = matrix(pass.output());
                Tensor doutput = workspace.floats(pack.leaves(), d);
                doutput.write(dleaves);
                pass.backward(workspace, doutput);
                double[][] dtable =
                        matrix(model.parameters().get("item_embedding.weight").gradient());
                double[][] expected = new double[ITEMS][width];
                double[][] dprojection = new double[d][width];
                for (int item : Arrays.stream(asked).distinct().toArray()) {
                    int leaf = pack.outputRow()[
                            IntStream.range(0, asked.length)
                                    .filter(i -> asked[i] == item)
                                    .findFirst()
                                    .orElseThrow()];
                    for (int k = 0; k < d; k++) {
                        double value = projection == null ? table[item][k] : 0;
                        for (int w = 0; w < width && projection != null; w++) {
                            value += projection[k][w] * table[item][w];
                            expected[item][w] += projection[k][w] * dleaves[leaf * d + k];
                            dprojection[k][w] += table[item][w] * dleaves[leaf * d + k];
                        }
                        if (projection == null) {
                            expected[item][k] = dleaves[leaf * d + k];
                        }
                        assertEquals(value, vectors[leaf][k], 1e-6);
                    }
                }
                near(expected, dtable);
                if (projection != null) {
                    near(
                            dprojection,
                            matrix(model.parameters()
                                    .get("item_id_proj_tower.weight")
                                    .gradient()));
                }
            }
            PackedTokens unknown = TokenTrie.pack(new int[][] {{ITEMS}}, false, true);
            HllmException refused =
                    assertThrows(HllmException.class, () -> model.items().forward(workspace, unknown, false));
            assertTrue(refused.getMessage().contains("none of the " + ITEMS), refused.getMessage());
        }
    }

    private static double[][] matrix(Tensor tensor) {
        float[] values = tensor.toFloats();
        int columns = (int) tensor.size(1);
        double[][] rows = new double[(int) tensor.size(0)][columns];
        IntStream.range(0, values.length).forEach(i -> rows[i / columns][i % columns] = values[i]);
        return rows;
    }

    private static void near(double[][] expected, double[][] found) {
        for (int i = 0; i < expected.length; i++) {
            for (int k = 0; k < expected[i].length; k++) {
                assertEquals(expected[i][k], found[i][k], 1e-5, "row " + i + ", column " + k);
            }
        }
    }
}
