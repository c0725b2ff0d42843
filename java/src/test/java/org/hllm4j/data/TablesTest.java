package org.hllm4j.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Random;
import java.util.zip.GZIPOutputStream;
import org.hllm4j.HllmException;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Reading items.csv and interactions.csv, and what is said when they are wrong. */
class TablesTest {
    private static final String ITEMS =
            "item_id,title,tag\na,\"One, two\",x\nb,\"say \"\"hi\"\"\nthere\",\nc,é日😀,NA\n";

    @TempDir
    Path folder;

    @ParameterizedTest
    @CsvSource({"false,false", "true,false", "false,true", "true,true"})
    void readsQuotesNewlinesBomAndGzip(boolean gzip, boolean bom) throws IOException {
        byte[] bytes = ((bom ? "\uFEFF" : "") + ITEMS).getBytes(StandardCharsets.UTF_8);
        // The name does not decide: a plain file may be called .gz.
        Path file = write("items.csv.gz", gzip ? gzip(bytes) : bytes);
        Catalogue items = Catalogue.read(file, List.of("tag", "title"));
        assertEquals(3, items.size());
        assertEquals(List.of("item_id", "title", "tag"), items.columns());
        assertEquals("One, two", items.field(0, "title"));
        assertEquals("say \"hi\"\nthere", items.field(1, "title"));
        assertEquals("", items.field(1, "tag"));
        assertEquals("é日😀", items.field(2, "title"));
        assertEquals("NA", items.field(2, "tag"));
        assertEquals("b", items.id(1));
        assertEquals(1, items.row("b"));
        assertEquals(-1, items.row("B"));
        assertFalse(items.bare(2));
        fails("description", () -> items.field(0, "description"));
    }

    @Test
    void bareItemsFollowTheRows() throws IOException {
        Catalogue items = Catalogue.read(write("items.csv", ITEMS), List.of("title"));
        Catalogue more = items.withBareItems(List.of("z", "y")).withBareItems(List.of("w"));
        assertEquals(3, items.size());
        assertEquals(6, more.size());
        assertEquals(3, more.bareItems());
        assertEquals(4, more.row("y"));
        assertEquals("w", more.id(5));
        assertTrue(more.bare(3));
        assertEquals("", more.field(5, "title"));
        assertEquals("One, two", more.field(0, "title"));
        fails("\"a\" cannot be added without text: it has a row already", () -> more.withBareItems(List.of("a")));
        fails("it has a row already", () -> items.withBareItems(List.of("z", "z")));
    }

    @Test
    void rowsAreSortedByTheirTextKeyByKey() throws IOException {
        String csv = "item_id,tag,title\na,x,Zoo\nb,y,Ant\nc,,Ant hill\nd,x,Ant\ne,z,\nf,z,Épée\n";
        Catalogue items = Catalogue.read(write("items.csv", csv), List.of("title", "tag"));
        assertArrayEquals(new int[] {4, 3, 1, 2, 0, 5}, items.byText(6));
        assertArrayEquals(new int[] {1, 2, 0}, items.byText(3));
        assertArrayEquals(
                new int[] {4, 3, 1, 2, 0, 5, 6, 7},
                items.withBareItems(List.of("z", "y")).byText(8));
    }

    @Test
    void wrongItemsAreNamedWithFileAndLine() throws IOException {
        items("", "the file is empty");
        items("item_id,title\n", "no items below the header");
        items("title,item_id\nx,a\n", "items.csv:1: the first column must be item_id");
        items("item_id,name\na,x\n", "items.csv:1: no column for text key \"title\"; the columns are [item_id, name]");
        items("item_id,title,title\na,x,y\n", "items.csv:1: column \"title\" is named twice");
        items("item_id,title\na,\"x\ny\"\nb,x\na,z\n", "items.csv:5: item \"a\" again; it is item number 1");
        items("item_id,title\r\na,x\r\n,y\r\n", "items.csv:3: empty item_id");
        items("item_id,title\na,x\nb,y,z\n", "items.csv:3: 3 fields, but the header has 2");
        items("item_id,title\na\n", "items.csv:2: 1 fields, but the header has 2");
        items(
                "item_id,title\na,x\nb,\"x\n",
                "items.csv: cannot be read as CSV: Unclosed quoted field at end of input"
                        + " (record starting at line 3)");
        fails("no such file", () -> Catalogue.read(folder, List.of("title")));
        fails("no such file", () -> Catalogue.read(folder.resolve("absent.csv"), List.of("title")));
    }

    @ParameterizedTest
    @ValueSource(ints = {0, 1, 70_000})
    void malformedBytesAreNamedWithTheirLine(int rowsBefore) throws IOException {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        bytes.writeBytes("item_id,title\r\n".getBytes(StandardCharsets.UTF_8));
        for (int i = 0; i < rowsBefore; i++) {
            bytes.writeBytes((i + ",é\r\n").getBytes(StandardCharsets.UTF_8));
        }
        bytes.writeBytes(new byte[] {'x', ',', 'y', (byte) 0xe9, 'z', '\n'}); // é in Latin-1
        Path plain = write("items.csv", bytes.toByteArray());
        String place = "items.csv:" + (rowsBefore + 2) + ": not UTF-8 (byte 0xe9)";
        fails(place, () -> Catalogue.read(plain, List.of("title")));
        Path zipped = write("items.csv", gzip(bytes.toByteArray()));
        fails(place, () -> Catalogue.read(zipped, List.of("title")));
        Path cut = write("items.csv", "item_id,title\na,\u00e9".getBytes(StandardCharsets.UTF_8));
        Files.write(cut, Arrays.copyOf(Files.readAllBytes(cut), (int) Files.size(cut) - 1));
        fails("items.csv:2: not UTF-8", () -> Catalogue.read(cut, List.of("title")));
        Path stub = write("stub.csv", Arrays.copyOf(gzip(bytes.toByteArray()), 5));
        fails("stub.csv: cannot be opened, or its gzip data is damaged", () -> Catalogue.read(stub, List.of("title")));
        Path half = write("items.csv", Arrays.copyOf(gzip(bytes.toByteArray()), 30));
        fails("items.csv: cannot be read as CSV", () -> Catalogue.read(half, List.of("title")));
    }

    @Test
    void manyItemsAreFoundAgain() throws IOException {
        long seed = 42;
        System.out.println("seed " + seed);
        Random random = new Random(seed);
        StringBuilder csv = new StringBuilder("item_id,title\n");
        String[] titles = new String[50_000];
        for (int i = 0; i < titles.length; i++) {
            titles[i] = "日".repeat(random.nextInt(i == 777 ? 1 : 40)) + (i == 777 ? "long ".repeat(100_000) : "");
            csv.append("id").append(i * 31L).append(',').append(titles[i]).append('\n');
        }
        Catalogue items = Catalogue.read(write("items.csv", csv.toString()), List.of("title"));
        for (int i = 0; i < titles.length; i++) {
            assertEquals(i, items.row("id" + i * 31L));
            assertEquals(titles[i], items.field(i, "title"));
        }
        assertEquals(-1, items.row("id1"));
    }

    @Test
    void eventsAreGroupedByUserAndOrderedByTime() throws IOException {
        // u: ties at 5 keep file order. v: out of order. Columns in another order, and one more.
        Interactions log = log("""
            user_id,rating,timestamp,item_id
            v,9,30,a
            u,9,5,c
            u,9,5,a
            v,9,10,b
            u,9,5,b
            u,9,-1,c
            v,9,20,c
            """);
        assertEquals(2, log.users());
        assertEquals(7, log.size());
        assertEquals("v", log.userId(0));
        assertEquals(1, log.user("u"));
        assertEquals(-1, log.user("w"));
        assertArrayEquals(new int[] {1, 2, 0}, log.events(0));
        assertArrayEquals(new long[] {10, 20, 30}, log.timestamps(0));
        assertArrayEquals(new int[] {2, 2, 0, 1}, log.events(1));
        assertArrayEquals(new long[] {-1, 5, 5, 5}, log.timestamps(1));
        assertEquals(3, log.catalogue().size());
    }

    @Test
    void timestampsKeepAllTheirDigits() throws IOException {
        Interactions log = log("""
            item_id,user_id,timestamp
            a,u,9223372036854775807
            b,u,9223372036854775806
            c,u,1234567890.5
            a,u,1.2345678902e9
            b,u,1234567890.25
            c,u,1234567890
            a,u,-0.5
            """);
        assertArrayEquals(new int[] {0, 2, 0, 1, 2, 1, 0}, log.events(0));
        assertArrayEquals(
                new long[] {-1, 1234567890, 1234567890, 1234567890, 1234567890, Long.MAX_VALUE - 1, Long.MAX_VALUE},
                log.timestamps(0));
    }

    @Test
    void stableForAnyOrder() throws IOException {
        long seed = 7;
        System.out.println("seed " + seed);
        Random random = new Random(seed);
        Catalogue items = Catalogue.read(write("items.csv", ITEMS), List.of());
        StringBuilder csv = new StringBuilder("item_id,user_id,timestamp\n");
        record Event(int item, long time) {}
        List<List<Event>> expected = List.of(new ArrayList<>(), new ArrayList<>());
        csv.append("a,u0,0\na,u1,0\n");
        expected.forEach(events -> events.add(new Event(0, 0)));
        for (int i = 0; i < 5000; i++) {
            Event event = new Event(random.nextInt(3), random.nextInt(300));
            int user = random.nextInt(2);
            csv.append(items.id(event.item()))
                    .append(",u")
                    .append(user)
                    .append(',')
                    .append(event.time())
                    .append('\n');
            expected.get(user).add(event);
        }
        Interactions log = Interactions.read(write("log.csv", csv.toString()), items, MissingText.ERROR);
        for (int user = 0; user < 2; user++) {
            expected.get(user).sort(Comparator.comparingLong(Event::time)); // stable
            assertArrayEquals(expected.get(user).stream().mapToInt(Event::item).toArray(), log.events(user));
        }
    }

    @Test
    void wrongEventsAreNamedWithFileAndLine() throws IOException {
        events("item_id,user_id\n", "log.csv:1: no column \"timestamp\"; the columns are [item_id, user_id]");
        events("item_id,user_id,timestamp\n", "no events below the header");
        events("item_id,user_id,timestamp\na,u,1\na,u,yesterday\n", "log.csv:3: timestamp \"yesterday\"");
        events("item_id,user_id,timestamp\na,u,\n", "log.csv:2: timestamp \"\"");
        events("item_id,user_id,timestamp\na,u,9223372036854775808\n", "log.csv:2: timestamp");
        events("item_id,user_id,timestamp\na,u,1e999999999\n", "log.csv:2: timestamp");
        events("item_id,user_id,timestamp\na,u,1e-999999999\n", "log.csv:2: timestamp");
        events("item_id,user_id,timestamp\na,u,NaN\n", "log.csv:2: timestamp");
        events("item_id,user_id,timestamp\na,,1\n", "log.csv:2: empty user_id");
        events("item_id,user_id,timestamp\n,u,1\n", "log.csv:2: empty item_id");
        String unknown = "item_id,user_id,timestamp\na,u,1\nnew,u,2\n";
        events(unknown, "log.csv:3: item \"new\" has no row in");
        events(unknown, "--missing-text allow");
    }

    @Test
    void itemsWithoutTextGetRowsOfTheirOwn() throws IOException {
        Catalogue items = Catalogue.read(write("items.csv", ITEMS), List.of("title"));
        Path csv = write("log.csv", "item_id,user_id,timestamp\na,u,1\nnew,u,2\nx,u,3\nnew,u,4\n");
        Interactions log = Interactions.read(csv, items, MissingText.ALLOW);
        assertArrayEquals(new int[] {0, 3, 4, 3}, log.events(0));
        assertEquals("new", log.catalogue().id(3));
        assertTrue(log.catalogue().bare(3));
        assertEquals(5, log.catalogue().size());
        assertEquals(3, items.size());
    }

    private Interactions log(String csv) throws IOException {
        Catalogue items = Catalogue.read(write("items.csv", ITEMS), List.of("title"));
        return Interactions.read(write("log.csv", csv), items, MissingText.ERROR);
    }

    private void items(String csv, String message) throws IOException {
        Path file = write("items.csv", csv);
        fails(message, () -> Catalogue.read(file, List.of("title")));
    }

    private void events(String csv, String message) {
        fails(message, () -> log(csv));
    }

    private static void fails(String message, Executable action) {
        String actual = assertThrows(HllmException.class, action).getMessage();
        assertTrue(actual.contains(message), actual);
    }

    private Path write(String name, String text) throws IOException {
        return write(name, text.getBytes(StandardCharsets.UTF_8));
    }

    private Path write(String name, byte[] bytes) throws IOException {
        return Files.write(folder.resolve(name), bytes);
    }

    private static byte[] gzip(byte[] bytes) throws IOException {
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        try (GZIPOutputStream gzip = new GZIPOutputStream(out)) {
            gzip.write(bytes);
        }
        return out.toByteArray();
    }
}
