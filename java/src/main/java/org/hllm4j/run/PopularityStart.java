package org.hllm4j.run;

import java.util.List;
import java.util.Map;
import java.util.function.LongConsumer;
import java.util.stream.IntStream;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Interactions;
import org.hllm4j.data.Sequences;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;
import org.hllm4j.model.IdTable;
import org.hllm4j.weights.ModelConfig;

/**
 * The same items for everybody, ranked by their number of training events, as a model like any other: an item's vector is
 * (c, sqrt(1 - c^2)) for its share c of the largest number, and every user's is (1, 0), so that their cosine is c.
 *
 * @param maxHistory events that the model is given
 * @param textKeys columns of items.csv by which a reader knows an item
 */
public record PopularityStart(int maxHistory, List<String> textKeys) implements ModelStart {
    /** One layer that adds nothing, as its weights stay zero; the final norm keeps the first number only. */
    private static final ModelConfig USER = ModelConfig.parse("""
            {"model_type": "llama", "hidden_size": 2, "intermediate_size": 2, "num_hidden_layers": 1,
             "num_attention_heads": 1, "vocab_size": 1}
            """, "popularity");

    @Override
    public Hllm.Trained trained() {
        return Hllm.Trained.NOTHING;
    }

    @Override
    public Dataset dataset(Interactions log, LongConsumer progress) {
        return new Dataset(log.catalogue(), log, IdTable.tokens(log.catalogue().size()));
    }

    @Override
    public HllmConfig config(Dataset data) {
        return new HllmConfig(new IdTable(data.catalogue().size(), USER.hiddenSize()), USER, maxHistory);
    }

    @Override
    public Hllm model(Context context, Dataset data) {
        int[] counts =
                Sequences.popularity(data.interactions(), data.catalogue().size());
        double most =
                1.0 + IntStream.of(counts).max().orElse(0); // no share is 0: a user's vector takes its sign from it
        float[] vectors = new float[2 * counts.length];
        for (int i = 0; i < counts.length; i++) {
            double share = (1 + counts[i]) / most;
            vectors[2 * i] = (float) share;
            vectors[2 * i + 1] = (float) Math.sqrt(1 - share * share);
        }
        Hllm model = new Hllm(context, config(data), trained(), DType.F32);
        try {
            model.of(Hllm.Side.ITEM).getFirst().value().write(vectors);
            model.of(Hllm.Side.USER).getLast().value().write(new float[] {1, 0});
            model.refresh();
            return model;
        } catch (RuntimeException e) {
            model.close();
            throw e;
        }
    }

    @Override
    public Origin origin() {
        return new Origin(textKeys, "", Map.of("model", "popularity"));
    }
}
