package org.hllm4j.serve;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.UTFDataFormatException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.hllm4j.HllmException;

/**
 * Events in one file that only grows, and in memory (about 12 bytes an event, and each id once). What one call appends is one
 * record: all of it is kept, or nothing. What the end of the process left unfinished is cut off when the file is opened; it was
 * never acknowledged.
 *
 * <p>Appends that come while another is being written go to the disk together (group commit). When the disk refuses
 * one, the log takes no more: what it holds can still be read, and opening it anew tells what was kept. One process at
 * a time has the file. Any thread.
 */
public final class EventLog implements HistorySource {
    private static final RecordLog.Kind KIND = new RecordLog.Kind("event log", "HLLMLOG1");

    /** A user's events. */
    private static final class Timeline {
        private String[] items = new String[4];
        private long[] times = new long[4];
        private int size;

        synchronized void add(String item, long time) {
            if (size == items.length) {
                items = Arrays.copyOf(items, 2 * size);
                times = Arrays.copyOf(times, 2 * size);
            }
            int at = size++;
            for (; at > 0 && times[at - 1] > time; at--) { // late ones go where they belong
                items[at] = items[at - 1];
                times[at] = times[at - 1];
            }
            items[at] = item;
            times[at] = time;
        }

        synchronized Events events() {
            return new Events(List.of(Arrays.copyOf(items, size)), Arrays.copyOf(times, size));
        }
    }

    private final Path path;
    private final Map<String, Timeline> users = new ConcurrentHashMap<>();
    private final Map<String, String> itemIds = new HashMap<>(); // each once; of the thread that writes
    private final RecordLog records;
    private volatile long events;

    private EventLog(Path path, Fsync fsync) {
        this.path = path;
        records = RecordLog.open(path, KIND, fsync, body -> index(decoded(body)));
    }

    /**
     * Opens the log, or makes a new one.
     *
     * @throws HllmException where the file is no event log, is damaged before its end, or another process has it
     */
    public static EventLog open(Path path, Fsync fsync) {
        return new EventLog(path, fsync);
    }

    private static List<Event> decoded(byte[] body) throws IOException {
        DataInputStream in = new DataInputStream(new ByteArrayInputStream(body));
        List<Event> events = new ArrayList<>();
        while (in.available() > 0) {
            long timestamp = in.readLong();
            events.add(new Event(in.readUTF(), in.readUTF(), timestamp));
        }
        return events;
    }

    private byte[] encoded(List<Event> events) {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (DataOutputStream out = new DataOutputStream(bytes)) {
            for (Event event : events) {
                out.writeLong(event.timestamp());
                out.writeUTF(event.user());
                out.writeUTF(event.item());
            }
        } catch (UTFDataFormatException e) {
            throw new HllmException(path + ": an id is longer than 65535 bytes", e);
        } catch (IOException e) {
            throw new IllegalStateException(e);
        }
        return bytes.toByteArray();
    }

    private void index(List<Event> added) {
        for (Event event : added) {
            users.computeIfAbsent(event.user(), user -> new Timeline())
                    .add(itemIds.computeIfAbsent(event.item(), id -> id), event.timestamp());
        }
        events += added.size();
    }

    @Override
    public Events history(String user) {
        Timeline timeline = users.get(user);
        return timeline == null ? Events.NONE : timeline.events();
    }

    /**
     * @throws DiskException where the disk refuses them or refused others before; then they may or may not be kept
     */
    @Override
    public void append(List<Event> added) {
        if (!added.isEmpty()) {
            records.put(encoded(added), () -> index(added)).await();
        }
    }

    /** Events since the first, those of earlier processes included. */
    public long events() {
        return events;
    }

    /** Times that the disk was made to keep what it has, since the log was opened. */
    public long syncs() {
        return records.syncs();
    }

    /** Takes no more events, writes and syncs those under way, and closes the file; {@link #history} still answers. */
    @Override
    public void close() {
        records.close();
    }
}
