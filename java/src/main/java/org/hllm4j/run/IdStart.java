package org.hllm4j.run;

import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.LongConsumer;
import org.hllm4j.HllmException;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Interactions;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;
import org.hllm4j.model.IdTable;
import org.hllm4j.weights.ModelConfig;
import org.hllm4j.weights.PretrainedModel;

/**
 * The start of an id-based recommender: a random vector per item, and a user side of any shape.
 *
 * @param kind name of the combination, as "llm-id"
 * @param idWidth numbers of an item's vector; a projection takes them to the user side's width
 * @param user shape of the user side
 * @param pretrained model whose weights the user side takes; null: random ones
 * @param maxHistory events that the user side sees
 * @param textKeys columns of items.csv by which a reader knows an item
 * @param seed of random weights
 */
public record IdStart(
        String kind, int idWidth, ModelConfig user, Path pretrained, int maxHistory, List<String> textKeys, long seed)
        implements ModelStart {
    /** Numbers of an item's vector in the official baselines. */
    public static final int WIDTH = 512;

    /** Layers and heads of the official SASRec. */
    public static final int LAYERS = 2;

    public static final int HEADS = 4;

    /**
     * A self-attention model in the manner of SASRec: learned positions, LayerNorm behind each half of a layer, GELU, the
     * feed-forward layer as wide as the rest.
     *
     * @param width of everything
     * @param heads divides the width
     */
    public static IdStart sasrec(int width, int layers, int heads, int maxHistory, List<String> textKeys, long seed) {
        if (heads < 1 || width % heads != 0) {
            throw new HllmException(heads + " heads do not divide a width of " + width);
        }
        ModelConfig user = ModelConfig.parse("""
                {"model_type": "sasrec", "hidden_size": %d, "intermediate_size": %d, "num_hidden_layers": %d,
                 "num_attention_heads": %d, "vocab_size": 1, "max_position_embeddings": %d, "hidden_act": "gelu",
                 "type_vocab_size": 0, "layer_norm_eps": 1e-12, "initializer_range": 0.02}
                """.formatted(width, width, layers, heads, maxHistory), "sasrec");
        return new IdStart("sasrec", width, user, null, maxHistory, textKeys, seed);
    }

    /**
     * Item ids into the shape of an LLM, as the official LLM-ID baseline.
     *
     * @param llm folder or GGUF file whose shape the user side has
     * @param layers the first so many of it; 0: all
     * @param init whether the user side takes its weights too
     */
    public static IdStart llmId(
            int idWidth, Path llm, int layers, Start.Init init, int maxHistory, List<String> textKeys, long seed) {
        return new IdStart(
                "llm-id",
                idWidth,
                Start.shape(llm, layers, "--user-layers").withoutWords(),
                init == Start.Init.PRETRAINED ? llm : null,
                maxHistory,
                textKeys,
                seed);
    }

    @Override
    public Hllm.Trained trained() {
        return new Hllm.Trained(true, true);
    }

    @Override
    public Dataset dataset(Interactions log, LongConsumer progress) {
        return new Dataset(log.catalogue(), log, IdTable.tokens(log.catalogue().size()));
    }

    @Override
    public HllmConfig config(Dataset data) {
        return new HllmConfig(new IdTable(data.catalogue().size(), idWidth), user, maxHistory);
    }

    @Override
    public Hllm model(Context context, Dataset data) {
        Hllm model = new Hllm(context, config(data), trained(), DType.F32);
        try {
            model.randomise(Hllm.Side.ITEM, seed);
            if (pretrained == null) {
                model.randomise(Hllm.Side.USER, seed);
            } else {
                try (PretrainedModel llm = PretrainedModel.open(pretrained)) {
                    llm.check();
                    model.load(Hllm.Side.USER, llm.tensors());
                }
            }
            return model;
        } catch (RuntimeException e) {
            model.close();
            throw e;
        }
    }

    @Override
    public Origin origin() {
        Map<String, Object> start = new LinkedHashMap<>();
        start.put("model", kind);
        start.put("id_width", idWidth);
        start.put("user_init", pretrained == null ? "random" : "pretrained");
        if (pretrained != null) {
            start.put("user_llm", Start.identity(pretrained));
        }
        start.put("user_width", user.hiddenSize());
        start.put("user_layers", user.layers());
        start.put("user_heads", user.heads());
        start.put("start_seed", seed);
        return new Origin(textKeys, "", start);
    }
}
