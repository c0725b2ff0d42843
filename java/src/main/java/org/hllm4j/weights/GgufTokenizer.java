package org.hllm4j.weights;

import static org.hllm4j.weights.TokenizerJson.byteLevelStep;
import static org.hllm4j.weights.TokenizerJson.sequence;
import static org.hllm4j.weights.TokenizerJson.split;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;

/**
 * Rebuilds the {@code tokenizer.json} of a GGUF file: a GGUF holds vocabulary and merges (or scores), and names the
 * rest; the rest is written out here as llama.cpp and Hugging Face define it.
 */
public final class GgufTokenizer {
    private static final String GPT2_SPLIT =
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

    /** %s: how many digits stay together. */
    private static final String LLAMA3_SPLIT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}%s"
            + "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

    private GgufTokenizer() {}

    /** The content of a {@code tokenizer.json}; HllmException for a tokenizer that is not known here. */
    public static String toJson(Gguf gguf) {
        String model = gguf.string("tokenizer.ggml.model");
        return switch (model) {
            case "gpt2" -> byteLevel(gguf);
            case "llama" ->
                vocabulary(gguf, true)
                        .sentencePiece(
                                gguf.reals("tokenizer.ggml.scores"),
                                gguf.flag("tokenizer.ggml.add_space_prefix", true));
            default ->
                throw new HllmException(gguf.origin() + ": tokenizer.ggml.model is \"" + model
                        + "\", only gpt2 and llama are supported; give a tokenizer.json");
        };
    }

    private static TokenizerJson vocabulary(Gguf gguf, boolean bosByDefault) {
        List<String> tokens = gguf.strings("tokenizer.ggml.tokens");
        long[] normal = new long[tokens.size()];
        Arrays.fill(normal, TokenizerJson.NORMAL);
        Map<String, Long> roles = new LinkedHashMap<>();
        for (String role : List.of("bos", "eos", "unknown", "padding")) {
            String key = "tokenizer.ggml." + role + "_token_id";
            if (gguf.has(key)) {
                roles.put(role, gguf.integer(key));
            }
        }
        return new TokenizerJson(
                gguf.origin(),
                tokens,
                gguf.has("tokenizer.ggml.token_type") ? gguf.integers("tokenizer.ggml.token_type") : normal,
                roles,
                gguf.flag("tokenizer.ggml.add_bos_token", bosByDefault),
                gguf.flag("tokenizer.ggml.add_eos_token", false));
    }

    /** Byte-level BPE with the file's own merges. */
    private static String byteLevel(Gguf gguf) {
        String pre = gguf.string("tokenizer.ggml.pre", "default");
        boolean llama3 = List.of("llama-bpe", "llama3", "llama-v3").contains(pre);
        boolean qwen2 = pre.equals("qwen2");
        Object splits = switch (pre) {
            case "smollm" -> sequence(Json.fields("type", "Digits", "individual_digits", true), byteLevelStep(true));
            case "gpt-2" -> byteLevelStep(true);
            case "llama-bpe", "llama3", "llama-v3" ->
                sequence(split(LLAMA3_SPLIT.formatted("{1,3}")), byteLevelStep(false));
            case "qwen2" -> sequence(split(LLAMA3_SPLIT.formatted("")), byteLevelStep(false));
            case "default" ->
                sequence(
                        split("[\\p{P}\\$\\+<=>\\^~\\|]+"),
                        split(GPT2_SPLIT),
                        split("\\p{N}+"),
                        split("[0-9][0-9][0-9]"),
                        byteLevelStep(false));
            default ->
                throw new HllmException(gguf.origin() + ": tokenizer.ggml.pre is \"" + pre
                        + "\", only smollm, gpt-2, llama-bpe, qwen2 and default are supported; give a tokenizer.json");
        };
        return vocabulary(gguf, llama3)
                .byteLevel(
                        qwen2 ? Json.fields("type", "NFC") : null,
                        splits,
                        gguf.strings("tokenizer.ggml.merges"),
                        llama3);
    }
}
