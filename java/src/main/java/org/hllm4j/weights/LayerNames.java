package org.hllm4j.weights;

import java.util.List;

/**
 * Names of a layer's modules; their tensors end in ".weight" and ".bias".
 *
 * @param layers where the layers are: a layer's names begin with "layers.N."
 * @param attentionNorm the norm of the attention half
 * @param qkv matrices of queries, keys and values
 * @param queryNorm the norm of each query head, where the family has one
 * @param keyNorm likewise of keys
 * @param out the matrix behind attention
 * @param mlpNorm the norm of the MLP half
 * @param up matrices in front of the activation: gate and up, or one
 * @param down the matrix behind it
 */
public record LayerNames(
        String layers,
        String attentionNorm,
        List<String> qkv,
        String queryNorm,
        String keyNorm,
        String out,
        String mlpNorm,
        List<String> up,
        String down) {

    static final LayerNames DECODER = decoder(List.of("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"));
    static final LayerNames PACKED = decoder(List.of("self_attn.W_pack"));
    static final LayerNames ENCODER = new LayerNames(
            "encoder.layer.",
            "attention.output.LayerNorm",
            List.of("attention.self.query", "attention.self.key", "attention.self.value"),
            null,
            null,
            "attention.output.dense",
            "output.LayerNorm",
            List.of("intermediate.dense"),
            "output.dense");

    private static LayerNames decoder(List<String> qkv) {
        return new LayerNames(
                "layers.",
                "input_layernorm",
                qkv,
                "self_attn.q_norm",
                "self_attn.k_norm",
                "self_attn.o_proj",
                "post_attention_layernorm",
                List.of("mlp.gate_proj", "mlp.up_proj"),
                "mlp.down_proj");
    }

    /** What a layer's names begin with. */
    public String layer(int number) {
        return layers + number + ".";
    }
}
