package org.hllm4j.cli;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import org.hllm4j.data.Dataset;
import org.hllm4j.engine.Context;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.ModelStart;
import org.hllm4j.run.RunFolder;
import org.hllm4j.train.TrainListener;
import org.hllm4j.train.TrainOptions;
import org.hllm4j.train.Trainer;
import org.hllm4j.train.TrainingPlan;

/**
 * A training in a run folder, from its start or its last checkpoint. Its summary, {@code summary.json}, is written last:
 * where it is, the training is finished.
 */
record TrainingRun(ModelStart start, TrainOptions options, Path folder) {
    static Path summaryFile(Path folder) {
        return folder.resolve("summary.json");
    }

    static boolean finished(Path folder) {
        return Files.exists(summaryFile(folder));
    }

    static Map<String, ?> summary(Path folder) {
        return JsonOption.read(summaryFile(folder));
    }

    /**
     * Trains until the end or an interruption.
     *
     * @param again the command that continues, for the message after an interruption
     * @return the summary; "finished" is false after an interruption
     */
    Map<String, Object> execute(Context context, Dataset data, Progress progress, String again) {
        TrainingPlan.of(start, options, data, folder, context.activations()).requireMemory(context.device());
        RunFolder run = RunFolder.create(folder);
        long begin = System.nanoTime();
        try (Interruption interruption = new Interruption("a checkpoint is written first")) {
            Map<String, Object> summary;
            TrainListener listener = new TrainingProgress(progress, interruption);
            try (Hllm model = start.model(context, data)) {
                boolean trains = !start.trained().equals(Hllm.Trained.NOTHING);
                summary = summary(
                        trains
                                ? Trainer.fit(model, data, options, run, start.origin(), listener)
                                : Trainer.keep(model, data, options, run, start.origin(), listener),
                        data);
            }
            summary.put("seconds", (System.nanoTime() - begin) / 1e9);
            end(folder, summary, progress, again);
            return summary;
        }
    }

    /** Writes the summary of a finished training; after an interruption says how to go on. */
    static void end(Path folder, Map<String, Object> summary, Progress progress, String again) {
        if ((boolean) summary.get("finished")) {
            JsonOption.write(summaryFile(folder), summary);
        } else {
            progress.say("Stopped after step " + summary.get("steps") + ". This continues:\n  " + again);
        }
    }

    private Map<String, Object> summary(Trainer.Summary found, Dataset data) {
        Map<String, Object> summary = new LinkedHashMap<>();
        summary.put("finished", found.finished());
        summary.put("run", folder.toString());
        summary.put("steps", found.steps());
        summary.put("best_epoch", found.bestEpoch());
        summary.put("validation", found.validation());
        summary.put("items", data.catalogue().size());
        summary.put("users", data.interactions().users());
        summary.put("events", data.interactions().size());
        return summary;
    }
}
