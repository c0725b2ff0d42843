package org.hllm4j.cli;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Interactions;
import org.hllm4j.data.MissingText;
import org.hllm4j.data.Split;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
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
        name = "quickstart",
        description = "Trains a small HLLM on real data within some minutes, evaluates it and shows recommendations.",
        footer = {
            "  hllm quickstart                 fetches MovieLens-100K and SmolLM2-135M (100 MB)",
            "  hllm quickstart --minutes 60",
            "  hllm quickstart --items items.csv --interactions log.csv --llm model/ --dir my-quickstart",
            "Run again, it continues an interrupted training and shows the results of a finished one."
        })
final class QuickstartCommand extends Subcommand {
    private static final int USERS = 5;
    private static final int RECOMMENDED = 5;
    private static final double SAFETY = 0.93; // share of the time that is planned with

    @Option(
            names = "--minutes",
            paramLabel = "N",
            description = "Time for training and evaluation. Default: ${DEFAULT-VALUE}.")
    private double minutes = 15;

    @Option(names = "--items", paramLabel = "FILE", description = "Your own items.csv, with --interactions.")
    private Path items;

    @Option(names = "--interactions", paramLabel = "FILE", description = "Your own interactions.csv.")
    private Path interactions;

    @Option(
            names = "--text-keys",
            split = ",",
            paramLabel = "KEY",
            description = "Columns of items.csv that make an item's text. Default: those of title, tag and description"
                    + " that it has.")
    private List<String> textKeys;

    @Option(names = "--llm", paramLabel = "PATH", description = "Your own model: a Hugging Face folder or a GGUF file.")
    private Path llm;

    @Option(names = "--dir", paramLabel = "DIR", description = "The run folder. Default: quickstart in the cache.")
    private Path dir;

    @Option(
            names = "--cache",
            paramLabel = "DIR",
            description = "Where what is fetched is kept. Default: hllm4j in $XDG_CACHE_HOME or ~/.cache.")
    private Path cache;

    @Option(names = "--restart", description = "Delete what an earlier quickstart left in the run folder.")
    private boolean restart;

    @Mixin
    private DeviceOptions device;

    @Mixin
    private JsonOption json;

    @Override
    public Integer call() {
        if ((items == null) != (interactions == null)) {
            throw wrongUsage("--items and --interactions belong together");
        }
        if (!(minutes > 0)) {
            throw wrongUsage("--minutes is " + minutes + ", expected more than 0");
        }
        device.requireTraining();
        Path cacheFolder = cache == null ? DemoFiles.defaultCache() : cache;
        Path folder = dir == null ? cacheFolder.resolve("quickstart") : dir;
        try (Progress progress = progress()) {
            DemoFiles files = new DemoFiles(cacheFolder, progress);
            if (items == null) {
                Path movieLens = files.movieLens();
                items = movieLens.resolve("items.csv");
                interactions = movieLens.resolve("interactions.csv");
            }
            boolean ownLlm = llm != null;
            llm = ownLlm ? llm : files.smolLm2();
            long begin = System.nanoTime();
            Start start = QuickstartRecipe.BEST.start(llm, textKeys == null ? keysOf(items) : textKeys);
            if (restart) {
                new RunFolder(folder).clear();
            }
            Dataset data = start.dataset(items, interactions, MissingText.ERROR, null);
            progress.say(
                    data.catalogue().size() + " items, " + data.interactions().users() + " users, "
                            + data.interactions().size() + " events");
            try (Context context = device.open()) {
                TrainOptions options = options(context, start, data, folder, begin, progress);
                if (TrainingRun.finished(folder)) {
                    progress.say(folder + " holds a finished quickstart: its results. --restart trains again");
                } else {
                    Map<String, Object> summary = new TrainingRun(start, options, folder)
                            .execute(context, data, progress, TrainCommand.again(spec()));
                    if (!(boolean) summary.get("finished")) {
                        return Main.INTERRUPTED;
                    }
                }
            }
            show(folder, start.textKeys(), data, progress, ownLlm);
        }
        return Main.OK;
    }

    private static List<String> keysOf(Path items) {
        List<String> columns = Catalogue.read(items, List.of()).columns();
        List<String> usual = List.of("title", "tag", "description");
        List<String> keys = usual.stream().filter(columns::contains).toList();
        return keys.isEmpty() ? columns.subList(1, columns.size()) : keys;
    }

    // ---- How long to train: decided once per run folder, so that a continuation has the same schedule ----

    private TrainOptions options(
            Context context, Start start, Dataset data, Path folder, long begin, Progress progress) {
        QuickstartRecipe recipe = QuickstartRecipe.BEST;
        Path file = folder.resolve("quickstart.json");
        Map<String, Object> identity = new LinkedHashMap<>();
        identity.put("items", items.toAbsolutePath().toString());
        identity.put("interactions", interactions.toAbsolutePath().toString());
        identity.put("llm", llm.toAbsolutePath().toString());
        identity.put("text_keys", start.textKeys());
        if (Files.exists(file) && !restart) {
            Map<String, ?> found = JsonOption.read(file);
            identity.forEach((key, value) -> {
                if (!value.equals(found.get(key))) {
                    throw new HllmException(folder + " holds a quickstart with other " + key + " (" + found.get(key)
                            + "); name another folder with --dir, or begin again with --restart");
                }
            });
            return recipe.options(((Number) found.get("epochs")).intValue(), ((Number) found.get("steps")).intValue());
        }

        TrainOptions all = recipe.options(recipe.maxEpochs(), 0);
        TrainingPlan plan = TrainingPlan.of(start, all, data, folder, context.activations());
        if (plan.freeBytes() < plan.disk()) {
            throw new HllmException(folder + ": " + plan.disk() / 1_000_000 + " MB are needed there and "
                    + plan.freeBytes() / 1_000_000 + " MB are free; name another folder with --dir");
        }
        progress.say("Measuring how fast this machine is");
        Calibration calibration = Calibration.of(context, start, all, data, plan, 3 * minutes);
        long perEpoch = Trainer.steps(data, recipe.options(1, 0), start.maxHistory());
        double left = 60 * minutes * SAFETY - (System.nanoTime() - begin) / 1e9 - calibration.epochEnd();
        int steps = (int) Math.min(recipe.maxEpochs() * perEpoch, calibration.steps(left, perEpoch));
        int epochs = (int) Math.ceilDiv((long) steps, perEpoch);
        progress.say(String.format(
                Locale.ROOT,
                "%.2f s a step, %d steps an epoch: training for %d steps, about %s",
                calibration.step(),
                perEpoch,
                steps,
                Progress.duration(steps * calibration.step() + epochs * calibration.epochEnd())));
        Map<String, Object> choice = new LinkedHashMap<>(identity);
        choice.put("minutes", minutes);
        choice.put("seconds_a_step", calibration.step());
        choice.put("epochs", epochs);
        choice.put("steps", steps);
        RunFolder.create(folder);
        JsonOption.write(file, choice);
        return recipe.options(epochs, steps);
    }

    // ---- Results ----

    private void show(Path folder, List<String> keys, Dataset data, Progress progress, boolean ownLlm) {
        Interactions log = data.interactions();
        Catalogue catalogue = data.catalogue();
        try (Recommender recommender = Recommender.open(
                new RunFolder(folder),
                catalogue,
                device.device(),
                DType.F32,
                progress.counter("items", "items", catalogue.size()))) {
            MetricTable table = EvaluateCommand.evaluate(ModelKind.HLLM, recommender, log, progress);
            int[] users = IntStream.range(0, Math.min(USERS, log.users()))
                    .map(i -> (int) ((long) i * log.users() / USERS))
                    .toArray();
            List<String> names = new ArrayList<>();
            List<int[]> histories = new ArrayList<>();
            for (int user : users) {
                names.add(log.userId(user));
                histories.add(log.events(user));
            }
            List<Listing> listings = Listing.of(recommender, names, histories, RECOMMENDED);

            out().println(table.text());
            out().println();
            out().println(verdict(table));
            out().println();
            listings.forEach(listing -> out().println(listing.text(catalogue, keys)));
            out().print(closing(folder, ownLlm));
            out().flush();
            Map<String, Object> results = new LinkedHashMap<>();
            results.put("run", folder.toString());
            results.put("metrics", table.asMap());
            results.put(
                    "users",
                    listings.stream().map(l -> l.asMap(catalogue, keys)).toList());
            json.write(results);
        }
    }

    private static String verdict(MetricTable table) {
        double hllm = table.model().get(Split.TEST).ndcg(10);
        double popularity = table.popularity().get(Split.TEST).ndcg(10);
        return String.format(
                Locale.ROOT,
                "This HLLM is %s recommending what is popular: NDCG@10 %.2f %% and %.2f %% on the test split.",
                hllm > popularity ? "better than" : "not better than",
                100 * hllm,
                100 * popularity);
    }

    private String closing(Path folder, boolean ownLlm) {
        QuickstartRecipe recipe = QuickstartRecipe.BEST;
        String again = " --items " + TrainCommand.quoted(items.toString()) + " --interactions "
                + TrainCommand.quoted(interactions.toString());
        String run = TrainCommand.quoted(folder.toString());
        return """
            This is a demonstration: only the first layers (%d of the Item, %d of the User LLM), some minutes of training%s.
            A real run takes all layers, full-precision start weights, longer histories, more negatives and hours, on a
            GPU for models of a billion parameters; `hllm train --plan` says what it needs.

            Saved
              %s
            Try
              hllm recommend --run %s --items %s --history ID,ID,...
              hllm evaluate --run %s%s
              hllm export --run %s%s --out exported
            """.formatted(
                        recipe.itemLayers(),
                        recipe.userLayers(),
                        ownLlm ? "" : ",\nand start weights of 4 bits",
                        folder,
                        run,
                        TrainCommand.quoted(items.toString()),
                        run,
                        again,
                        run,
                        again);
    }
}
