package org.hllm4j.cli;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Interactions;
import org.hllm4j.data.Sequences;
import org.hllm4j.data.Split;
import org.hllm4j.engine.Context;
import org.hllm4j.eval.Breakdown;
import org.hllm4j.eval.Evaluator;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.Pooling;
import org.hllm4j.run.Hashes;
import org.hllm4j.run.IdStart;
import org.hllm4j.run.ModelStart;
import org.hllm4j.run.PopularityStart;
import org.hllm4j.run.RunFolder;
import org.hllm4j.run.Start;
import org.hllm4j.serve.Recommender;
import org.hllm4j.train.TrainOptions;
import org.hllm4j.train.Trainer;
import org.hllm4j.train.TrainingPlan;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
        name = "compare",
        description =
                "Trains and evaluates several models on one data set under one budget; leaves a run folder of each,"
                        + " tables (compare.md) and plots.",
        footer = {
            "  hllm compare --llm SmolLM2-135M.gguf --items items.csv --interactions log.csv --out compared --minutes 30",
            "  hllm compare ... --models hllm --train-fraction 0.1,0.3,1 --item-init pretrained,random",
            "  hllm compare ... --lr hllm=5e-4,llm-id=1e-3 --batch-users hllm=64",
            "Interrupted (Ctrl-C), it loses little; the same command continues."
        })
final class CompareCommand extends Subcommand {
    @Option(
            names = "--models",
            split = ",",
            paramLabel = "KIND",
            description = "The models, as of train --model. Default: all.")
    private List<ModelKind> kinds = List.of(ModelKind.values());

    @Option(
            names = "--llm",
            paramLabel = "PATH",
            description =
                    "The pretrained model of HLLM's two sides, and the shape of LLM-ID: a Hugging Face folder or a"
                            + " GGUF file.")
    private Path llm;

    @Mixin
    private ItemOptions items;

    @Mixin
    private LogOptions log;

    @Option(names = "--out", required = true, paramLabel = "DIR", description = "Where runs, tables and plots go.")
    private Path out;

    @Option(
            names = "--minutes",
            paramLabel = "X",
            description =
                    "The budget: how long each training may take, its validations included; how many steps that is"
                            + " is measured first, and the learning rate falls over them. 0: the epochs alone count. Default:"
                            + " ${DEFAULT-VALUE}.")
    private double minutes = 10;

    @Option(
            names = "--epochs",
            split = ",",
            paramLabel = "KIND=N",
            description = "The most passes over the training sequences. Default: those of train.")
    private Map<ModelKind, Integer> epochs = Map.of();

    @Option(
            names = "--lr",
            split = ",",
            paramLabel = "KIND=RATE",
            description = "Peak learning rates. Default: 0.0001.")
    private Map<ModelKind, Double> rates = Map.of();

    @Option(
            names = "--batch-users",
            split = ",",
            paramLabel = "KIND=N",
            description = "Sequences per step. Default: those of train.")
    private Map<ModelKind, Integer> batchUsers = Map.of();

    @Option(
            names = "--negatives",
            paramLabel = "N",
            description = "Negatives per step, as of train; the same for all. Default: ${DEFAULT-VALUE}.")
    private int negatives;

    @Option(
            names = "--threshold",
            paramLabel = "COSINE",
            description =
                    "Cosine above which a negative counts as the target itself; 1, as few layers or random weights"
                            + " may need at the start: only the target is. Default: ${DEFAULT-VALUE}.")
    private double threshold = 1;

    @Option(
            names = "--id-width",
            split = ",",
            paramLabel = "KIND=N",
            description = "Numbers of an item id's vector. Default: 512.")
    private Map<ModelKind, Integer> idWidth = Map.of();

    @Option(
            names = "--train-fraction",
            split = ",",
            paramLabel = "SHARE",
            description = "Axis: train on the events of these shares of the users. Default: 1.")
    private List<Double> fractions = List.of(1.0);

    @Option(
            names = "--item-layers",
            split = ",",
            paramLabel = "N",
            description = "Axis: the first N layers of the Item LLM; 0: all. Default: 0.")
    private List<Integer> itemLayers = List.of(0);

    @Option(
            names = "--user-layers",
            split = ",",
            paramLabel = "N",
            description = "Axis: the first N layers of the User LLM; 0: all. Default: 0.")
    private List<Integer> userLayers = List.of(0);

    @Option(
            names = "--item-init",
            split = ",",
            paramLabel = "INIT",
            description = "Axis: how the Item LLM starts, pretrained or random. Default: pretrained.")
    private List<Start.Init> itemInits = List.of(Start.Init.PRETRAINED);

    @Option(
            names = "--user-init",
            split = ",",
            paramLabel = "INIT",
            description = "Axis: how HLLM's User LLM starts, pretrained or random. Default: pretrained.")
    private List<Start.Init> userInits = List.of(Start.Init.PRETRAINED);

    @Option(
            names = "--max-text-length",
            paramLabel = "N",
            description = "Tokens of an item's text, the rest is cut. Default: ${DEFAULT-VALUE}.")
    private int maxTextLength = 64;

    @Option(
            names = "--max-history",
            paramLabel = "N",
            description = "Events of a user that a model sees. Default: ${DEFAULT-VALUE}.")
    private int maxHistory = 50;

    @Option(
            names = "--text-keys",
            split = ",",
            paramLabel = "KEY",
            description =
                    "Columns of items.csv that make an item's text, in this order. Default: title,tag,description.")
    private List<String> textKeys = List.of("title", "tag", "description");

    @Option(names = "--seed", paramLabel = "N", description = "Of everything random. Default: ${DEFAULT-VALUE}.")
    private long seed = TrainOptions.DEFAULTS.seed();

    @Mixin
    private DeviceOptions device;

    @Mixin
    private JsonOption json;

    @Override
    public Integer call() {
        log.required();
        device.requireTraining();
        List<Entrant> entrants =
                new Entrant.Axes(kinds, fractions, itemLayers, userLayers, itemInits, userInits).entrants();
        check(entrants);
        Map<String, ComparisonReport.Row> rows = new LinkedHashMap<>();
        Interactions interactions = log.read(Catalogue.read(items.items, textKeys));
        try (Progress progress = progress();
                Context context = device.open()) {
            Map<ModelKind, Dataset> data = new EnumMap<>(ModelKind.class);
            for (int i = 0; i < entrants.size(); i++) {
                Entrant entrant = entrants.get(i);
                progress.say("Model " + (i + 1) + " of " + entrants.size() + ": " + entrant.folder());
                ModelStart start = start(entrant);
                ComparisonReport.Row row = row(
                        context,
                        entrant,
                        start,
                        data.computeIfAbsent(entrant.kind(), kind -> start.dataset(interactions, null)),
                        progress);
                if (row == null) {
                    return Main.INTERRUPTED;
                }
                rows.put(entrant.folder(), row);
                report(rows, interactions, context).write(out);
            }
            out().print(report(rows, interactions, context).table());
        }
        out().println("Tables and plots: " + out.resolve("compare.md"));
        Map<String, Object> results = new LinkedHashMap<>();
        rows.forEach((name, row) -> results.put(name, row.test()));
        json.write(results);
        return Main.OK;
    }

    private void check(List<Entrant> entrants) {
        boolean reads = kinds.contains(ModelKind.HLLM) || kinds.contains(ModelKind.LLM_ID);
        if (reads && llm == null) {
            throw wrongUsage("Missing required option: '--llm=PATH', for the models hllm and llm-id");
        }
        if (minutes < 0 || maxHistory < 1 || maxTextLength < 1) {
            throw wrongUsage("--minutes is " + minutes + ", --max-history " + maxHistory + ", --max-text-length "
                    + maxTextLength + "; expected at least 0, 1 and 1");
        }
        entrants.forEach(entrant -> {
            try {
                options(entrant);
            } catch (HllmException e) {
                throw wrongUsage("--models " + entrant.kind() + ": " + e.getMessage());
            }
        });
    }

    private TrainOptions options(Entrant entrant) {
        ModelKind kind = entrant.kind();
        TrainOptions usual = kind.defaults();
        return usual.withEpochs(epochs.getOrDefault(kind, usual.epochs()))
                .withLr(rates.getOrDefault(kind, usual.lr()))
                .withBatchUsers(batchUsers.getOrDefault(kind, usual.batchUsers()))
                .withNegatives(negatives)
                .withThreshold(threshold)
                .withTrainFraction(entrant.fraction() == null ? 1 : entrant.fraction())
                .withSeed(seed);
    }

    private ModelStart start(Entrant entrant) {
        int width = idWidth.getOrDefault(entrant.kind(), IdStart.WIDTH);
        return switch (entrant.kind()) {
            case HLLM ->
                new Start(
                        llm,
                        llm,
                        entrant.itemInit(),
                        entrant.userInit(),
                        Start.Freeze.NONE,
                        entrant.itemLayers(),
                        entrant.userLayers(),
                        Pooling.TOKEN,
                        maxTextLength,
                        maxHistory,
                        textKeys,
                        seed);
            case SASREC -> IdStart.sasrec(width, IdStart.LAYERS, IdStart.HEADS, maxHistory, textKeys, seed);
            case LLM_ID ->
                IdStart.llmId(width, llm, entrant.userLayers(), Start.Init.RANDOM, maxHistory, textKeys, seed);
            case POPULARITY -> new PopularityStart(maxHistory, textKeys);
        };
    }

    /** The entrant's results, trained and evaluated where they are not there yet; null after an interruption. */
    private ComparisonReport.Row row(
            Context context, Entrant entrant, ModelStart start, Dataset data, Progress progress) {
        Path folder = out.resolve(entrant.folder());
        Map<String, Object> identity = identity(start, options(entrant), data);
        Path file = folder.resolve("comparison.json");
        if (Files.exists(file)) {
            requireSame(identity, JsonOption.read(file), folder);
        } else {
            TrainOptions options = budget(context, start, options(entrant), data, folder, identity, progress);
            if (!TrainingRun.finished(folder)) {
                Map<String, Object> summary = new TrainingRun(start, options, folder)
                        .execute(context, data, progress, TrainCommand.again(spec()));
                if (!(boolean) summary.get("finished")) {
                    return null;
                }
            }
            Map<String, Object> found = new LinkedHashMap<>(identity);
            found.put("test", test(folder, options, data, progress));
            JsonOption.write(file, found);
        }
        Map<String, ?> summary = TrainingRun.summary(folder);
        return new ComparisonReport.Row(
                entrant,
                ComparisonReport.cast(JsonOption.read(file).get("test")),
                ((Number) summary.get("steps")).longValue(),
                ((Number) summary.get("best_epoch")).intValue(),
                ((Number) summary.get("seconds")).doubleValue());
    }

    /** What a folder must have been made with to be taken over. */
    private Map<String, Object> identity(ModelStart start, TrainOptions options, Dataset data) {
        Map<String, Object> identity = new LinkedHashMap<>(start.origin().start());
        identity.putAll(options.asMap());
        identity.put("minutes", minutes);
        identity.put("max_history", maxHistory);
        identity.put("max_text_length", maxTextLength);
        identity.put("text_keys", textKeys);
        identity.put("ids", Hashes.of(data.catalogue()));
        identity.put("events", data.interactions().size());
        return identity;
    }

    private static void requireSame(Map<String, Object> identity, Map<String, ?> found, Path folder) {
        identity.forEach((key, value) -> {
            if (!String.valueOf(value).equals(String.valueOf(found.get(key)))) {
                throw new HllmException(folder + " holds a model with another " + key + " (" + found.get(key) + ", not "
                        + value + "); name another folder with --out, or delete this one");
            }
        });
    }

    /** The options with the steps of the budget: measured once per run folder, so that a continuation has the same. */
    private TrainOptions budget(
            Context context,
            ModelStart start,
            TrainOptions options,
            Dataset data,
            Path folder,
            Map<String, Object> identity,
            Progress progress) {
        if (minutes == 0 || start.trained().equals(Hllm.Trained.NOTHING)) {
            return options;
        }
        Path file = folder.resolve("budget.json");
        if (!Files.exists(file)) {
            progress.say("Measuring how fast this machine is");
            long perEpoch = Trainer.steps(data, options.withEpochs(1), maxHistory);
            TrainingPlan plan = TrainingPlan.of(start, options, data, out, context.activations());
            Calibration calibration = Calibration.of(context, start, options, data, plan, 6 * minutes);
            long steps = Math.min(
                    perEpoch * options.epochs(), calibration.steps(60 * minutes - calibration.epochEnd(), perEpoch));
            Map<String, Object> choice = new LinkedHashMap<>(identity);
            choice.put("seconds_a_step", calibration.step());
            choice.put("steps", steps);
            choice.put("steps_an_epoch", perEpoch);
            RunFolder.create(folder);
            JsonOption.write(file, choice);
        }
        Map<String, ?> choice = JsonOption.read(file);
        requireSame(identity, choice, folder);
        int steps = ((Number) choice.get("steps")).intValue();
        int perEpoch = ((Number) choice.get("steps_an_epoch")).intValue();
        progress.say(String.format(
                Locale.ROOT,
                "%.2f s a step, %d steps an epoch: training for %d steps",
                ((Number) choice.get("seconds_a_step")).doubleValue(),
                perEpoch,
                steps));
        return options.withEpochs(Math.ceilDiv(steps, perEpoch)).withMaxSteps(steps);
    }

    private Map<String, Object> test(Path folder, TrainOptions options, Dataset data, Progress progress) {
        Interactions interactions = data.interactions();
        Catalogue catalogue = data.catalogue();
        boolean[] trained = new boolean[catalogue.size()];
        Trainer.sequences(data, options, maxHistory)
                .forEach(s -> Arrays.stream(s.items()).forEach(item -> trained[item] = true));
        Breakdown breakdown = new Breakdown(Sequences.popularity(interactions, catalogue.size()), trained);
        try (Recommender recommender = Recommender.open(
                new RunFolder(folder),
                catalogue,
                device.device(),
                device.storage(),
                progress.counter("items", "items", catalogue.size()))) {
            Evaluator.rank(
                    recommender.model(),
                    recommender.table(),
                    interactions,
                    List.of(Split.TEST),
                    progress.counter("evaluation", "histories", interactions.users()),
                    (split, held, rank) -> breakdown.add(held, interactions.events(held.user()).length - 1, rank));
        }
        return breakdown.asMap();
    }

    private ComparisonReport report(
            Map<String, ComparisonReport.Row> rows, Interactions interactions, Context context) {
        return new ComparisonReport(
                List.of(
                        String.format(
                                Locale.ROOT,
                                "Data: %d items, %d users, %d events.",
                                interactions.catalogue().size(),
                                interactions.users(),
                                interactions.size()),
                        String.format(
                                Locale.ROOT,
                                "Machine: %s, %d threads, %s.",
                                context.device(),
                                Context.threads(),
                                context.environment()),
                        "Budget: " + (minutes == 0 ? "the epochs of each" : minutes + " minutes of training each")
                                + ".",
                        "Command: `" + TrainCommand.again(spec()) + "`"),
                List.copyOf(rows.values()));
    }
}
