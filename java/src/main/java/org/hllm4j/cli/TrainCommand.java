package org.hllm4j.cli;

import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;
import org.hllm4j.data.Catalogue;
import org.hllm4j.data.Dataset;
import org.hllm4j.engine.Context;
import org.hllm4j.run.ModelStart;
import org.hllm4j.run.RunFolder;
import org.hllm4j.run.Start;
import org.hllm4j.train.TrainOptions;
import org.hllm4j.train.TrainingPlan;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;

@Command(
        name = "train",
        description =
                "Trains an HLLM from a pretrained LLM, items and interactions, or a baseline; leaves a run folder.",
        footer = {
            "  hllm train --llm SmolLM2-135M.gguf --items items.csv --interactions log.csv.gz --out run",
            "  hllm train ... --item-layers 6 --user-layers 6 --lr 3e-4 --epochs 3",
            "  hllm train ... --item-lora 8 --user-lora 8 --lr 1e-3",
            "  hllm train --model sasrec --items items.csv --interactions log.csv --out baseline",
            "  hllm train ... --plan         memory, disk and steps; trains nothing",
            "Interrupted (Ctrl-C), it writes a checkpoint; the same command continues."
        })
final class TrainCommand extends Subcommand {
    @Mixin
    private ModelOptions model;

    @Mixin
    private StartOptions start;

    @Mixin
    private ItemOptions items;

    @Mixin
    private LogOptions log;

    @Option(names = "--out", required = true, paramLabel = "DIR", description = "The run folder.")
    private Path out;

    @Option(
            names = "--train-fraction",
            paramLabel = "SHARE",
            description =
                    "Train on the events of this share of the users, drawn by --seed; all are evaluated, and items that"
                            + " nobody of the share has are new to the model: no negatives either. Default:"
                            + " ${DEFAULT-VALUE}.")
    private double trainFraction = 1;

    @Option(
            names = "--dropout",
            paramLabel = "SHARE",
            description =
                    "Of the user side's input vectors and of what each half of a layer adds, what a step leaves out."
                            + " Default: 0; of sasrec 0.1.")
    private Double dropout;

    @Option(names = "--restart", description = "Delete what an earlier training left in the run folder.")
    private boolean restart;

    @Option(names = "--plan", description = "Print the memory, the disk and the steps that this needs, and stop.")
    private boolean plan;

    @Mixin
    private TrainingOptions training;

    @Mixin
    private DeviceOptions device;

    @Mixin
    private JsonOption json;

    @Override
    public Integer call() {
        log.required();
        if (!(trainFraction > 0 && trainFraction <= 1)) {
            throw wrongUsage("--train-fraction is " + trainFraction + ", expected a share above 0, up to 1");
        }
        TrainOptions usual = model.kind.defaults();
        double thinning = dropout == null ? usual.dropout() : dropout;
        if (!(thinning >= 0 && thinning < 1)) {
            throw wrongUsage("--dropout is " + thinning + ", expected a share below 1");
        }
        TrainOptions options =
                training.options(usual).withTrainFraction(trainFraction).withDropout(thinning);
        ModelStart from = model.start(start, training.seed);
        if (start.freeze == Start.Freeze.BOTH) {
            throw wrongUsage("--freeze both leaves nothing to train; it is for train-ranker");
        }
        device.requireTraining();
        if (TrainingRun.finished(out) && !restart && !plan) {
            out().println(out + " holds a finished training: nothing to do. --restart trains again, "
                    + "`hllm evaluate --run " + out + " ...` shows how good it is.");
            json.write(TrainingRun.summary(out));
            return Main.OK;
        }
        try (Progress progress = progress()) {
            Dataset data = from.dataset(log.read(Catalogue.read(items.items, from.textKeys())), null);
            TrainingPlan needs = TrainingPlan.of(from, options, data, out, device.activations());
            if (plan) {
                device.apply();
                out().println(text(needs, Context.availableBytes(device.device())));
                json.write(needs.asMap());
                return Main.OK;
            }
            if (needs.freeBytes() < needs.disk()) {
                progress.say("Warning: " + out + " may take " + needs.disk() / 1_000_000 + " MB, and "
                        + needs.freeBytes() / 1_000_000 + " MB are free there");
            }
            progress.say(
                    data.catalogue().size() + " items, " + data.interactions().users() + " users, "
                            + data.interactions().size() + " events");
            if (options.recompute()) {
                progress.say("Activations take " + size(needs.activations()) + " (estimated): " + recomputation(needs));
            }
            try (Context context = device.open()) {
                if (restart) {
                    new RunFolder(out).clear();
                }
                Map<String, Object> summary =
                        new TrainingRun(from, options, out).execute(context, data, progress, again(spec()));
                json.write(summary);
                return (boolean) summary.get("finished") ? done(summary) : Main.INTERRUPTED;
            }
        }
    }

    /** @param available bytes of the device's memory */
    private static String text(TrainingPlan plan, long available) {
        return String.format(
                Locale.ROOT,
                """
                Steps        %d
                Parameters   %.1f million trained, %.1f million frozen
                Memory       %s, and about 500 MB for Java (%s are available)
                  parameters      %s
                  gradients       %s
                  AdamW moments   %s
                  activations     %s (estimated; --max-rows bounds it; %s)
                  item vectors    %s
                Disk         %s at most (%s are free)
                  checkpoint      %s, up to 3 at a time
                  model           %s, up to 2 at a time\
                """,
                plan.steps(),
                plan.trained() / 1e6,
                plan.frozen() / 1e6,
                size(plan.memory()),
                size(available),
                size(plan.parameters() + plan.copies()),
                size(plan.gradients()),
                size(plan.moments()),
                size(plan.activations()),
                recomputation(plan),
                size(2 * plan.vectors()),
                size(plan.disk()),
                size(plan.freeBytes()),
                size(plan.checkpoint()),
                size(plan.model()));
    }

    /** What --recompute gives and costs, here. */
    private static String recomputation(TrainingPlan plan) {
        return plan.recompute()
                ? String.format(
                        Locale.ROOT,
                        "%s without --recompute, which adds %.0f %% to the arithmetic",
                        size(plan.kept()),
                        100 * plan.recomputation())
                : String.format(
                        Locale.ROOT,
                        "%s with --recompute, for %.0f %% more arithmetic",
                        size(plan.recomputed()),
                        100 * plan.recomputation());
    }

    private static String size(long bytes) {
        return bytes < 1_000_000_000L
                ? String.format(Locale.ROOT, "%.0f MB", bytes / 1e6)
                : String.format(Locale.ROOT, "%.1f GB", bytes / 1e9);
    }

    private int done(Map<String, Object> summary) {
        out().println(String.format(
                Locale.ROOT,
                "Trained %d steps in %s. The run is in %s%nNext:%n  hllm evaluate --run %s --items %s --interactions"
                        + " %s",
                (long) summary.get("steps"),
                Progress.duration((double) summary.get("seconds")),
                out,
                quoted(out.toString()),
                quoted(items.items.toString()),
                quoted(log.interactions.toString())));
        return Main.OK;
    }

    /** The command that continues: this one, without the option that would begin again. */
    static String again(CommandSpec spec) {
        List<String> arguments = spec.root().commandLine().getParseResult().originalArgs();
        return "hllm "
                + arguments.stream()
                        .filter(a -> !a.equals("--restart"))
                        .map(TrainCommand::quoted)
                        .collect(Collectors.joining(" "));
    }

    static String quoted(String argument) {
        return argument.matches("[\\w@%+=:,./-]+") ? argument : "'" + argument.replace("'", "'\\''") + "'";
    }
}
