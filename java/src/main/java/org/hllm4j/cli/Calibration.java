package org.hllm4j.cli;

import org.hllm4j.data.Batch;
import org.hllm4j.data.Batches;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Sequences;
import org.hllm4j.engine.Context;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.Start;
import org.hllm4j.train.AdamWOptimizer;
import org.hllm4j.train.GenerativeStep;
import org.hllm4j.train.TrainOptions;

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
     * @param saving bytes of the model
     * @param seconds that the measurement may take, roughly
     */
    static Calibration of(
            Context context, Start start, TrainOptions options, Dataset data, long saving, double seconds) {
        Batches batches = new Batches(
                Sequences.training(data.interactions(), start.maxHistory(), options.splitLong()),
                data.catalogue().size(),
                new Batches.Settings(options.batchUsers(), start.maxHistory(), options.negatives(), options.seed()));
        try (Hllm model = start.model(context);
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
            CatalogueEncoder.table(model, data.tokens(), CatalogueEncoder.DEFAULT_ROWS, null)
                    .close();
            double encoding = (System.nanoTime() - begin) / 1e9;
            return new Calibration(spent / steps, 1.5 * encoding + saving / SAVED_BYTES_PER_SECOND);
        }
    }

    /** Steps that fit into some seconds, at least one. */
    int steps(double seconds, long stepsPerEpoch) {
        return (int) Math.max(1, (seconds - epochEnd) / (step + epochEnd / stepsPerEpoch));
    }
}
