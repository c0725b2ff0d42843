package org.hllm4j.data;

import de.siegmar.fastcsv.reader.CsvRecord;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.hllm4j.HllmException;

/**
 * The interaction log, grouped by user. Users are numbered in the order in which the file first names them; the events
 * of a user are ordered by timestamp, and equal timestamps keep the order of the file. Immutable.
 */
public final class Interactions {
    private final Catalogue catalogue;
    private final IdIndex users;
    private final int[] offsets; // [users + 1] into items and times
    private final int[] items;
    private final long[] times;
    private final double[] values; // of the named column, or null

    private Interactions(
            Catalogue catalogue, IdIndex users, int[] offsets, int[] items, long[] times, double[] values) {
        this.catalogue = catalogue;
        this.users = users;
        this.offsets = offsets;
        this.items = items;
        this.times = times;
        this.values = values;
    }

    /**
     * Reads {@code interactions.csv}, plain or gzip, UTF-8. The header names {@code item_id}, {@code user_id} and
     * {@code timestamp} in any order; other columns are ignored. A timestamp is an integer of any unit. Decimals
     * ({@code 1234567890.5}, {@code 1.1e9}) are accepted too: they are ordered by their exact value to a billionth, and
     * {@link #timestamps} gives the integer below.
     *
     * @throws HllmException naming file and line: a column is missing, an id is empty, a timestamp is no number, or,
     *     under {@link MissingText#ERROR}, an item is not in the catalogue
     */
    public static Interactions read(Path csvPath, Catalogue catalogue, MissingText policy) {
        return read(csvPath, catalogue, policy, null);
    }

    /**
     * Reads the log with a further column of numbers, such as {@code rating}; an empty field is no value.
     *
     * @param valueColumn its name; null: none
     */
    public static Interactions read(Path csvPath, Catalogue catalogue, MissingText policy, String valueColumn) {
        try (CsvFile csv = new CsvFile(csvPath)) {
            int valuePlace = valueColumn == null ? -1 : csv.column(valueColumn);
            int itemColumn = csv.column("item_id");
            int userColumn = csv.column("user_id");
            int timeColumn = csv.column("timestamp");
            IdIndex users = new IdIndex();
            IdIndex bare = new IdIndex();
            Log log = new Log(valueColumn != null);
            for (CsvRecord row = csv.next(); row != null; row = csv.next()) {
                String itemId = row.getField(itemColumn);
                String userId = row.getField(userColumn);
                if (itemId.isEmpty() || userId.isEmpty()) {
                    throw csv.error(row.getStartingLineNumber(), itemId.isEmpty() ? "empty item_id" : "empty user_id");
                }
                int item = catalogue.row(itemId);
                if (item < 0 && policy == MissingText.ERROR) {
                    throw csv.error(
                            row.getStartingLineNumber(),
                            "item \"" + itemId + "\" has no row in " + catalogue.path()
                                    + "; add it there, or pass --missing-text allow to train it without text");
                }
                if (item < 0) {
                    item = catalogue.size() + bare.add(itemId);
                }
                String time = row.getField(timeColumn);
                if (!log.add(users.add(userId), item, time)) {
                    throw csv.error(
                            row.getStartingLineNumber(),
                            "timestamp \"" + time + "\" is not a number that fits 64 bits (user \"" + userId + "\")");
                }
                if (valueColumn != null && !log.value(row.getField(valuePlace))) {
                    throw csv.error(
                            row.getStartingLineNumber(),
                            valueColumn + " \"" + row.getField(valuePlace) + "\" is not a number (user \"" + userId
                                    + "\")");
                }
            }
            if (log.size == 0) {
                throw new HllmException(csvPath + ": there are no events below the header");
            }
            List<String> bareIds = new ArrayList<>();
            for (int i = 0; i < bare.size(); i++) {
                bareIds.add(bare.get(i));
            }
            return log.grouped(catalogue.withBareItems(bareIds), users);
        }
    }

    /** Number of users. */
    public int users() {
        return users.size();
    }

    /** Number of events of all users. */
    public int size() {
        return items.length;
    }

    /** Id of a user. */
    public String userId(int user) {
        return users.get(user);
    }

    /** Number of a user by id, or -1. */
    public int user(String id) {
        return users.find(id);
    }

    /** Item rows of a user's events, oldest first; a new array. */
    public int[] events(int user) {
        return Arrays.copyOfRange(items, offsets[user], offsets[user + 1]);
    }

    /** Timestamps of a user's events, beside {@link #events}; a new array. */
    public long[] timestamps(int user) {
        return Arrays.copyOfRange(times, offsets[user], offsets[user + 1]);
    }

    /**
     * Values of the named column for a user's events, beside {@link #events}, NaN where the field was empty; a new array.
     *
     * @throws HllmException when the log was read without one
     */
    public double[] values(int user) {
        if (values == null) {
            throw new HllmException("the log was read without a column of values");
        }
        return Arrays.copyOfRange(values, offsets[user], offsets[user + 1]);
    }

    /** The catalogue that the item rows refer to: the one given, extended by the bare items of the log. */
    public Catalogue catalogue() {
        return catalogue;
    }

    /** The events in file order, growing. */
    private static final class Log {
        private int[] user = new int[1024];
        private int[] item = new int[1024];
        private long[] time = new long[1024];
        private int[] billionths; // fraction of the timestamps; null while all are integers
        private double[] value; // null without such a column
        private int size;

        Log(boolean values) {
            value = values ? new double[user.length] : null;
        }

        /** The value of the event added last; false when the text is no number. */
        boolean value(String text) {
            try {
                value[size - 1] = text.isEmpty() ? Double.NaN : Double.parseDouble(text);
                return text.isEmpty() || Double.isFinite(value[size - 1]);
            } catch (NumberFormatException e) {
                return false;
            }
        }

        /** False when {@code timestamp} is no number that fits. */
        boolean add(int userNumber, int itemRow, String timestamp) {
            if (size == user.length) {
                int grown = Math.addExact(size, size >> 1);
                user = Arrays.copyOf(user, grown);
                item = Arrays.copyOf(item, grown);
                time = Arrays.copyOf(time, grown);
                billionths = billionths == null ? null : Arrays.copyOf(billionths, grown);
                value = value == null ? null : Arrays.copyOf(value, grown);
            }
            try {
                time[size] = Long.parseLong(timestamp);
            } catch (NumberFormatException e) {
                if (!addDecimal(timestamp)) {
                    return false;
                }
            }
            user[size] = userNumber;
            item[size++] = itemRow;
            return true;
        }

        private boolean addDecimal(String timestamp) {
            try {
                BigDecimal value = new BigDecimal(timestamp);
                if (Math.abs((long) value.scale()) > 100) { // 1e999999999 would fill the memory with zeros
                    return false;
                }
                BigDecimal whole = value.setScale(0, RoundingMode.FLOOR);
                time[size] = whole.longValueExact();
                int fraction = value.subtract(whole).movePointRight(9).intValue();
                if (fraction != 0) {
                    billionths = billionths == null ? new int[user.length] : billionths;
                    billionths[size] = fraction;
                }
                return true;
            } catch (ArithmeticException | NumberFormatException e) {
                return false;
            }
        }

        Interactions grouped(Catalogue catalogue, IdIndex users) {
            int[] offsets = new int[users.size() + 1];
            for (int e = 0; e < size; e++) {
                offsets[user[e] + 1]++;
            }
            Arrays.parallelPrefix(offsets, Integer::sum);
            int[] events = new int[size]; // grouped by user, in file order
            int[] next = offsets.clone();
            for (int e = 0; e < size; e++) {
                events[next[user[e]]++] = e;
            }
            int[] items = new int[size];
            long[] times = new long[size];
            double[] values = value == null ? null : new double[size];
            for (int u = 0; u < users.size(); u++) {
                sortByTime(events, offsets[u], offsets[u + 1]);
            }
            for (int i = 0; i < size; i++) {
                items[i] = item[events[i]];
                times[i] = time[events[i]];
                if (values != null) {
                    values[i] = value[events[i]];
                }
            }
            return new Interactions(catalogue, users, offsets, items, times, values);
        }

        /** Stable. Most logs are in order already, so nothing is boxed for them. */
        private void sortByTime(int[] events, int begin, int end) {
            for (int i = begin + 1; i < end; i++) {
                if (compareTimes(events[i - 1], events[i]) > 0) {
                    Integer[] boxed = Arrays.stream(events, begin, end).boxed().toArray(Integer[]::new);
                    Arrays.sort(boxed, this::compareTimes);
                    for (int k = 0; k < boxed.length; k++) {
                        events[begin + k] = boxed[k];
                    }
                    return;
                }
            }
        }

        private int compareTimes(int a, int b) {
            int order = Long.compare(time[a], time[b]);
            return order != 0 || billionths == null ? order : Integer.compare(billionths[a], billionths[b]);
        }
    }
}
