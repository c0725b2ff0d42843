package org.hllm4j.perf;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.weights.ModelConfig;

/** The matrix products of a pass through a transformer: each shape, and how often it occurs. */
record Work(Map<Gemm, Double> products) {
    /** y [m, n] = x [m, k] w [n, k]^T. */
    record Gemm(long m, long n, long k) {
        double flops() {
            return 2.0 * m * n * k;
        }

        Gemm rows(long rows) {
            return new Gemm(rows, n, k);
        }

        @Override
        public String toString() {
            return m + " x " + n + " x " + k;
        }
    }

    static final Work NOTHING = new Work(Map.of());

    /**
     * The linear layers of a forward pass; attention, norms and activations are not counted.
     *
     * @param rows token rows
     * @param finished rows that are wanted from the last layer; it computes keys and values for all, the rest for these
     */
    static Work forward(ModelConfig config, long rows, long finished) {
        Map<Gemm, Double> products = new LinkedHashMap<>();
        for (Gemm gemm : layer(config).values()) {
            add(products, gemm.rows(rows), config.layers() - 1);
        }
        long wide = (long) config.heads() * config.headDim();
        long narrow = (long) config.kvHeads() * config.headDim();
        if (finished == rows) {
            add(products, layer(config).get("qkv").rows(rows), 1);
        } else {
            add(products, new Gemm(finished, wide, config.hiddenSize()), 1);
            add(products, new Gemm(rows, 2 * narrow, config.hiddenSize()), 1);
        }
        for (String name : new String[] {"out", "gate+up", "down"}) {
            add(products, layer(config).get(name).rows(finished), 1);
        }
        return new Work(products);
    }

    /** The products of one layer, by name, for one row. */
    static Map<String, Gemm> layer(ModelConfig config) {
        long wide = (long) config.heads() * config.headDim();
        long narrow = (long) config.kvHeads() * config.headDim();
        Map<String, Gemm> layer = new LinkedHashMap<>();
        layer.put("qkv", new Gemm(1, wide + 2 * narrow, config.hiddenSize()));
        layer.put("out", new Gemm(1, config.hiddenSize(), wide));
        layer.put("gate+up", new Gemm(1, 2L * config.intermediateSize(), config.hiddenSize()));
        layer.put("down", new Gemm(1, config.hiddenSize(), config.intermediateSize()));
        return layer;
    }

    /**
     * What the Item LLM computes for some texts.
     *
     * @param count of packs
     * @param rows token rows of all
     */
    record Packs(int count, long rows, Work work) {}

    static Packs packs(ModelConfig config, int[][] tokens, int maxRows) {
        Packs sum = new Packs(0, 0, NOTHING);
        for (int[] chunk : TokenTrie.chunks(tokens, maxRows)) {
            int[][] part = Arrays.stream(chunk).mapToObj(i -> tokens[i]).toArray(int[][]::new);
            PackedTokens pack = TokenTrie.pack(part, true, true);
            Work work = forward(config, pack.rows(), pack.leaves());
            sum = new Packs(sum.count + 1, sum.rows + pack.rows(), sum.work.plus(work));
        }
        return sum;
    }

    Work plus(Work other) {
        Map<Gemm, Double> sum = new LinkedHashMap<>(products);
        other.products.forEach((gemm, count) -> add(sum, gemm, count));
        return new Work(sum);
    }

    /** E.g. 3 for forward and backward: gradients of inputs and of weights are a product each. */
    Work times(double factor) {
        Map<Gemm, Double> scaled = new LinkedHashMap<>();
        products.forEach((gemm, count) -> add(scaled, gemm, factor * count));
        return new Work(scaled);
    }

    double flops() {
        return products.entrySet().stream()
                .mapToDouble(e -> e.getKey().flops() * e.getValue())
                .sum();
    }

    /** GFLOP/s of all of it within {@code seconds}, as a fraction of what the best library would reach. */
    Row.Rate rate(double seconds, Roofline roofline) {
        double best = products.entrySet().stream()
                .mapToDouble(e -> e.getKey().flops() * e.getValue() / roofline.flops(e.getKey()))
                .sum();
        return new Row.Rate(flops() / seconds / 1e9, "GFLOP/s", best / seconds, "best GEMM at these shapes");
    }

    private static void add(Map<Gemm, Double> products, Gemm gemm, double count) {
        if (count > 0 && gemm.m > 0) {
            products.merge(gemm, count, Double::sum);
        }
    }
}
