package org.hllm4j;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Random;
import org.hllm4j.data.Catalogue;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Interactions;
import org.hllm4j.data.MissingText;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;
import org.hllm4j.model.Pooling;
import org.hllm4j.weights.Family;
import org.hllm4j.weights.ModelConfig;

/** A small random model and a small invented log, from a seed that failing tests print. */
public final class Tiny {
    public static final int VOCABULARY = 40;
    public static final int MAX_TEXT = 12;
    public static final int MAX_HISTORY = 6;

    private Tiny() {}

    public static long seed() {
        String named = System.getProperty("tests.seed", "");
        return named.isEmpty() || named.startsWith("${") ? 42 : Long.parseLong(named);
    }

    public static String device() {
        return System.getProperty("hllm.device", "cpu");
    }

    public static HllmConfig config(Pooling pooling) {
        ModelConfig llm = ModelConfig.parse("""
                {"model_type": "llama", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
                 "num_attention_heads": 3, "num_key_value_heads": 1, "vocab_size": %d, "initializer_range": 0.2}
                """.formatted(VOCABULARY), "test");
        return new HllmConfig(llm, llm.withLayers(1), pooling, MAX_TEXT, MAX_HISTORY);
    }

    public static Hllm model(Context context, Pooling pooling, Hllm.Trained trained) {
        return random(new Hllm(context, config(pooling), trained, DType.F32), seed());
    }

    /** A model with an [ITEM] token for inference, with a ranking head if there is a fusion. */
    public static Hllm ranker(Context context, Fusion fusion, long seed) {
        HllmConfig config = config(Pooling.TOKEN).withFusion(fusion);
        Hllm model = random(new Hllm(context, config, Hllm.Trained.NOTHING, DType.F32), seed);
        if (fusion != null) {
            model.randomiseRanker(seed, 0.3);
        }
        return model;
    }

    private static Hllm random(Hllm model, long seed) {
        model.randomise(Hllm.Side.ITEM, seed);
        model.randomise(Hllm.Side.USER, seed);
        model.randomiseItemToken(seed);
        return model;
    }

    /** Norm of the difference over the norm of what was expected. */
    public static double relativeError(float[] expected, float[] actual) {
        double difference = 0;
        double norm = 0;
        for (int i = 0; i < expected.length; i++) {
            difference += Math.pow((double) expected[i] - actual[i], 2);
            norm += Math.pow(expected[i], 2);
        }
        return Math.sqrt(difference / norm);
    }

    /** Token lists with many shared prefixes, some equal, some a prefix of another. */
    public static int[][] tokens(int items, Random random) {
        int[][] tokens = new int[items][];
        for (int i = 0; i < items; i++) {
            int[] prefix = i > 0 && random.nextInt(3) > 0 ? tokens[random.nextInt(i)] : new int[] {1, 2};
            int keep = random.nextInt(prefix.length) + 1;
            int length = Math.min(MAX_TEXT, keep + random.nextInt(5));
            tokens[i] = new int[length];
            for (int k = 0; k < length; k++) {
                tokens[i][k] = k < keep ? prefix[k] : random.nextInt(VOCABULARY);
            }
        }
        return tokens;
    }

    /** Users with 1 to 15 events; item popularity is skewed. Files are written to the folder. */
    public static Dataset dataset(Path folder, int users, int items) {
        Random random = new Random(seed());
        StringBuilder catalogue = new StringBuilder("item_id,title\n");
        for (int i = 0; i < items; i++) {
            catalogue.append("i").append(i).append(",film ").append(i).append('\n');
        }
        StringBuilder log = new StringBuilder("item_id,user_id,timestamp\n");
        int time = 0;
        for (int u = 0; u < users; u++) {
            int events = 1 + random.nextInt(15);
            for (int e = 0; e < events; e++) {
                int item = (int) (items * Math.pow(random.nextDouble(), 2));
                log.append("i")
                        .append(item)
                        .append(",u")
                        .append(u)
                        .append(',')
                        .append(time++)
                        .append('\n');
            }
        }
        try {
            Files.writeString(folder.resolve("items.csv"), catalogue);
            Files.writeString(folder.resolve("interactions.csv"), log);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
        Catalogue read = Catalogue.read(folder.resolve("items.csv"), List.of("title"));
        Interactions interactions = Interactions.read(folder.resolve("interactions.csv"), read, MissingText.ERROR);
        return new Dataset(read, interactions, tokens(items, random));
    }

    /** The same sizes in another family, with a sliding window or 0. */
    public static ModelConfig ofFamily(ModelConfig c, Family family, int window) {
        return new ModelConfig(
                family,
                c.hiddenSize(),
                c.intermediateSize(),
                c.layers(),
                c.heads(),
                c.kvHeads(),
                c.headDim(),
                c.vocabSize(),
                c.normEps(),
                c.ropeTheta(),
                c.ropeScaling(),
                c.maxPositions(),
                c.initializerRange(),
                c.tieWordEmbeddings(),
                c.bosTokenId(),
                family == Family.QWEN2,
                false,
                false,
                window,
                0);
    }

    /** The real model: where -Dhllm.smollm2 says, or where quickstart keeps it. */
    public static Path smolLm2() {
        String named = System.getProperty("hllm.smollm2", "");
        return !named.isEmpty() && !named.startsWith("${")
                ? Path.of(named)
                : Path.of(System.getProperty("user.home"), ".cache/hllm4j/SmolLM2-135M-Instruct.Q4_1.gguf");
    }

    public static String noSmolLm2() {
        return "skipped: no " + smolLm2() + " (./hllm quickstart fetches it; -Dhllm.smollm2 names another place)";
    }
}
