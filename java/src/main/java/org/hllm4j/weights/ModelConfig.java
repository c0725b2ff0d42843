package org.hllm4j.weights;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.hllm4j.HllmException;

/**
 * The shape of a transformer, as in a Hugging Face {@code config.json}.
 *
 * @param family whose tensors and layers it has
 * @param hiddenSize D, width of the residual stream
 * @param intermediateSize F, width of the feed-forward layer
 * @param layers number of blocks
 * @param heads H, query heads
 * @param kvHeads Hkv, key/value heads; divides {@code heads}
 * @param headDim Dh; even where positions are rotary
 * @param vocabSize V, rows of the word embedding
 * @param normEps added to the mean square in RMSNorm, to the variance in LayerNorm
 * @param ropeTheta base of the rotary frequencies
 * @param ropeScaling null for plain RoPE; else "rope_type" ("linear", "dynamic", "llama3" or "yarn") and its numbers, by
 *     their Hugging Face names
 * @param maxPositions longest sequence the model was made for; of learned positions, their number
 * @param initializerRange standard deviation of fresh weights
 * @param tieWordEmbeddings whether the output layer shares the word embedding
 * @param bosTokenId begin-of-sequence token, or null
 * @param qkvBias whether queries, keys and values have a bias
 * @param outBias whether the product behind attention has one
 * @param mlpBias whether the MLP's products have one
 * @param slidingWindow positions that a query sees, its own included; 0: all before it
 * @param tokenTypes rows of the token type embedding, of which the first is used; 0: there is none
 */
public record ModelConfig(
        Family family,
        int hiddenSize,
        int intermediateSize,
        int layers,
        int heads,
        int kvHeads,
        int headDim,
        int vocabSize,
        double normEps,
        double ropeTheta,
        Map<String, Object> ropeScaling,
        int maxPositions,
        double initializerRange,
        boolean tieWordEmbeddings,
        Integer bosTokenId,
        boolean qkvBias,
        boolean outBias,
        boolean mlpBias,
        int slidingWindow,
        int tokenTypes) {

    /** Numbers that a kind of RoPE must have, and those that it may have. */
    private static final Map<String, List<String>> ROPE_NUMBERS = Map.of(
            "linear", List.of("factor"),
            "dynamic", List.of("factor"),
            "llama3", List.of("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
            "yarn", List.of("factor"));

    private static final Map<String, List<String>> MORE_ROPE_NUMBERS =
            Map.of("yarn", List.of("original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"));

    /** A decoder without biases and window. */
    public ModelConfig(
            Family family,
            int hiddenSize,
            int intermediateSize,
            int layers,
            int heads,
            int kvHeads,
            int headDim,
            int vocabSize,
            double normEps,
            double ropeTheta,
            Map<String, Object> ropeScaling,
            int maxPositions,
            double initializerRange,
            boolean tieWordEmbeddings,
            Integer bosTokenId) {
        this(
                family,
                hiddenSize,
                intermediateSize,
                layers,
                heads,
                kvHeads,
                headDim,
                vocabSize,
                normEps,
                ropeTheta,
                ropeScaling,
                maxPositions,
                initializerRange,
                tieWordEmbeddings,
                bosTokenId,
                false,
                false,
                false,
                0,
                0);
    }

    public ModelConfig {
        positive("hidden size", hiddenSize);
        positive("intermediate size", intermediateSize);
        positive("number of layers", layers);
        positive("number of heads", heads);
        positive("number of key/value heads", kvHeads);
        positive("head dimension", headDim);
        positive("vocabulary size", vocabSize);
        positive(family.encoder() ? "layer_norm_eps" : "rms_norm_eps", normEps);
        positive("rope_theta", ropeTheta);
        positive("max_position_embeddings", maxPositions);
        if (heads % kvHeads != 0 || headDim % 2 != 0 && !family.encoder()) {
            throw new HllmException("model config: " + heads + " heads must be a multiple of " + kvHeads
                    + " key/value heads, and the head dimension " + headDim + " must be even");
        }
        if (slidingWindow < 0 || slidingWindow > 0 && family.encoder()) {
            throw new HllmException("model config: a sliding window of " + slidingWindow + " positions");
        }
        if (family == Family.BAICHUAN && kvHeads != heads) {
            throw new HllmException(
                    "model config: W_pack holds as many key/value heads as query heads, not " + kvHeads);
        }
        if (ropeScaling != null) {
            // sorted: the same JSON in every run
            ropeScaling = Collections.unmodifiableMap(new TreeMap<>(ropeScaling));
        }
    }

    /** The least decoder of a width, where one has to be there and nothing is asked of it. */
    public static ModelConfig least(int width) {
        return new ModelConfig(Family.LLAMA, width, 1, 1, 1, 1, 2, 1, 1e-6, 1e4, null, 1, 0.02, true, null);
    }

    private static void positive(String what, double value) {
        if (!(value > 0) || Double.isInfinite(value)) {
            throw new HllmException("model config: " + what + " is " + value + ", expected a positive number");
        }
    }

    /** The same with another number of blocks. */
    public ModelConfig withLayers(int count) {
        return with(count, vocabSize, tieWordEmbeddings, bosTokenId);
    }

    /** The same with the output layer shared with the word embedding, or not. */
    public ModelConfig withTieWordEmbeddings(boolean tie) {
        return with(layers, vocabSize, tie, bosTokenId);
    }

    /** The same for a model whose inputs are vectors: Hugging Face classes insist on a word embedding, here of one word. */
    public ModelConfig withoutWords() {
        return with(layers, 1, true, null);
    }

    private ModelConfig with(int layers, int vocabSize, boolean tieWordEmbeddings, Integer bosTokenId) {
        return new ModelConfig(
                family,
                hiddenSize,
                intermediateSize,
                layers,
                heads,
                kvHeads,
                headDim,
                vocabSize,
                normEps,
                ropeTheta,
                ropeScaling,
                maxPositions,
                initializerRange,
                tieWordEmbeddings,
                bosTokenId,
                qkvBias,
                outBias,
                mlpBias,
                slidingWindow,
                tokenTypes);
    }

    /** A {@code config.json} that transformers loads, releases before and after 5. */
    public String toJson() {
        return toJson(StoredType.F32);
    }

    /** @param type of the weights beside it, F32 or BF16 */
    public String toJson(StoredType type) {
        Map<String, Object> json = new LinkedHashMap<>();
        json.put("architectures", List.of(family.architecture()));
        json.put("model_type", family.modelType());
        json.put("hidden_size", hiddenSize);
        json.put("intermediate_size", intermediateSize);
        json.put("num_hidden_layers", layers);
        json.put("num_attention_heads", heads);
        json.put("vocab_size", vocabSize);
        json.put("max_position_embeddings", maxPositions);
        json.put("initializer_range", initializerRange);
        json.put("tie_word_embeddings", tieWordEmbeddings);
        json.put("bos_token_id", bosTokenId);
        if (vocabSize == 1) {
            json.put("eos_token_id", null); // else transformers puts 2, and warns that it is out of range
        }
        if (family.encoder()) {
            json.put("hidden_act", "gelu");
            json.put("layer_norm_eps", normEps);
            json.put("type_vocab_size", tokenTypes);
            json.put("position_embedding_type", "absolute");
            json.put("pad_token_id", 0);
        } else {
            json.put("hidden_act", "silu");
            json.put("num_key_value_heads", kvHeads);
            json.put("head_dim", headDim);
            json.put("rms_norm_eps", normEps);
            // the spelling of transformers 4; 5 turns it into its rope_parameters
            json.put("rope_theta", ropeTheta);
            json.put("rope_scaling", ropeScaling);
            if (family == Family.LLAMA || family == Family.QWEN3) {
                json.put("attention_bias", outBias);
            }
            if (family == Family.LLAMA) {
                json.put("mlp_bias", mlpBias);
            }
            if (family == Family.MISTRAL) {
                json.put("sliding_window", slidingWindow == 0 ? null : slidingWindow);
            }
            if (family == Family.QWEN2 || family == Family.QWEN3) {
                json.put("use_sliding_window", slidingWindow > 0);
                json.put("sliding_window", slidingWindow == 0 ? null : slidingWindow);
                json.put("max_window_layers", 0);
            }
        }
        json.put("torch_dtype", type == StoredType.BF16 ? "bfloat16" : "float32");
        return Json.write(json);
    }

    /**
     * Reads a {@code config.json}; of a Llama, a missing key has the default of Hugging Face's LlamaConfig.
     *
     * @param origin the file, for messages
     * @throws HllmException for an unknown family, or for anything in it that would be computed otherwise here
     */
    public static ModelConfig parse(String json, String origin) {
        return new ConfigReader(Json.object(json, origin), origin).read();
    }

    /** A config.json that is being read. */
    private record ConfigReader(JsonNode root, String origin) {
        ModelConfig read() {
            String type = text("model_type", "llama");
            Family family = Family.of(type);
            if (family == null) {
                throw refusal("model_type is \"" + type + "\", only " + Family.known() + " are supported");
            }
            try {
                return family.encoder() ? encoder(family) : decoder(family);
            } catch (HllmException e) {
                throw e.getMessage().startsWith(origin) ? e : new HllmException(origin + ": " + e.getMessage(), e);
            }
        }

        private ModelConfig encoder(Family family) {
            expect("hidden_act", "gelu");
            expect("position_embedding_type", "absolute");
            for (String other : List.of("is_decoder", "add_cross_attention")) {
                if (flag(other)) {
                    throw refusal(other + " is true: only encoders are supported");
                }
            }
            int hidden = integer("hidden_size", null);
            int heads = heads(null);
            if (hidden % heads != 0) {
                throw refusal("hidden_size " + hidden + " is not a multiple of num_attention_heads " + heads);
            }
            return new ModelConfig(
                    family,
                    hidden,
                    integer("intermediate_size", null),
                    integer("num_hidden_layers", null),
                    heads,
                    heads,
                    hidden / heads,
                    integer("vocab_size", null),
                    real(root, "layer_norm_eps", 1e-12),
                    10000,
                    null,
                    integer("max_position_embeddings", null),
                    real(root, "initializer_range", 0.02),
                    true,
                    null,
                    true,
                    true,
                    true,
                    0,
                    integer("type_vocab_size", 2));
        }

        private ModelConfig decoder(Family family) {
            expect("hidden_act", "silu");
            boolean llama = family == Family.LLAMA;
            int hidden = integer("hidden_size", llama ? 4096 : null);
            int heads = heads(llama ? 32 : null);
            boolean packed = family == Family.BAICHUAN;
            if (packed && !present(root, "max_position_embeddings")) {
                throw refusal(
                        "there is no max_position_embeddings: a Baichuan with ALiBi (13B), only those with RoPE (7B) "
                                + "are supported");
            }
            boolean attentionBias = bias("attention_bias", llama || family == Family.QWEN3);
            JsonNode rope = present(root, "rope_parameters") ? root.get("rope_parameters") : root.path("rope_scaling");
            double theta = real(rope, "rope_theta", real(root, "rope_theta", 10000));
            JsonNode bos = root.path("bos_token_id");
            return new ModelConfig(
                    family,
                    hidden,
                    integer("intermediate_size", llama ? 11008 : null),
                    integer("num_hidden_layers", llama ? 32 : null),
                    heads,
                    integer("num_key_value_heads", llama || packed ? heads : null),
                    integer("head_dim", family == Family.QWEN3 ? null : Integer.valueOf(hidden / heads)),
                    integer("vocab_size", llama ? 32000 : null),
                    real(root, "rms_norm_eps", 1e-6),
                    theta,
                    ropeScaling(rope),
                    integer("max_position_embeddings", llama ? 2048 : null),
                    real(root, "initializer_range", 0.02),
                    root.path("tie_word_embeddings").asBoolean(false),
                    bos.isNull() || bos.isMissingNode() && !llama ? null : Integer.valueOf(integer("bos_token_id", 1)),
                    attentionBias || family == Family.QWEN2,
                    attentionBias,
                    bias("mlp_bias", llama),
                    slidingWindow(family),
                    0);
        }

        private int heads(Integer otherwise) {
            int heads = integer("num_attention_heads", otherwise);
            if (heads < 1) {
                throw refusal("num_attention_heads is " + heads + ", expected a positive number");
            }
            return heads;
        }

        private boolean bias(String key, boolean known) {
            boolean value = flag(key);
            if (value && !known) {
                throw refusal(key + " is true, which models of this family do not have");
            }
            return value;
        }

        /** One window for all layers, or none. */
        private int slidingWindow(Family family) {
            int window = switch (family) {
                case MISTRAL -> root.has("sliding_window") ? integer("sliding_window", 0) : 4096;
                case QWEN2, QWEN3 -> flag("use_sliding_window") ? integer("sliding_window", 4096) : 0;
                default -> 0;
            };
            if (window == 0) {
                return 0;
            }
            int layers = integer("num_hidden_layers", null);
            int without = family == Family.MISTRAL ? 0 : Math.clamp(integer("max_window_layers", 28), 0, layers);
            JsonNode types = root.path("layer_types");
            if (types.isArray()) {
                without = 0;
                for (JsonNode type : types) {
                    without += type.asText().equals("full_attention") ? 1 : 0;
                }
            }
            if (without != 0 && without != layers) {
                throw refusal("a sliding window in " + (layers - without) + " of " + layers
                        + " layers is not supported, only in all of them or in none");
            }
            return without == 0 ? window : 0;
        }

        private Map<String, Object> ropeScaling(JsonNode rope) {
            String type = present(rope, "rope_type")
                    ? rope.get("rope_type").asText()
                    : rope.path("type").asText("default");
            if (real(rope, "partial_rotary_factor", real(root, "partial_rotary_factor", 1)) != 1) {
                throw refusal("partial_rotary_factor other than 1 is not supported");
            }
            if (type.equals("default")) {
                return null;
            }
            if (!ROPE_NUMBERS.containsKey(type)) {
                throw refusal("RoPE of type '" + type + "' is not supported, only default, "
                        + String.join(", ", new TreeMap<>(ROPE_NUMBERS).keySet()));
            }
            if (type.equals("yarn")
                    && (present(rope, "mscale")
                            || present(rope, "mscale_all_dim")
                            || !rope.path("truncate").asBoolean(true))) {
                throw refusal("RoPE of type yarn with mscale, mscale_all_dim or truncate is not supported");
            }
            Map<String, Object> scaling = new LinkedHashMap<>();
            scaling.put("rope_type", type);
            for (String key : ROPE_NUMBERS.get(type)) {
                scaling.put(key, ropeNumber(rope, type, key));
            }
            for (String key : MORE_ROPE_NUMBERS.getOrDefault(type, List.of())) {
                if (present(rope, key)) {
                    scaling.put(key, ropeNumber(rope, type, key));
                }
            }
            return scaling;
        }

        private Number ropeNumber(JsonNode rope, String type, String key) {
            double value = real(rope, key, Double.NaN);
            if (!(value > 0)) {
                throw refusal("RoPE of type " + type + " needs a positive " + key);
            }
            if (key.equals("original_max_position_embeddings")) {
                return whole(rope, key);
            }
            return value;
        }

        private void expect(String key, String expected) {
            if (present(root, key) && !root.get(key).asText().equals(expected)) {
                throw refusal(key + " is " + root.get(key) + ", only \"" + expected + "\" is supported");
            }
        }

        private String text(String key, String otherwise) {
            return present(root, key) ? root.get(key).asText() : otherwise;
        }

        private boolean flag(String key) {
            JsonNode value = root.path(key);
            if (!value.isMissingNode() && !value.isNull() && !value.isBoolean()) {
                throw refusal(key + " is " + value + ", expected true or false");
            }
            return value.asBoolean(false);
        }

        /** @param otherwise null: the key must be there */
        private int integer(String key, Integer otherwise) {
            if (present(root, key)) {
                return whole(root, key);
            }
            if (otherwise == null) {
                throw refusal("there is no " + key);
            }
            return otherwise;
        }

        private int whole(JsonNode node, String key) {
            JsonNode value = node.get(key);
            if (!value.isIntegralNumber() || !value.canConvertToInt()) {
                throw refusal(key + " is " + value + ", expected a whole number");
            }
            return value.intValue();
        }

        private double real(JsonNode node, String key, double otherwise) {
            if (!present(node, key)) {
                return otherwise;
            }
            if (!node.get(key).isNumber()) {
                throw refusal(key + " is " + node.get(key) + ", expected a number");
            }
            return node.get(key).doubleValue();
        }

        private HllmException refusal(String why) {
            return new HllmException(origin + ": " + why);
        }
    }

    private static boolean present(JsonNode node, String key) {
        return node.hasNonNull(key);
    }
}
