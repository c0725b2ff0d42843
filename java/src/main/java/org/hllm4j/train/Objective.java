package org.hllm4j.train;

import java.util.Map;
import org.hllm4j.data.Batch;
import org.hllm4j.data.Batches;
import org.hllm4j.engine.Tensor;

/** What a training is for: batches, the loss of each, and the validation that finds the best model. */
sealed interface Objective permits GenerativeObjective, RankingObjective {
    /** Forward and backward of batches; owns its memory. */
    interface Step extends AutoCloseable {
        /** Adds to the gradients of what is trained. */
        StepResult run(Batch batch);

        @Override
        void close();
    }

    Batches batches();

    /** @param table item vectors [N, D] of a frozen item side, else null */
    Step step(Tensor table);

    /**
     * Stops a training that goes nowhere; asked after the warm-up, in which vectors that begin alike are drawn apart.
     */
    void check(Batch batch, StepResult result);

    /** Metric of the validation by which models are compared: more is better. */
    String criterion();

    /** @param table item vectors [N, D] of the model as it stands */
    Map<String, Double> validate(Tensor table, TrainListener listener);

    /** What is added to the logit of each item of the catalogue, saved with the model; null: nothing. */
    float[] itemPriors();

    /** What results depend on beside {@link TrainOptions}, by name. */
    Map<String, Object> asMap();
}
