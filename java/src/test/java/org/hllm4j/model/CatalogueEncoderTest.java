package org.hllm4j.model;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Tensor;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class CatalogueEncoderTest {
    private static final int ITEMS = 90;

    private final Random random = new Random(Tiny.seed());
    private final int[][] tokens = Tiny.tokens(ITEMS, random);
    private final Context context = Context.open("cpu");
    private final Hllm model = Tiny.model(context, Pooling.TOKEN, Hllm.Trained.NOTHING);

    @AfterEach
    void close() {
        model.close();
        context.close();
        assertEquals(0, Context.liveBytes("cpu"));
    }

    /** Budgets below one text, of a few, of all; items in one portion, or in four out of order. */
    @Test
    void budgetsAndPortionsDoNotChangeTheVectors() {
        System.out.println("seed " + Tiny.seed());
        float[] expected = new float[ITEMS * model.config().width()];
        try (Tensor table = CatalogueEncoder.table(model, tokens, 1 << 20, null)) {
            System.arraycopy(table.toFloats(), 0, expected, 0, expected.length);
        }
        long nodes = TokenTrie.pack(tokens, true, true).rows();
        for (int maxRows : new int[] {1, 40, 1 << 20}) {
            float[] found = new float[expected.length];
            List<Long> progress = new ArrayList<>();
            long rows = CatalogueEncoder.encode(
                    model, portions(4), maxRows, progress::add, (items, vectors) -> put(items, vectors, found));
            assertArrayEquals(expected, found, 1e-5f, maxRows + " rows");
            assertTrue(rows >= nodes, rows + " rows, " + nodes + " nodes");
            assertEquals(progress.stream().sorted().distinct().toList(), progress);
            assertEquals(ITEMS, progress.getLast());
        }
        assertEquals(nodes, CatalogueEncoder.encode(model, tokens, 1 << 20, null, (items, vectors) -> {}));
        assertEquals(0, CatalogueEncoder.encode(model, new int[0][], 40, null, (items, vectors) -> {}));
    }

    @Test
    void errorsOfEitherThreadEndTheWork() {
        IllegalStateException failure = new IllegalStateException();
        Iterator<CatalogueEncoder.Portion> portions = portions(3);
        Iterator<CatalogueEncoder.Portion> broken = Stream.generate(() -> {
                    if (portions.hasNext()) {
                        return portions.next();
                    }
                    throw failure;
                })
                .iterator();
        List<Integer> seen = new ArrayList<>();
        assertSame(
                failure,
                assertThrows(
                        IllegalStateException.class,
                        () -> CatalogueEncoder.encode(
                                model, broken, 40, null, (items, vectors) -> seen.add(items.length))));
        assertEquals(ITEMS, seen.stream().mapToInt(n -> n).sum(), "what came before the error");
        assertSame(
                failure,
                assertThrows(
                        IllegalStateException.class,
                        () -> CatalogueEncoder.encode(model, tokens, 40, null, (items, vectors) -> {
                            throw failure;
                        })));
        int[][] tooLong = {new int[Tiny.MAX_TEXT + 1]};
        String message = assertThrows(
                        HllmException.class, () -> CatalogueEncoder.encode(model, tooLong, 40, null, (i, v) -> {}))
                .getMessage();
        assertTrue(message.contains("max text length"), message);
    }

    private Iterator<CatalogueEncoder.Portion> portions(int count) {
        return IntStream.range(0, count)
                .mapToObj(part -> {
                    int[] items = IntStream.range(0, ITEMS)
                            .filter(i -> (i * 7 + 3) % count == part)
                            .toArray();
                    return new CatalogueEncoder.Portion(
                            items, Arrays.stream(items).mapToObj(i -> tokens[i]).toArray(int[][]::new));
                })
                .iterator();
    }

    private void put(int[] items, Tensor vectors, float[] into) {
        int width = model.config().width();
        float[] values = vectors.toFloats();
        for (int i = 0; i < items.length; i++) {
            System.arraycopy(values, i * width, into, items[i] * width, width);
        }
    }
}
