package org.hllm4j.run;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.AbstractList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.function.LongConsumer;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.data.Lane;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.Pooling;
import org.hllm4j.text.ItemText;
import org.hllm4j.text.ItemTokenizer;
import org.hllm4j.weights.Npy;
import org.hllm4j.weights.PendingFile;
import org.hllm4j.weights.RowFile;
import org.hllm4j.weights.SafetensorsWriter;

/**
 * Item vectors of a catalogue of any size, straight to files: {@code NAME.npy} or {@code NAME.safetensors} (a tensor
 * {@value #TENSOR}), float32 [items, D] in row order, beside {@code NAME.ids} (see {@link IdFile}). What is computed is on
 * disk within seconds; after an interruption at any moment the same call continues.
 *
 * <p>Three threads: one tokenises and packs a little ahead, the caller's computes, one writes. Items are taken in the order
 * of their texts, so that those which share a prefix meet; of their tokens only a portion is in memory. Beside the
 * catalogue the heap holds about 20 bytes an item.
 */
public final class ItemVectors {
    private static final String TENSOR = "vectors";
    private static final long RECORD_NANOS = 5_000_000_000L;
    private static final int PORTION = 2048; // items tokenised at a time: some chunks, so that few are cut short
    private static final int WRITES = 2; // chunks of vectors that wait to be written

    private final Input input;
    private final Path out;
    private final Path record;
    private final String of;
    private final BitSet done;
    private long recorded = System.nanoTime();
    private long tokens;

    /**
     * What is turned into vectors.
     *
     * @param items the first rows of the catalogue, so many
     * @param tokenizerJson content of the model's {@code tokenizer.json}
     * @param origin where that comes from, for messages
     */
    public record Input(Catalogue catalogue, int items, ItemText text, String tokenizerJson, String origin) {
        private String text(int row) {
            return text.of(key -> catalogue.field(row, key));
        }

        /** Changes with anything that changes a vector or its id, the model aside. */
        private String identity() {
            int texts = items;
            for (int row = 0; row < items; row++) {
                texts = 31 * texts + text(row).hashCode();
            }
            return Hashes.of(catalogue) + texts + Hashes.of(tokenizerJson.getBytes(StandardCharsets.UTF_8));
        }
    }

    /**
     * What a call did.
     *
     * @param items encoded by it; those that an interrupted call had done are not counted
     * @param tokens of these items, [ITEM] included
     * @param rows token rows that were computed: shared prefixes count once
     * @param seconds of tokenising, encoding and writing
     */
    public record Result(int items, long tokens, long rows, double seconds) {}

    private ItemVectors(Input input, Path out, String of) {
        this.input = input;
        this.out = out;
        this.of = of;
        record = beside(".progress");
        done = readRecord();
    }

    private Path beside(String ending) {
        return out.resolveSibling(out.getFileName() + ending);
    }

    /**
     * Writes the vectors.
     *
     * @param weights identifies the model's weights: an unfinished file of others is not continued but replaced
     * @param out the target; its name ends in ".npy" or ".safetensors"
     * @param progress told by another thread how many of the items are done, which is written; may be null
     * @throws HllmException also when this thread is interrupted
     */
    public static Result write(Hllm model, Input input, String weights, Path out, LongConsumer progress) {
        if (!supports(out)) {
            throw new HllmException(out + ": the name of a file of vectors must end in .npy or .safetensors");
        }
        String of = Hashes.of((weights + model.config() + input.identity()).getBytes(StandardCharsets.UTF_8));
        return new ItemVectors(input, out, of).write(model, progress == null ? written -> {} : progress);
    }

    /** Whether a file of vectors may have this name. */
    public static boolean supports(Path out) {
        return out.getFileName().toString().matches(".*\\.(npy|safetensors)");
    }

    private RowFile open(int width, boolean resume) {
        return out.getFileName().toString().endsWith(".npy")
                ? resume ? Npy.resume(out, input.items, width) : Npy.create(out, input.items, width)
                : SafetensorsWriter.rows(out, TENSOR, input.items, width, resume);
    }

    private Result write(Hllm model, LongConsumer progress) {
        long begin = System.nanoTime();
        int before = done.cardinality();
        long rows;
        try (RowFile file = open(model.config().width(), before > 0)) {
            try (ItemTokenizer tokenizer = ItemTokenizer.fromJson(input.tokenizerJson, input.origin)) {
                rows = encode(model, tokenizer, file, progress);
            } catch (RuntimeException | Error e) {
                try {
                    record(file);
                } catch (HllmException again) {
                    e.addSuppressed(again);
                }
                throw e;
            }
            IdFile.write(idsBeside(out), ids());
            file.finish();
        }
        double seconds = (System.nanoTime() - begin) / 1e9;
        try {
            Files.deleteIfExists(record);
        } catch (IOException e) {
            throw new HllmException(record + ": cannot be deleted: " + e, e);
        }
        return new Result(input.items - before, tokens, rows, seconds);
    }

    private long encode(Hllm model, ItemTokenizer tokenizer, RowFile file, LongConsumer progress) {
        int width = model.config().width();
        try (Lane<Void> writing = new Lane<>("writing")) {
            long rows = CatalogueEncoder.encode(
                    model, portions(model, tokenizer), CatalogueEncoder.rows(model), null, (items, vectors) -> {
                        FloatBuffer values = FloatBuffer.wrap(vectors.toFloats());
                        if (writing.size() == WRITES) {
                            writing.take();
                        }
                        writing.add(() -> {
                            for (int i = 0; i < items.length; i++) {
                                file.write(items[i], values.limit((i + 1) * width));
                                done.set(items[i]);
                            }
                            if (System.nanoTime() - recorded > RECORD_NANOS) {
                                record(file);
                            }
                            progress.accept(done.cardinality());
                            return null;
                        });
                    });
            while (writing.size() > 0) {
                writing.take();
            }
            return rows;
        }
    }

    /** The items that are not done, in the order of their texts; used by one thread at a time. */
    private Iterator<CatalogueEncoder.Portion> portions(Hllm model, ItemTokenizer tokenizer) {
        int[] left = Arrays.stream(input.catalogue.byText(input.items))
                .filter(row -> !done.get(row))
                .toArray();
        int ends = model.config().pooling() == Pooling.TOKEN ? 1 : 0;
        return IntStream.iterate(0, first -> first < left.length, first -> first + PORTION)
                .mapToObj(first -> {
                    int[] items = Arrays.copyOfRange(left, first, Math.min(left.length, first + PORTION));
                    List<String> texts =
                            Arrays.stream(items).mapToObj(input::text).toList();
                    int[][] ids = tokenizer.encodeAll(texts, model.config().maxTextLength(), null);
                    for (int i = 0; i < ids.length; i++) {
                        ids[i] = input.catalogue.bare(items[i]) ? new int[0] : ids[i];
                        tokens += ids[i].length + ends;
                    }
                    return new CatalogueEncoder.Portion(items, ids);
                })
                .iterator();
    }

    /** The ids of the vectors, read as they are asked for. */
    private List<String> ids() {
        return new AbstractList<>() {
            @Override
            public String get(int row) {
                return input.catalogue.id(row);
            }

            @Override
            public int size() {
                return input.items;
            }
        };
    }

    /** The file of ids that belongs to a file of vectors: {@code NAME.ids}. */
    public static Path idsBeside(Path vectors) {
        return vectors.resolveSibling(vectors.getFileName().toString().replaceFirst("\\.[^.]*$", "") + ".ids");
    }

    // ---- The record: which rows of the partial file are written, and what they are vectors of -----------------------

    private void record(RowFile file) {
        boolean interrupted = Thread.interrupted(); // with it set, no file can be written
        try {
            file.force(); // before the record says so
            PendingFile.write(
                    record, new ObjectMapper().writeValueAsBytes(Map.of("of", of, "done", done.toByteArray())));
            recorded = System.nanoTime();
        } catch (IOException e) {
            throw new HllmException(record + ": cannot be written: " + e, e);
        } finally {
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    private BitSet readRecord() {
        if (!Files.exists(record) || !Files.exists(beside(".partial"))) {
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
