package org.hllm4j.perf;

import de.siegmar.fastcsv.writer.CsvWriter;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.run.Start;

/**
 * Item texts to measure with.
 *
 * @param name of the data set: the folder of its file
 * @param catalogue null for invented items
 * @param keys text keys
 * @param tokens of every item, cut to {@link #LONG}
 */
record Items(String name, Catalogue catalogue, List<String> keys, int[][] tokens) {
    static final int SHORT = 64;
    static final int LONG = 256;
    private static final List<String> KEYS = List.of("title", "tag", "description");

    /** Reads items.csv; of the usual text keys, those that are its columns. */
    static Items read(Path file, String tokenizerJson, String origin) {
        List<String> columns = Catalogue.read(file, List.of()).columns();
        List<String> keys = KEYS.stream().filter(columns::contains).toList();
        if (keys.isEmpty()) {
            throw new HllmException(file + ": none of the columns " + KEYS + " is there; the columns are " + columns);
        }
        Catalogue catalogue = Catalogue.read(file, keys);
        Path folder = file.toAbsolutePath().normalize().getParent().getFileName();
        return new Items(
                folder == null ? file.toString() : folder.toString(),
                catalogue,
                keys,
                Start.tokens(catalogue, keys, tokenizerJson, origin, LONG, null));
    }

    /** Invented items: a prompt of 9 tokens, then 6 to 40 tokens of a Zipf distribution. */
    static Items invented(int count, int vocabulary, long seed) {
        SplittableRandom random = new SplittableRandom(seed);
        int[][] tokens = new int[count][];
        for (int i = 0; i < count; i++) {
            tokens[i] = new int[9 + 6 + random.nextInt(35)];
            Arrays.setAll(tokens[i], t -> t < 9 ? t + 1 : popular(vocabulary, random));
        }
        return new Items("invented", null, List.of(), tokens);
    }

    /** P(x) ~ (x + 1)^-1.3 for x = 0, 1, ...: few are drawn often. */
    static int popular(int bound, SplittableRandom random) {
        return (int) (Math.floor(Math.pow(1 - random.nextDouble(), -1 / 0.3) - 1) % bound);
    }

    int size() {
        return tokens.length;
    }

    /** The first items, cut. */
    int[][] tokens(int count, int maxLength) {
        int[][] cut = new int[Math.min(count, size())][];
        Arrays.setAll(cut, i -> Arrays.copyOf(tokens[i], Math.min(maxLength, tokens[i].length)));
        return cut;
    }

    /** Whether a quarter of the items lose something at 64 tokens. */
    boolean areLong() {
        return Arrays.stream(tokens).filter(t -> t.length > SHORT).count() > size() / 4;
    }

    /** The interactions beside items.csv, or null. */
    Path interactions() {
        if (catalogue == null) {
            return null;
        }
        for (String end : List.of("interactions.csv", "interactions.csv.gz")) {
            Path file = catalogue.path().resolveSibling(end);
            if (Files.exists(file)) {
                return file;
            }
        }
        return null;
    }

    /** Writes the first items as a plain CSV file, for programs that read just that. */
    void write(Path file, int count) {
        try (CsvWriter csv = CsvWriter.builder().build(file)) {
            List<String> header = new ArrayList<>(List.of("item_id"));
            header.addAll(keys);
            csv.writeRecord(header);
            for (int row = 0; row < Math.min(count, size()); row++) {
                int item = row;
                List<String> fields = new ArrayList<>(List.of(catalogue.id(item)));
                keys.forEach(key -> fields.add(catalogue.field(item, key)));
                csv.writeRecord(fields);
            }
        } catch (IOException e) {
            throw new HllmException(file + ": cannot be written: " + e, e);
        }
    }
}
