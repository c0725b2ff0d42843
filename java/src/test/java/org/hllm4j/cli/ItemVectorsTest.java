package org.hllm4j.cli;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.CancellationException;
import java.util.function.LongConsumer;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.IdFile;
import org.hllm4j.run.ItemVectors;
import org.hllm4j.run.Start;
import org.hllm4j.text.ItemText;
import org.hllm4j.weights.Npy;
import org.hllm4j.weights.Safetensors;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** A catalogue of several packs and two portions, whose writing is stopped after the first pack. */
class ItemVectorsTest {
    private static final int ITEMS = 2500;

    @TempDir
    Path folder;

    private Start start;
    private ItemVectors.Input input;
    private Context context;
    private Hllm model;

    @BeforeEach
    void open() throws IOException {
        start = Start.of(TinyWorld.in(folder).llm()).withTextKeys(List.of("title"));
        Catalogue catalogue = Catalogue.read(items(), start.textKeys());
        input = new ItemVectors.Input(catalogue, ITEMS, new ItemText(start.textKeys()), start.tokenizerJson(), "test");
        context = Context.open("cpu");
        model = start.model(context, DType.F32);
    }

    @AfterEach
    void close() {
        model.close();
        context.close();
    }

    @ParameterizedTest
    @ValueSource(strings = {"npy", "safetensors"})
    void anInterruptedFileIsContinued(String ending) throws IOException {
        Path whole = folder.resolve("whole." + ending);
        ItemVectors.Result all = write(whole, "model", null);
        assertEquals(ITEMS, all.items());
        assertEquals(ITEMS * 65, all.tokens());

        Path file = folder.resolve("vectors." + ending);
        assertThrows(CancellationException.class, () -> interrupt(file));
        assertFalse(Files.exists(file));
        List<Long> progress = new ArrayList<>();
        ItemVectors.Result rest = write(file, "model", progress::add);
        assertTrue(rest.items() > 0 && rest.items() < ITEMS, "only the rest: " + rest);
        assertTrue(progress.getFirst() > ITEMS - rest.items(), "progress counts what was done before");
        assertEquals(progress.stream().sorted().distinct().toList(), progress);
        assertEquals(ITEMS, progress.getLast());
        assertArrayEquals(Files.readAllBytes(whole), Files.readAllBytes(file));
        assertEquals(IdFile.read(folder.resolve("whole.ids")), IdFile.read(folder.resolve("vectors.ids")));
        assertFalse(Files.exists(folder.resolve("vectors." + ending + ".progress")));

        // Of another model nothing is taken over.
        Path other = folder.resolve("other." + ending);
        assertThrows(CancellationException.class, () -> interrupt(other));
        assertEquals(ITEMS, write(other, "another", null).items());
    }

    @Test
    void bothFormatsHoldTheVectorsInRowOrder() {
        write(folder.resolve("a.npy"), "model", null);
        write(folder.resolve("a.safetensors"), "model", null);
        float[] npy = new float[ITEMS * TinyWorld.WIDTH];
        float[] tensor = new float[npy.length];
        try (Npy.Reader reader = Npy.open(folder.resolve("a.npy"));
                Safetensors tensors = Safetensors.open(folder.resolve("a.safetensors"))) {
            reader.read(0, FloatBuffer.wrap(npy));
            assertArrayEquals(
                    new long[] {ITEMS, TinyWorld.WIDTH}, tensors.info("vectors").shape());
            tensors.read("vectors", 0, FloatBuffer.wrap(tensor));
        }
        assertArrayEquals(npy, tensor);
        int[][] tokens = Start.tokens(
                input.catalogue(), start.textKeys(), start.tokenizerJson(), "test", start.maxTextLength(), null);
        try (Tensor table = CatalogueEncoder.table(model, tokens, 1000, null)) {
            assertArrayEquals(table.toFloats(), npy, 1e-5f);
        }
    }

    @Test
    void aThreadThatIsInterruptedStopsAndStaysInterrupted() {
        Path file = folder.resolve("vectors.npy");
        Thread caller = Thread.currentThread();
        assertThrows(HllmException.class, () -> write(file, "model", done -> caller.interrupt()));
        assertTrue(Thread.interrupted());
        assertFalse(Files.exists(file));
        ItemVectors.Result rest = write(file, "model", null);
        assertTrue(rest.items() > 0 && rest.items() < ITEMS, "only the rest: " + rest);
    }

    @Test
    void whatCannotBeReadOrWrittenIsNamed() throws IOException {
        Path file = folder.resolve("vectors.npy");
        Path partial = folder.resolve("vectors.npy.partial");
        Files.createDirectory(partial); // no file can be written there
        assertThrows(HllmException.class, () -> write(file, "model", null));
        Files.delete(partial);
        var damaged = new ItemVectors.Input(input.catalogue(), ITEMS, input.text(), "{}", "damaged.json");
        String message = assertThrows(HllmException.class, () -> ItemVectors.write(model, damaged, "model", file, null))
                .getMessage();
        assertTrue(message.contains("damaged.json"), message);
        assertFalse(Files.exists(file));
        assertFalse(Files.exists(folder.resolve("vectors.ids")));
        assertThrows(HllmException.class, () -> write(folder.resolve("vectors.bin"), "model", null));
    }

    private ItemVectors.Result write(Path file, String weights, LongConsumer progress) {
        return ItemVectors.write(model, input, weights, file, progress);
    }

    private void interrupt(Path file) {
        write(file, "model", done -> {
            throw new CancellationException();
        });
    }

    @Test
    void idsOfAnyKindComeBack() {
        List<String> ids = List.of("1", "a b", " c ", "two\nlines", "\"quoted\"", "é\u2028", "back\\slash", "cr\r");
        Path file = folder.resolve("odd.ids");
        IdFile.write(file, ids);
        assertEquals(ids, IdFile.read(file));
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
