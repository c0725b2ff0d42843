package org.hllm4j.cli;

import org.hllm4j.HllmException;
import org.hllm4j.train.TrainOptions;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.Spec;

/** How to train. */
final class TrainingOptions {
    private static final TrainOptions DEFAULTS = TrainOptions.DEFAULTS;

    @Spec(Spec.Target.MIXEE)
    private CommandSpec spec;

    @Option(
            names = "--epochs",
            paramLabel = "N",
            description = "Passes over the training sequences. Default: 5; of models of item ids 200.")
    private Integer epochs;

    @Option(
            names = "--max-steps",
            paramLabel = "N",
            description = "Ends the training and its learning rate schedule after N steps; 0: epochs alone count."
                    + " Default: ${DEFAULT-VALUE}.")
    private int maxSteps = DEFAULTS.maxSteps();

    @Option(
            names = "--batch-users",
            paramLabel = "N",
            description = "Sequences per step. Default: 16; of models of item ids 64.")
    private Integer batchUsers;

    @Option(
            names = "--negatives",
            paramLabel = "N",
            description = "Negatives per step, shared by all its positions; 0: max history + 1 per sequence. Default:"
                    + " ${DEFAULT-VALUE}.")
    private int negatives = DEFAULTS.negatives();

    @Option(
            names = "--no-split-long",
            description = "Train on the end of a longer history only, instead of splitting it into several sequences.")
    private boolean noSplitLong;

    @Option(names = "--lr", paramLabel = "RATE", description = "Peak learning rate. Default: ${DEFAULT-VALUE}.")
    private double lr = DEFAULTS.lr();

    @Option(
            names = "--warmup",
            paramLabel = "SHARE",
            description = "Share of the steps in which the rate rises; then it falls along a cosine. Default:"
                    + " ${DEFAULT-VALUE}.")
    private double warmup = DEFAULTS.warmup();

    @Option(
            names = "--weight-decay",
            paramLabel = "X",
            description = "Of AdamW. Default: 0.01; of models of item ids 0.1.")
    private Double weightDecay;

    @Option(
            names = "--clip",
            paramLabel = "NORM",
            description = "Largest global gradient norm. Default: ${DEFAULT-VALUE}.")
    private double clip = DEFAULTS.clip();

    @Option(
            names = "--threshold",
            paramLabel = "COSINE",
            description =
                    "A negative more similar to the target than this is left out, as it may be the target; 1: only"
                            + " the target itself is. Default: ${DEFAULT-VALUE}.")
    private double threshold = DEFAULTS.threshold();

    @Option(
            names = "--seed",
            paramLabel = "N",
            description = "Of everything random: the same seed gives the same model. Default: ${DEFAULT-VALUE}.")
    long seed = DEFAULTS.seed();

    @Option(
            names = "--max-rows",
            paramLabel = "N",
            description = "Token rows whose activations are in memory at a time: bounds memory, whatever the batch and"
                    + " the negatives. Default: ${DEFAULT-VALUE}.")
    private int maxRows = DEFAULTS.maxRows();

    @Option(
            names = "--recompute",
            description = "Keep the input of each layer only and run the layer again for its backward pass: less memory"
                    + " for more arithmetic (--plan says how much of each), the same numbers.")
    private boolean recompute;

    @Option(
            names = "--patience",
            paramLabel = "N",
            description =
                    "Stops after N epochs without a better validation NDCG@200 (a ranker: AUC). Default: 5; of models"
                            + " of item ids 10.")
    private Integer patience;

    @Option(
            names = "--no-validation",
            description = "Keep the last model instead of the best one by validation after each epoch.")
    private boolean noValidation;

    @Option(
            names = "--checkpoint-minutes",
            paramLabel = "X",
            description = "Time between checkpoints. Default: ${DEFAULT-VALUE}.")
    private double checkpointMinutes = DEFAULTS.checkpointMinutes();

    TrainOptions options() {
        return options(DEFAULTS);
    }

    /** @param usual where nothing was given */
    TrainOptions options(TrainOptions usual) {
        try {
            return new TrainOptions(
                    epochs == null ? usual.epochs() : epochs,
                    maxSteps,
                    batchUsers == null ? usual.batchUsers() : batchUsers,
                    negatives,
                    !noSplitLong,
                    usual.trainFraction(),
                    usual.dropout(),
                    lr,
                    warmup,
                    weightDecay == null ? usual.weightDecay() : weightDecay,
                    clip,
                    threshold,
                    seed,
                    maxRows,
                    recompute,
                    patience == null ? usual.patience() : patience,
                    !noValidation,
                    checkpointMinutes);
        } catch (HllmException e) {
            throw new ParameterException(spec.commandLine(), e.getMessage());
        }
    }
}
