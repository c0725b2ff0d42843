package org.hllm4j.nn;

import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.weights.ModelConfig;

/** Angles of rotary position embeddings, with those scalings of Hugging Face configurations that no text's length changes. */
final class RopeTable {
    private RopeTable() {}

    /**
     * Rows of {@code headDim}: the cosines of headDim/2 angles, then their sines.
     *
     * @throws HllmException for more positions than a scaling of type "dynamic" is the same function for
     */
    static float[] of(int positions, ModelConfig config) {
        int headDim = config.headDim();
        int half = headDim / 2;
        Map<String, Object> scaling = config.ropeScaling();
        String type = scaling == null ? "default" : String.valueOf(scaling.get("rope_type"));
        if (type.equals("dynamic") && positions > config.maxPositions()) {
            throw new HllmException(
                    "RoPE of type dynamic turns every position by another angle once a text has more than "
                            + config.maxPositions() + " positions, so nothing could be shared or kept; " + positions
                            + " are asked for. Shorten texts or history");
        }
        float factor = type.equals("yarn") ? (float) yarnAttention(scaling) : 1;
        float[] table = new float[Math.multiplyExact(positions, headDim)];
        for (int i = 0; i < half; i++) {
            double plain = 1 / Math.pow(config.ropeTheta(), 2.0 * i / headDim);
            // The official code computes frequencies and angles in float32; so do we, to agree at long positions too.
            float frequency = (float)
                    switch (type) {
                        case "linear" -> plain / number(scaling, "factor");
                        case "llama3" -> llama3(plain, scaling);
                        case "yarn" -> yarn(plain, i, config);
                        default -> plain; // of "dynamic" too, up to the length it was made for
                    };
            for (int p = 0; p < positions; p++) {
                float angle = p * frequency;
                table[p * headDim + i] = factor * (float) Math.cos(angle);
                table[p * headDim + half + i] = factor * (float) Math.sin(angle);
            }
        }
        return table;
    }

    /** Llama 3.1: long wavelengths are stretched, short ones kept, those between are blended. */
    private static double llama3(double frequency, Map<String, Object> scaling) {
        double factor = number(scaling, "factor");
        double low = number(scaling, "low_freq_factor");
        double high = number(scaling, "high_freq_factor");
        double context = number(scaling, "original_max_position_embeddings");
        double wavelength = 2 * Math.PI / frequency;
        double smooth = Math.clamp((context / wavelength - low) / (high - low), 0.0, 1.0);
        return (1 - smooth) * frequency / factor + smooth * frequency;
    }

    /** YaRN (Peng et al. 2023): kept where it turns often over the original context, stretched where it hardly does. */
    private static double yarn(double frequency, int i, ModelConfig config) {
        Map<String, Object> scaling = config.ropeScaling();
        double low = Math.max(Math.floor(dimension(number(scaling, "beta_fast", 32), config)), 0);
        double high = Math.min(Math.ceil(dimension(number(scaling, "beta_slow", 1), config)), config.headDim() - 1.0);
        double stretched = Math.clamp((i - low) / (high == low ? 0.001 : high - low), 0, 1);
        return frequency * (1 - stretched) + frequency / number(scaling, "factor") * stretched;
    }

    /** Which angle turns so many times over the original context. */
    private static double dimension(double turns, ModelConfig config) {
        double context = number(config.ropeScaling(), "original_max_position_embeddings", config.maxPositions());
        return config.headDim() * Math.log(context / (turns * 2 * Math.PI)) / (2 * Math.log(config.ropeTheta()));
    }

    private static double yarnAttention(Map<String, Object> scaling) {
        double factor = number(scaling, "factor");
        return number(scaling, "attention_factor", factor <= 1 ? 1 : 0.1 * Math.log(factor) + 1);
    }

    private static double number(Map<String, Object> scaling, String key) {
        return ((Number) scaling.get(key)).doubleValue();
    }

    private static double number(Map<String, Object> scaling, String key, double otherwise) {
        return scaling.containsKey(key) ? number(scaling, key) : otherwise;
    }
}
