package org.hllm4j.train;

import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.IntStream;
import org.hllm4j.data.Batch;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.MemoryNeed;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;
import org.hllm4j.model.Pooling;
import org.hllm4j.nn.Parameters;
import org.hllm4j.run.ModelStart;
import org.hllm4j.run.RankerStart;
import org.hllm4j.run.RunFolder;
import org.hllm4j.weights.ModelConfig;

/**
 * What a training will need. Parameters and files are exact; activations are estimated from the first batch.
 *
 * @param steps of the schedule
 * @param trained parameters that are trained
 * @param frozen parameters that are not
 * @param frozenBytes of them in memory
 * @param model bytes of a model in the run's folder, where matrices and their adapters are added up
 * @param copies bytes of second copies of matrices: the bf16 ones that a GPU multiplies with, and in float32 those in the
 *     order in which a CPU reads what is not trained
 * @param kept bytes for the forward and backward of one step that keeps its activations
 * @param recomputed the same bytes with {@link TrainOptions#recompute}
 * @param recomputation the arithmetic that recomputing adds, as a share of the step without it
 * @param recompute whether the training recomputes
 * @param vectors bytes of the catalogue's item vectors
 * @param freeBytes on the disk of the run folder
 */
public record TrainingPlan(
        long steps,
        long trained,
        long frozen,
        long frozenBytes,
        long model,
        long copies,
        long kept,
        long recomputed,
        double recomputation,
        boolean recompute,
        long vectors,
        long freeBytes) {
    private static final long FLOAT = 4;
    private static final long JAVA = 500_000_000;
    private static final String LESS =
            "a smaller model, its first layers alone (--item-layers, --user-layers), a frozen"
                    + " side (--freeze), adapters (--item-lora, --user-lora), --recompute, or shorter batches (--batch-users, --max-rows)";

    /**
     * @param folder of the run; it need not be there yet
     * @param activations what layers hand to one another on the device
     */
    public static TrainingPlan of(
            ModelStart start, TrainOptions options, Dataset data, Path folder, DType activations) {
        HllmConfig config = start.config(data);
        boolean trains = !start.trained().equals(Hllm.Trained.NOTHING);
        Parameters.Layout layout = Hllm.layout(config, start.trained());
        DType storage = start.storage();
        long copied = activations == DType.F32
                ? storage.bytes() * layout.frozenMatrixElements()
                : activations.bytes()
                        * (layout.trainableMatrixElements()
                                + (storage == activations ? 0 : layout.frozenMatrixElements()));
        Path existing = folder.toAbsolutePath();
        while (!existing.toFile().exists()) {
            existing = existing.getParent();
        }
        Activations step = trains
                ? Activations.of(start, config, options, data, activations.bytes())
                : new Activations(0, 0, 1, 0);
        return new TrainingPlan(
                trains ? Trainer.steps(data, options, start.maxHistory()) : 0,
                layout.trainableElements(),
                layout.frozenElements(),
                layout.frozenBytes(storage),
                FLOAT * layout.elements(),
                copied,
                step.kept,
                step.recomputed,
                step.again / step.arithmetic,
                options.recompute(),
                FLOAT * data.catalogue().size() * config.width(),
                new RunFolder(existing).freeBytes());
    }

    /**
     * Of one step.
     *
     * @param kept bytes of the largest chunk of items, of the histories, and of one layer's backward
     * @param recomputed bytes where of the layers only their inputs are kept, and one layer at a time runs again
     * @param arithmetic multiplications in the layers' matrices
     * @param again those that recomputing adds
     */
    private record Activations(long kept, long recomputed, double arithmetic, double again) {
        static Activations of(ModelStart start, HllmConfig config, TrainOptions options, Dataset data, long bytes) {
            Batch batch = Trainer.batches(data, options, start.maxHistory()).batch(0, 0);
            long positions =
                    Arrays.stream(batch.sequences()).mapToInt(s -> s.length - 1).sum();
            int[][] tokens = IntStream.concat(
                            Arrays.stream(batch.sequences()).flatMapToInt(Arrays::stream),
                            Arrays.stream(batch.negatives()))
                    .distinct()
                    .mapToObj(item -> data.tokens()[item])
                    .toArray(int[][]::new);
            Hllm.Trained trained = start.trained();
            Activations users = of(
                    config.user(), positions, positions, bytes, passes(trained.user() && trained.userLora() == null));
            if (!trained.item()) {
                return users;
            }
            // Distinct items; inputs, targets and negatives of the loss; each with its gradient.
            long vectors = 2 * FLOAT * (tokens.length + 2 * positions + batch.negatives().length) * config.width();
            if (config.ids() != null) {
                return users.with(vectors);
            }
            boolean itemToken = config.pooling() == Pooling.TOKEN;
            boolean share = config.sharesPrefixes();
            List<int[]> chunks = TokenTrie.chunks(tokens, itemToken, share, options.maxRows());
            Activations items = new Activations(0, 0, 0, 0);
            for (int[] chunk : chunks) {
                PackedTokens pack = TokenTrie.pack(
                        Arrays.stream(chunk).mapToObj(i -> tokens[i]).toArray(int[][]::new), itemToken, share);
                long finished = itemToken ? pack.leaves() : pack.rows();
                // With several chunks, each is encoded a second time, for its backward.
                int again = chunks.size() == 1 ? 0 : 1;
                items = items.besides(
                        of(config.item(), pack.rows(), finished, bytes, passes(trained.itemLora() == null) + again));
            }
            return new Activations(
                            users.kept + items.kept,
                            users.recomputed + items.recomputed,
                            users.arithmetic + items.arithmetic,
                            users.again + items.again)
                    .with(vectors);
        }

        /** How often the arithmetic of a forward is done: there, and back to the inputs, and to the weights. */
        private static int passes(boolean toWeights) {
            return toWeights ? 3 : 2;
        }

        private Activations with(long bytes) {
            return new Activations(kept + bytes, recomputed + bytes, arithmetic, again);
        }

        /** A chunk that has the memory of another one after it. */
        private Activations besides(Activations other) {
            return new Activations(
                    Math.max(kept, other.kept),
                    Math.max(recomputed, other.recomputed),
                    arithmetic + other.arithmetic,
                    again + other.again);
        }

        /**
         * Of a model over so many rows, of which the last layer finishes some.
         *
         * @param bytes of an element of what layers hand to one another; the residual stream is float32
         * @param passes how often the arithmetic of a forward is done, two for the backward
         */
        private static Activations of(ModelConfig model, long rows, long finished, long bytes, int passes) {
            long d = model.hiddenSize();
            long f = model.intermediateSize();
            long query = (long) model.heads() * model.headDim();
            long keyValue = 2L * model.kvHeads() * model.headDim();
            long layer = 2 * FLOAT * d + bytes * (2 * d + 2 * query + keyValue + 3 * f);
            long keysOnly = FLOAT * d + bytes * (d + keyValue);
            long backward = rows * (bytes * (3 * f + d) + FLOAT * d);
            long inputs = FLOAT * d * (rows * model.layers() + finished);
            double untilDown = d * (query + keyValue) + query * d + 2.0 * d * f;
            return new Activations(
                    rows * ((model.layers() - 1) * layer + keysOnly) + finished * layer + backward,
                    inputs + (model.layers() > 1 ? rows * layer : rows * keysOnly + finished * layer) + backward,
                    passes * rows * model.layers() * (untilDown + d * f),
                    rows * model.layers() * untilDown);
        }
    }

    /** Bytes for the forward and backward of one step. */
    public long activations() {
        return recompute ? recomputed : kept;
    }

    /** Bytes of all parameters in memory. */
    public long parameters() {
        return FLOAT * trained + frozenBytes;
    }

    /** Bytes of the gradients. */
    public long gradients() {
        return FLOAT * trained;
    }

    /** Bytes of AdamW's two moments. */
    public long moments() {
        return 2 * FLOAT * trained;
    }

    /** What it takes of the memory of a device, part by part; the item vectors are there twice. */
    private MemoryNeed need() {
        return state(trained, frozen, frozenBytes)
                .with("second copies of matrices, in the form that is multiplied with", copies)
                .with("activations of a step", activations())
                .with("item vectors, as they are and normalised", 2 * vectors);
    }

    /** What stays from step to step. */
    private static MemoryNeed state(long trained, long frozen, long frozenBytes) {
        return new MemoryNeed()
                .with(billions(trained) + " parameters that are trained, in f32", FLOAT * trained)
                .with(billions(frozen) + " parameters that are not", frozenBytes)
                .with("gradients", FLOAT * trained)
                .with("AdamW's two moments", 2 * FLOAT * trained);
    }

    private static String billions(long parameters) {
        return String.format(Locale.ROOT, "%.2f billion", parameters / 1e9);
    }

    /** Refuses a ranker's training whose parameters and moments alone, frozen matrices in bf16, do not fit. */
    public static void requireMemory(RankerStart start, Fusion fusion, String device) {
        Parameters.Layout layout = start.layout(fusion);
        state(layout.trainableElements(), layout.frozenElements(), layout.frozenBytes(DType.BF16))
                .require(device, "training", LESS);
    }

    /** Refuses a training that does not fit in the memory of a device, with the arithmetic. */
    public void requireMemory(String device) {
        need().with("Java", device.equals("cpu") ? JAVA : 0).require(device, "training", LESS);
    }

    /** Bytes of native memory. */
    public long memory() {
        return need().bytes();
    }

    /** Bytes of a checkpoint: parameters and moments. */
    public long checkpoint() {
        return 3 * FLOAT * trained;
    }

    /** Bytes that the folder holds at most: three checkpoints and two models, while the new ones are written. */
    public long disk() {
        return 3 * checkpoint() + 2 * model + 2 * vectors;
    }

    /** For programs, in bytes where not otherwise said. */
    public Map<String, Object> asMap() {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("steps", steps);
        map.put("parameters_trained", trained);
        map.put("parameters_frozen", frozen);
        map.put("memory_bytes", memory());
        map.put("activation_bytes", activations());
        map.put("activation_bytes_kept", kept);
        map.put("activation_bytes_recomputed", recomputed);
        map.put("recomputation", recomputation);
        map.put("checkpoint_bytes", checkpoint());
        map.put("disk_bytes", disk());
        map.put("free_disk_bytes", freeBytes);
        return map;
    }
}
