package org.hllm4j.train;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.data.Batch;
import org.hllm4j.data.Batches;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.LabelledSequence;
import org.hllm4j.data.LabelledSequences;
import org.hllm4j.data.Split;
import org.hllm4j.data.TrainingSequence;
import org.hllm4j.engine.Tensor;
import org.hllm4j.eval.RankerEvaluator;
import org.hllm4j.model.Hllm;

/** Which events are liked (HLLM section 3.3): cross entropy of the labels, and lambda times InfoNCE. */
final class RankingObjective implements Objective {
    private final Hllm model;
    private final Dataset data;
    private final TrainOptions options;
    private final RankingOptions ranking;
    private final LabelledSequences labelled;
    private final List<LabelledSequence> training;

    RankingObjective(Hllm model, Dataset data, TrainOptions options, RankingOptions ranking) {
        this.model = model;
        this.data = data;
        this.options = options;
        this.ranking = ranking;
        labelled = ranking.events(data, model.config().maxHistory());
        training = labelled.training(options.splitLong());
        if (training.isEmpty()) {
            throw new HllmException("there is nothing to train on: no event before "
                    + ranking.split().validationFrom() + " has a value in column "
                    + ranking.label().column());
        }
    }

    @Override
    public Batches batches() {
        return new Batches(
                training.stream()
                        .map(s -> new TrainingSequence(s.user(), s.items()))
                        .toList(),
                IntStream.range(0, data.catalogue().size()).toArray(),
                new Batches.Settings(
                        options.batchUsers(), model.config().maxHistory(), options.negatives(), options.seed()));
    }

    @Override
    public Step step(Tensor table) {
        DiscriminativeStep step = new DiscriminativeStep(
                model, data.tokens(), options.maxRows(), (float) options.threshold(), (float) ranking.lambda(), table);
        return new Step() {
            @Override
            public StepResult run(Batch batch) {
                return step.run(
                        Arrays.stream(batch.members()).mapToObj(training::get).toList(), batch.negatives());
            }

            @Override
            public void close() {
                step.close();
            }
        };
    }

    @Override
    public void check(Batch batch, StepResult result) {
        DiscriminativeStep.Result found = (DiscriminativeStep.Result) result;
        if (found.topK().length > 0) {
            NextItemLoss.requireSpread(batch, found.nceSamples(), options.threshold());
        }
    }

    @Override
    public String criterion() {
        return "auc";
    }

    @Override
    public Map<String, Double> validate(Tensor table, TrainListener listener) {
        long sequences = labelled.evaluation(Split.VALIDATION).size();
        return RankerEvaluator.evaluate(
                        model,
                        table,
                        labelled,
                        Split.VALIDATION,
                        done -> listener.progress("validation histories", done, sequences))
                .asMap();
    }

    @Override
    public float[] itemPriors() {
        return labelled.prior() == null ? null : labelled.prior().values();
    }

    @Override
    public Map<String, Object> asMap() {
        Map<String, Object> map = new LinkedHashMap<>(ranking.asMap());
        map.put("fusion", model.config().fusion().name().toLowerCase(Locale.ROOT));
        return map;
    }
}
