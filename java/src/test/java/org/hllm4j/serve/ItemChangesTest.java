package org.hllm4j.serve;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.serve.ItemChanges.Change;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The file; what changes do to items is {@link EngineTest}'s. */
class ItemChangesTest {
    private static final List<Change> CHANGES = List.of(
            new Change("new", Map.of("title", "The Sequel", "tag", "half a pair \ud83d, and \0"), null, false),
            new Change("i7", Map.of("title", "x".repeat(100_000)), Map.of("title", "film 7", "tag", ""), false),
            removal("new"),
            new Change("é", Map.of("title", "9"), Map.of("title", "7"), true),
            new Change("new", Map.of("title", ""), null, false));

    private static Change removal(String id) {
        return new Change(id, null, null, true);
    }

    @TempDir
    Path folder;

    private Path file() {
        return folder.resolve("events.log.items");
    }

    private ItemChanges open() {
        return ItemChanges.open(file(), new Fsync.Always());
    }

    /** The last of each item, in their order. */
    private static List<Change> last(List<Change> changes) {
        Map<String, Change> last = new LinkedHashMap<>();
        for (Change change : changes) {
            last.remove(change.id());
            last.put(change.id(), change);
        }
        return List.copyOf(last.values());
    }

    @Test
    void theLastChangeOfEachItemComesBack() {
        try (ItemChanges changes = open()) {
            CHANGES.stream().map(changes::put).forEach(Runnable::run);
            assertEquals(last(CHANGES), changes.all());
            assertThrows(HllmException.class, this::open);
        }
        ItemChanges changes = open();
        assertEquals(last(CHANGES), changes.all());
        assertEquals(3, changes.size());
        changes.close();
        assertThrows(DiskException.class, () -> changes.put(CHANGES.getFirst()));
        assertThrows(HllmException.class, () -> EventLog.open(file(), new Fsync.Never()));
    }

    /** Nobody has to wait for a change that is put: closing keeps it. */
    @Test
    void closingKeepsWhatWasPut() {
        try (ItemChanges changes = open()) {
            CHANGES.forEach(changes::put);
        }
        try (ItemChanges changes = open()) {
            assertEquals(last(CHANGES), changes.all());
        }
    }

    /** Wherever the file was torn: what came whole is there, the rest is gone, and the file goes on. */
    @Test
    void aTornTailIsCutOff() throws IOException {
        List<Change> changes = List.of(CHANGES.get(0), CHANGES.get(2), CHANGES.get(3), CHANGES.get(4));
        List<Long> ends = new ArrayList<>();
        try (ItemChanges log = open()) {
            for (Change change : changes) {
                log.put(change).run();
                ends.add(Files.size(file()));
            }
        }
        byte[] whole = Files.readAllBytes(file());
        for (int length = 0; length <= whole.length; length++) {
            Files.write(file(), Arrays.copyOf(whole, length));
            int size = length;
            int kept = (int) ends.stream().filter(end -> end <= size).count();
            List<Change> all = new ArrayList<>(changes.subList(0, kept));
            try (ItemChanges log = open()) {
                assertEquals(last(all), log.all());
                log.put(removal("more")).run();
            }
            all.add(removal("more"));
            try (ItemChanges log = open()) {
                assertEquals(last(all), log.all());
            }
        }
        byte[] damaged = whole.clone();
        damaged[12] ^= 1;
        Files.write(file(), damaged);
        HllmException refused = assertThrows(HllmException.class, this::open);
        assertTrue(refused.getMessage().contains("truncate -s 8 "), refused.getMessage());
    }

    @Test
    void withoutAFileTheyEndWithTheProcess() {
        try (ItemChanges changes = ItemChanges.inMemory()) {
            changes.put(CHANGES.getFirst()).run();
            assertEquals(CHANGES.subList(0, 1), changes.all());
        }
    }
}
