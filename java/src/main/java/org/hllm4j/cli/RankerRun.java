package org.hllm4j.cli;

import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.LabelledSequences;
import org.hllm4j.data.Split;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.eval.BinaryMetrics;
import org.hllm4j.eval.RankerEvaluator;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.RankerStart;
import org.hllm4j.run.RunFolder;
import org.hllm4j.train.RankingOptions;
import org.hllm4j.train.TrainOptions;
import org.hllm4j.train.Trainer;
import org.hllm4j.train.TrainingPlan;

/** A ranker's training in a run folder, as {@link TrainingRun}; its summary has the metrics of the saved model too. */
record RankerRun(RankerStart start, Fusion fusion, TrainOptions options, RankingOptions ranking, Path folder) {
    /**
     * Trains until the end or an interruption, and evaluates the model that was saved.
     *
     * @param again the command that continues, for the message after an interruption
     * @return the summary; "finished" is false after an interruption
     */
    Map<String, Object> execute(Context context, Dataset data, Progress progress, String again) {
        TrainingPlan.requireMemory(start, fusion, context.device());
        RunFolder run = RunFolder.create(folder);
        LabelledSequences events = ranking.events(data, start.maxHistory());
        long begin = System.nanoTime();
        try (Interruption interruption = new Interruption("a checkpoint is written first")) {
            Trainer.Summary found;
            try (Hllm model = start.model(context, fusion, events.rate())) {
                found = Trainer.fitRanker(
                        model,
                        data,
                        options,
                        ranking,
                        run,
                        start.origin(),
                        new TrainingProgress(progress, interruption));
            }
            Map<String, Object> summary = new LinkedHashMap<>();
            summary.put("finished", found.finished());
            summary.put("run", folder.toString());
            summary.put("fusion", fusion.name().toLowerCase(Locale.ROOT));
            summary.putAll(ranking.asMap());
            summary.put("steps", found.steps());
            summary.put("best_epoch", found.bestEpoch());
            if (found.finished()) {
                summary.put("metrics", metrics(context, run, data, events, progress));
                summary.put("seconds", (System.nanoTime() - begin) / 1e9);
            }
            TrainingRun.end(folder, summary, progress, again);
            return summary;
        }
    }

    /** By split and method. */
    private static Map<String, Map<String, Map<String, Double>>> metrics(
            Context context, RunFolder run, Dataset data, LabelledSequences events, Progress progress) {
        Map<String, Map<String, Map<String, Double>>> metrics = new LinkedHashMap<>();
        try (Hllm model = run.load(context, DType.F32);
                Tensor table = run.loadItems(context, data.catalogue())) {
            for (Split split : List.of(Split.VALIDATION, Split.TEST)) {
                String name = split.name().toLowerCase(Locale.ROOT);
                long sequences = events.evaluation(split).size();
                Map<String, Map<String, Double>> methods = new LinkedHashMap<>();
                methods.put(
                        "hllm",
                        RankerEvaluator.evaluate(
                                        model, table, events, split, progress.counter(name, "histories", sequences))
                                .asMap());
                Map<String, BinaryMetrics> baselines = RankerEvaluator.baselines(events, split);
                baselines.forEach((method, found) -> methods.put(method, found.asMap()));
                metrics.put(name, methods);
            }
        }
        return metrics;
    }

    /** The metrics of a summary as a table. */
    @SuppressWarnings("unchecked") // as metrics() makes them
    static String text(Map<String, Object> summary) {
        StringBuilder text = new StringBuilder();
        var metrics = (Map<String, Map<String, Map<String, Double>>>) summary.get("metrics");
        metrics.forEach((split, methods) -> {
            Map<String, Double> hllm = methods.get("hllm");
            text.append(String.format(
                    Locale.ROOT,
                    "%s, %.0f events (%.1f %% %s), %.0f users%n%-20s%8s%8s%10s%n",
                    split,
                    hllm.get("events"),
                    100 * hllm.get("ones") / hllm.get("events"),
                    summary.get("label"),
                    hllm.get("users"),
                    "",
                    "AUC",
                    "GAUC",
                    "log loss"));
            methods.forEach((method, found) -> text.append(String.format(
                    Locale.ROOT,
                    "%-20s%8s%8s%10s%n",
                    method.equals("hllm") ? "HLLM, " + summary.get("fusion") + " fusion" : method,
                    number(found.get("auc")),
                    number(found.get("gauc")),
                    number(found.get("log_loss")))));
        });
        return text.append(String.format(
                        Locale.ROOT,
                        "GAUC: of the users that have both, weighted by their events. The ranker is in %s",
                        summary.get("run")))
                .toString();
    }

    private static String number(Double value) {
        return value == null ? "-" : String.format(Locale.ROOT, "%.4f", value);
    }
}
