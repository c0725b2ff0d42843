package org.hllm4j.weights;

import java.nio.FloatBuffer;
import java.util.Map;
import org.hllm4j.HllmException;

/** The {@link ModelConfig} that a GGUF file's metadata describes. */
final class GgufConfig {
    /** By {@code general.architecture}; "llama" is Mistral too. */
    static final Map<String, Family> FAMILIES =
            Map.of("llama", Family.LLAMA, "qwen2", Family.QWEN2, "qwen3", Family.QWEN3);

    private static final String ROPE_FACTORS = "rope_freqs.weight";

    private GgufConfig() {}

    static ModelConfig read(Gguf gguf) {
        String architecture = gguf.string("general.architecture");
        Family family = FAMILIES.get(architecture);
        if (family == null) {
            throw new HllmException(gguf.origin() + ": general.architecture is \"" + architecture
                    + "\", only llama, qwen2 and qwen3 are supported; use the model in the Hugging Face layout");
        }
        String arch = architecture + ".";
        if (gguf.integer(arch + "attention.sliding_window", 0) > 0) {
            throw new HllmException(gguf.origin() + ": a sliding window is not read from a GGUF; use the model in the "
                    + "Hugging Face layout");
        }
        if (gguf.integer(arch + "expert_count", 0) > 0) {
            throw new HllmException(gguf.origin() + ": mixture-of-experts models are not supported");
        }
        int hidden = size(gguf, arch + "embedding_length", -1);
        int heads = size(gguf, arch + "attention.head_count", -1);
        int headDim = size(gguf, arch + "attention.key_length", hidden / heads);
        if (size(gguf, arch + "rope.dimension_count", headDim) != headDim) {
            throw new HllmException(gguf.origin() + ": RoPE over a part of the head (" + arch
                    + "rope.dimension_count) is not supported");
        }
        double theta = gguf.real(arch + "rope.freq_base", 10000);
        return new ModelConfig(
                family,
                hidden,
                size(gguf, arch + "feed_forward_length", -1),
                size(gguf, arch + "block_count", -1),
                heads,
                size(gguf, arch + "attention.head_count_kv", heads),
                headDim,
                (int) Math.min(vocabulary(gguf), Integer.MAX_VALUE),
                gguf.real(arch + "attention.layer_norm_rms_epsilon"),
                theta,
                ropeScaling(gguf, arch, headDim, theta),
                size(gguf, arch + "context_length", 2048),
                0.02,
                !gguf.names().contains("lm_head.weight"),
                gguf.has("tokenizer.ggml.bos_token_id") ? size(gguf, "tokenizer.ggml.bos_token_id", 0) : null,
                family == Family.QWEN2,
                false,
                false,
                0,
                0);
    }

    /** The rows of the word embedding: vocab_size is missing from some files. */
    private static long vocabulary(Gguf gguf) {
        long[] shape = gguf.info("model.embed_tokens.weight").shape();
        return shape.length == 0 ? 0 : shape[0];
    }

    private static int size(Gguf gguf, String key, int otherwise) {
        long value = otherwise < 0 ? gguf.integer(key) : gguf.integer(key, otherwise);
        if (value < 0 || value > Integer.MAX_VALUE || value == 0 && !key.startsWith("tokenizer.")) {
            throw new HllmException(
                    gguf.origin() + ": metadata '" + key + "' is " + value + ", expected a positive number");
        }
        return (int) value;
    }

    private static Map<String, Object> ropeScaling(Gguf gguf, String arch, int headDim, double theta) {
        if (gguf.names().contains(ROPE_FACTORS)) {
            return llama3Scaling(gguf, headDim, theta);
        }
        String type = gguf.string(arch + "rope.scaling.type", "none");
        return switch (type) {
            case "none" -> null;
            case "linear" -> Json.fields("rope_type", "linear", "factor", gguf.real(arch + "rope.scaling.factor"));
            default ->
                throw new HllmException(gguf.origin() + ": RoPE scaling of type '" + type
                        + "' is not supported, only none, " + "linear and llama3");
        };
    }

    /**
     * Llama 3.1 and later store not the parameters of their scaling but the divisor of each frequency. The largest is
     * the factor; the other parameters are those of all published models, checked by recomputing every divisor.
     */
    private static Map<String, Object> llama3Scaling(Gguf gguf, int headDim, double theta) {
        int count = (int) Math.min(gguf.info(ROPE_FACTORS).elements(), headDim);
        FloatBuffer divisors = FloatBuffer.allocate(count);
        gguf.read(ROPE_FACTORS, 0, divisors);
        double factor = 1;
        for (float divisor : divisors.array()) {
            factor = Math.max(factor, divisor);
        }
        double low = 1;
        double high = 4;
        int original = 8192;
        boolean same = count == headDim / 2;
        for (int i = 0; i < count && same; i++) {
            double wavelength = 2 * Math.PI * Math.pow(theta, 2.0 * i / headDim);
            double smooth = Math.clamp((original / wavelength - low) / (high - low), 0, 1);
            double expected = 1 / ((1 - smooth) / factor + smooth);
            same = Math.abs(divisors.get(i) - expected) <= 1e-3 * expected;
        }
        if (!same) {
            throw new HllmException(gguf.origin() + ": the RoPE factors in " + ROPE_FACTORS
                    + " are not those of Llama 3.1; use the model in the Hugging Face layout");
        }
        return Json.fields(
                "rope_type", "llama3",
                "factor", factor,
                "low_freq_factor", low,
                "high_freq_factor", high,
                "original_max_position_embeddings", original);
    }
}
