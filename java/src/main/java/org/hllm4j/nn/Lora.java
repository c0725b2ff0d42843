package org.hllm4j.nn;

/**
 * How a model is trained through adapters (LoRA, arXiv 2106.09685): its weights stay as they are, and every product of its
 * layers, x w^T, gets alpha / rank * x down^T up^T added, of which down [rank, K] and up [N, rank] are trained.
 *
 * @param rank inner width of an adapter, at least 1
 * @param alpha weight of what adapters add, whatever their rank
 */
public record Lora(int rank, double alpha) {
    float scale() {
        return (float) (alpha / rank);
    }
}
