package org.hllm4j.train;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.hllm4j.Tiny;
import org.hllm4j.data.Dataset;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.IdStart;
import org.hllm4j.run.RunFolder;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The trainer on a model of item ids with dropout. */
class IdModelTrainerTest {
    private static final IdStart START = IdStart.sasrec(12, 2, 3, Tiny.MAX_HISTORY, List.of("title"), Tiny.seed());
    private static final TrainOptions OPTIONS =
            new TrainOptions(3, 0, 8, 20, true, 1, 0.3, 5e-3, 0.1, 0.01, 1, 1, Tiny.seed(), 1000, false, 5, true, 1e-9);

    @TempDir
    Path folder;

    @AfterEach
    void nothingIsLeft() {
        assertEquals(0, Context.liveBytes(Tiny.device()));
    }

    private float[] train(String name, TrainOptions options, int stopAfter) {
        Dataset data = START.dataset(Tiny.dataset(folder, 40, 30).interactions(), null);
        try (Context context = Context.open(Tiny.device(), DType.F32);
                Hllm model = START.model(context, data)) {
            Trainer.Summary summary = Trainer.fit(
                    model,
                    data,
                    options,
                    RunFolder.create(folder.resolve(name)),
                    START.origin(),
                    new StepRecorder(stopAfter));
            assertEquals(stopAfter < 0, summary.finished());
            return model.parameters().values().toFloats();
        }
    }

    @Test
    void continuedOrRecomputedItHasTheSameBits() {
        float[] whole = train("whole", OPTIONS, -1);
        train("parts", OPTIONS, 3);
        assertArrayEquals(whole, train("parts", OPTIONS, -1));
        assertArrayEquals(whole, train("recomputed", OPTIONS.withRecompute(true), -1));
        assertFalse(Arrays.equals(whole, train("all", OPTIONS.withDropout(0), -1)));
    }

    @Test
    void aRunFolderHoldsTheModel() {
        float[] trained = train("run", OPTIONS.withMaxSteps(2), -1);
        RunFolder run = new RunFolder(folder.resolve("run"));
        assertEquals("sasrec", run.manifest().kind());
        assertEquals(12, run.manifest().idWidth());
        try (Context context = Context.open(Tiny.device(), DType.F32);
                Hllm loaded = run.load(context, DType.F32)) {
            assertEquals(START.user().withoutWords(), loaded.config().user());
            float[] table = loaded.of(Hllm.Side.ITEM).getFirst().value().toFloats();
            assertEquals(30 * 12, table.length);
            assertArrayEquals(Arrays.copyOf(trained, table.length), table); // the first of the flat buffer
        }
    }

    @Test
    void aFractionOfTheUsersTrains() {
        Dataset data = START.dataset(Tiny.dataset(folder, 200, 30).interactions(), null);
        long all = Trainer.steps(data, OPTIONS, Tiny.MAX_HISTORY);
        long some = Trainer.steps(data, OPTIONS.withTrainFraction(0.3), Tiny.MAX_HISTORY);
        assertTrue(some > 0.15 * all && some < 0.45 * all, some + " of " + all);
    }
}
