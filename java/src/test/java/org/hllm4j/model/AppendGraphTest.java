package org.hllm4j.model;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.NativeException;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.nn.KeyValueArena;
import org.hllm4j.weights.Family;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class AppendGraphTest {
    private static final int ROWS = 80;
    private static final int USERS = 3;
    private static final int SPANS = Tiny.MAX_HISTORY + 1;

    /** Histories of any lengths, in any rows of the arena, have the outputs that calls give them. */
    @ParameterizedTest
    @CsvSource({
        "cpu, false, 0",
        "cuda-emulated, false, 0",
        "cuda-emulated, true, 0",
        "cuda-emulated, true, 3",
        "cuda, false, 0",
        "cuda, true, 0",
        "cuda, true, 3"
    })
    void aLaunchIsWhatTheCallsAre(String device, boolean branch, int window) {
        assumeTrue(Context.available(device), device + " is not there");
        System.out.println("seed " + Tiny.seed());
        Random random = new Random(Tiny.seed());
        HllmConfig tiny = Tiny.config(Pooling.TOKEN);
        HllmConfig config = new HllmConfig(
                tiny.item(),
                Tiny.ofFamily(tiny.user(), Family.MISTRAL, window),
                Pooling.TOKEN,
                Tiny.MAX_TEXT,
                Tiny.MAX_HISTORY);
        try (Context context = Context.open(device);
                Hllm model = new Hllm(context, config, Hllm.Trained.NOTHING, DType.F32);
                KeyValueArena arena = new KeyValueArena(context, config.user(), ROWS, context.activations());
                Workspace workspace = context.workspace()) {
            model.randomise(Hllm.Side.USER, Tiny.seed());
            UserLlm users = model.users();
            List<CachedHistory> all =
                    List.of(new CachedHistory(IntStream.range(0, ROWS / 2).toArray(), ROWS / 2, new int[0]));
            if (device.equals("cpu")) {
                assertThrows(NativeException.class, () -> users.appendGraph(arena, histories(random, branch), SPANS));
                return;
            }
            try (AppendGraph graph = users.appendGraph(arena, histories(random, branch), SPANS)) {
                for (int step = 0; step < 20; step++) {
                    List<CachedHistory> histories = histories(random, branch);
                    Tensor x = vectors(workspace, random, branch ? 2 * USERS : USERS, config.width());
                    float[] found = graph.run(x, histories).toFloats();
                    try (UserLlm.Pass pass = users.forward(workspace, x, arena, histories)) {
                        assertArrayEquals(pass.output().toFloats(), found, 1e-6f, "step " + step);
                    }
                    workspace.release(0);
                }
                assertThrows(HllmException.class, () -> graph.run(vectors(workspace, random, 40, config.width()), all));
            }
        }
        assertEquals(0, Context.liveBytes(device));
    }

    private static List<CachedHistory> histories(Random random, boolean branch) {
        List<Integer> free = new ArrayList<>(IntStream.range(0, ROWS).boxed().toList());
        Collections.shuffle(free, random);
        List<CachedHistory> histories = new ArrayList<>();
        for (int u = 0; u < USERS; u++) {
            int[] rows = IntStream.range(0, 1 + random.nextInt(Tiny.MAX_HISTORY))
                    .map(i -> free.removeLast())
                    .toArray();
            histories.add(new CachedHistory(rows, 1, branch ? new int[] {free.removeLast()} : new int[0]));
        }
        return histories;
    }

    private static Tensor vectors(Workspace workspace, Random random, int rows, int width) {
        Tensor x = workspace.floats(rows, width);
        float[] values = new float[rows * width];
        for (int i = 0; i < values.length; i++) {
            values[i] = (float) random.nextGaussian();
        }
        x.write(values);
        return x;
    }
}
