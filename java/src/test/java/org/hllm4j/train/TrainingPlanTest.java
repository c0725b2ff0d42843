package org.hllm4j.train;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.hllm4j.Tiny;
import org.hllm4j.data.Batch;
import org.hllm4j.data.Dataset;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.Adapters;
import org.hllm4j.run.Start;
import org.hllm4j.weights.SafetensorsWriter;
import org.hllm4j.weights.StoredType;
import org.hllm4j.weights.TensorInfo;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What the plan says of activations, against what a step then holds. */
class TrainingPlanTest {
    @TempDir
    Path folder;

    @Test
    void plannedActivationsAreThoseOfAStep() throws IOException {
        Start start = start();
        Dataset data = Tiny.dataset(folder, 300, 400);
        TrainOptions options = TrainOptions.DEFAULTS.withBatchUsers(64);
        TrainingPlan kept = TrainingPlan.of(start, options, data, folder, DType.F32);
        TrainingPlan recomputed = TrainingPlan.of(start, options.withRecompute(true), data, folder, DType.F32);
        assertEquals(kept.kept(), kept.activations());
        assertEquals(kept.recomputed(), recomputed.activations());
        assertEquals(0, kept.copies());
        assertTrue(recomputed.memory() < kept.memory());
        // Of q, k, v, o, gate, up and down, D 64 and F 192, all but down run again: 5/7 of a third of the step.
        assertEquals(1 / 3. * (3 * 64 + 2 * 192) / (3 * 64 + 3 * 192), kept.recomputation(), 1e-9);

        near(kept.activations(), held(start, data, options, false));
        near(recomputed.activations(), held(start, data, options, true));
        assertTrue(2 * recomputed.activations() < kept.activations(), "half of the memory at 8 layers");

        TrainingPlan narrow = TrainingPlan.of(start, options, data, folder, DType.BF16);
        assertTrue(narrow.activations() > kept.activations() / 2 && narrow.activations() < 0.7 * kept.activations());
        assertTrue(narrow.copies() > 0 && narrow.copies() < kept.parameters() / 2);
    }

    /** The weights below adapters have neither gradients nor moments, but activations, and a second copy on a CPU. */
    @Test
    void adaptersNeedActivationsAndLittleElse() throws IOException {
        Start whole = start();
        Start start = new Start(
                        whole.itemLlm(),
                        whole.userLlm(),
                        Start.Init.RANDOM,
                        Start.Init.RANDOM,
                        Start.Freeze.NONE,
                        0,
                        0,
                        whole.pooling(),
                        whole.maxTextLength(),
                        whole.maxHistory(),
                        whole.textKeys(),
                        1)
                .withAdapters(new Adapters(4, 2, 8));
        Dataset data = Tiny.dataset(folder, 300, 400);
        TrainOptions options = TrainOptions.DEFAULTS.withBatchUsers(64);
        TrainingPlan plan = TrainingPlan.of(start, options, data, folder, DType.F32);
        TrainingPlan before = TrainingPlan.of(whole, options, data, folder, DType.F32);
        assertEquals(before.activations(), plan.activations());
        assertEquals(before.trained(), plan.frozen(), 2000); // [ITEM], the logit scale, and the ends of cache lines
        assertTrue(10 * plan.checkpoint() < before.checkpoint(), "checkpoints hold adapters only");
        assertEquals(before.model(), plan.model());
        // Of the 3 products of a step whose weights are trained, there and back to inputs and weights, 2 are left.
        assertEquals(1.5 * before.recomputation(), plan.recomputation(), 1e-9);

        near(plan.memory() - 2 * plan.vectors(), held(start, data, options, false) + modelBytes(start));
    }

    private static long modelBytes(Start start) {
        try (Context context = Context.open("cpu", DType.F32);
                Hllm model = start.model(context);
                AdamWOptimizer _ = new AdamWOptimizer(model, 0, 1)) {
            return Context.liveBytes("cpu");
        }
    }

    /** Native memory of a step whose buffers have grown to their size; a GPU's library takes a workspace beside. */
    private static long held(Start start, Dataset data, TrainOptions options, boolean recompute) {
        Batch batch = Trainer.batches(data, options, start.maxHistory()).batch(0, 0);
        try (Context context = Context.open("cpu", DType.F32);
                Hllm model = new Hllm(context, start.config(), start.trained(), DType.F32)) {
            model.randomise(Hllm.Side.ITEM, Tiny.seed());
            model.randomise(Hllm.Side.USER, Tiny.seed());
            model.recompute(recompute);
            long before = Context.liveBytes("cpu");
            try (GenerativeStep step = new GenerativeStep(model, data.tokens(), options.maxRows(), 0.99f, null)) {
                step.run(batch.sequences(), batch.negatives());
                step.run(batch.sequences(), batch.negatives());
                return Context.liveBytes("cpu") - before;
            }
        }
    }

    private static void near(long planned, long held) {
        System.out.println("planned " + planned + " bytes, held " + held);
        assertTrue(planned > 0.75 * held && planned < 1.25 * held, () -> "planned " + planned + ", held " + held);
    }

    /** A model of which only the shape counts. */
    private Start start() throws IOException {
        Path llm = Files.createDirectories(folder.resolve("llm"));
        Files.writeString(llm.resolve("config.json"), """
            {"model_type":"llama","hidden_size":64,"intermediate_size":192,"num_attention_heads":4,
             "num_key_value_heads":2,"num_hidden_layers":8,"vocab_size":%d}\
            """.formatted(Tiny.VOCABULARY));
        List<TensorInfo> infos = List.of(new TensorInfo("model.norm.weight", StoredType.F32, new long[] {64}));
        try (SafetensorsWriter writer = SafetensorsWriter.create(llm.resolve("model.safetensors"), infos, Map.of())) {
            writer.append("model.norm.weight", FloatBuffer.allocate(64));
        }
        return Start.of(llm).withMaxHistory(Tiny.MAX_HISTORY);
    }
}
