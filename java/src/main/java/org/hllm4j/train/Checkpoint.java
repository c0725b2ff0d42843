package org.hllm4j.train;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.hllm4j.HllmException;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.RunFolder;
import org.hllm4j.weights.Safetensors;
import org.hllm4j.weights.SafetensorsWriter;
import org.hllm4j.weights.StoredType;
import org.hllm4j.weights.TensorInfo;

/**
 * The state of a training between two steps: parameters, moments, and where the loop stands. One file, which appears
 * under its name when it is complete; the newest two are kept.
 *
 * @param step steps done
 * @param best best value of the validation so far, -1 before the first validation
 * @param bestEpoch of it
 * @param options hash of what the run must have in common with its continuation
 * @param frozen hash of the weights that it does not train, which are not in the file
 * @param environment what bit-equality depends on beside that: native library, instruction set, BLIS, card
 */
record Checkpoint(long step, double best, int bestEpoch, String options, String frozen, String environment) {
    /** A training's state before its first step. */
    static Checkpoint start(String options, String frozen, String environment) {
        return new Checkpoint(0, -1, 0, options, frozen, environment);
    }

    /** After one more step, in this environment. */
    Checkpoint next(String environment) {
        return new Checkpoint(step + 1, best, bestEpoch, options, frozen, environment);
    }

    Checkpoint withBest(double value, int epoch) {
        return new Checkpoint(step, value, epoch, options, frozen, environment);
    }

    private static final int KEPT = 2;

    /** Bytes of one checkpoint. */
    static long bytes(Hllm model) {
        return 3 * 4 * model.parameters().values().elements();
    }

    void save(RunFolder run, Hllm model, AdamWOptimizer optimizer) {
        long needed = bytes(model) + (1 << 20);
        if (run.freeBytes() < needed) {
            throw new HllmException(run.path() + ": a checkpoint needs " + needed / 1_000_000 + " MB, but only "
                    + run.freeBytes() / 1_000_000 + " MB are free; earlier checkpoints are untouched");
        }
        List<TensorInfo> infos = new ArrayList<>();
        tensors(model, optimizer).forEach((name, t) -> infos.add(new TensorInfo(name, StoredType.F32, t.shape())));
        Map<String, String> meta = Map.of(
                "step",
                Long.toString(step),
                "best",
                Double.toString(best),
                "best_epoch",
                Integer.toString(bestEpoch),
                "options",
                options,
                "frozen",
                frozen,
                "environment",
                environment);
        try (SafetensorsWriter writer = SafetensorsWriter.create(file(run, step), infos, meta)) {
            tensors(model, optimizer).forEach((name, tensor) -> RunFolder.append(writer, name, tensor));
        }
        List<Path> all = files(run);
        for (Path old : all.subList(0, Math.max(0, all.size() - KEPT))) {
            delete(old);
        }
    }

    /** Continues from the run's newest checkpoint, or returns null when it has none. */
    static Checkpoint restore(RunFolder run, Hllm model, AdamWOptimizer optimizer, String options, String frozen) {
        List<Path> all = files(run);
        if (all.isEmpty()) {
            return null;
        }
        Path newest = all.getLast();
        try (Safetensors file = Safetensors.open(newest)) {
            Map<String, String> meta = file.metadata();
            if (!options.equals(meta.get("options"))) {
                throw new HllmException(
                        newest + " was written with other options, data or start weights; continue with "
                                + "those it was started with, or train into another folder");
            }
            if (!frozen.equals(meta.get("frozen"))) {
                throw new HllmException(
                        newest + " belongs to other start weights than those given now, on which what it"
                                + " trained rests: the model's files were changed or replaced since. Continue with the files"
                                + " it was started with, or train into another folder");
            }
            tensors(model, optimizer).forEach((name, tensor) -> RunFolder.read(file, name, tensor));
            long step = Long.parseLong(meta.get("step"));
            optimizer.steps(step);
            model.refreshTrained();
            return new Checkpoint(
                    step,
                    Double.parseDouble(meta.get("best")),
                    Integer.parseInt(meta.get("best_epoch")),
                    options,
                    frozen,
                    meta.get("environment"));
        }
    }

    static void deleteAll(RunFolder run) {
        files(run).forEach(Checkpoint::delete);
    }

    private static Map<String, Tensor> tensors(Hllm model, AdamWOptimizer optimizer) {
        Map<String, Tensor> tensors = new LinkedHashMap<>();
        tensors.put("parameters", model.parameters().values());
        tensors.put("moment1", optimizer.moment1());
        tensors.put("moment2", optimizer.moment2());
        return tensors;
    }

    private static Path file(RunFolder run, long step) {
        return run.path().resolve("checkpoint-" + step + ".safetensors");
    }

    /** Oldest first. */
    private static List<Path> files(RunFolder run) {
        try (Stream<Path> files = Files.list(run.path())) {
            return files.filter(f -> f.getFileName().toString().matches("checkpoint-\\d+\\.safetensors"))
                    .sorted(Comparator.comparingLong(Checkpoint::stepOf))
                    .toList();
        } catch (IOException e) {
            throw new HllmException(run.path() + ": cannot be listed: " + e, e);
        }
    }

    private static long stepOf(Path file) {
        return Long.parseLong(file.getFileName().toString().replaceAll("\\D+", ""));
    }

    private static void delete(Path file) {
        try {
            Files.delete(file);
        } catch (IOException e) {
            throw new HllmException(file + ": cannot be deleted: " + e, e);
        }
    }
}
