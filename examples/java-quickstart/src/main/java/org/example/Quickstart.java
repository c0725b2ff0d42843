package org.example;

import java.nio.file.Path;
import java.util.List;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.MissingText;
import org.hllm4j.data.Split;
import org.hllm4j.engine.Context;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.RunFolder;
import org.hllm4j.run.Start;
import org.hllm4j.serve.Recommender;
import org.hllm4j.train.TrainListener;
import org.hllm4j.train.TrainOptions;
import org.hllm4j.train.Trainer;

/** Trains a recommender from a pretrained LLM, items.csv and interactions.csv; evaluates it; recommends to one user. */
public final class Quickstart {
    private Quickstart() {}

    public static void main(String[] args) {
        Path llm = Path.of(args[0]), items = Path.of(args[1]), interactions = Path.of(args[2]);
        RunFolder run = RunFolder.create(Path.of(args[3]));

        Start start = Start.of(llm).withLayers(2, 2).withTextKeys(List.of("title", "tag"));
        Dataset data = start.dataset(items, interactions, MissingText.ERROR, null);
        try (Context context = Context.open("cpu");
                Hllm model = start.model(context)) {
            Trainer.fit(model, data, TrainOptions.DEFAULTS.withEpochs(3), run, start.origin(), TrainListener.SILENT);
        }
        try (Recommender recommender = Recommender.open(run, data.catalogue())) {
            var metrics = recommender.evaluate(data.interactions(), List.of(Split.TEST), null);
            System.out.println(metrics.get(Split.TEST).asMap());
            int[] history = data.interactions().events(0);
            for (var best : recommender.recommend(List.of(history), 10).getFirst()) {
                System.out.printf("%.3f  %s%n", best.score(), data.catalogue().field(best.item(), "title"));
            }
        }
    }
}
