package org.hllm4j.cli;

import java.nio.file.Path;
import java.util.List;
import org.hllm4j.model.Pooling;
import org.hllm4j.run.Start;
import org.hllm4j.train.TrainOptions;
import org.hllm4j.weights.PretrainedModel;

/**
 * How quickstart trains: what gives the best model in the time on two cores, found by experiment on MovieLens-100K. The
 * number of steps follows from the machine.
 *
 * @param threshold 1, since with one layer all item vectors begin alike: a lower one would leave out every negative
 * @param maxEpochs more of them gained nothing
 */
record QuickstartRecipe(
        int itemLayers,
        int userLayers,
        int maxTextLength,
        int maxHistory,
        int batchUsers,
        int negatives,
        double lr,
        double warmup,
        double weightDecay,
        double threshold,
        int maxEpochs) {
    static final QuickstartRecipe BEST = new QuickstartRecipe(1, 1, 64, 50, 16, 512, 1e-3, 0.1, 0.01, 1, 10);

    /** From the model's first layers, as far as it has so many. */
    Start start(Path llm, List<String> textKeys) {
        int layers;
        try (PretrainedModel model = PretrainedModel.open(llm)) {
            layers = model.config().layers();
        }
        return new Start(
                llm,
                llm,
                Start.Init.PRETRAINED,
                Start.Init.PRETRAINED,
                Start.Freeze.NONE,
                Math.min(itemLayers, layers),
                Math.min(userLayers, layers),
                Pooling.TOKEN,
                maxTextLength,
                maxHistory,
                textKeys,
                1);
    }

    /** @param steps of the whole training, over which the learning rate falls; 0: all epochs */
    TrainOptions options(int epochs, int steps) {
        TrainOptions defaults = TrainOptions.DEFAULTS;
        return new TrainOptions(
                epochs,
                steps,
                batchUsers,
                negatives,
                true,
                defaults.trainFraction(),
                defaults.dropout(),
                lr,
                warmup,
                weightDecay,
                defaults.clip(),
                threshold,
                defaults.seed(),
                defaults.maxRows(),
                defaults.recompute(),
                maxEpochs, // the schedule ends the training
                true,
                defaults.checkpointMinutes());
    }
}
