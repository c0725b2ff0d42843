package org.hllm4j.train;

import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.hllm4j.HllmException;
import org.hllm4j.data.Batch;
import org.hllm4j.data.Batches;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Sequences;
import org.hllm4j.data.Split;
import org.hllm4j.data.TrainingSequence;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Tensor;
import org.hllm4j.eval.Evaluator;
import org.hllm4j.eval.RankingMetrics;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.Hashes;
import org.hllm4j.run.Origin;
import org.hllm4j.run.RunFolder;

/**
 * Generative training (HLLM section 3.2): batches of user sequences, InfoNCE, AdamW, the validation after each epoch; the
 * best model by NDCG@200 becomes the run folder's. Interrupted at any moment, it loses at most the work since the last
 * checkpoint, and continues with the same numbers.
 */
public final class Trainer {
    /** Validation metric by which models are compared. */
    private static final String CRITERION = "ndcg@200";

    private final Hllm model;
    private final Dataset data;
    private final TrainOptions options;
    private final RunFolder run;
    private final Origin origin;
    private final TrainListener listener;

    /**
     * @param finished false when the listener asked to stop; a checkpoint was written
     * @param steps done in all
     * @param bestEpoch of the saved model, from 1; 0 when nothing was validated
     * @param validation metrics of the saved model, empty when nothing was validated
     */
    public record Summary(boolean finished, long steps, int bestEpoch, Map<String, Double> validation) {}

    private Trainer(
            Hllm model, Dataset data, TrainOptions options, RunFolder run, Origin origin, TrainListener listener) {
        this.model = model;
        this.data = data;
        this.options = options;
        this.run = run;
        this.origin = origin;
        this.listener = listener;
    }

    /**
     * Trains the model, from the run folder's newest checkpoint if it has one.
     *
     * @param model with its start weights; afterwards the last, not the best, weights
     */
    public static Summary fit(
            Hllm model, Dataset data, TrainOptions options, RunFolder run, Origin origin, TrainListener listener) {
        return new Trainer(model, data, options, run, origin, listener).fit();
    }

    /** Steps that these options make of this data. */
    public static long steps(Dataset data, TrainOptions options, int maxHistory) {
        return total(batches(data, options, maxHistory), options);
    }

    private static Batches batches(Dataset data, TrainOptions options, int maxHistory) {
        List<TrainingSequence> sequences = Sequences.training(data.interactions(), maxHistory, options.splitLong());
        if (sequences.isEmpty()) {
            throw new HllmException(
                    "there is nothing to train on: no user has 2 training events (the last 2 of 3 or more "
                            + "events are held out)");
        }
        return new Batches(
                sequences,
                data.catalogue().size(),
                new Batches.Settings(options.batchUsers(), maxHistory, options.negatives(), options.seed()));
    }

    private static long total(Batches batches, TrainOptions options) {
        long all = (long) options.epochs() * batches.batchesPerEpoch();
        return options.maxSteps() > 0 ? Math.min(all, options.maxSteps()) : all;
    }

    private Summary fit() {
        if (!model.logitScale().trainable()) {
            throw new HllmException("both sides are frozen: there is nothing to train");
        }
        Batches batches = batches(data, options, model.config().maxHistory());
        long perEpoch = batches.batchesPerEpoch();
        long total = total(batches, options);
        CosineSchedule schedule = new CosineSchedule(options.lr(), total * options.warmup(), total);
        boolean itemsFrozen = !model.of(Hllm.Side.ITEM).getFirst().trainable();

        try (AdamWOptimizer optimizer =
                        new AdamWOptimizer(model, (float) options.weightDecay(), (float) options.clip());
                Tensor frozen = itemsFrozen ? encode("frozen items") : null) {
            Checkpoint state = Checkpoint.restore(run, model, optimizer, fingerprint());
            if (state == null) {
                state = Checkpoint.start(fingerprint());
            } else {
                listener.resumed(
                        state.step(), state.environment().equals(Context.buildInfo()) ? null : state.environment());
            }
            Map<String, Double> best =
                    state.bestEpoch() > 0 ? run.manifest().metrics().get("validation") : Map.of();
            try (GenerativeStep step = new GenerativeStep(
                            model, data.tokens(), options.maxRows(), (float) options.threshold(), frozen);
                    StepLogFile log = new StepLogFile(run.path(), state.step())) {
                long lastSave = System.nanoTime();
                while (state.step() < total) {
                    long number = state.step();
                    int epoch = (int) (number / perEpoch);
                    StepLog line =
                            step(step, optimizer, schedule, batches.batch(epoch, (int) (number % perEpoch)), total);
                    log.step(line);
                    listener.step(line);
                    state = state.next();

                    boolean epochEnds = state.step() % perEpoch == 0 || state.step() == total;
                    if (epochEnds && options.evaluate()) {
                        Map<String, Double> found = validate(frozen, epoch + 1, state.step(), state.bestNdcg());
                        log.epoch(state.step(), epoch + 1, found);
                        if (found.get(CRITERION) > state.bestNdcg()) {
                            best = found;
                            state = state.withBest(found.get(CRITERION), epoch + 1);
                        } else if (epoch + 1 - state.bestEpoch() >= options.patience()) {
                            break;
                        }
                    }
                    if (state.step() < total) {
                        boolean stop = listener.stopRequested();
                        if (stop || (System.nanoTime() - lastSave) / 60e9 >= options.checkpointMinutes()) {
                            log.flush();
                            state.save(run, model, optimizer);
                            lastSave = System.nanoTime();
                        }
                        if (stop) {
                            return new Summary(false, state.step(), state.bestEpoch(), best);
                        }
                    }
                }
                if (!options.evaluate()) {
                    save(state.step(), Map.of());
                    try (Tensor table = itemsFrozen ? null : encode("items")) {
                        run.saveItems(itemsFrozen ? frozen : table, data.catalogue());
                    }
                }
            }
            Checkpoint.deleteAll(run);
            return new Summary(true, state.step(), state.bestEpoch(), best);
        }
    }

    private StepLog step(
            GenerativeStep step, AdamWOptimizer optimizer, CosineSchedule schedule, Batch batch, long total) {
        long start = System.nanoTime();
        optimizer.zeroGradients();
        GenerativeStep.Result result = step.run(batch.sequences(), batch.negatives());
        // The first layers of a model may begin with vectors that are all alike; the warm-up draws them apart.
        if (result.nceSamples() <= 2 && batch.negatives().length > 2 && batch.step() >= schedule.warmupSteps()) {
            throw new HllmException("training has collapsed at step " + (batch.step() + 1) + ": only "
                    + result.nceSamples() + " of " + (batch.negatives().length + 1)
                    + " logits are left, since all item "
                    + "vectors have become alike (cosine above " + options.threshold() + "). Lower the learning rate, "
                    + "lengthen the warm-up, use more layers or --threshold 1, or start from pretrained weights");
        }
        double lr = schedule.rate(batch.step());
        double norm = optimizer.step(lr);
        return new StepLog(
                batch.step() + 1, total, batch.epoch() + 1, lr, result, norm, (System.nanoTime() - start) / 1e9);
    }

    /** Validates the model as it stands, and saves it when it is the best so far. */
    private Map<String, Double> validate(Tensor frozen, int epoch, long step, double bestNdcg) {
        try (Tensor encoded = frozen == null ? encode("validation items") : null) {
            Tensor table = frozen == null ? encoded : frozen;
            long users = data.interactions().users();
            Map<Split, RankingMetrics> metrics = Evaluator.evaluate(
                    model,
                    table,
                    data.interactions(),
                    List.of(Split.VALIDATION),
                    done -> listener.progress("validation users", done, users));
            Evaluator.requireUsers(metrics);
            Map<String, Double> found = metrics.get(Split.VALIDATION).asMap();
            boolean best = found.get(CRITERION) > bestNdcg;
            if (best) {
                save(step, Map.of("validation", found));
                run.saveItems(table, data.catalogue());
            }
            listener.epoch(epoch, found, best);
            return found;
        }
    }

    private void save(long step, Map<String, Map<String, Double>> metrics) {
        Map<String, Object> training = new LinkedHashMap<>(origin.start());
        training.putAll(options.asMap());
        run.save(
                model,
                step,
                new RunFolder.Description(
                        origin.textKeys(),
                        data.catalogue(),
                        origin.tokenizerJson(),
                        training,
                        new HashMap<>(metrics),
                        environment()));
    }

    private Map<String, String> environment() {
        Map<String, String> environment = new TreeMap<>();
        environment.put("native", Context.buildInfo());
        environment.put("device", model.context().device());
        environment.put("threads", Integer.toString(Context.threads()));
        environment.put("java", Runtime.version().toString());
        environment.put("os", System.getProperty("os.name") + " " + System.getProperty("os.arch"));
        return environment;
    }

    private Tensor encode(String what) {
        long items = data.tokens().length;
        return CatalogueEncoder.table(
                model, data.tokens(), CatalogueEncoder.DEFAULT_ROWS, done -> listener.progress(what, done, items));
    }

    /** Of all that a continuation must have in common with the run. */
    private String fingerprint() {
        StringBuilder all = new StringBuilder();
        all.append(new TreeMap<>(options.asMap()))
                .append(new TreeMap<>(origin.start()))
                .append(origin.textKeys())
                .append(model.config())
                .append(data.interactions().size())
                .append(Hashes.of(data.catalogue()))
                .append(Hashes.of(origin.tokenizerJson().getBytes(StandardCharsets.UTF_8)));
        return Hashes.of(all.toString().getBytes(StandardCharsets.UTF_8));
    }
}
