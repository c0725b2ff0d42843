package org.hllm4j.data;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.hllm4j.HllmException;

/**
 * Leave-one-out: a user's last event is the test, the one before it the validation, the rest trains. Users with fewer
 * than three events have nothing held out: all their events train.
 */
public final class Sequences {
    private static final int EVALUATED_EVENTS = 3;

    private Sequences() {}

    /**
     * Training sequences of 2 to {@code maxHistory + 1} events, users in order. A longer run of training events is cut
     * into chunks of exactly that length counted from the end, and the remainder at the front is dropped; without
     * {@code splitLong} only the last chunk is kept.
     */
    public static List<TrainingSequence> training(Interactions interactions, int maxHistory, boolean splitLong) {
        checkHistory(maxHistory);
        int longest = Math.addExact(maxHistory, 1);
        List<TrainingSequence> sequences = new ArrayList<>();
        for (int user = 0; user < interactions.users(); user++) {
            int[] events = interactions.events(user);
            int end = trainingEvents(events.length);
            if (end <= longest) {
                if (end >= 2) {
                    sequences.add(new TrainingSequence(user, Arrays.copyOf(events, end)));
                }
                continue;
            }
            for (int begin = splitLong ? end % longest : end - longest; begin < end; begin += longest) {
                sequences.add(new TrainingSequence(user, Arrays.copyOfRange(events, begin, begin + longest)));
            }
        }
        return sequences;
    }

    /**
     * The sequences of a random share of the users; those of a smaller share are among those of a larger one.
     *
     * @param share from 0 to 1, of the users
     */
    public static List<TrainingSequence> sample(List<TrainingSequence> sequences, double share, long seed) {
        return sequences.stream()
                .filter(s -> Integer.toUnsignedLong(new Philox(seed, Philox.Purpose.SAMPLE, 0, s.user()).nextInt())
                        < share * (1L << 32))
                .toList();
    }

    /** One case per user with at least three events, users in order. */
    public static List<EvaluationCase> evaluation(Interactions interactions, Split split, int maxHistory) {
        checkHistory(maxHistory);
        List<EvaluationCase> cases = new ArrayList<>();
        for (int user = 0; user < interactions.users(); user++) {
            int[] events = interactions.events(user);
            if (events.length >= EVALUATED_EVENTS) {
                int target = events.length - split.fromEnd;
                int[] history = Arrays.copyOfRange(events, Math.max(0, target - maxHistory), target);
                int[] exclude =
                        Arrays.stream(events, 0, target).sorted().distinct().toArray();
                cases.add(new EvaluationCase(user, history, events[target], exclude));
            }
        }
        return cases;
    }

    /**
     * How often each item occurs among the training events, dropped remainders included.
     *
     * @param items size of the catalogue, and of the result
     */
    public static int[] popularity(Interactions interactions, int items) {
        int[] counts = new int[items];
        for (int user = 0; user < interactions.users(); user++) {
            int[] events = interactions.events(user);
            for (int i = 0; i < trainingEvents(events.length); i++) {
                counts[events[i]]++;
            }
        }
        return counts;
    }

    private static int trainingEvents(int events) {
        return events < EVALUATED_EVENTS ? events : events - 2;
    }

    private static void checkHistory(int maxHistory) {
        if (maxHistory < 1) {
            throw new HllmException("max_history is " + maxHistory + ", expected at least 1 event");
        }
    }
}
