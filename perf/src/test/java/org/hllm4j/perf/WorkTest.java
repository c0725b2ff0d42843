package org.hllm4j.perf;

import static org.junit.jupiter.api.Assertions.assertEquals;

import org.hllm4j.weights.Family;
import org.hllm4j.weights.ModelConfig;
import org.junit.jupiter.api.Test;

class WorkTest {
    /** D 8, F 12, 2 heads of 4, 1 key/value head: qkv 16 x 8, out 8 x 8, gate+up 24 x 8, down 8 x 12. */
    private static ModelConfig config(int layers) {
        return new ModelConfig(Family.LLAMA, 8, 12, layers, 2, 1, 4, 10, 1e-5, 1e4, null, 64, 0.02, true, null);
    }

    @Test
    void aLayerIsCountedByHand() {
        double perRow = 2 * (16 * 8 + 8 * 8 + 24 * 8 + 8 * 12);
        assertEquals(3 * 5 * perRow, Work.forward(config(3), 5, 5).flops());
    }

    @Test
    void theLastLayerIsFinishedForTheWantedRowsOnly() {
        double perRow = 2 * (16 * 8 + 8 * 8 + 24 * 8 + 8 * 12);
        // Keys and values (8 x 8) of all 5 rows; queries (8 x 8), output and MLP of 2.
        double last = 5 * 2 * (8 * 8) + 2 * 2 * (8 * 8 + 8 * 8 + 24 * 8 + 8 * 12);
        assertEquals(2 * 5 * perRow + last, Work.forward(config(3), 5, 2).flops());
        assertEquals(last, Work.forward(config(1), 5, 2).flops());
    }

    @Test
    void aTokenOfSmolLm2TakesTheKnownNumber() {
        assertEquals(0.2123e9, Work.forward(Session.SMOLLM2, 1, 1).flops(), 1e5);
    }

    @Test
    void worksAddUpAndScale() {
        Work work = Work.forward(config(2), 3, 1);
        assertEquals(4 * work.flops(), work.plus(work.times(3)).flops());
        assertEquals(work.products().keySet(), work.plus(work).products().keySet());
    }
}
