package org.hllm4j.serve;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;

/**
 * What was done to items while they were served: the last change of each, in memory, and in a file where there is one. They are
 * made again in every {@link Snapshot} that an {@link Engine} starts with or takes over.
 *
 * <p>A removed item stays out, whatever a later catalogue says, until it is added again; histories may hold it. A text that an
 * item was given holds until a catalogue has another text for it than the catalogue of then, which may have had none: that is
 * newer.
 *
 * <p>Stays the caller's when an engine has it, and is to be closed after it. Any thread.
 */
public final class ItemChanges implements AutoCloseable {
    /**
     * Of one item.
     *
     * @param fields its text by text key; null: the catalogue's
     * @param instead the catalogue's text when that was given; null: the item was not in it
     * @param removed whether answers leave it out
     */
    record Change(String id, Map<String, String> fields, Map<String, String> instead, boolean removed) {}

    private static final RecordLog.Kind KIND = new RecordLog.Kind("item log", "HLLMITM1");

    private final Map<String, Change> last = new LinkedHashMap<>(); // by id, the latest at the end
    private final RecordLog records; // null: in memory only

    private ItemChanges(Path path, Fsync fsync) {
        records = path == null ? null : RecordLog.open(path, KIND, fsync, body -> remember(decoded(body)));
    }

    /** Changes that end with the process. */
    public static ItemChanges inMemory() {
        return new ItemChanges(null, null);
    }

    /**
     * Opens the file of changes, or makes a new one.
     *
     * @throws HllmException where the file is no such log, is damaged before its end, or another process has it
     */
    public static ItemChanges open(Path path, Fsync fsync) {
        return new ItemChanges(path, fsync);
    }

    /** Items that were changed. */
    public synchronized int size() {
        return last.size();
    }

    /** The last change of each item, in their order. */
    synchronized List<Change> all() {
        return List.copyOf(last.values());
    }

    /** Remembers a change; what this returns waits until it is kept. */
    Runnable put(Change change) {
        RecordLog.Pending pending = records == null ? null : records.put(encoded(change), () -> {});
        remember(change);
        return pending == null ? () -> {} : pending::await;
    }

    private synchronized void remember(Change change) {
        last.remove(change.id());
        last.put(change.id(), change);
    }

    // ---- Records ----------------------------------------------------------------------------------------------------

    private static byte[] encoded(Change change) {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        try (DataOutputStream out = new DataOutputStream(bytes)) {
            write(out, change.id);
            out.writeBoolean(change.removed);
            write(out, change.fields);
            write(out, change.instead);
        } catch (IOException e) {
            throw new IllegalStateException(e);
        }
        return bytes.toByteArray();
    }

    private static Change decoded(byte[] body) throws IOException {
        DataInputStream in = new DataInputStream(new ByteArrayInputStream(body));
        String id = text(in);
        boolean removed = in.readBoolean();
        return new Change(id, texts(in), texts(in), removed);
    }

    private static void write(DataOutputStream out, Map<String, String> texts) throws IOException {
        out.writeInt(texts == null ? -1 : texts.size());
        for (Map.Entry<String, String> text :
                texts == null ? Map.<String, String>of().entrySet() : texts.entrySet()) {
            write(out, text.getKey());
            write(out, text.getValue());
        }
    }

    private static void write(DataOutputStream out, String text) throws IOException {
        out.writeInt(text.length());
        out.writeChars(text);
    }

    private static Map<String, String> texts(DataInputStream in) throws IOException {
        int count = in.readInt();
        Map<String, String> texts = new HashMap<>();
        while (texts.size() < count) {
            texts.put(text(in), text(in));
        }
        return count < 0 ? null : texts;
    }

    private static String text(DataInputStream in) throws IOException {
        char[] text = new char[in.readInt()];
        for (int i = 0; i < text.length; i++) {
            text[i] = in.readChar();
        }
        return new String(text);
    }

    /** Takes no more changes where there is a file, writes and syncs those under way, and closes it. */
    @Override
    public void close() {
        if (records != null) {
            records.close();
        }
    }
}
