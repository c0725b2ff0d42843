package org.hllm4j.serve;

import java.io.BufferedInputStream;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.RandomAccessFile;
import java.io.UTFDataFormatException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.OverlappingFileLockException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.zip.CRC32C;
import org.hllm4j.HllmException;

/**
 * Events in one file that only grows, and in memory (about 12 bytes an event, and each id once). An append is one
 * record: its length, its CRC-32C, then the events. A record that the end of the process left unfinished is cut off
 * when the file is opened; it was never acknowledged.
 *
 * <p>Appends that come while another is being written go to the disk together (group commit). When the disk refuses
 * one, the log takes no more: what it holds can still be read, and opening it anew tells what was kept. One process at
 * a time has the file. Any thread.
 */
public final class EventLog implements HistorySource {
    private static final System.Logger LOG = System.getLogger(EventLog.class.getName());
    private static final byte[] MAGIC = "HLLMLOG1".getBytes(StandardCharsets.US_ASCII);
    private static final int HEAD = 8; // length and CRC of a record

    /** Appends that go to the disk together. */
    private static final class Group {
        private final ByteArrayOutputStream records = new ByteArrayOutputStream();
        private final List<Event> events = new ArrayList<>();
        private boolean done;
        private boolean failed;

        void add(byte[] body, List<Event> added) {
            ByteBuffer head = ByteBuffer.allocate(HEAD).putInt(body.length).putInt(crc(body));
            records.writeBytes(head.array());
            records.writeBytes(body);
            events.addAll(added);
        }
    }

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
    private final Fsync fsync;
    private final RandomAccessFile file; // not a channel: that would close when a request's thread is interrupted
    private final Map<String, Timeline> users = new ConcurrentHashMap<>();
    private final Map<String, String> itemIds = new HashMap<>(); // each once; of the thread that writes
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition changed = lock.newCondition(); // a group was written
    private final Condition closing = lock.newCondition();
    private Group next = new Group();
    private boolean writing;
    private boolean closed;
    private Throwable failure; // null while the disk takes everything
    private volatile boolean unsynced;
    private volatile long events;
    private volatile long syncs;

    private EventLog(Path path, Fsync fsync, RandomAccessFile file) throws IOException {
        this.path = path;
        this.fsync = fsync;
        this.file = file;
        long end = read();
        if (end < file.length()) {
            LOG.log(
                    System.Logger.Level.WARNING,
                    "{0}: cut off the last {1} bytes, of an append that was not finished",
                    path,
                    file.length() - end);
            file.setLength(end);
        }
        file.seek(end);
        if (fsync instanceof Fsync.Every every) {
            long nanos = every.interval().toNanos();
            Thread.ofPlatform().daemon().name("hllm-event-log").start(() -> syncEvery(nanos));
        }
    }

    /**
     * Opens the log, or makes a new one.
     *
     * @throws HllmException where the file is no event log, is damaged before its end, or another process has it
     */
    public static EventLog open(Path path, Fsync fsync) {
        RandomAccessFile file = null;
        try {
            boolean fresh = !Files.exists(path) || Files.size(path) == 0;
            file = new RandomAccessFile(path.toFile(), "rw");
            if (file.getChannel().tryLock() == null) {
                throw new HllmException(path + ": another process has this event log open; give each its own");
            }
            if (fresh) {
                file.write(MAGIC);
                file.getFD().sync();
                try (FileChannel folder = FileChannel.open(path.toAbsolutePath().getParent())) {
                    folder.force(true); // the file's name
                }
            }
            return new EventLog(path, fsync, file);
        } catch (IOException | OverlappingFileLockException | HllmException e) {
            close(file);
            throw e instanceof HllmException known
                    ? known
                    : new HllmException(path + ": cannot be opened as an event log: " + e, e);
        }
    }

    private static void close(RandomAccessFile file) {
        try {
            if (file != null) {
                file.close();
            }
        } catch (IOException e) {
            LOG.log(System.Logger.Level.WARNING, "an event log could not be closed", e);
        }
    }

    // ---- Reading ----------------------------------------------------------------------------------------------------

    /** Takes all whole records into memory; returns where they end. */
    private long read() throws IOException {
        long size = file.length();
        try (DataInputStream in =
                new DataInputStream(new BufferedInputStream(new FileInputStream(path.toFile()), 1 << 16))) {
            byte[] magic = in.readNBytes(MAGIC.length);
            if (!Arrays.equals(magic, MAGIC)) {
                if (size < MAGIC.length && Arrays.equals(magic, Arrays.copyOf(MAGIC, magic.length))) {
                    file.write(MAGIC); // it was being made
                    return MAGIC.length;
                }
                throw new HllmException(path + ": is no event log of this version; name another file");
            }
            long at = MAGIC.length;
            while (at + HEAD <= size) {
                int length = in.readInt();
                int crc = in.readInt();
                if (length <= 0) {
                    if (length == 0 && crc == 0 && allZero(in)) {
                        return at; // the system crashed: the file has grown, but its contents never came
                    }
                    throw damaged(at);
                }
                if (length > size - at - HEAD) {
                    return at;
                }
                byte[] body = in.readNBytes(length);
                if (crc(body) != crc) {
                    if (at + HEAD + length == size) {
                        return at;
                    }
                    throw damaged(at);
                }
                index(decoded(body));
                at += HEAD + length;
            }
            return at;
        }
    }

    private static boolean allZero(InputStream in) throws IOException {
        for (int b = in.read(); b >= 0; b = in.read()) {
            if (b != 0) {
                return false;
            }
        }
        return true;
    }

    private HllmException damaged(long at) {
        return new HllmException(path + ": the record at byte " + at + " is damaged, and others follow it. Restore the"
                + " file, or give up what follows with `truncate -s " + at + " " + path + "`");
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

    private static int crc(byte[] body) {
        CRC32C crc = new CRC32C();
        crc.update(body);
        return (int) crc.getValue();
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

    // ---- Writing ----------------------------------------------------------------------------------------------------

    /** @throws HllmException where the disk refuses them or refused others before; then they may or may not be kept */
    @Override
    public void append(List<Event> added) {
        if (added.isEmpty()) {
            return;
        }
        byte[] body = encoded(added);
        lock.lock();
        try {
            if (closed) {
                throw new HllmException(path + ": this event log is closed");
            }
            Group group = next;
            group.add(body, added);
            while (!group.done) {
                if (writing) {
                    changed.awaitUninterruptibly();
                } else { // the first of a group to come here writes it
                    next = new Group();
                    write(group);
                }
            }
            if (group.failed) {
                throw new HllmException(
                        path + ": the disk does not take events any more: " + failure
                                + ". Make room, or see to the disk, and open the log anew",
                        failure);
            }
        } finally {
            lock.unlock();
        }
    }

    /** Writes a group while others gather the next one; with the lock, which is given up meanwhile. */
    private void write(Group group) {
        writing = true;
        Throwable refused = failure;
        lock.unlock();
        try {
            if (refused == null) {
                file.write(group.records.toByteArray());
                unsynced = true;
                if (fsync instanceof Fsync.Always) {
                    sync();
                }
                index(group.events);
            }
        } catch (IOException | RuntimeException | Error e) {
            refused = e;
        } finally {
            lock.lock();
            writing = false;
            failure = refused == null ? failure : refused;
            group.failed = refused != null;
            group.done = true;
            changed.signalAll();
        }
    }

    private void sync() throws IOException {
        unsynced = false;
        file.getFD().sync();
        syncs++;
    }

    private void syncEvery(long nanos) {
        lock.lock();
        try {
            for (long left = nanos; !closed; ) {
                left = closing.awaitNanos(left);
                if (left <= 0) {
                    left = nanos;
                    syncUnlocked();
                }
            }
        } catch (InterruptedException e) {
            throw new IllegalStateException("nobody interrupts this thread", e);
        } finally {
            lock.unlock();
        }
    }

    /** With the lock, which is given up meanwhile: events may come while the disk is busy. */
    private void syncUnlocked() {
        Throwable refused = failure;
        lock.unlock();
        try {
            if (unsynced && refused == null) {
                sync();
            }
        } catch (IOException e) {
            refused = e;
        } finally {
            lock.lock();
            failure = refused == null ? failure : refused;
        }
    }

    /** Events since the first, those of earlier processes included. */
    public long events() {
        return events;
    }

    /** Times that the disk was made to keep what it has, since the log was opened. */
    public long syncs() {
        return syncs;
    }

    /** Takes no more events, writes and syncs those under way, and closes the file; {@link #history} still answers. */
    @Override
    public void close() {
        lock.lock();
        try {
            if (closed) {
                return;
            }
            closed = true;
            closing.signalAll();
            while (writing || next.records.size() > 0) {
                changed.awaitUninterruptibly();
            }
            if (!(fsync instanceof Fsync.Never)) {
                syncUnlocked();
            }
        } finally {
            lock.unlock();
        }
        close(file);
    }
}
