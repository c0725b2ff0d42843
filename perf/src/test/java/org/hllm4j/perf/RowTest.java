package org.hllm4j.perf;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class RowTest {
    @Test
    void theMedianOfAnEvenNumberLiesBetweenTheMiddleTwo() {
        assertEquals(2.5, new Timing(List.of(9.0, 1.0, 2.0, 3.0)).median());
        assertEquals(2, new Timing(List.of(9.0, 1.0, 2.0)).median());
        assertThrows(IllegalArgumentException.class, () -> new Timing(List.of()));
    }

    /** The machine became slower for the second pair: the ratios of pairs do not mind, those of medians would. */
    @Test
    void theRatioIsTheMedianOverPairs() {
        var comparison = Row.Comparison.of("peer", List.of(1.0, 10.0, 1.0), List.of(2.0, 30.0, 2.5), true, "");
        assertEquals(2.5, comparison.ratio());
        assertEquals(2.5, comparison.seconds());
        assertEquals(3, comparison.pairs());
        assertThrows(IllegalArgumentException.class, () -> Row.Comparison.of("p", List.of(1.0), List.of(), true, ""));
    }

    @Test
    void aFractionIsOfItsRoofline() {
        assertEquals(0.9, Row.Rate.of(180, "GFLOP/s", 200, "best GEMM").fraction());
    }

    @Test
    void aRowIsFineUnlessItFailedOrDisagrees() {
        Row row = Row.of("g", "n", "s", new Timing(List.of(1.0)));
        assertTrue(row.ok());
        assertTrue(row.peer(Row.Comparison.of("p", List.of(1.0), List.of(1.0), true, ""))
                .ok());
        assertFalse(row.peer(Row.Comparison.of("p", List.of(1.0), List.of(1.0), false, ""))
                .ok());
        assertTrue(row.peer(Row.Comparison.of("p", List.of(1.0), List.of(1.0), null, ""))
                .ok());
        assertFalse(Row.failed("g", "n", "why").ok());
    }

    @Test
    void theMapHoldsUsefulRatesByTheirUnits() {
        Map<String, Object> map = Row.of("g", "n", "s", new Timing(List.of(2.0)))
                .useful(Row.Rate.of(7, "items/s"))
                .asMap();
        assertEquals(7.0, map.get("items/s"));
        assertEquals(2.0, map.get("seconds"));
        assertFalse(map.containsKey("ratio"));
    }
}
