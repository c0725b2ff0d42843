package org.hllm4j.nn;

import java.util.Map;
import org.hllm4j.HllmException;

/** Angles of rotary position embeddings, with the length-independent scalings of Hugging Face configurations. */
final class RopeTable {
    private RopeTable() {}

    /**
     * Rows of {@code headDim}: the cosines of headDim/2 angles, then their sines.
     *
     * @param scaling {@code rope_scaling} of config.json, or null: "linear" or "llama3"
     */
    static float[] of(int positions, int headDim, double theta, Map<String, Object> scaling) {
        int half = headDim / 2;
        float[] table = new float[Math.multiplyExact(positions, headDim)];
        for (int i = 0; i < half; i++) {
            // The official code computes frequencies and angles in float32; so do we, to agree at long positions too.
            float frequency = (float) scaled(1 / Math.pow(theta, 2.0 * i / headDim), scaling);
            for (int p = 0; p < positions; p++) {
                float angle = p * frequency;
                table[p * headDim + i] = (float) Math.cos(angle);
                table[p * headDim + half + i] = (float) Math.sin(angle);
            }
        }
        return table;
    }

    private static double scaled(double frequency, Map<String, Object> scaling) {
        if (scaling == null) {
            return frequency;
        }
        String type = String.valueOf(scaling.getOrDefault("rope_type", scaling.getOrDefault("type", "default")));
        return switch (type) {
            case "default" -> frequency;
            case "linear" -> frequency / number(scaling, "factor");
            case "llama3" -> llama3(frequency, scaling);
            default -> throw new HllmException("RoPE scaling '" + type + "' is not supported; linear and llama3 are");
        };
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

    private static double number(Map<String, Object> scaling, String key) {
        if (scaling.get(key) instanceof Number number) {
            return number.doubleValue();
        }
        throw new HllmException("config.json: rope_scaling needs a number '" + key + "'");
    }
}
