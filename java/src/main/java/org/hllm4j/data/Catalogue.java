package org.hllm4j.data;

import de.siegmar.fastcsv.reader.CsvRecord;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import org.hllm4j.HllmException;

/**
 * The items, numbered by their row in {@code items.csv}: row 0 is the first line after the header. This order is the
 * order of vectors, ids and rankings everywhere. Immutable. Of the text only the columns named as text keys are kept.
 */
public final class Catalogue {
    private static final String ITEM_ID = "item_id";

    private final Path path;
    private final List<String> columns;
    private final List<String> textKeys;
    private final IdIndex ids;
    private final TextColumn[] text; // one per text key; bare rows, which come last, are not in it
    private final int textRows;

    private Catalogue(
            Path path, List<String> columns, List<String> textKeys, IdIndex ids, TextColumn[] text, int textRows) {
        this.path = path;
        this.columns = columns;
        this.textKeys = textKeys;
        this.ids = ids;
        this.text = text;
        this.textRows = textRows;
    }

    /**
     * Reads {@code items.csv}, plain or gzip, UTF-8: a header {@code item_id,...}, then one row per item.
     *
     * @param textKeys the columns whose text {@link #field} will be asked for
     * @throws HllmException naming file and line: {@code item_id} is not the first column, a text key is no column, an
     *     id is empty or comes twice, a row has another number of fields than the header, the bytes are not UTF-8
     */
    public static Catalogue read(Path itemsCsv, List<String> textKeys) {
        try (CsvFile csv = new CsvFile(itemsCsv)) {
            List<String> columns = csv.header();
            if (!columns.get(0).equals(ITEM_ID)) {
                throw csv.error(1, "the first column must be " + ITEM_ID + ", the columns are " + columns);
            }
            int[] place = new int[textKeys.size()];
            TextColumn[] text = new TextColumn[place.length];
            for (int k = 0; k < place.length; k++) {
                place[k] = columns.indexOf(textKeys.get(k));
                text[k] = new TextColumn();
                if (place[k] < 0) {
                    throw csv.error(
                            1, "no column for text key \"" + textKeys.get(k) + "\"; the columns are " + columns);
                }
            }
            IdIndex ids = new IdIndex();
            for (CsvRecord row = csv.next(); row != null; row = csv.next()) {
                String id = row.getField(0);
                if (id.isEmpty()) {
                    throw csv.error(row.getStartingLineNumber(), "empty " + ITEM_ID);
                }
                int next = ids.size();
                int found = ids.add(id);
                if (found < next) {
                    throw csv.error(
                            row.getStartingLineNumber(),
                            "item \"" + id + "\" again; it is item number " + (found + 1) + " of the file already");
                }
                for (int k = 0; k < place.length; k++) {
                    text[k].add(row.getField(place[k]));
                }
            }
            if (ids.size() == 0) {
                throw new HllmException(itemsCsv + ": there are no items below the header");
            }
            return new Catalogue(itemsCsv, List.copyOf(columns), List.copyOf(textKeys), ids, text, ids.size());
        }
    }

    /** Number of items, bare ones included. */
    public int size() {
        return ids.size();
    }

    /** Id of a row. */
    public String id(int row) {
        return ids.get(row);
    }

    /** Row of an id, or -1 when there is none. */
    public int row(String id) {
        return ids.find(id);
    }

    /**
     * Text of a row under a text key; empty where the file has nothing, and for a bare item.
     *
     * @throws HllmException when {@code key} was not among the text keys given to {@link #read}
     */
    public String field(int row, String key) {
        int column = textKeys.indexOf(key);
        if (column < 0) {
            throw new HllmException(path + ": \"" + key + "\" is not among the text keys that were read, " + textKeys);
        }
        return bare(row) ? "" : text[column].get(row);
    }

    /**
     * The first rows, sorted by their text (key by key), so that texts with a long common prefix are neighbours; bare items
     * come last. 20 bytes a row while it sorts.
     */
    public int[] byText(int rows) {
        Integer[] order = new Integer[rows];
        Arrays.setAll(order, row -> row);
        Arrays.parallelSort(order, 0, Math.min(rows, textRows), (a, b) -> {
            int difference = 0;
            for (int k = 0; k < text.length && difference == 0; k++) {
                difference = text[k].compare(a, b);
            }
            return difference;
        });
        return Arrays.stream(order).mapToInt(Integer::intValue).toArray();
    }

    /** All columns of the file, as in its header. */
    public List<String> columns() {
        return columns;
    }

    /** The file this was read from, for messages. */
    public Path path() {
        return path;
    }

    /** Whether the row is an item without a row in the file: it has an id, no text, and an empty token list. */
    public boolean bare(int row) {
        return row >= textRows;
    }

    /** Number of bare items; they are the last rows. */
    public int bareItems() {
        return size() - textRows;
    }

    /**
     * This catalogue, followed by items that have an id only, in the order given.
     *
     * @throws HllmException when an id is empty or has a row already
     */
    public Catalogue withBareItems(Collection<String> bareIds) {
        if (bareIds.isEmpty()) {
            return this;
        }
        IdIndex all = ids.copy();
        for (String id : bareIds) {
            if (id.isEmpty() || all.find(id) >= 0) {
                throw new HllmException(path + ": item \"" + id + "\" cannot be added without text: "
                        + (id.isEmpty() ? "its id is empty" : "it has a row already"));
            }
            all.add(id);
        }
        return new Catalogue(path, columns, textKeys, all, text, textRows);
    }

    @Override
    public String toString() {
        return path + ": " + size() + " items, text keys " + textKeys
                + (bareItems() == 0 ? "" : ", the last " + bareItems() + " without text");
    }
}
