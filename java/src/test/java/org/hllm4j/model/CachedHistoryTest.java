package org.hllm4j.model;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import org.hllm4j.Tiny;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.nn.KeyValueArena;
import org.hllm4j.weights.Family;
import org.hllm4j.weights.ModelConfig;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class CachedHistoryTest {
    private static final int ITEMS = 20;
    private static final int ROWS = 60;

    /** Users' histories, and where their rows lie: anywhere, in no order. */
    private static final class User {
        private int[] items = {};
        private int[] rows = {};
    }

    /** Steps of fresh events and branches for some users at a time give what the whole histories give. */
    @ParameterizedTest
    @CsvSource({
        "F32, 1e-5, LLAMA, 0",
        "BF16, 3e-2, LLAMA, 0",
        "F32, 1e-5, MISTRAL, 3",
        "F32, 1e-5, QWEN2, 0",
        "F32, 1e-5, QWEN3, 2"
    })
    void stepsEqualTheWholeHistory(DType dtype, float tolerance, Family family, int window) {
        long seed = Tiny.seed();
        System.out.println("seed " + seed);
        Random random = new Random(seed);
        int compared = 0;
        try (Context context = Context.open("cpu");
                Hllm model = new Hllm(context, twoLayers(family, window), Hllm.Trained.NOTHING, DType.F32);
                Tensor table = context.of(
                        gaussian(random, ITEMS * model.config().width()),
                        ITEMS,
                        model.config().width());
                KeyValueArena arena = new KeyValueArena(context, model.config().user(), ROWS, dtype);
                Workspace workspace = context.workspace()) {
            model.randomise(Hllm.Side.USER, seed);
            List<Integer> free =
                    new ArrayList<>(IntStream.range(0, ROWS).boxed().toList());
            Collections.shuffle(free, random);
            List<User> users = List.of(new User(), new User(), new User());
            for (int step = 0; step < 40; step++) {
                List<User> chosen = users.stream()
                        .filter(u -> u.items.length == 0 || random.nextBoolean())
                        .toList();
                List<CachedHistory> histories = new ArrayList<>();
                List<int[]> targets = new ArrayList<>();
                IntStream.Builder inputs = IntStream.builder();
                for (User user : chosen) {
                    int fresh = Math.min(
                            random.nextInt(user.items.length == 0 ? 1 : 0, 4), Tiny.MAX_HISTORY - user.items.length);
                    for (int i = 0; i < fresh; i++) {
                        user.items = appended(user.items, random.nextInt(ITEMS));
                        user.rows = appended(user.rows, free.removeLast());
                        inputs.add(user.items[user.items.length - 1]);
                    }
                    int[] target = random.ints(random.nextInt(fresh == 0 ? 1 : 0, 3), 0, ITEMS)
                            .toArray();
                    int[] branches = new int[target.length];
                    for (int i = 0; i < branches.length; i++) {
                        branches[i] = free.get(i + 4 * histories.size()); // from the other end than the events' rows
                        inputs.add(target[i]);
                    }
                    histories.add(new CachedHistory(user.rows, fresh, branches));
                    targets.add(target);
                }
                if (chosen.isEmpty()) {
                    continue;
                }
                float[] found = outputs(workspace, model, table, inputs.build().toArray(), arena, histories);
                float[] expected = new float[0];
                for (int i = 0; i < chosen.size(); i++) {
                    expected = joined(expected, whole(workspace, model, table, chosen.get(i).items, targets.get(i)));
                }
                assertArrayEquals(expected, found, tolerance, "step " + step);
                compared += found.length;
                for (User user : users) { // at times one is forgotten, and its rows serve others
                    if (user.items.length == Tiny.MAX_HISTORY || random.nextInt(10) == 0) {
                        Arrays.stream(user.rows).forEach(row -> free.add(30, row));
                        user.items = user.rows = new int[0];
                    }
                }
            }
        }
        assertTrue(compared > 1000, compared + " numbers compared");
        assertEquals(0, Context.liveBytes("cpu"));
    }

    @Test
    void aStepThatComputesNothingIsRefused() {
        assertThrows(IllegalArgumentException.class, () -> new CachedHistory(new int[] {1}, 0, new int[0]));
        assertThrows(IllegalArgumentException.class, () -> new CachedHistory(new int[] {1}, 2, new int[0]));
    }

    private static HllmConfig twoLayers(Family family, int window) {
        ModelConfig llm = Tiny.config(Pooling.TOKEN).item();
        return new HllmConfig(llm, Tiny.ofFamily(llm, family, window), Pooling.TOKEN, Tiny.MAX_TEXT, Tiny.MAX_HISTORY);
    }

    private static float[] outputs(
            Workspace workspace,
            Hllm model,
            Tensor table,
            int[] items,
            KeyValueArena arena,
            List<CachedHistory> histories) {
        long mark = workspace.mark();
        try (UserLlm.Pass pass =
                model.users().forward(workspace, vectors(workspace, model, table, items), arena, histories)) {
            return pass.output().toFloats();
        } finally {
            workspace.release(mark);
        }
    }

    /** The branches' outputs of a history computed at once, or its last event's where there are none. */
    private static float[] whole(Workspace workspace, Hllm model, Tensor table, int[] items, int[] targets) {
        long mark = workspace.mark();
        int[] seen = new int[targets.length];
        Arrays.fill(seen, items.length);
        Tensor x = vectors(
                workspace,
                model,
                table,
                IntStream.concat(Arrays.stream(items), Arrays.stream(targets)).toArray());
        try (UserLlm.Pass pass = targets.length == 0
                ? model.users().forward(workspace, x, new int[] {items.length}, new int[] {items.length - 1}, false)
                : model.users()
                        .forward(
                                workspace,
                                x,
                                new Branches(new int[] {items.length}, new int[][] {seen}),
                                false,
                                false)) {
            return pass.output().toFloats();
        } finally {
            workspace.release(mark);
        }
    }

    private static Tensor vectors(Workspace workspace, Hllm model, Tensor table, int[] items) {
        Tensor x = workspace.floats(items.length, model.config().width());
        model.context().ops().gatherRows(x, table, workspace.ints(items));
        return x;
    }

    private static float[] gaussian(Random random, int count) {
        float[] values = new float[count];
        for (int i = 0; i < count; i++) {
            values[i] = (float) random.nextGaussian();
        }
        return values;
    }

    private static int[] appended(int[] values, int value) {
        int[] longer = Arrays.copyOf(values, values.length + 1);
        longer[values.length] = value;
        return longer;
    }

    private static float[] joined(float[] a, float[] b) {
        float[] both = Arrays.copyOf(a, a.length + b.length);
        System.arraycopy(b, 0, both, a.length, b.length);
        return both;
    }
}
