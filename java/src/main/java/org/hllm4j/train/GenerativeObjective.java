package org.hllm4j.train;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.data.Batch;
import org.hllm4j.data.Batches;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Sequences;
import org.hllm4j.data.Split;
import org.hllm4j.data.TrainingSequence;
import org.hllm4j.engine.Tensor;
import org.hllm4j.eval.Evaluator;
import org.hllm4j.eval.RankingMetrics;
import org.hllm4j.model.Hllm;

/** The next item (HLLM section 3.2): InfoNCE over the training events, ranks of the held-out ones. */
record GenerativeObjective(Hllm model, Dataset data, TrainOptions options) implements Objective {
    static List<TrainingSequence> sequences(Dataset data, TrainOptions options, int maxHistory) {
        List<TrainingSequence> all = Sequences.training(data.interactions(), maxHistory, options.splitLong());
        return Sequences.sample(all, options.trainFraction(), options.seed());
    }

    static Batches batches(Dataset data, TrainOptions options, int maxHistory) {
        List<TrainingSequence> chosen = sequences(data, options, maxHistory);
        if (chosen.isEmpty()) {
            throw new HllmException("there is nothing to train on: no user"
                    + (options.trainFraction() < 1 ? " of the train fraction " + options.trainFraction() : "")
                    + " has 2 training events (the last 2 of 3 or more events are held out)");
        }
        // Of a fraction, items that it does not hold are new ones, which are not there yet.
        IntStream items = options.trainFraction() < 1
                ? chosen.stream()
                        .flatMapToInt(s -> Arrays.stream(s.items()))
                        .sorted()
                        .distinct()
                : IntStream.range(0, data.catalogue().size());
        return new Batches(
                chosen,
                items.toArray(),
                new Batches.Settings(options.batchUsers(), maxHistory, options.negatives(), options.seed()));
    }

    @Override
    public Batches batches() {
        return batches(data, options, model.config().maxHistory());
    }

    @Override
    public GenerativeStep step(Tensor table) {
        return new GenerativeStep(
                model,
                data.tokens(),
                options.maxRows(),
                (float) options.threshold(),
                table,
                options.dropout(),
                options.seed());
    }

    @Override
    public void check(Batch batch, StepResult result) {
        NextItemLoss.requireSpread(batch, ((GenerativeStep.Result) result).nceSamples(), options.threshold());
    }

    @Override
    public String criterion() {
        return "ndcg@200";
    }

    @Override
    public Map<String, Double> validate(Tensor table, TrainListener listener) {
        long users = data.interactions().users();
        Map<Split, RankingMetrics> metrics = Evaluator.evaluate(
                model,
                table,
                data.interactions(),
                List.of(Split.VALIDATION),
                done -> listener.progress("validation users", done, users));
        Evaluator.requireUsers(metrics);
        return metrics.get(Split.VALIDATION).asMap();
    }

    @Override
    public float[] itemPriors() {
        return null;
    }

    @Override
    public Map<String, Object> asMap() {
        return Map.of();
    }
}
