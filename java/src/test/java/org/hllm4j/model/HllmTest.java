package org.hllm4j.model;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.nn.Parameter;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class HllmTest {
    private static final double TOLERANCE = 1e-5;

    @AfterEach
    void nothingIsLeft() {
        assertEquals(0, Context.liveBytes(Tiny.device()));
    }

    @ParameterizedTest
    @EnumSource(Pooling.class)
    void packedItemsEqualEachAlone(Pooling pooling) {
        int[][] tokens = Tiny.tokens(60, new Random(Tiny.seed()));
        try (Context context = Context.open(Tiny.device());
                Hllm model = Tiny.model(context, pooling, Hllm.Trained.NOTHING)) {
            float[][] packed = encode(model, tokens, true);
            float[][] plain = encode(model, tokens, false);
            for (int i = 0; i < tokens.length; i++) {
                float[] alone = encode(model, new int[][] {tokens[i]}, true)[0];
                near("item " + i + " alone", alone, packed[i]);
                near("item " + i + " without shared prefixes", plain[i], packed[i]);
            }
        }
    }

    @ParameterizedTest
    @EnumSource(Pooling.class)
    void chunksAndOrderDoNotMatter(Pooling pooling) {
        int[][] tokens = Tiny.tokens(60, new Random(Tiny.seed()));
        List<Integer> order = IntStream.range(0, tokens.length).boxed().collect(Collectors.toList());
        Collections.shuffle(order, new Random(Tiny.seed()));
        try (Context context = Context.open(Tiny.device());
                Hllm model = Tiny.model(context, pooling, Hllm.Trained.NOTHING)) {
            float[][] whole = encode(model, tokens, true);
            float[][] permuted =
                    encode(model, order.stream().map(i -> tokens[i]).toArray(int[][]::new), true);
            try (Tensor table = CatalogueEncoder.table(model, tokens, 20, null)) {
                float[] chunked = table.toFloats();
                int width = model.config().width();
                for (int i = 0; i < tokens.length; i++) {
                    near("item " + i + " in chunks", whole[i], Arrays.copyOfRange(chunked, i * width, (i + 1) * width));
                    near("item permuted", whole[order.get(i)], permuted[i]);
                }
            }
        }
    }

    /** A packed side has the same vectors, in less memory, and no parameters that anybody could misread. */
    @ParameterizedTest
    @EnumSource(names = {"F32", "BF16"})
    void aPackedSideComputesTheSame(DType storage) {
        int[][] tokens = Tiny.tokens(60, new Random(Tiny.seed()));
        try (Context context = Context.open(Tiny.device());
                Hllm model = new Hllm(context, Tiny.config(Pooling.TOKEN), Hllm.Trained.NOTHING, storage)) {
            model.randomise(Hllm.Side.ITEM, Tiny.seed());
            float[][] expected = encode(model, tokens, true);
            long before = Context.liveBytes(Tiny.device());
            model.pack(Hllm.Side.ITEM);
            assertTrue(Context.liveBytes(Tiny.device()) < before);
            float[][] found = encode(model, tokens, true);
            for (int i = 0; i < tokens.length; i++) {
                near("item " + i, expected[i], found[i]);
            }
            Tensor matrix = model.parameters()
                    .get(ItemLlm.PREFIX + "model.layers.0.mlp.down_proj.weight")
                    .value();
            assertThrows(HllmException.class, matrix::toFloats);
        }
    }

    @Test
    void packedHistoriesEqualEachAloneAndAnyPlaceCanBeAsked() {
        Random random = new Random(Tiny.seed());
        int[][] histories = IntStream.range(0, 12)
                .mapToObj(u -> random.ints(1 + u % Tiny.MAX_HISTORY, 0, 30).toArray())
                .toArray(int[][]::new);
        try (Context context = Context.open(Tiny.device());
                Hllm model = Tiny.model(context, Pooling.TOKEN, Hllm.Trained.NOTHING);
                Tensor table = CatalogueEncoder.table(model, Tiny.tokens(30, random), 4096, null)) {
            int[][] wanted = Arrays.stream(histories)
                    .map(h -> h.length > 1 ? new int[] {h.length - 2, h.length - 1} : new int[] {0})
                    .toArray(int[][]::new);
            float[][] packed = users(model, table, histories, wanted, 4096);
            int next = 0;
            for (int[] history : histories) {
                if (history.length > 1) {
                    int[] earlier = Arrays.copyOf(history, history.length - 1);
                    near("one event earlier", users(model, table, new int[][] {earlier}, null, 1)[0], packed[next++]);
                }
                near("history", users(model, table, new int[][] {history}, null, 7)[0], packed[next++]);
            }
            assertEquals(packed.length, next);
        }
    }

    @Test
    void bf16StorageIsCloseToFloat32() {
        int[][] tokens = Tiny.tokens(40, new Random(Tiny.seed()));
        try (Context context = Context.open(Tiny.device(), DType.F32);
                Hllm exact = Tiny.model(context, Pooling.TOKEN, Hllm.Trained.NOTHING);
                Hllm rounded = new Hllm(context, exact.config(), Hllm.Trained.NOTHING, DType.BF16)) {
            rounded.randomise(Hllm.Side.ITEM, Tiny.seed());
            rounded.randomise(Hllm.Side.USER, Tiny.seed());
            rounded.randomiseItemToken(Tiny.seed());
            float[][] expected = encode(exact, tokens, true);
            float[][] found = encode(rounded, tokens, true);
            double worst = 0;
            for (int i = 0; i < tokens.length; i++) {
                worst = Math.max(worst, Tiny.relativeError(expected[i], found[i]));
            }
            double largest = worst;
            assertTrue(largest < 0.05 && largest > 0, () -> "relative error of bf16 weights: " + largest);
        }
    }

    @Test
    void officialShapesLoadAndOthersAreRefused() {
        try (Context context = Context.open(Tiny.device());
                Hllm model = Tiny.model(context, Pooling.MEAN, new Hllm.Trained(true, false))) {
            assertTrue(model.of(Hllm.Side.ITEM).stream().allMatch(Parameter::trainable));
            assertTrue(model.of(Hllm.Side.USER).stream().noneMatch(Parameter::trainable));
            assertThrows(HllmException.class, () -> model.itemToken(new float[24]));
            assertThrows(HllmException.class, () -> model.parameters().get("no.such"));
        }
    }

    @ParameterizedTest
    @EnumSource(Pooling.class)
    void aPassThatFailsLeavesNothing(Pooling pooling) {
        try (Context context = Context.open(Tiny.device());
                Hllm model = Tiny.model(context, pooling, Hllm.Trained.NOTHING);
                Tensor x = context.zeros(DType.F32, 5, model.config().width())) {
            Workspace closed = context.workspace();
            closed.close(); // takes nothing any more
            PackedTokens pack = TokenTrie.pack(new int[][] {{1, 2}, {1, 3}}, pooling == Pooling.TOKEN, true);
            int[] lengths = {3, 2};
            long live = Context.liveBytes(Tiny.device());
            assertThrows(HllmException.class, () -> model.items().forward(closed, pack, false));
            assertThrows(HllmException.class, () -> model.users().forward(closed, x, lengths, new int[] {4}, false));
            assertEquals(live, Context.liveBytes(Tiny.device()));
        }
    }

    private static float[][] encode(Hllm model, int[][] tokens, boolean share) {
        boolean itemToken = model.config().pooling() == Pooling.TOKEN;
        PackedTokens pack = TokenTrie.pack(tokens, itemToken, share);
        int width = model.config().width();
        try (Workspace workspace = model.context().workspace();
                ItemEncoder.Pass pass = model.items().forward(workspace, pack, false)) {
            float[] leaves = pass.output().toFloats();
            return Arrays.stream(pack.outputRow())
                    .mapToObj(leaf -> Arrays.copyOfRange(leaves, leaf * width, (leaf + 1) * width))
                    .toArray(float[][]::new);
        }
    }

    private static float[][] users(Hllm model, Tensor table, int[][] histories, int[][] wanted, int maxRows) {
        float[][] out = new float
                [wanted == null
                        ? histories.length
                        : Arrays.stream(wanted).mapToInt(w -> w.length).sum()][];
        int width = model.config().width();
        UserEncoder.encode(model, table, histories, wanted, maxRows, null, (first, vectors) -> {
            float[] values = vectors.toFloats();
            for (int i = 0; i < vectors.size(0); i++) {
                out[first + i] = Arrays.copyOfRange(values, i * width, (i + 1) * width);
            }
        });
        return out;
    }

    private static void near(String what, float[] expected, float[] actual) {
        double relative = Tiny.relativeError(expected, actual);
        assertTrue(
                relative <= TOLERANCE,
                () -> what + ": relative error " + relative + ", allowed " + TOLERANCE + " (seed " + Tiny.seed() + ")");
    }
}
