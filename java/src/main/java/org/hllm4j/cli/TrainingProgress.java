package org.hllm4j.cli;

import java.util.Locale;
import java.util.Map;
import org.hllm4j.train.StepLog;
import org.hllm4j.train.TrainListener;

/** Shows a training, and passes an interruption on to it. */
final class TrainingProgress implements TrainListener {
    private final Progress progress;
    private final Interruption interruption;

    TrainingProgress(Progress progress, Interruption interruption) {
        this.progress = progress;
        this.interruption = interruption;
    }

    @Override
    public void resumed(long step, String otherEnvironment) {
        progress.say("Continuing after step " + step);
        if (otherEnvironment != null) {
            progress.say("The checkpoint comes from another environment (" + otherEnvironment
                    + "): the numbers go on in the same way, but not bit for bit");
        }
    }

    @Override
    public void step(StepLog log) {
        progress.at(
                "training",
                "steps",
                log.step(),
                log.steps(),
                String.format(
                        Locale.ROOT,
                        "epoch %d, loss %.3f",
                        log.epoch(),
                        log.result().loss()));
    }

    @Override
    public void progress(String what, long done, long total) {
        progress.at(what, what.substring(what.lastIndexOf(' ') + 1), done, total, "");
    }

    @Override
    public void epoch(int epoch, Map<String, Double> validation, boolean best) {
        String found = validation.containsKey("auc")
                ? String.format(
                        Locale.ROOT,
                        "AUC %.4f, GAUC %.4f, log loss %.4f",
                        validation.get("auc"),
                        validation.getOrDefault("gauc", Double.NaN),
                        validation.get("log_loss"))
                : String.format(
                        Locale.ROOT,
                        "Recall@10 %.2f %%, NDCG@10 %.2f %%, NDCG@200 %.2f %%",
                        100 * validation.get("recall@10"),
                        100 * validation.get("ndcg@10"),
                        100 * validation.get("ndcg@200"));
        progress.say("Epoch " + epoch + ": validation " + found + (best ? ", the best so far: saved" : ""));
    }

    @Override
    public boolean stopRequested() {
        return interruption.requested();
    }
}
