package org.hllm4j.nn;

import java.util.ArrayList;
import java.util.List;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.weights.ModelConfig;

/**
 * Keys and values that outlive a batch: [layer][K or V][row][Hkv * Dh], so that a row number is valid in every layer. Keys
 * are stored after RoPE. What a row holds, and who may use it, is the owner's business. Owns its memory.
 */
public final class KeyValueArena implements AutoCloseable {
    private final int rows;
    private final Tensor memory;
    private final List<Tensor> keys = new ArrayList<>();
    private final List<Tensor> values = new ArrayList<>();

    /** @param dtype F32, or BF16 for half the memory; on a GPU the context's activation dtype */
    public KeyValueArena(Context context, ModelConfig config, int rows, DType dtype) {
        this.rows = rows;
        memory = context.zeros(dtype, 2L * config.layers() * rows, (long) config.kvHeads() * config.headDim());
        for (long layer = 0; layer < config.layers(); layer++) {
            long begin = 2 * layer * rows;
            keys.add(memory.rows(begin, begin + rows));
            values.add(memory.rows(begin + rows, begin + 2L * rows));
        }
    }

    /** Bytes that one row takes in all layers. */
    public static long bytesPerRow(ModelConfig config, DType dtype) {
        return 2L * config.layers() * config.kvHeads() * config.headDim() * dtype.bytes();
    }

    public int rows() {
        return rows;
    }

    /** [rows, Hkv * Dh] of a layer. */
    Tensor keys(int layer) {
        return keys.get(layer);
    }

    Tensor values(int layer) {
        return values.get(layer);
    }

    @Override
    public void close() {
        memory.close();
    }
}
