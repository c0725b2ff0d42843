package org.hllm4j.weights;

import java.util.Arrays;
import java.util.stream.Collectors;

/**
 * A family of language models: how Hugging Face names it and its tensors. What else tells one from another (biases, a
 * sliding window, sizes) is in {@link ModelConfig}.
 */
public enum Family {
    LLAMA("llama", "LlamaForCausalLM", LayerNames.DECODER),
    MISTRAL("mistral", "MistralForCausalLM", LayerNames.DECODER),
    QWEN2("qwen2", "Qwen2ForCausalLM", LayerNames.DECODER),
    /** Queries and keys are normalised, head by head. */
    QWEN3("qwen3", "Qwen3ForCausalLM", LayerNames.DECODER),
    /** Queries, keys and values come out of one matrix. */
    BAICHUAN("baichuan", "BaichuanForCausalLM", LayerNames.PACKED),
    /** Encoders: every token sees all of its text, and positions are learned vectors. */
    BERT("bert", "BertModel", LayerNames.ENCODER),
    /** An encoder's layers over a user's events, each of which sees those before it. */
    SASREC("sasrec", "SASRec", LayerNames.ENCODER);

    private final String modelType;
    private final String architecture;
    private final LayerNames layerNames;

    Family(String modelType, String architecture, LayerNames layerNames) {
        this.modelType = modelType;
        this.architecture = architecture;
        this.layerNames = layerNames;
    }

    /** The family of a {@code model_type}, or null. */
    static Family of(String modelType) {
        return Arrays.stream(values())
                .filter(family -> family.modelType.equals(modelType))
                .findFirst()
                .orElse(null);
    }

    /** All {@code model_type}s, for messages. */
    static String known() {
        return Arrays.stream(values()).map(family -> family.modelType).collect(Collectors.joining(", "));
    }

    /** {@code model_type} of config.json. */
    public String modelType() {
        return modelType;
    }

    /** The class that loads an exported model. */
    String architecture() {
        return architecture;
    }

    public LayerNames layerNames() {
        return layerNames;
    }

    /**
     * Whether its layers are an encoder's, in the manner of BERT: learned positions, LayerNorm after each half of a layer,
     * GELU. Else a decoder's, in the manner of Llama: rotary positions, RMSNorm before each half, SwiGLU.
     */
    public boolean encoder() {
        return this == BERT || this == SASREC;
    }

    /** Whether a position sees those before it alone, and not those after it. */
    public boolean causal() {
        return this != BERT;
    }

    /** Whether queries and keys are normalised, head by head. */
    public boolean normalisesHeads() {
        return this == QWEN3;
    }

    /** Whether the state of a token depends on its prefix alone, so that texts with the same beginning may share it. */
    public boolean sharesPrefixes() {
        return !encoder();
    }

    /** What official checkpoints put in front of the names below: "model.", or nothing. */
    public String stem() {
        return encoder() ? "" : "model.";
    }

    /** What some files put in front of the names below. */
    String filePrefix() {
        return encoder() ? "bert." : "model.";
    }

    /** Whether its SentencePiece tokenizer puts BOS before a text, where no setting says otherwise. */
    boolean beginsTexts() {
        return this != BAICHUAN;
    }

    /** The word embedding. */
    public String words() {
        return encoder() ? "embeddings.word_embeddings.weight" : "embed_tokens.weight";
    }

    /** The norm behind the last layer, without ".weight"; null: there is none. */
    public String finalNorm() {
        return encoder() ? null : "norm";
    }

    /** Tensors that files may hold and vectors do not need: output layers, poolers, stored tables. */
    boolean ignores(String name) {
        return encoder()
                ? name.startsWith("pooler.") || name.startsWith("cls.") || name.equals("embeddings.position_ids")
                : name.equals("lm_head.weight")
                        || name.equals("rope_freqs.weight")
                        || name.endsWith("rotary_emb.inv_freq");
    }
}
