package org.hllm4j.cli;

import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Interactions;
import org.hllm4j.data.LabelRule;
import org.hllm4j.data.TimeSplit;
import org.hllm4j.engine.Context;
import org.hllm4j.model.Fusion;
import org.hllm4j.run.RankerStart;
import org.hllm4j.run.RunFolder;
import org.hllm4j.train.RankingOptions;
import org.hllm4j.train.TrainOptions;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;

@Command(
        name = "train-ranker",
        description = "Trains a model to tell which items a user likes, from a run of `hllm train` or a pretrained LLM;"
                + " prints AUC, GAUC and log loss beside simple means.",
        footer = {
            "  hllm train-ranker --from-run run --label \"rating>=8\" --items items.csv --interactions log.csv"
                    + " --out ranker",
            "  hllm train-ranker ... --fusion early --lambda 0.1",
            "Interrupted (Ctrl-C), it writes a checkpoint; the same command continues."
        })
final class TrainRankerCommand extends Subcommand {
    /** A run has these already. */
    private static final List<String> OF_AN_LLM = List.of(
            "--llm",
            "--item-llm",
            "--user-llm",
            "--item-init",
            "--user-init",
            "--item-layers",
            "--user-layers",
            "--pooling",
            "--max-text-length",
            "--max-history",
            "--text-keys");

    @Option(
            names = "--from-run",
            paramLabel = "DIR",
            description = "The run folder to start from, instead of --llm: its two sides, with a new head.")
    private Path fromRun;

    @Option(
            names = "--fusion",
            paramLabel = "WHERE",
            description = "late: a [USER] token sums the history up, and a head compares that with the target; one"
                    + " user vector serves all targets. early: the target joins the history, and a head reads what"
                    + " comes of it. Default: late.")
    private Fusion fusion = Fusion.LATE;

    @Option(
            names = "--label",
            required = true,
            paramLabel = "RULE",
            description = "Which events were liked: a column of zeros and ones, or a comparison such as \"rating>=8\"."
                    + " An event with an empty field is history only.")
    private String label;

    @Option(
            names = "--lambda",
            paramLabel = "X",
            description = "Weight of the generative loss on the same histories; 0: none. Default: ${DEFAULT-VALUE}.")
    private double lambda = 0.1;

    @Option(
            names = "--no-item-prior",
            description =
                    "Leave it to the network what users think of an item on the whole, as in the paper, instead of"
                            + " adding what the training labels say of it to the logit.")
    private boolean noItemPrior;

    @Option(
            names = "--hold-out",
            paramLabel = "SHARE",
            description = "The last events by time, of all users alike, that are not trained on: the first half of them"
                    + " validates, the second tests. Default: ${DEFAULT-VALUE}.")
    private double holdOut = 0.2;

    @Option(
            names = "--split-at",
            paramLabel = "TIME",
            description = "Hold out the events from this timestamp on, instead of a share.")
    private Long splitAt;

    @Mixin
    private StartOptions start;

    @Mixin
    private ItemOptions items;

    @Mixin
    private LogOptions log;

    @Option(names = "--out", required = true, paramLabel = "DIR", description = "The run folder of the ranker.")
    private Path out;

    @Option(names = "--restart", description = "Delete what an earlier training left in the run folder.")
    private boolean restart;

    @Mixin
    private TrainingOptions training;

    @Mixin
    private DeviceOptions device;

    @Mixin
    private JsonOption json;

    @Override
    public Integer call() {
        log.required();
        TrainOptions options = training.options();
        LabelRule rule = rule();
        RankerStart from = from();
        device.requireTraining();
        if (TrainingRun.finished(out) && !restart) {
            out().println(out + " holds a finished training: nothing to do. --restart trains again.");
            json.write(TrainingRun.summary(out));
            return Main.OK;
        }
        try (Progress progress = progress()) {
            Interactions events = Interactions.read(
                    log.interactions, Catalogue.read(items.items, from.textKeys()), log.missing, rule.column());
            TimeSplit split = splitAt == null ? TimeSplit.last(events, holdOut) : TimeSplit.at(events, splitAt);
            RankingOptions ranking = new RankingOptions(rule, split, lambda, !noItemPrior);
            Dataset data = from.dataset(events);
            progress.say(String.format(
                    Locale.ROOT,
                    "%d items, %d users, %d events; validation from %d, test from %d",
                    data.catalogue().size(),
                    events.users(),
                    events.size(),
                    split.validationFrom(),
                    split.testFrom()));
            try (Context context = device.open()) {
                if (restart) {
                    new RunFolder(out).clear();
                }
                RankerRun run = new RankerRun(from, fusion, options, ranking, out);
                Map<String, Object> summary = run.execute(context, data, progress, TrainCommand.again(spec()));
                json.write(summary);
                if (!(boolean) summary.get("finished")) {
                    return Main.INTERRUPTED;
                }
                out().println(RankerRun.text(summary));
                return Main.OK;
            }
        }
    }

    private LabelRule rule() {
        try {
            return LabelRule.parse(label);
        } catch (HllmException e) {
            throw wrongUsage(e.getMessage());
        }
    }

    private RankerStart from() {
        if (fromRun == null) {
            try {
                return new RankerStart.FromLlm(start.start(training.seed));
            } catch (ParameterException e) {
                throw e.getMessage().startsWith("Missing")
                        ? wrongUsage("Missing required option: '--from-run=DIR' or '--llm=PATH'")
                        : e;
            }
        }
        for (String option : OF_AN_LLM) {
            if (spec().commandLine().getParseResult().hasMatchedOption(option)) {
                throw wrongUsage(option + " does not go with --from-run: the run has its own");
            }
        }
        return new RankerStart.FromRun(new RunFolder(fromRun), start.freeze, training.seed, start.adapters());
    }
}
