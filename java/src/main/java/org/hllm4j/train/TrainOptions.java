package org.hllm4j.train;

import java.util.LinkedHashMap;
import java.util.Map;
import org.hllm4j.HllmException;

/**
 * How to train; {@link #DEFAULTS} are the paper's, for one machine.
 *
 * @param epochs passes over the training sequences
 * @param maxSteps ends the schedule after this many steps; 0: epochs alone count
 * @param batchUsers sequences per step
 * @param negatives per step, shared by all its positions; 0: max history + 1 per sequence, outside its own items
 * @param splitLong whether a longer history becomes several sequences, or is cut to its end
 * @param trainFraction share of the users whose sequences train; below 1, items in none of them are no negatives either
 * @param dropout share that each step leaves out on the user side, see {@link org.hllm4j.nn.Dropout}
 * @param lr peak learning rate
 * @param warmup share of the steps in which the rate rises from 0; then it falls along a cosine
 * @param weightDecay of AdamW, on all parameters
 * @param clip largest global gradient norm
 * @param threshold cosine above which a negative counts as the target itself
 * @param seed of everything random
 * @param maxRows token rows whose activations are in memory at a time; results differ in rounding only
 * @param recompute whether layers keep their input only and run again for the backward pass: less memory for about a
 *     quarter more arithmetic, the same bits
 * @param patience stops after so many epochs without a better validation NDCG@200
 * @param evaluate whether each epoch ends with the validation; else the last model is kept
 * @param checkpointMinutes time between checkpoints
 */
public record TrainOptions(
        int epochs,
        int maxSteps,
        int batchUsers,
        int negatives,
        boolean splitLong,
        double trainFraction,
        double dropout,
        double lr,
        double warmup,
        double weightDecay,
        double clip,
        double threshold,
        long seed,
        int maxRows,
        boolean recompute,
        int patience,
        boolean evaluate,
        double checkpointMinutes) {
    public static final TrainOptions DEFAULTS =
            new TrainOptions(5, 0, 16, 0, true, 1, 0, 1e-4, 0.1, 0.01, 1, 0.99, 1, 16384, false, 5, true, 5);

    /** The paper's code for its id-based baselines, where it differs. */
    public static final TrainOptions ID_DEFAULTS =
            new TrainOptions(200, 0, 64, 0, true, 1, 0, 1e-4, 0.1, 0.1, 1, 0.99, 1, 16384, false, 10, true, 5);

    public TrainOptions {
        require(epochs >= 1, "epochs", epochs, "at least 1");
        require(maxSteps >= 0, "max steps", maxSteps, "at least 0");
        require(batchUsers >= 1, "batch users", batchUsers, "at least 1");
        require(negatives >= 0, "negatives", negatives, "at least 0");
        require(trainFraction > 0 && trainFraction <= 1, "train fraction", trainFraction, "a share above 0, up to 1");
        require(dropout >= 0 && dropout < 1, "dropout", dropout, "a share below 1");
        require(lr > 0 && lr < 1, "learning rate", lr, "between 0 and 1");
        require(warmup >= 0 && warmup <= 1, "warm-up", warmup, "a share from 0 to 1");
        require(weightDecay >= 0, "weight decay", weightDecay, "at least 0");
        require(clip > 0, "clip", clip, "more than 0");
        require(maxRows >= 1, "max rows", maxRows, "at least 1");
        require(patience >= 1, "patience", patience, "at least 1");
        require(checkpointMinutes > 0, "checkpoint minutes", checkpointMinutes, "more than 0");
    }

    public TrainOptions withEpochs(int count) {
        return with(count, maxSteps, batchUsers, negatives, trainFraction, dropout, lr, threshold, seed, recompute);
    }

    /** @param count 0: epochs alone count */
    public TrainOptions withMaxSteps(int count) {
        return with(epochs, count, batchUsers, negatives, trainFraction, dropout, lr, threshold, seed, recompute);
    }

    public TrainOptions withBatchUsers(int sequences) {
        return with(epochs, maxSteps, sequences, negatives, trainFraction, dropout, lr, threshold, seed, recompute);
    }

    public TrainOptions withNegatives(int perStep) {
        return with(epochs, maxSteps, batchUsers, perStep, trainFraction, dropout, lr, threshold, seed, recompute);
    }

    public TrainOptions withTrainFraction(double share) {
        return with(epochs, maxSteps, batchUsers, negatives, share, dropout, lr, threshold, seed, recompute);
    }

    public TrainOptions withDropout(double share) {
        return with(epochs, maxSteps, batchUsers, negatives, trainFraction, share, lr, threshold, seed, recompute);
    }

    public TrainOptions withLr(double peak) {
        return with(epochs, maxSteps, batchUsers, negatives, trainFraction, dropout, peak, threshold, seed, recompute);
    }

    public TrainOptions withThreshold(double cosine) {
        return with(epochs, maxSteps, batchUsers, negatives, trainFraction, dropout, lr, cosine, seed, recompute);
    }

    public TrainOptions withSeed(long other) {
        return with(epochs, maxSteps, batchUsers, negatives, trainFraction, dropout, lr, threshold, other, recompute);
    }

    public TrainOptions withRecompute(boolean on) {
        return with(epochs, maxSteps, batchUsers, negatives, trainFraction, dropout, lr, threshold, seed, on);
    }

    private TrainOptions with(
            int epochs,
            int maxSteps,
            int batchUsers,
            int negatives,
            double trainFraction,
            double dropout,
            double lr,
            double threshold,
            long seed,
            boolean recompute) {
        return new TrainOptions(
                epochs,
                maxSteps,
                batchUsers,
                negatives,
                splitLong,
                trainFraction,
                dropout,
                lr,
                warmup,
                weightDecay,
                clip,
                threshold,
                seed,
                maxRows,
                recompute,
                patience,
                evaluate,
                checkpointMinutes);
    }

    private static void require(boolean holds, String name, Object value, String expected) {
        if (!holds) {
            throw new HllmException(name + " is " + value + ", expected " + expected);
        }
    }

    /**
     * What results depend on, by name: recorded with a run, and compared when it is resumed. Recomputing is not among
     * them: a run that did not fit in memory may be resumed with it.
     */
    public Map<String, Object> asMap() {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("epochs", epochs);
        map.put("max_steps", maxSteps);
        map.put("batch_users", batchUsers);
        map.put("negatives", negatives);
        map.put("split_long", splitLong);
        map.put("train_fraction", trainFraction);
        map.put("dropout", dropout);
        map.put("lr", lr);
        map.put("warmup", warmup);
        map.put("weight_decay", weightDecay);
        map.put("clip", clip);
        map.put("threshold", threshold);
        map.put("seed", seed);
        map.put("max_rows", maxRows);
        map.put("patience", patience);
        map.put("evaluate", evaluate);
        return map;
    }
}
