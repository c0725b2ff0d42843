package org.hllm4j.serve;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.File;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.serve.HistorySource.Event;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class EventLogTest {
    private static final Fsync ALWAYS = new Fsync.Always();

    @TempDir
    Path folder;

    private Path file() {
        return folder.resolve("events.log");
    }

    private static Event event(String user, int number) {
        return new Event(user, "i" + number, number);
    }

    @Test
    void eventsAreOrderedByTimeAndComeBack() {
        try (EventLog log = EventLog.open(file(), ALWAYS)) {
            log.append(List.of(new Event("u", "a", 5), new Event("v", "x", 1), new Event("u", "b", 7)));
            log.append(List.of(new Event("u", "late", 6), new Event("u", "same", 7), new Event("ü", "é", -3)));
            log.append(List.of());
            check(log);
            assertEquals(2, log.syncs());
            HllmException taken = assertThrows(HllmException.class, () -> EventLog.open(file(), ALWAYS));
            assertTrue(taken.getMessage().contains("cannot be opened"), taken.getMessage());
            assertThrows(HllmException.class, () -> log.append(List.of(new Event("u".repeat(70_000), "a", 1))));
        }
        EventLog log = EventLog.open(file(), new Fsync.Never());
        check(log);
        log.close();
        log.close();
        assertThrows(HllmException.class, () -> log.append(List.of(event("u", 1))));
        check(log);
    }

    private static void check(EventLog log) {
        assertEquals(List.of("a", "late", "b", "same"), log.history("u").items());
        assertArrayEquals(new long[] {5, 6, 7, 7}, log.history("u").timestamps());
        assertEquals(List.of("é"), log.history("ü").items());
        assertEquals(0, log.history("w").size());
        assertEquals(6, log.events());
    }

    /** Wherever the file was torn: all whole records are there, the torn one is gone, and the log goes on. */
    @Test
    void aTornTailIsCutOff() throws IOException {
        List<Long> ends = new ArrayList<>();
        try (EventLog log = EventLog.open(file(), ALWAYS)) {
            for (int i = 0; i < 4; i++) {
                log.append(List.of(event("u", 2 * i), event("u", 2 * i + 1)));
                ends.add(Files.size(file()));
            }
        }
        byte[] whole = Files.readAllBytes(file());
        for (int length = 0; length < whole.length; length++) {
            Files.write(file(), Arrays.copyOf(whole, length));
            int size = length;
            int kept = 2 * (int) ends.stream().filter(end -> end <= size).count();
            reopened(kept);
        }
        byte[] wrong = whole.clone();
        wrong[whole.length - 1] ^= 1;
        Files.write(file(), wrong);
        reopened(6);
        Files.write(file(), Arrays.copyOf(whole, whole.length + 5000)); // grown by a crash, and never filled
        reopened(8);
    }

    private void reopened(int kept) {
        try (EventLog log = EventLog.open(file(), ALWAYS)) {
            assertEquals(kept, log.history("u").size());
            log.append(List.of(event("u", 100)));
        }
        try (EventLog log = EventLog.open(file(), ALWAYS)) {
            assertEquals(kept + 1, log.history("u").size());
            assertEquals("i100", log.history("u").items().getLast());
        }
    }

    @Test
    void damageBeforeTheEndAndOtherFilesAreRefused() throws IOException {
        try (EventLog log = EventLog.open(file(), ALWAYS)) {
            log.append(List.of(event("u", 1)));
            log.append(List.of(event("u", 2)));
        }
        byte[] whole = Files.readAllBytes(file());
        byte[] bytes = whole.clone();
        bytes[20] ^= 1;
        Files.write(file(), bytes);
        HllmException damaged = assertThrows(HllmException.class, () -> EventLog.open(file(), ALWAYS));
        assertTrue(damaged.getMessage().contains("truncate -s 8 "), damaged.getMessage());
        assertArrayEquals(bytes, Files.readAllBytes(file()));
        for (int at = 8; at < bytes.length / 2; at++) { // wherever it is: what follows is not thrown away
            bytes = whole.clone();
            bytes[at] ^= (byte) (1 << at % 8);
            Files.write(file(), bytes);
            assertThrows(HllmException.class, () -> EventLog.open(file(), ALWAYS));
            assertArrayEquals(bytes, Files.readAllBytes(file()));
        }
        Files.writeString(file(), "item_id,user_id,timestamp\n");
        HllmException other = assertThrows(HllmException.class, () -> EventLog.open(file(), ALWAYS));
        assertTrue(other.getMessage().contains("no event log"), other.getMessage());
    }

    @Test
    void appendsThatWaitTogetherShareASync() throws Exception {
        int threads = 16;
        int each = 50;
        try (EventLog log = EventLog.open(file(), ALWAYS);
                ExecutorService pool = Executors.newVirtualThreadPerTaskExecutor()) {
            List<Future<?>> running = new ArrayList<>();
            for (int t = 0; t < threads; t++) {
                String user = "u" + t;
                running.add(pool.submit(() -> {
                    for (int i = 0; i < each; i++) {
                        log.append(List.of(event(user, i)));
                        assertEquals(i + 1, log.history(user).size(), "what is acknowledged is there");
                    }
                }));
            }
            for (Future<?> one : running) {
                one.get();
            }
            System.out.println(threads * each + " appends, " + log.syncs() + " syncs");
            assertTrue(log.syncs() < threads * each / 2, log.syncs() + " syncs");
        }
        try (EventLog log = EventLog.open(file(), ALWAYS)) {
            assertEquals(threads * each, log.events());
            assertEquals("i49", log.history("u7").items().getLast());
        }
    }

    @Test
    void everySoOftenIsWithoutBeingAsked() throws InterruptedException {
        try (EventLog log = EventLog.open(file(), new Fsync.Every(Duration.ofMillis(5)))) {
            log.append(List.of(event("u", 1)));
            long deadline = System.nanoTime() + 30_000_000_000L;
            while (log.syncs() == 0 && System.nanoTime() < deadline) {
                Thread.sleep(1);
            }
            assertEquals(1, log.syncs());
        }
        assertThrows(HllmException.class, () -> new Fsync.Every(Duration.ZERO));
    }

    /** A request's thread may be interrupted while it appends: the log takes the event, and the next ones. */
    @Test
    void anInterruptDoesNotCloseTheFile() {
        try (EventLog log = EventLog.open(file(), ALWAYS)) {
            Thread.currentThread().interrupt();
            log.append(List.of(event("u", 1)));
            assertTrue(Thread.interrupted());
            log.append(List.of(event("u", 2)));
            assertEquals(2, log.history("u").size());
        }
    }

    /** A process killed at any moment has lost nothing that it acknowledged. */
    @Test
    void aKilledProcessLosesNoAcknowledgedEvent() throws IOException, InterruptedException {
        System.out.println("seed " + Tiny.seed());
        Random random = new Random(Tiny.seed());
        Path acknowledged = folder.resolve("acknowledged");
        int kept = 0;
        for (int round = 0; round < 3; round++) {
            Process writer = new ProcessBuilder(
                            Path.of(System.getProperty("java.home"), "bin", "java")
                                    .toString(),
                            "-cp",
                            place(EventLog.class) + File.pathSeparator + place(Writer.class),
                            Writer.class.getName(),
                            file().toString())
                    .redirectOutput(acknowledged.toFile())
                    .redirectError(ProcessBuilder.Redirect.INHERIT)
                    .start();
            int enough = kept + 20 + random.nextInt(200);
            while (last(acknowledged) < enough && writer.isAlive()) {
                Thread.sleep(1);
            }
            HllmException taken = assertThrows(HllmException.class, () -> EventLog.open(file(), ALWAYS));
            assertTrue(taken.getMessage().contains("another process has this"), taken.getMessage());
            writer.destroyForcibly();
            assertEquals(128 + 9, writer.waitFor(), "killed, while it was writing");
            int before = last(acknowledged);
            try (EventLog log = EventLog.open(file(), ALWAYS)) {
                kept = log.history("u").size();
                System.out.println("killed after " + before + " acknowledged events; the log has " + kept);
                assertTrue(kept >= before && before >= enough, kept + " of " + before);
                for (int i = 0; i < kept; i++) {
                    assertEquals("i" + i, log.history("u").items().get(i));
                }
            }
        }
    }

    /** The number in the last whole line, or 0. */
    private static int last(Path file) throws IOException {
        String text = Files.readString(file);
        String[] lines = text.substring(0, text.lastIndexOf('\n') + 1).split("\n");
        return lines[lines.length - 1].isEmpty() ? 0 : Integer.parseInt(lines[lines.length - 1]);
    }

    private static String place(Class<?> type) {
        return Path.of(URI.create(
                        type.getProtectionDomain().getCodeSource().getLocation().toString()))
                .toString();
    }

    /** Appends events for ever, and prints how many there are after each. */
    static final class Writer {
        private Writer() {}

        public static void main(String[] args) {
            PrintStream out = new PrintStream(new FileOutputStream(FileDescriptor.out), true);
            try (EventLog log = EventLog.open(Path.of(args[0]), ALWAYS)) {
                for (int i = log.history("u").size(); !out.checkError(); i++) {
                    log.append(List.of(event("u", i)));
                    out.println(i + 1);
                }
            }
        }
    }
}
