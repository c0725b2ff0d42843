package org.hllm4j.train;

import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.hllm4j.data.Batch;
import org.hllm4j.data.Batches;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.data.Sequences;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;
import org.hllm4j.model.Pooling;
import org.hllm4j.nn.Parameters;
import org.hllm4j.run.RunFolder;
import org.hllm4j.run.Start;
import org.hllm4j.weights.ModelConfig;

/**
 * What a training will need. Parameters and files are exact; activations are estimated from the first batch.
 *
 * @param steps of the schedule
 * @param trained parameters that are trained
 * @param frozen parameters that are not
 * @param activations bytes for the forward and backward of one step
 * @param vectors bytes of the catalogue's item vectors
 * @param freeBytes on the disk of the run folder
 */
public record TrainingPlan(long steps, long trained, long frozen, long activations, long vectors, long freeBytes) {
    private static final long FLOAT = 4;

    /** @param folder of the run; it need not be there yet */
    public static TrainingPlan of(Start start, TrainOptions options, Dataset data, Path folder) {
        HllmConfig config = start.config();
        Parameters.Layout layout = Hllm.layout(config, start.trained());
        Path existing = folder.toAbsolutePath();
        while (!existing.toFile().exists()) {
            existing = existing.getParent();
        }
        return new TrainingPlan(
                Trainer.steps(data, options, start.maxHistory()),
                layout.trainableElements(),
                layout.frozenElements(),
                FLOAT * activations(start, config, options, data),
                FLOAT * data.catalogue().size() * config.width(),
                new RunFolder(existing).freeBytes());
    }

    /** Elements that one step keeps: those of the largest chunk of items, of the histories, and one layer's backward. */
    private static long activations(Start start, HllmConfig config, TrainOptions options, Dataset data) {
        Batch batch = new Batches(
                        Sequences.training(data.interactions(), start.maxHistory(), options.splitLong()),
                        data.catalogue().size(),
                        new Batches.Settings(
                                options.batchUsers(), start.maxHistory(), options.negatives(), options.seed()))
                .batch(0, 0);
        long positions =
                Arrays.stream(batch.sequences()).mapToInt(s -> s.length - 1).sum();
        int[][] tokens = IntStream.concat(
                        Arrays.stream(batch.sequences()).flatMapToInt(Arrays::stream), Arrays.stream(batch.negatives()))
                .distinct()
                .mapToObj(item -> data.tokens()[item])
                .toArray(int[][]::new);
        long users = layers(config.user(), positions, positions) + backward(config.user(), positions);
        if (start.freeze() == Start.Freeze.ITEM) {
            return users;
        }
        boolean itemToken = config.pooling() == Pooling.TOKEN;
        List<int[]> chunks = TokenTrie.chunks(tokens, itemToken, true, options.maxRows());
        long items = 0;
        for (int[] chunk : chunks) {
            PackedTokens pack = TokenTrie.pack(
                    Arrays.stream(chunk).mapToObj(i -> tokens[i]).toArray(int[][]::new), itemToken, true);
            long finished = itemToken ? pack.leaves() : pack.rows();
            items = Math.max(
                    items, layers(config.item(), pack.rows(), finished) + backward(config.item(), pack.rows()));
        }
        return users + items + 2L * tokens.length * config.width();
    }

    /** Elements kept of a forward over so many rows, of which the last layer finishes some. */
    private static long layers(ModelConfig model, long rows, long finished) {
        long attention = 2L * model.heads() * model.headDim() + 2L * model.kvHeads() * model.headDim();
        long whole = 4L * model.hiddenSize() + attention + 3L * model.intermediateSize();
        long keysOnly = 2L * model.hiddenSize() + 2L * model.kvHeads() * model.headDim();
        return rows * ((model.layers() - 1) * whole + keysOnly) + finished * whole;
    }

    private static long backward(ModelConfig model, long rows) {
        return rows * (3L * model.intermediateSize() + 2L * model.hiddenSize());
    }

    /** Bytes of all parameters. */
    public long parameters() {
        return FLOAT * (trained + frozen);
    }

    /** Bytes of the gradients. */
    public long gradients() {
        return FLOAT * trained;
    }

    /** Bytes of AdamW's two moments. */
    public long moments() {
        return 2 * FLOAT * trained;
    }

    /** Bytes of native memory; the item vectors are there twice, as they are and normalised. */
    public long memory() {
        return parameters() + gradients() + moments() + activations + 2 * vectors;
    }

    /** Bytes of a checkpoint: parameters and moments. */
    public long checkpoint() {
        return 3 * FLOAT * trained;
    }

    /** Bytes that the folder holds at most: three checkpoints and two models, while the new ones are written. */
    public long disk() {
        return 3 * checkpoint() + 2 * parameters() + 2 * vectors;
    }

    /** For programs, in bytes where not otherwise said. */
    public Map<String, Object> asMap() {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("steps", steps);
        map.put("parameters_trained", trained);
        map.put("parameters_frozen", frozen);
        map.put("memory_bytes", memory());
        map.put("activation_bytes", activations);
        map.put("checkpoint_bytes", checkpoint());
        map.put("disk_bytes", disk());
        map.put("free_disk_bytes", freeBytes);
        return map;
    }
}
