package org.hllm4j.weights;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * Tensors of a model that are computed as one and therefore lie one after the other: q, k and v; gate and up; or a single
 * one.
 *
 * @param names below the model's own prefix
 * @param rows of each; of a vector its elements
 * @param columns of all of them; of vectors 1
 */
public record TensorGroup(Kind kind, List<String> names, List<Long> rows, long columns) {
    public enum Kind {
        /** Norms and biases. */
        VECTOR,
        /** Rows that are looked up. */
        TABLE,
        /** Factors of products. */
        MATRIX
    }

    /** The same tensors under longer names. */
    public TensorGroup withPrefix(String prefix) {
        return new TensorGroup(kind, names(prefix, names, ""), rows, columns);
    }

    /** Shape of one of its tensors. */
    public long[] shape(int i) {
        return kind == Kind.VECTOR ? new long[] {rows.get(i)} : new long[] {rows.get(i), columns};
    }

    /** All tensors of a model, word embeddings excepted, in the order of computation. */
    public static List<TensorGroup> of(ModelConfig config) {
        Family family = config.family();
        List<TensorGroup> groups = new ArrayList<>();
        long width = config.hiddenSize();
        if (family.encoder()) {
            groups.add(table("embeddings.position_embeddings.weight", config.maxPositions(), width));
            if (config.tokenTypes() > 0) {
                groups.add(table("embeddings.token_type_embeddings.weight", config.tokenTypes(), width));
            }
            norm(groups, "embeddings.LayerNorm", width, true);
        }
        for (int layer = 0; layer < config.layers(); layer++) {
            layer(groups, config, family.layerNames(), family.layerNames().layer(layer));
        }
        if (family.finalNorm() != null) {
            norm(groups, family.finalNorm(), width, false);
        }
        return groups;
    }

    private static void layer(List<TensorGroup> groups, ModelConfig config, LayerNames names, String prefix) {
        long width = config.hiddenSize();
        long inner = config.intermediateSize();
        long wide = (long) config.heads() * config.headDim();
        long narrow = (long) config.kvHeads() * config.headDim();
        boolean centred = config.family().encoder();
        norm(groups, prefix + names.attentionNorm(), width, centred);
        List<Long> qkv = names.qkv().size() == 1 ? List.of(wide + 2 * narrow) : List.of(wide, narrow, narrow);
        product(groups, prefix, names.qkv(), qkv, width, config.qkvBias());
        if (config.family().normalisesHeads()) {
            norm(groups, prefix + names.queryNorm(), config.headDim(), false);
            norm(groups, prefix + names.keyNorm(), config.headDim(), false);
        }
        product(groups, prefix, List.of(names.out()), List.of(width), wide, config.outBias());
        norm(groups, prefix + names.mlpNorm(), width, centred);
        List<Long> up = Collections.nCopies(names.up().size(), inner);
        product(groups, prefix, names.up(), up, width, config.mlpBias());
        product(groups, prefix, List.of(names.down()), List.of(width), inner, config.mlpBias());
    }

    private static void product(
            List<TensorGroup> groups,
            String prefix,
            List<String> modules,
            List<Long> rows,
            long columns,
            boolean bias) {
        groups.add(new TensorGroup(Kind.MATRIX, names(prefix, modules, ".weight"), rows, columns));
        if (bias) {
            groups.add(new TensorGroup(Kind.VECTOR, names(prefix, modules, ".bias"), rows, 1));
        }
    }

    private static void norm(List<TensorGroup> groups, String module, long width, boolean bias) {
        groups.add(vector(module + ".weight", width));
        if (bias) {
            groups.add(vector(module + ".bias", width));
        }
    }

    private static TensorGroup vector(String name, long size) {
        return new TensorGroup(Kind.VECTOR, List.of(name), List.of(size), 1);
    }

    /** A single table. */
    static TensorGroup table(String name, long rows, long columns) {
        return new TensorGroup(Kind.TABLE, List.of(name), List.of(rows), columns);
    }

    private static List<String> names(String prefix, List<String> modules, String end) {
        return modules.stream().map(module -> prefix + module + end).toList();
    }
}
