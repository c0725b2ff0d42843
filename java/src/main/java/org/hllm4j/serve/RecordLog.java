package org.hllm4j.serve;

import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.OverlappingFileLockException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import java.util.zip.CRC32C;
import org.hllm4j.HllmException;

/**
 * Records in one file that only grows, each of them its length, its CRC-32C, then its bytes. A record that the end of the
 * process left unfinished is cut off when the file is opened; nobody was told that it is kept.
 *
 * <p>Records that come while another is being written go to the disk together (group commit). When the disk refuses one, the
 * log takes no more; opening it anew tells what was kept. One process at a time has the file. Any thread.
 */
final class RecordLog implements AutoCloseable {
    /**
     * What a log is of.
     *
     * @param name in messages
     * @param magic of 8 characters, at the start of the file
     */
    record Kind(String name, String magic) {
        byte[] bytes() {
            return magic.getBytes(StandardCharsets.US_ASCII);
        }
    }

    /** Takes the records that are in the file when it is opened. */
    @FunctionalInterface
    interface Reader {
        void record(byte[] body) throws IOException;
    }

    /** Records that go to the disk together. */
    private static final class Group {
        private final ByteArrayOutputStream records = new ByteArrayOutputStream();
        private final ArrayList<Runnable> kept = new ArrayList<>();
        private boolean done;
        private boolean failed;

        /** All of a record, or where there is no memory for it, nothing. */
        void add(byte[] body, Runnable then) {
            ByteBuffer record = ByteBuffer.allocate(HEAD + body.length);
            record.putInt(body.length).putInt(crc(body, 0, body.length)).put(body);
            kept.ensureCapacity(kept.size() + 1);
            records.writeBytes(record.array());
            kept.add(then);
        }
    }

    /** A record on its way: it has its place in the file; who waits for it first writes it. */
    final class Pending {
        private final Group group;

        private Pending(Group group) {
            this.group = group;
        }

        /**
         * Returns when the record is kept.
         *
         * @throws DiskException where the disk refuses it or refused others before
         */
        void await() {
            lock.lock();
            try {
                while (!group.done) {
                    proceed(); // the first of a group to come here writes it
                }
                if (group.failed) {
                    throw new DiskException(
                            path + ": the disk does not take more: " + failure + ". Make room, or see to the disk,"
                                    + " and open the " + kind.name + " anew",
                            failure);
                }
            } finally {
                lock.unlock();
            }
        }
    }

    /** Bytes of the longest record. */
    static final int LONGEST = 16 << 20;

    private static final System.Logger LOG = System.getLogger(RecordLog.class.getName());
    private static final int HEAD = 8; // length and CRC of a record

    private final Path path;
    private final Kind kind;
    private final Fsync fsync;
    private final RandomAccessFile file; // not a channel: that would close when a request's thread is interrupted
    private final ReentrantLock lock = new ReentrantLock();
    private final Condition changed = lock.newCondition(); // a group was written
    private final Condition closing = lock.newCondition();
    private Group next = new Group();
    private boolean writing;
    private boolean closed;
    private Throwable failure; // null while the disk takes everything
    private volatile boolean unsynced;
    private volatile long syncs;

    private RecordLog(Path path, Kind kind, Fsync fsync, RandomAccessFile file, Reader reader) throws IOException {
        this.path = path;
        this.kind = kind;
        this.fsync = fsync;
        this.file = file;
        long end = read(reader);
        if (end < file.length()) {
            LOG.log(
                    System.Logger.Level.WARNING,
                    "{0}: cut off the last {1} bytes, of a record that was not finished",
                    path,
                    file.length() - end);
            file.setLength(end);
        }
        file.seek(end);
        if (fsync instanceof Fsync.Every every) {
            long nanos = every.interval().toNanos();
            Thread.ofPlatform()
                    .daemon()
                    .name("hllm-" + kind.name.replace(' ', '-'))
                    .start(() -> syncEvery(nanos));
        }
    }

    /**
     * Opens a log, or makes a new one.
     *
     * @param reader gets all whole records before this returns
     * @throws HllmException where the file is no such log, is damaged before its end, or another process has it
     */
    static RecordLog open(Path path, Kind kind, Fsync fsync, Reader reader) {
        RandomAccessFile file = null;
        try {
            boolean fresh = !Files.exists(path) || Files.size(path) == 0;
            file = new RandomAccessFile(path.toFile(), "rw");
            if (file.getChannel().tryLock() == null) {
                throw new HllmException(path + ": another process has this " + kind.name + " open; give each its own");
            }
            if (fresh) {
                file.write(kind.bytes());
                file.getFD().sync();
                try (FileChannel folder = FileChannel.open(path.toAbsolutePath().getParent())) {
                    folder.force(true); // the file's name
                }
            }
            return new RecordLog(path, kind, fsync, file, reader);
        } catch (IOException | OverlappingFileLockException | HllmException e) {
            close(file);
            throw e instanceof HllmException known
                    ? known
                    : new HllmException(path + ": cannot be opened as an " + kind.name + ": " + e, e);
        }
    }

    private static void close(RandomAccessFile file) {
        try {
            if (file != null) {
                file.close();
            }
        } catch (IOException e) {
            LOG.log(System.Logger.Level.WARNING, "a log could not be closed", e);
        }
    }

    // ---- Reading ----------------------------------------------------------------------------------------------------

    /** Hands out all whole records; returns where they end. */
    private long read(Reader reader) throws IOException {
        long size = file.length();
        // Through the descriptor that has the lock: closing another one of this file would give the lock up.
        file.seek(0);
        DataInputStream in = new DataInputStream(new BufferedInputStream(new FileInputStream(file.getFD()), 1 << 16));
        byte[] expected = kind.bytes();
        byte[] magic = in.readNBytes(expected.length);
        if (!Arrays.equals(magic, expected)) {
            if (size < expected.length && Arrays.equals(magic, Arrays.copyOf(expected, magic.length))) {
                file.seek(0);
                file.write(expected); // it was being made
                return expected.length;
            }
            throw new HllmException(path + ": is no " + kind.name + " of this version; name another file");
        }
        long at = expected.length;
        while (at + HEAD <= size) {
            int length = in.readInt();
            int crc = in.readInt();
            byte[] body = fits(length, size - at - HEAD) ? in.readNBytes(length) : null;
            if (body == null || crc(body, 0, length) != crc) {
                if (recordFollows(at + 1, size)) {
                    throw damaged(at);
                }
                return at;
            }
            reader.record(body);
            at += HEAD + length;
        }
        return at;
    }

    private static boolean fits(int length, long left) {
        return length > 0 && length <= Math.min(left, LONGEST);
    }

    /** Whether a whole record lies anywhere after a place that has none: then this is not where writing ended. */
    private boolean recordFollows(long from, long size) throws IOException {
        byte[] rest = new byte[(int) Math.min(size - from, 2L * LONGEST)];
        file.seek(from);
        file.readFully(rest);
        ByteBuffer ints = ByteBuffer.wrap(rest);
        for (int at = 0; at + HEAD <= rest.length; at++) {
            int length = ints.getInt(at);
            if (fits(length, rest.length - at - HEAD) && crc(rest, at + HEAD, length) == ints.getInt(at + 4)) {
                return true;
            }
        }
        return false;
    }

    private HllmException damaged(long at) {
        return new HllmException(path + ": the record at byte " + at + " is damaged, and others follow it. Restore the"
                + " file, or give up what follows with `truncate -s " + at + " " + path + "`");
    }

    private static int crc(byte[] bytes, int from, int length) {
        CRC32C crc = new CRC32C();
        crc.update(bytes, from, length);
        return (int) crc.getValue();
    }

    // ---- Writing ----------------------------------------------------------------------------------------------------

    /**
     * Gives a record its place after those before it; it is kept once it was waited for.
     *
     * @param kept runs when it is, after those of the records before it
     */
    Pending put(byte[] body, Runnable kept) {
        if (!fits(body.length, LONGEST)) {
            throw new HllmException(path + ": a record of " + body.length + " bytes; expected 1 to " + LONGEST
                    + ", keep less at a time");
        }
        lock.lock();
        try {
            if (closed) {
                throw new DiskException(path + ": this " + kind.name + " is closed", null);
            }
            next.add(body, kept);
            return new Pending(next);
        } finally {
            lock.unlock();
        }
    }

    /** Waits for the group that is being written, or writes the next one; with the lock, which is given up meanwhile. */
    private void proceed() {
        if (writing) {
            changed.awaitUninterruptibly();
        } else {
            Group group = next;
            next = new Group(); // gathers what comes meanwhile
            write(group);
        }
    }

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
                group.kept.forEach(Runnable::run);
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

    /** With the lock, which is given up meanwhile: records may come while the disk is busy. */
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

    /** Times that the disk was made to keep what it has, since the log was opened. */
    long syncs() {
        return syncs;
    }

    /** Takes no more records, writes and syncs those under way, and closes the file. */
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
                proceed();
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
