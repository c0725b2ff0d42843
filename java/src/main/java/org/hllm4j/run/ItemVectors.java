package org.hllm4j.run;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.BitSet;
import java.util.Map;
import java.util.function.LongConsumer;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.Pooling;
import org.hllm4j.weights.Npy;
import org.hllm4j.weights.PendingFile;

/**
 * Item vectors of a catalogue of any size, straight to files: {@code NAME.npy}, float32 [items, D] in row order, beside
 * {@code NAME.ids} (see {@link IdFile}). What is computed is on disk within seconds; after an interruption at any moment
 * the same call continues.
 */
public final class ItemVectors {
    private static final long RECORD_NANOS = 5_000_000_000L;

    private final Path npy;
    private final Path record;
    private final String of;
    private final BitSet done;

    /**
     * What a call did.
     *
     * @param items encoded by it; those that an interrupted call had done are not counted
     * @param tokens of these items, [ITEM] included
     * @param rows token rows that were computed: shared prefixes count once
     * @param seconds of encoding and writing
     */
    public record Result(int items, long tokens, long rows, double seconds) {}

    private ItemVectors(Path npy, String of) {
        this.npy = npy;
        this.of = of;
        record = npy.resolveSibling(npy.getFileName() + ".progress");
        done = readRecord();
    }

    /**
     * Writes the vectors.
     *
     * @param tokens token ids of the first items or of all, cut to the model's max text length
     * @param weights identifies the model's weights: an unfinished file of others is not continued but replaced
     * @param npy the target; its name ends in ".npy"
     * @param progress told how many of the items are done; may be null
     */
    public static Result write(
            Hllm model, Catalogue catalogue, int[][] tokens, String weights, Path npy, LongConsumer progress) {
        if (!npy.getFileName().toString().endsWith(".npy")) {
            throw new HllmException(npy + ": the name of a file of vectors must end in .npy");
        }
        String of = Hashes.of((weights + model.config() + Hashes.of(catalogue) + Arrays.deepHashCode(tokens))
                .getBytes(StandardCharsets.UTF_8));
        return new ItemVectors(npy, of).write(model, catalogue, tokens, progress);
    }

    private Result write(Hllm model, Catalogue catalogue, int[][] tokens, LongConsumer progress) {
        int width = model.config().width();
        int ends = model.config().pooling() == Pooling.TOKEN ? 1 : 0;
        int before = done.cardinality();
        int[] left = IntStream.range(0, tokens.length).filter(i -> !done.get(i)).toArray();
        int[][] leftTokens = Arrays.stream(left).mapToObj(i -> tokens[i]).toArray(int[][]::new);
        long begin = System.nanoTime();
        long[] recorded = {begin};
        long rows;
        try (Npy.Writer out =
                before == 0 ? Npy.create(npy, tokens.length, width) : Npy.resume(npy, tokens.length, width)) {
            rows = CatalogueEncoder.encode(
                    model,
                    leftTokens,
                    CatalogueEncoder.DEFAULT_ROWS,
                    progress == null ? null : count -> progress.accept(before + count),
                    (items, vectors) -> {
                        FloatBuffer values = FloatBuffer.wrap(vectors.toFloats());
                        for (int i = 0; i < items.length; i++) {
                            out.write(left[items[i]], values.limit((i + 1) * width));
                            done.set(left[items[i]]);
                        }
                        if (System.nanoTime() - recorded[0] > RECORD_NANOS) {
                            out.force(); // before the record says so
                            writeRecord();
                            recorded[0] = System.nanoTime();
                        }
                    });
            IdFile.write(
                    idsBeside(npy),
                    IntStream.range(0, tokens.length).mapToObj(catalogue::id).toList());
            out.finish();
        } catch (RuntimeException e) {
            writeRecord();
            throw e;
        }
        double seconds = (System.nanoTime() - begin) / 1e9;
        try {
            Files.deleteIfExists(record);
        } catch (IOException e) {
            throw new HllmException(record + ": cannot be deleted: " + e, e);
        }
        long tokenCount =
                Arrays.stream(leftTokens).mapToLong(t -> t.length + ends).sum();
        return new Result(left.length, tokenCount, rows, seconds);
    }

    /** The file of ids that belongs to a file of vectors: {@code NAME.ids}. */
    public static Path idsBeside(Path npy) {
        return npy.resolveSibling(npy.getFileName().toString().replaceFirst("\\.npy$", "") + ".ids");
    }

    // ---- The record: which rows of the partial file are written, and what they are vectors of
    // ------------------------

    private void writeRecord() {
        try {
            PendingFile.write(
                    record, new ObjectMapper().writeValueAsBytes(Map.of("of", of, "done", done.toByteArray())));
        } catch (IOException e) {
            throw new HllmException(record + ": cannot be written: " + e, e);
        }
    }

    private BitSet readRecord() {
        if (!Files.exists(record) || !Files.exists(npy.resolveSibling(npy.getFileName() + ".partial"))) {
            return new BitSet();
        }
        try {
            var found = new ObjectMapper().readTree(record.toFile());
            return of.equals(found.path("of").asText())
                    ? BitSet.valueOf(found.path("done").binaryValue())
                    : new BitSet();
        } catch (IOException e) {
            throw new HllmException(record + ": cannot be read; delete it to begin again: " + e, e);
        }
    }
}
