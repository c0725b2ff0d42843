package org.hllm4j.run;

import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.LongConsumer;
import org.hllm4j.HllmException;
import org.hllm4j.data.Gaussian;
import org.hllm4j.text.ByteTokenizer;
import org.hllm4j.weights.ModelConfig;
import org.hllm4j.weights.PendingFile;
import org.hllm4j.weights.SafetensorsWriter;
import org.hllm4j.weights.StoredType;
import org.hllm4j.weights.TensorGroup;
import org.hllm4j.weights.TensorInfo;

/**
 * Models of any shape with random weights, to measure what such a model takes: a Hugging Face folder with bf16 weights in
 * shards, as the real ones come, and a tokenizer of bytes.
 */
public final class RandomModel {
    private static final int CHUNK = 1 << 20; // elements written at a time
    private static final long STEP = 1_000_003; // odd: CHUNK pieces begin at as many places

    private final ModelConfig config;
    private final LongConsumer progress;
    private final float[] normal = new float[2 * CHUNK]; // numbers that each piece begins at another place of
    private long pieces;
    private long bytes;

    private RandomModel(ModelConfig config, long seed, LongConsumer progress) {
        this.config = config;
        this.progress = progress;
        Gaussian.fill(seed, 0, normal, (float) config.initializerRange());
    }

    /** Bytes of the weights. */
    public static long bytes(ModelConfig config) {
        return tensors(config).stream().mapToLong(TensorInfo::bytes).sum();
    }

    /**
     * Writes a model.
     *
     * @param folder made if it is not there
     * @param shard bytes of a weight file; one with a single larger tensor is larger
     * @param progress told the bytes written
     */
    public static void write(ModelConfig config, Path folder, long shard, long seed, LongConsumer progress) {
        if (config.vocabSize() < ByteTokenizer.VOCABULARY) {
            throw new HllmException("a vocabulary of " + config.vocabSize() + " is too small for a tokenizer of bytes, "
                    + "which takes " + ByteTokenizer.VOCABULARY);
        }
        RunFolder.create(folder);
        new RandomModel(config, seed, progress).write(folder, shards(tensors(config), shard));
        PendingFile.write(folder.resolve("tokenizer.json"), ByteTokenizer.json().getBytes(StandardCharsets.UTF_8));
        PendingFile.write(
                folder.resolve("config.json"), config.toJson(StoredType.BF16).getBytes(StandardCharsets.UTF_8));
    }

    private static List<TensorInfo> tensors(ModelConfig config) {
        String stem = config.family().stem();
        List<TensorInfo> tensors = new ArrayList<>();
        tensors.add(tensor(stem + config.family().words(), config.vocabSize(), config.hiddenSize()));
        for (TensorGroup group : TensorGroup.of(config)) {
            for (int i = 0; i < group.names().size(); i++) {
                tensors.add(tensor(stem + group.names().get(i), group.shape(i)));
            }
        }
        if (!config.tieWordEmbeddings()) {
            tensors.add(tensor("lm_head.weight", config.vocabSize(), config.hiddenSize()));
        }
        return tensors;
    }

    private static TensorInfo tensor(String name, long... shape) {
        return new TensorInfo(name, StoredType.BF16, shape);
    }

    private static List<List<TensorInfo>> shards(List<TensorInfo> tensors, long most) {
        List<List<TensorInfo>> shards = new ArrayList<>();
        long filled = most;
        for (TensorInfo tensor : tensors) {
            filled += tensor.bytes();
            if (filled > most) {
                shards.add(new ArrayList<>());
                filled = tensor.bytes();
            }
            shards.getLast().add(tensor);
        }
        return shards;
    }

    private void write(Path folder, List<List<TensorInfo>> shards) {
        if (shards.size() == 1) {
            writeFile(folder.resolve("model.safetensors"), shards.getFirst());
            return;
        }
        Map<String, String> shardOf = new LinkedHashMap<>();
        for (int i = 0; i < shards.size(); i++) {
            String name = String.format(Locale.ROOT, "model-%05d-of-%05d.safetensors", i + 1, shards.size());
            writeFile(folder.resolve(name), shards.get(i));
            shards.get(i).forEach(tensor -> shardOf.put(tensor.name(), name));
        }
        SafetensorsWriter.index(folder, shardOf, bytes);
    }

    private void writeFile(Path file, List<TensorInfo> tensors) {
        try (SafetensorsWriter writer = SafetensorsWriter.create(file, tensors, Map.of("format", "pt"))) {
            for (TensorInfo tensor : tensors) {
                for (long at = 0; at < tensor.elements(); at += CHUNK) {
                    int count = (int) Math.min(CHUNK, tensor.elements() - at);
                    writer.append(tensor.name(), values(tensor, count));
                    bytes += StoredType.BF16.blockBytes() * (long) count;
                    progress.accept(bytes);
                }
            }
        }
    }

    /** N(0, initializer_range), norms 1, biases 0. */
    private FloatBuffer values(TensorInfo tensor, int count) {
        if (tensor.shape().length == 1) {
            float[] all = new float[count];
            Arrays.fill(all, tensor.name().endsWith(".bias") ? 0 : 1);
            return FloatBuffer.wrap(all);
        }
        int begin = (int) (pieces++ * STEP % CHUNK);
        return FloatBuffer.wrap(normal, begin, count);
    }
}
