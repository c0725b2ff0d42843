package org.hllm4j.weights;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.hllm4j.HllmException;

/**
 * The shape of a decoder-only transformer, as in a Hugging Face {@code config.json}.
 *
 * @param architecture the family, "llama"
 * @param hiddenSize D, width of the residual stream
 * @param intermediateSize F, width of the feed-forward layer
 * @param layers number of blocks
 * @param heads H, query heads
 * @param kvHeads Hkv, key/value heads; divides {@code heads}
 * @param headDim Dh, even
 * @param vocabSize V, rows of the word embedding
 * @param rmsNormEps added to the mean square in RMSNorm
 * @param ropeTheta base of the rotary frequencies
 * @param ropeScaling null for plain RoPE; else "rope_type" ("linear" or "llama3") and its numbers, by their Hugging
 *     Face names
 * @param maxPositions longest sequence the model was made for
 * @param initializerRange standard deviation of fresh weights
 * @param tieWordEmbeddings whether the output layer shares the word embedding
 * @param bosTokenId begin-of-sequence token, or null
 */
public record ModelConfig(
        String architecture,
        int hiddenSize,
        int intermediateSize,
        int layers,
        int heads,
        int kvHeads,
        int headDim,
        int vocabSize,
        double rmsNormEps,
        double ropeTheta,
        Map<String, Object> ropeScaling,
        int maxPositions,
        double initializerRange,
        boolean tieWordEmbeddings,
        Integer bosTokenId) {

    private static final Map<String, List<String>> ROPE_NUMBERS = Map.of(
            "linear", List.of("factor"),
            "llama3", List.of("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"));

    public ModelConfig {
        positive("hidden size", hiddenSize);
        positive("intermediate size", intermediateSize);
        positive("number of layers", layers);
        positive("number of heads", heads);
        positive("number of key/value heads", kvHeads);
        positive("head dimension", headDim);
        positive("vocabulary size", vocabSize);
        positive("rms_norm_eps", rmsNormEps);
        positive("rope_theta", ropeTheta);
        positive("max_position_embeddings", maxPositions);
        if (heads % kvHeads != 0 || headDim % 2 != 0) {
            throw new HllmException("model config: " + heads + " heads must be a multiple of " + kvHeads
                    + " key/value heads, and the head dimension " + headDim + " must be even");
        }
        if (ropeScaling != null) {
            // sorted: the same JSON in every run
            ropeScaling = Collections.unmodifiableMap(new TreeMap<>(ropeScaling));
        }
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
                architecture,
                hiddenSize,
                intermediateSize,
                layers,
                heads,
                kvHeads,
                headDim,
                vocabSize,
                rmsNormEps,
                ropeTheta,
                ropeScaling,
                maxPositions,
                initializerRange,
                tieWordEmbeddings,
                bosTokenId);
    }

    /** A {@code config.json} that transformers loads, releases before and after 5. */
    public String toJson() {
        Map<String, Object> json = new LinkedHashMap<>();
        json.put("architectures", List.of("LlamaForCausalLM"));
        json.put("model_type", architecture);
        json.put("hidden_size", hiddenSize);
        json.put("intermediate_size", intermediateSize);
        json.put("num_hidden_layers", layers);
        json.put("num_attention_heads", heads);
        json.put("num_key_value_heads", kvHeads);
        json.put("head_dim", headDim);
        json.put("vocab_size", vocabSize);
        json.put("hidden_act", "silu");
        json.put("attention_bias", false);
        json.put("mlp_bias", false);
        json.put("rms_norm_eps", rmsNormEps);
        // the spelling of transformers 4; 5 turns it into its rope_parameters
        json.put("rope_theta", ropeTheta);
        json.put("rope_scaling", ropeScaling);
        json.put("max_position_embeddings", maxPositions);
        json.put("initializer_range", initializerRange);
        json.put("tie_word_embeddings", tieWordEmbeddings);
        json.put("bos_token_id", bosTokenId);
        if (vocabSize == 1) {
            json.put("eos_token_id", null); // else transformers puts 2, and warns that it is out of range
        }
        json.put("torch_dtype", "float32");
        return Json.write(json);
    }

    /**
     * Reads a {@code config.json}; a missing key has the default of Hugging Face's LlamaConfig.
     *
     * @param origin the file, for messages
     * @throws HllmException for another model type, biases, another activation or an unknown kind of RoPE
     */
    public static ModelConfig parse(String json, String origin) {
        JsonNode root = Json.object(json, origin);
        expect(root, "model_type", "llama", origin);
        expect(root, "hidden_act", "silu", origin);
        for (String bias : List.of("attention_bias", "mlp_bias")) {
            if (present(root, bias)
                    && !root.get(bias).equals(Json.MAPPER.getNodeFactory().booleanNode(false))) {
                throw new HllmException(
                        origin + ": " + bias + " is " + root.get(bias) + ", models with biases are not supported");
            }
        }
        int hidden = integer(root, "hidden_size", 4096, origin);
        int heads = integer(root, "num_attention_heads", 32, origin);
        if (heads < 1) {
            throw new HllmException(origin + ": num_attention_heads is " + heads + ", expected a positive number");
        }
        JsonNode rope = present(root, "rope_parameters") ? root.get("rope_parameters") : root.path("rope_scaling");
        double theta = present(rope, "rope_theta")
                ? real(rope, "rope_theta", 0, origin)
                : real(root, "rope_theta", 10000, origin);
        JsonNode bos = root.path("bos_token_id");
        try {
            return new ModelConfig(
                    "llama",
                    hidden,
                    integer(root, "intermediate_size", 11008, origin),
                    integer(root, "num_hidden_layers", 32, origin),
                    heads,
                    integer(root, "num_key_value_heads", heads, origin),
                    integer(root, "head_dim", hidden / heads, origin),
                    integer(root, "vocab_size", 32000, origin),
                    real(root, "rms_norm_eps", 1e-6, origin),
                    theta,
                    ropeScaling(rope, origin),
                    integer(root, "max_position_embeddings", 2048, origin),
                    real(root, "initializer_range", 0.02, origin),
                    root.path("tie_word_embeddings").asBoolean(false),
                    bos.isNull() ? null : Integer.valueOf(integer(root, "bos_token_id", 1, origin)));
        } catch (HllmException e) {
            throw e.getMessage().startsWith(origin) ? e : new HllmException(origin + ": " + e.getMessage(), e);
        }
    }

    private static Map<String, Object> ropeScaling(JsonNode rope, String origin) {
        String type = present(rope, "rope_type")
                ? rope.get("rope_type").asText()
                : rope.path("type").asText("default");
        if (present(rope, "partial_rotary_factor") && real(rope, "partial_rotary_factor", 1, origin) != 1) {
            throw new HllmException(origin + ": partial_rotary_factor other than 1 is not supported");
        }
        if (type.equals("default")) {
            return null;
        }
        if (!ROPE_NUMBERS.containsKey(type)) {
            throw new HllmException(
                    origin + ": RoPE of type '" + type + "' is not supported, only default, linear " + "and llama3");
        }
        Map<String, Object> scaling = new LinkedHashMap<>();
        scaling.put("rope_type", type);
        for (String key : ROPE_NUMBERS.get(type)) {
            double value = real(rope, key, Double.NaN, origin);
            if (!(value > 0)) {
                throw new HllmException(origin + ": RoPE of type " + type + " needs a positive " + key);
            }
            if (key.equals("original_max_position_embeddings")) {
                scaling.put(key, integer(rope, key, 0, origin));
            } else {
                scaling.put(key, value);
            }
        }
        return scaling;
    }

    private static boolean present(JsonNode node, String key) {
        return node.hasNonNull(key);
    }

    private static void expect(JsonNode root, String key, String expected, String origin) {
        if (present(root, key) && !root.get(key).asText().equals(expected)) {
            throw new HllmException(
                    origin + ": " + key + " is " + root.get(key) + ", only \"" + expected + "\" is supported");
        }
    }

    private static int integer(JsonNode root, String key, int otherwise, String origin) {
        if (!present(root, key)) {
            return otherwise;
        }
        JsonNode value = root.get(key);
        if (!value.isIntegralNumber() || !value.canConvertToInt()) {
            throw new HllmException(origin + ": " + key + " is " + value + ", expected a whole number");
        }
        return value.intValue();
    }

    private static double real(JsonNode root, String key, double otherwise, String origin) {
        if (!present(root, key)) {
            return otherwise;
        }
        if (!root.get(key).isNumber()) {
            throw new HllmException(origin + ": " + key + " is " + root.get(key) + ", expected a number");
        }
        return root.get(key).doubleValue();
    }
}
