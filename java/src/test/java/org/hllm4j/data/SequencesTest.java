package org.hllm4j.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Splits, training sequences, popularity and batches. */
class SequencesTest {
    private static final int[] ALL = IntStream.range(0, 10).toArray();

    @TempDir
    Path folder;

    @Test
    void leaveOneOut() throws IOException {
        Interactions log = users("0 1 2 3 4", "5 6 7", "8 9", "3");
        List<TrainingSequence> training = Sequences.training(log, 10, true);
        // user 1 has one training event, too few; user 2 has nothing held out
        assertArrayEquals(new int[][] {{0, 1, 2}, {8, 9}}, items(training));
        assertEquals(2, training.get(1).user());

        List<EvaluationCase> test = Sequences.evaluation(log, Split.TEST, 3);
        assertEquals(2, test.size());
        assertArrayEquals(new int[] {1, 2, 3}, test.get(0).history());
        assertEquals(4, test.get(0).target());
        assertArrayEquals(new int[] {0, 1, 2, 3}, test.get(0).exclude(), "uncut");
        assertArrayEquals(new int[] {5, 6}, test.get(1).history());

        List<EvaluationCase> validation = Sequences.evaluation(log, Split.VALIDATION, 3);
        assertArrayEquals(new int[] {0, 1, 2}, validation.get(0).history());
        assertEquals(3, validation.get(0).target());
        assertArrayEquals(new int[] {0, 1, 2}, validation.get(0).exclude());
        assertArrayEquals(new int[] {5}, validation.get(1).history());

        assertArrayEquals(new int[] {1, 1, 1, 1, 0, 1, 0, 0, 1, 1}, Sequences.popularity(log, 10));
    }

    @Test
    void aSmallerSampleIsPartOfALargerOne() {
        List<TrainingSequence> all = IntStream.range(0, 3000)
                .mapToObj(i -> new TrainingSequence(i / 3, new int[] {i, i + 1}))
                .toList();
        List<TrainingSequence> some = Sequences.sample(all, 0.3, 5);
        List<TrainingSequence> few = Sequences.sample(all, 0.1, 5);
        assertTrue(some.containsAll(few) && few.size() > 200 && few.size() < 400, few.size() + " of 3000");
        assertTrue(some.size() > 800 && some.size() < 1000, some.size() + " of 3000");
        assertEquals(0, few.size() % 3, "a user is in it with all sequences, or not at all");
        assertEquals(all, Sequences.sample(all, 1, 5));
    }

    @Test
    void repeatedItemsAreExcludedOnceEvenTheTarget() throws IOException {
        EvaluationCase test =
                Sequences.evaluation(users("7 2 7 2 9 2"), Split.TEST, 2).get(0);
        assertArrayEquals(new int[] {2, 9}, test.history());
        assertEquals(2, test.target());
        assertArrayEquals(new int[] {2, 7, 9}, test.exclude());
    }

    @Test
    void longUsersAreSplitFromTheEnd() throws IOException {
        Interactions log = users("0 1 2 3 4 5 6 7 8 9", "0 1 2 3 4 5 6 7", "0 1 2 3 4");
        // 8, 6 and 3 training events, 3 in a chunk: the front remainder of 2 is dropped, 6 and 3 fit
        assertArrayEquals(
                new int[][] {{2, 3, 4}, {5, 6, 7}, {0, 1, 2}, {3, 4, 5}, {0, 1, 2}},
                items(Sequences.training(log, 2, true)));
        assertArrayEquals(new int[][] {{5, 6, 7}, {3, 4, 5}, {0, 1, 2}}, items(Sequences.training(log, 2, false)));
        assertThrows(HllmException.class, () -> Sequences.training(log, 0, true));
        assertEquals(3, Sequences.popularity(log, 10)[0], "dropped events count");
    }

    @Test
    void batchesCoverAnEpochAndCanBeAskedForInAnyOrder() throws IOException {
        String[] users =
                IntStream.range(0, 11).mapToObj(u -> "0 " + u % 9 + " 9 9").toArray(String[]::new);
        List<TrainingSequence> sequences = Sequences.training(users(users), 4, true);
        Batches batches = new Batches(sequences, ALL, new Batches.Settings(4, 4, 0, 99));
        assertEquals(3, batches.batchesPerEpoch());
        int[] seen = new int[11];
        for (int index = 0; index < 3; index++) {
            Batch batch = batches.batch(2, index);
            assertEquals(6 + index, batch.step());
            assertEquals(index < 2 ? 4 : 3, batch.sequences().length);
            assertEquals(5 * batch.sequences().length, batch.negatives().length);
            for (int s = 0; s < batch.sequences().length; s++) {
                int[] own = batch.sequences()[s];
                seen[place(sequences, own)]++;
                for (int negative : Arrays.copyOfRange(batch.negatives(), 5 * s, 5 * s + 5)) {
                    assertTrue(IntStream.of(own).noneMatch(item -> item == negative));
                }
            }
        }
        assertArrayEquals(IntStream.generate(() -> 1).limit(11).toArray(), seen);

        Batch resumed = new Batches(sequences, ALL, new Batches.Settings(4, 4, 0, 99)).batch(2, 1);
        Batch again = batches.batch(2, 1);
        assertArrayEquals(again.sequences(), resumed.sequences());
        assertArrayEquals(again.negatives(), resumed.negatives());
        assertTrue(!Arrays.equals(again.negatives(), batches.batch(1, 1).negatives()));
        assertThrows(HllmException.class, () -> batches.batch(0, 3));
    }

    @Test
    void aGivenNumberOfNegativesIsSharedOutAndDrawnFreely() throws IOException {
        String[] users =
                IntStream.range(0, 5).mapToObj(u -> "0 1 2 3 4 5 6 7 8 9 0 0").toArray(String[]::new);
        Batches batches =
                new Batches(Sequences.training(users(users), 20, true), ALL, new Batches.Settings(3, 20, 100, 1));
        assertEquals(34 * 3, batches.batch(0, 0).negatives().length);
        assertEquals(50 * 2, batches.batch(0, 1).negatives().length);
        Batches outside =
                new Batches(Sequences.training(users(users), 20, true), ALL, new Batches.Settings(3, 20, 0, 1));
        assertTrue(assertThrows(HllmException.class, () -> outside.batch(0, 0))
                .getMessage()
                .contains("holds all 10 items"));
        assertThrows(HllmException.class, () -> new Batches(List.of(), ALL, new Batches.Settings(3, 20, 0, 1)));
        assertThrows(HllmException.class, () -> new Batches.Settings(0, 20, 0, 1));
    }

    @ParameterizedTest
    @ValueSource(ints = {0, 100})
    void negativesAreOfTheItemsThatThereAre(int negatives) throws IOException {
        int[] items = {1, 4, 6, 7};
        Batches batches = new Batches(
                Sequences.training(users("4 1 4 0 0", "6 7 0 0"), 20, true),
                items,
                new Batches.Settings(2, 20, negatives, 1));
        Batch batch = batches.batch(0, 0);
        assertArrayEquals(
                items, Arrays.stream(batch.negatives()).sorted().distinct().toArray());
        int half = batch.negatives().length / 2;
        for (int s = 0; negatives == 0 && s < 2; s++) {
            int[] own = batch.sequences()[s];
            assertTrue(Arrays.stream(batch.negatives(), s * half, (s + 1) * half)
                    .noneMatch(n -> IntStream.of(own).anyMatch(item -> item == n)));
        }
    }

    @ParameterizedTest
    @CsvSource({"movietweetings-100k, 4333, 2414, 68055, 14.61, 7.38", "amazon-beauty, 22332, 12086, 198215, 1.14, 0.55"
    })
    void popularityOnRealData(String name, int users, int items, int events, double recall, double ndcg) {
        String shared = System.getProperty("hllm.shared", "");
        Path data = Path.of(shared, "data", name);
        Assumptions.assumeTrue(!shared.isEmpty() && Files.isDirectory(data), "no folder " + data + " (hllm.shared)");
        Catalogue catalogue = Catalogue.read(data.resolve("items.csv.gz"), List.of("title", "tag", "description"));
        Interactions log = Interactions.read(data.resolve("interactions.csv.gz"), catalogue, MissingText.ERROR);
        assertEquals(users, log.users());
        assertEquals(items, catalogue.size());
        assertEquals(events, log.size());

        int[] popularity = Sequences.popularity(log, catalogue.size());
        List<EvaluationCase> cases = Sequences.evaluation(log, Split.TEST, 50);
        assertEquals(users, cases.size());
        double hits = 0;
        double gain = 0;
        for (EvaluationCase test : cases) {
            int[] scores = popularity.clone();
            for (int item : test.exclude()) {
                scores[item] = -1;
            }
            int target = scores[test.target()];
            long higher = IntStream.of(scores).filter(score -> score > target).count();
            if (higher < 10) {
                hits++;
                gain += Math.log(2) / Math.log(higher + 2);
            }
        }
        assertEquals(recall, 100 * hits / users, 0.0051);
        assertEquals(ndcg, 100 * gain / users, 0.0051);
    }

    private static int place(List<TrainingSequence> sequences, int[] items) {
        for (int i = 0; i < sequences.size(); i++) {
            if (sequences.get(i).items() == items) {
                return i;
            }
        }
        throw new AssertionError("a sequence that was not given");
    }

    private static int[][] items(List<TrainingSequence> sequences) {
        return sequences.stream().map(TrainingSequence::items).toArray(int[][]::new);
    }

    /** A log over items 0..9, one string of items per user. */
    private Interactions users(String... users) throws IOException {
        StringBuilder items = new StringBuilder("item_id\n");
        IntStream.range(0, 10).forEach(i -> items.append(i).append('\n'));
        StringBuilder log = new StringBuilder("item_id,user_id,timestamp\n");
        for (int user = 0; user < users.length; user++) {
            int time = 0;
            for (String item : users[user].split(" ")) {
                log.append(item)
                        .append(",u")
                        .append(user)
                        .append(',')
                        .append(time++)
                        .append('\n');
            }
        }
        Path itemsCsv = Files.writeString(folder.resolve("items.csv"), items);
        Path logCsv = Files.writeString(folder.resolve("interactions.csv"), log);
        return Interactions.read(logCsv, Catalogue.read(itemsCsv, List.of()), MissingText.ERROR);
    }
}
