package org.hllm4j.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.function.LongPredicate;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class LabelledSequencesTest {
    @TempDir
    Path folder;

    private Interactions read(String log) {
        try {
            StringBuilder items = new StringBuilder("item_id,title\n");
            for (int i = 0; i < 40; i++) {
                items.append("i").append(i).append(",film\n");
            }
            Catalogue catalogue =
                    Catalogue.read(Files.writeString(folder.resolve("items.csv"), items), List.of("title"));
            return Interactions.read(
                    Files.writeString(folder.resolve("log.csv"), log), catalogue, MissingText.ERROR, "rating");
        } catch (IOException e) {
            throw new IllegalStateException(e);
        }
    }

    @ParameterizedTest
    @CsvSource({
        "rating>=8,8,1",
        "rating>=8,7.9,0",
        "rating > 8,8,0",
        "rating<=3,3,1",
        " rating<3 ,3,0",
        "rating==1,1,1",
        "rating==1,0,0",
        "rating!=0,2,1",
        "rating,1,1",
        "rating,0,0",
        "rating>=-1.5,-1.5,1"
    })
    void rulesAreComparisonsOrTheColumnItself(String text, double value, float label) {
        LabelRule rule = LabelRule.parse(text);
        assertEquals("rating", rule.column());
        assertEquals(label, rule.label(value));
        assertTrue(Float.isNaN(rule.label(Double.NaN)));
        assertEquals(rule, LabelRule.parse(rule.toString()));
    }

    @ParameterizedTest
    @ValueSource(strings = {"", ">=8", "rating>=", "rating>=high", "rating=8", "rating=>8", "rating>=8>=9"})
    void otherTextIsNoRule(String text) {
        HllmException refused = assertThrows(HllmException.class, () -> LabelRule.parse(text));
        assertTrue(refused.getMessage().contains("rating>=8\""), refused.getMessage());
    }

    @Test
    void aColumnOfLabelsHoldsNothingElse() {
        HllmException refused = assertThrows(
                HllmException.class, () -> LabelRule.parse("rating").label(8));
        assertTrue(refused.getMessage().contains("rating>=8"), refused.getMessage());
    }

    @Test
    void valuesFollowTheirEventsAndMayBeMissing() {
        Interactions log = read("""
            user_id,item_id,rating,timestamp
            a,i1,5,30
            b,i2,,7
            a,i3,2.5,10
            a,i4,,20
            """);
        assertArrayEquals(new double[] {2.5, Double.NaN, 5}, log.values(0));
        assertArrayEquals(new double[] {Double.NaN}, log.values(1));
        HllmException refused = assertThrows(HllmException.class, () -> read("""
            user_id,item_id,rating,timestamp
            a,i1,5,30
            a,i1,five,30
            """));
        assertTrue(refused.getMessage().contains("log.csv:3")
                && refused.getMessage().contains("five"));
    }

    @Test
    void theSplitIsAMomentForAllUsers() {
        StringBuilder csv = new StringBuilder("user_id,item_id,rating,timestamp\n");
        for (int i = 0; i < 40; i++) {
            csv.append("u%d,i%d,%d,%d\n".formatted(i % 3, i, i % 2, 100 + i));
        }
        Interactions log = read(csv.toString());
        assertEquals(new TimeSplit(132, 136), TimeSplit.last(log, 0.2));
        assertEquals(new TimeSplit(120, 130), TimeSplit.at(log, 120));
        for (long all : new long[] {100, 139, 500}) {
            assertThrows(HllmException.class, () -> TimeSplit.at(log, all));
        }
        assertThrows(HllmException.class, () -> TimeSplit.last(log, 1));
    }

    /** Against a plain reading of the definition, over random logs with ties, gaps and short and long users. */
    @ParameterizedTest
    @ValueSource(ints = {1, 3, 50})
    void everyLabelIsThereOnceWithTheHistoryBeforeIt(int maxHistory) {
        long seed = Tiny.seed();
        System.out.println("seed " + seed);
        Random random = new Random(seed);
        StringBuilder csv = new StringBuilder("user_id,item_id,rating,timestamp\n");
        for (int i = 0; i < 400; i++) {
            csv.append("u%d,i%d,%s,%d\n"
                    .formatted(
                            (int) (20 * Math.pow(random.nextDouble(), 2)),
                            random.nextInt(40),
                            random.nextInt(4) == 0 ? "" : String.valueOf(random.nextInt(11)),
                            random.nextInt(200)));
        }
        Interactions log = read(csv.toString());
        TimeSplit split = TimeSplit.last(log, 0.4);
        LabelRule rule = LabelRule.parse("rating>=5");
        LabelledSequences data = new LabelledSequences(log, rule, split, maxHistory);

        for (Split part : Split.values()) {
            List<String> expected = new ArrayList<>();
            for (int user = 0; user < log.users(); user++) {
                int[] events = log.events(user);
                for (int i = 0; i < events.length; i++) {
                    float label = rule.label(log.values(user)[i]);
                    if (split.holds(part, log.timestamps(user)[i]) && !Float.isNaN(label)) {
                        int[] window = Arrays.copyOfRange(events, Math.max(0, i - maxHistory), i + 1);
                        expected.add(user + " " + Arrays.toString(window) + " " + label);
                    }
                }
            }
            List<String> found = new ArrayList<>();
            for (LabelledSequence sequence : data.evaluation(part)) {
                for (int i = 0; i < sequence.places().length; i++) {
                    int[] window = Arrays.copyOf(sequence.items(), sequence.places()[i] + 1);
                    found.add(sequence.user() + " " + Arrays.toString(window) + " " + sequence.labels()[i]);
                }
                assertEquals(sequence.items().length - 1, sequence.places()[sequence.places().length - 1]);
            }
            assertTrue(expected.size() > 20, "too few held-out events to tell anything: " + expected.size());
            assertEquals(expected, found);
        }

        int labels = 0;
        for (LabelledSequence sequence : data.training(true)) {
            assertTrue(sequence.items().length <= maxHistory + 1);
            labels += sequence.places().length;
        }
        assertEquals(labelled(log, split::trains), labels);
        for (LabelledSequence sequence : data.training(false)) {
            int[] events = log.events(sequence.user());
            int end = (int) Arrays.stream(log.timestamps(sequence.user()))
                    .filter(split::trains)
                    .count();
            assertArrayEquals(Arrays.copyOfRange(events, Math.max(0, end - maxHistory - 1), end), sequence.items());
        }
        float[] all = LabelledSequence.labels(data.training(true));
        double ones = 0;
        for (float label : all) {
            ones += label;
        }
        assertEquals(ones / all.length, data.rate());
    }

    private static int labelled(Interactions log, LongPredicate when) {
        int count = 0;
        for (int user = 0; user < log.users(); user++) {
            double[] values = log.values(user);
            long[] times = log.timestamps(user);
            for (int i = 0; i < values.length; i++) {
                count += when.test(times[i]) && !Double.isNaN(values[i]) ? 1 : 0;
            }
        }
        return count;
    }
}
