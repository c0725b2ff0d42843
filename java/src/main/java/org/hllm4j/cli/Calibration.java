package org.hllm4j.cli;

import java.util.Arrays;
import org.hllm4j.data.Batch;
import org.hllm4j.data.Batches;
import org.hllm4j.data.Dataset;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Tensor;
import org.hllm4j.eval.Evaluator;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.UserEncoder;
import org.hllm4j.run.ModelStart;
import org.hllm4j.train.AdamWOptimizer;
import org.hllm4j.train.GenerativeStep;
import org.hllm4j.train.TrainOptions;
import org.hllm4j.train.Trainer;
import org.hllm4j.train.TrainingPlan;

/**
 * How long this machine takes, measured on the real model and data.
 *
 * @param step seconds of a training step
 * @param epochEnd seconds of the validation after an epoch, and of saving the model
 */
record Calibration(double step, double epochEnd) {
    private static final int WARM_UP = 2;
    private static final int STEPS = 10;
    private static final double SAVED_BYTES_PER_SECOND = 100e6; // written, fsynced and hashed

    /**
     * @param plan of this training; refused where it does not fit in memory
     * @param seconds that the measurement may take, roughly
     */
    static Calibration of(
            Context context, ModelStart start, TrainOptions options, Dataset data, TrainingPlan plan, double seconds) {
        plan.requireMemory(context.device());
        Batches batches = Trainer.batches(data, options, start.maxHistory());
        try (Hllm model = start.model(context, data);
                AdamWOptimizer optimizer = new AdamWOptimizer(model, 0, 1);
                GenerativeStep step = new GenerativeStep(
                        model, data.tokens(), options.maxRows(), (float) options.threshold(), null)) {
            double spent = 0;
            int steps = 0;
            for (int i = 0; i < WARM_UP + STEPS && (steps == 0 || spent < seconds); i++) {
                Batch batch = batches.batch(0, i % batches.batchesPerEpoch());
                long begin = System.nanoTime();
                optimizer.zeroGradients();
                step.run(batch.sequences(), batch.negatives());
                optimizer.step(1e-9);
                if (i >= WARM_UP) {
                    steps++;
                    spent += (System.nanoTime() - begin) / 1e9;
                }
            }
            long begin = System.nanoTime();
            try (Tensor table = CatalogueEncoder.table(model, data.tokens(), CatalogueEncoder.DEFAULT_ROWS, null)) {
                double encoding = (System.nanoTime() - begin) / 1e9;
                double users = validation(model, table, batches.batch(0, 0))
                        * data.interactions().users();
                return new Calibration(spent / steps, 1.5 * encoding + users + plan.model() / SAVED_BYTES_PER_SECOND);
            }
        }
    }

    /** Seconds for one user. */
    private static double validation(Hllm model, Tensor table, Batch batch) {
        int[][] histories = Arrays.stream(batch.sequences())
                .map(s -> Arrays.copyOf(s, s.length - 1))
                .toArray(int[][]::new);
        long begin = System.nanoTime();
        UserEncoder.encode(model, table, histories, null, Evaluator.MAX_ROWS, null, (first, vectors) -> {});
        model.context().synchronize();
        return (System.nanoTime() - begin) / 1e9 / histories.length;
    }

    /** Steps that fit into some seconds, at least one. */
    int steps(double seconds, long stepsPerEpoch) {
        return (int) Math.max(1, (seconds - epochEnd) / (step + epochEnd / stepsPerEpoch));
    }
}
