package org.hllm4j.cli;

import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Interactions;
import org.hllm4j.data.Split;
import org.hllm4j.eval.RankingMetrics;
import org.hllm4j.serve.Recommender;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;

@Command(
        name = "evaluate",
        description = "Ranks every user's held-out items: Recall and NDCG at 5, 10, 50 and 200, beside popularity.",
        footer = {
            "  hllm evaluate --run run --items items.csv --interactions interactions.csv",
            "  hllm evaluate ... --json metrics.json     fractions by split, method and metric"
        })
final class EvaluateCommand extends Subcommand {
    @Mixin
    private RunOption run;

    @Mixin
    private ItemOptions items;

    @Mixin
    private LogOptions log;

    @Mixin
    private DeviceOptions device;

    @Mixin
    private JsonOption json;

    @Override
    public Integer call() {
        log.required();
        try (Progress progress = progress()) {
            Interactions interactions = log.read(run.catalogue(items.items));
            device.apply();
            try (Recommender recommender = Recommender.open(
                    run.run(),
                    interactions.catalogue(),
                    device.device(),
                    device.storage(),
                    progress.counter("items", "items", interactions.catalogue().size()))) {
                ModelKind kind = ModelKind.of(run.run().manifest().kind());
                MetricTable table = evaluate(kind, recommender, interactions, progress);
                out().println(table.text());
                json.write(table.asMap());
            }
        }
        return Main.OK;
    }

    static MetricTable evaluate(ModelKind kind, Recommender recommender, Interactions interactions, Progress progress) {
        int maxHistory = recommender.model().config().maxHistory();
        // The validation needs a pass of its own only where the test's history was cut.
        long histories = IntStream.range(0, interactions.users())
                .map(user -> interactions.events(user).length)
                .filter(events -> events >= 3)
                .map(events -> events - 1 > maxHistory ? 2 : 1)
                .sum();
        Map<Split, RankingMetrics> metrics = recommender.evaluate(
                interactions,
                List.of(Split.VALIDATION, Split.TEST),
                progress.counter("evaluation", "histories", histories));
        return MetricTable.of(kind, metrics, new Dataset(interactions.catalogue(), interactions, new int[0][]));
    }
}
