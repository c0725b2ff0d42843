package org.hllm4j.cli;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CancellationException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.IdFile;
import org.hllm4j.run.ItemVectors;
import org.hllm4j.run.Start;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** A catalogue of several packs, whose writing is interrupted after the first. */
class ItemVectorsTest {
    private static final int ITEMS = 900;

    @TempDir
    Path folder;

    @Test
    void anInterruptedFileIsContinued() throws IOException {
        Start start = Start.of(TinyWorld.in(folder).llm()).withTextKeys(List.of("title"));
        Catalogue catalogue = Catalogue.read(items(), List.of("title"));
        int[][] tokens = Start.tokens(catalogue, List.of("title"), start.tokenizerJson(), "test", 64, null);
        try (Context context = Context.open("cpu");
                Hllm model = start.model(context, DType.F32)) {
            Path whole = folder.resolve("whole.npy");
            ItemVectors.Result all = ItemVectors.write(model, catalogue, tokens, "model", whole, null);
            assertEquals(ITEMS, all.items());
            assertEquals(ITEMS * 65, all.tokens());

            Path npy = folder.resolve("vectors.npy");
            assertThrows(CancellationException.class, () -> interrupt(model, catalogue, tokens, npy));
            assertFalse(Files.exists(npy));
            long[] first = {-1};
            ItemVectors.Result rest = ItemVectors.write(
                    model, catalogue, tokens, "model", npy, done -> first[0] = first[0] < 0 ? done : first[0]);
            assertTrue(rest.items() > 0 && rest.items() < ITEMS, "only the rest: " + rest);
            assertTrue(first[0] > ITEMS - rest.items(), "progress counts what was done before");
            assertArrayEquals(Files.readAllBytes(whole), Files.readAllBytes(npy));
            assertEquals(IdFile.read(folder.resolve("whole.ids")), IdFile.read(folder.resolve("vectors.ids")));
            assertFalse(Files.exists(folder.resolve("vectors.npy.progress")));

            // Of another model nothing is taken over.
            Path other = folder.resolve("other.npy");
            assertThrows(CancellationException.class, () -> interrupt(model, catalogue, tokens, other));
            assertEquals(
                    ITEMS,
                    ItemVectors.write(model, catalogue, tokens, "another", other, null)
                            .items());
        }
    }

    @Test
    void idsOfAnyKindComeBack() {
        List<String> ids = List.of("1", "a b", " c ", "two\nlines", "\"quoted\"", "é\u2028", "back\\slash", "cr\r");
        Path file = folder.resolve("odd.ids");
        IdFile.write(file, ids);
        assertEquals(ids, IdFile.read(file));
    }

    private static void interrupt(Hllm model, Catalogue catalogue, int[][] tokens, Path npy) {
        ItemVectors.write(model, catalogue, tokens, "model", npy, done -> {
            throw new CancellationException();
        });
    }

    private Path items() throws IOException {
        long seed = 3;
        System.out.println("seed " + seed);
        Random random = new Random(seed);
        StringBuilder csv = new StringBuilder("item_id,title\n");
        for (int i = 0; i < ITEMS; i++) {
            csv.append(i)
                    .append(',')
                    .append(Long.toHexString(random.nextLong() | 1L << 60))
                    .append('\n');
        }
        return Files.writeString(folder.resolve("many.csv"), csv);
    }
}
