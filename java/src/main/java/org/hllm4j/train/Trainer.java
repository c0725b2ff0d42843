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
import org.hllm4j.data.TrainingSequence;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.Hashes;
import org.hllm4j.run.Origin;
import org.hllm4j.run.RunFolder;

/**
 * Training: batches of user sequences, the objective's loss (InfoNCE, HLLM section 3.2, or a ranker's, section 3.3), AdamW,
 * the validation after each epoch; the best model by NDCG@200 (a ranker's: by AUC) becomes the run folder's. Interrupted at
 * any moment, it loses at most the work since the last checkpoint, and continues with the same numbers.
 */
public final class Trainer {
    private final Hllm model;
    private final Dataset data;
    private final TrainOptions options;
    private final Objective objective;
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
            Hllm model,
            Dataset data,
            TrainOptions options,
            Objective objective,
            RunFolder run,
            Origin origin,
            TrainListener listener) {
        this.model = model;
        this.data = data;
        this.options = options;
        this.objective = objective;
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
        Objective next = new GenerativeObjective(model, data, options);
        return new Trainer(model, data, options, next, run, origin, listener).fit();
    }

    /**
     * Trains a model's ranking head, and what else of it is trained, in the same way.
     *
     * @param data its log was read with the column of the label rule
     */
    public static Summary fitRanker(
            Hllm model,
            Dataset data,
            TrainOptions options,
            RankingOptions ranking,
            RunFolder run,
            Origin origin,
            TrainListener listener) {
        Objective liked = new RankingObjective(model, data, options, ranking);
        return new Trainer(model, data, options, liked, run, origin, listener).fit();
    }

    /** Validates and saves a model in which nothing is trained, as it is. */
    public static Summary keep(
            Hllm model, Dataset data, TrainOptions options, RunFolder run, Origin origin, TrainListener listener) {
        Objective next = new GenerativeObjective(model, data, options);
        return new Summary(
                true, 0, 1, new Trainer(model, data, options, next, run, origin, listener).validate(null, 1, 0, -1));
    }

    /** Steps that these options make of this data. */
    public static long steps(Dataset data, TrainOptions options, int maxHistory) {
        return total(GenerativeObjective.batches(data, options, maxHistory), options);
    }

    /** The sequences of this data that these options train on. */
    public static List<TrainingSequence> sequences(Dataset data, TrainOptions options, int maxHistory) {
        return GenerativeObjective.sequences(data, options, maxHistory);
    }

    /** The batches that these options make of this data. */
    public static Batches batches(Dataset data, TrainOptions options, int maxHistory) {
        return GenerativeObjective.batches(data, options, maxHistory);
    }

    private static long total(Batches batches, TrainOptions options) {
        long all = (long) options.epochs() * batches.batchesPerEpoch();
        return options.maxSteps() > 0 ? Math.min(all, options.maxSteps()) : all;
    }

    private Summary fit() {
        if (model.parameters().values() == null) {
            throw new HllmException("both sides are frozen: there is nothing to train");
        }
        model.recompute(options.recompute());
        Batches batches = objective.batches();
        long perEpoch = batches.batchesPerEpoch();
        long total = total(batches, options);
        CosineSchedule schedule = new CosineSchedule(options.lr(), total * options.warmup(), total);
        boolean itemsFrozen = !model.trains(Hllm.Side.ITEM);

        try (AdamWOptimizer optimizer =
                        new AdamWOptimizer(model, (float) options.weightDecay(), (float) options.clip());
                Tensor frozen = itemsFrozen ? encode("frozen items") : null) {
            String environment = model.context().environment();
            String weights = Hashes.ofFrozen(model.parameters());
            Checkpoint state = Checkpoint.restore(run, model, optimizer, fingerprint(), weights);
            if (state == null) {
                state = Checkpoint.start(fingerprint(), weights, environment);
            } else {
                listener.resumed(state.step(), state.environment().equals(environment) ? null : state.environment());
            }
            Map<String, Double> best =
                    state.bestEpoch() > 0 ? run.manifest().metrics().get("validation") : Map.of();
            try (Objective.Step step = objective.step(frozen);
                    StepLogFile log = new StepLogFile(run.path(), state.step())) {
                long lastSave = System.nanoTime();
                while (state.step() < total) {
                    long number = state.step();
                    int epoch = (int) (number / perEpoch);
                    StepLog line =
                            step(step, optimizer, schedule, batches.batch(epoch, (int) (number % perEpoch)), total);
                    log.step(line);
                    listener.step(line);
                    state = state.next(environment);

                    boolean epochEnds = state.step() % perEpoch == 0 || state.step() == total;
                    if (epochEnds && options.evaluate()) {
                        Map<String, Double> found = validate(frozen, epoch + 1, state.step(), state.best());
                        log.epoch(state.step(), epoch + 1, found);
                        if (found.get(objective.criterion()) > state.best()) {
                            best = found;
                            state = state.withBest(found.get(objective.criterion()), epoch + 1);
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
            Objective.Step step, AdamWOptimizer optimizer, CosineSchedule schedule, Batch batch, long total) {
        TrainingStepEvent event = new TrainingStepEvent();
        event.begin();
        long start = System.nanoTime();
        optimizer.zeroGradients();
        StepResult result = step.run(batch);
        if (batch.step() >= schedule.warmupSteps()) {
            objective.check(batch, result);
        }
        double lr = schedule.rate(batch.step());
        long middle = System.nanoTime();
        double norm = optimizer.step(lr);
        if (event.isEnabled()) {
            model.context().synchronize(); // the time of the optimiser is not the next step's
        }
        event.done(batch.step() + 1, batch.sequences().length, result, (System.nanoTime() - middle) / 1e9);
        return new StepLog(
                batch.step() + 1, total, batch.epoch() + 1, lr, result, norm, (System.nanoTime() - start) / 1e9);
    }

    /** Validates the model as it stands, and saves it when it is the best so far. */
    private Map<String, Double> validate(Tensor frozen, int epoch, long step, double before) {
        try (Tensor encoded = frozen == null ? encode("validation items") : null) {
            Tensor table = frozen == null ? encoded : frozen;
            Map<String, Double> found = objective.validate(table, listener);
            boolean best = found.get(objective.criterion()) > before;
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
        if (model.parameters().values() != null) {
            training.putAll(options.asMap());
            training.putAll(objective.asMap());
            training.put("recompute", options.recompute());
        }
        run.save(
                model,
                step,
                new RunFolder.Description(
                        origin.textKeys(),
                        data.catalogue(),
                        origin.tokenizerJson(),
                        training,
                        new HashMap<>(metrics),
                        environment(),
                        objective.itemPriors()));
    }

    private Map<String, String> environment() {
        Map<String, String> environment = new TreeMap<>();
        environment.put("native", model.context().environment());
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
                .append(new TreeMap<>(objective.asMap()))
                .append(new TreeMap<>(origin.start()))
                .append(origin.textKeys())
                .append(model.config())
                .append(data.interactions().size())
                .append(Hashes.of(data.catalogue()))
                .append(Hashes.of(origin.tokenizerJson().getBytes(StandardCharsets.UTF_8)));
        return Hashes.of(all.toString().getBytes(StandardCharsets.UTF_8));
    }
}
