package org.hllm4j.perf;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.util.List;
import java.util.Objects;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.junit.jupiter.api.Test;

class RowTest {
    @Test
    void theMedianOfAnEvenNumberLiesBetweenTheMiddleTwo() {
        assertEquals(new Timing(2.5, 1, 9, 4), Timing.of(List.of(9.0, 1.0, 2.0, 3.0)));
        assertEquals(2, Timing.of(List.of(9.0, 1.0, 2.0)).median());
        assertThrows(IllegalArgumentException.class, () -> Timing.of(List.of()));
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
        Row row = Row.of("g", "n", "s", Timing.of(List.of(1.0)));
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
    void amountsBecomeRates() {
        Row row = Row.of("g", "n", "s", Timing.of(List.of(2.0)))
                .useful(14, "items")
                .arithmetic(3e9, "GB/s", 2e9, "read");
        assertEquals(List.of(Row.Rate.of(7, "items/s")), row.useful());
        assertEquals(new Row.Rate(1.5, "GB/s", 0.75, "read"), row.arithmetic());
    }

    @Test
    void goalsAreMeasuredByTheRowsTheyName() {
        var twice = Row.Comparison.of("hf", List.of(1.0), List.of(2.0), true, "");
        Row embed = Row.of("embed", "amazon-beauty, first items, cut at 64", "512 items", Timing.of(List.of(1.0)))
                .peer(twice)
                .arithmetic(Row.Rate.of(80, "GFLOP/s", 100, "best GEMM"))
                .profile(new Profile(10, List.of(new Profile.Op("linear_forward", 3, 9, 18e9))));
        List<Goal.Outcome> outcomes = Goal.ALL.stream()
                .map(goal -> goal.of(embed))
                .filter(Objects::nonNull)
                .toList();
        assertEquals(
                List.of("embed beauty", "arithmetic", "outside native operations"),
                outcomes.stream().map(Goal.Outcome::goal).toList());
        assertEquals(
                List.of(true, false, false),
                outcomes.stream().map(Goal.Outcome::reached).toList());
        assertEquals(2 / 1.7, outcomes.getFirst().margin(), 1e-9);
        assertEquals(0.3, outcomes.getLast().margin(), 1e-9); // a tenth of the time, three times what it may be
        assertEquals(
                "0.80 of best GEMM; linear_forward 90.0 % (2.00 GFLOP/s), outside native operations 10.0 %",
                Goal.limit(embed));
        Row quick = Row.of("embed", "amazon-beauty, first items, cut at 64", "96 items", null)
                .peer(twice);
        assertTrue(Goal.ALL.stream().allMatch(goal -> goal.of(quick) == null));
        Row memory = Row.of("memory", "embed command, bf16 weights", "512 items", null)
                .memory(1.0, 3.0);
        assertEquals(
                List.of(1.5),
                Goal.ALL.stream()
                        .map(g -> g.of(memory))
                        .filter(Objects::nonNull)
                        .map(Goal.Outcome::margin)
                        .toList());
    }

    @Test
    void aProfileSeesOperationsAndWhatIsOutside() {
        try (Context context = Context.open("cpu");
                Tensor tensor = context.zeros(DType.F32, 1000)) {
            Profile profile = Profile.of(() -> {
                context.ops().fill(tensor, 1);
                context.ops().fill(tensor, 2);
            });
            assertEquals(
                    List.of("fill"),
                    profile.ops().stream().map(Profile.Op::name).toList());
            assertEquals(2, profile.ops().getFirst().calls());
            assertTrue(profile.outside() > 0 && profile.outside() < 1, profile.text());
        }
    }
}
