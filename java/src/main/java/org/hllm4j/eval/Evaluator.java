package org.hllm4j.eval;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.LongConsumer;
import org.hllm4j.HllmException;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.EvaluationCase;
import org.hllm4j.data.Interactions;
import org.hllm4j.data.Sequences;
import org.hllm4j.data.Split;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.UserEncoder;

/**
 * The official protocol: leave-one-out, every item of the catalogue ranked by cosine, items of the user's history
 * excluded, no sampled candidates.
 */
public final class Evaluator {
    /** Events of users computed at a time. */
    public static final int MAX_ROWS = 4096;

    private Evaluator() {}

    /** Receives the rank of each held-out item. */
    @FunctionalInterface
    public interface Sink {
        /** @param rank items scoring strictly higher, plus one */
        void accept(Split split, EvaluationCase held, int rank);
    }

    /** Metrics of the splits; the arguments are those of {@link #rank}. */
    public static Map<Split, RankingMetrics> evaluate(
            Hllm model, Tensor table, Interactions interactions, List<Split> splits, LongConsumer progress) {
        Map<Split, RankingMetrics> metrics = new EnumMap<>(Split.class);
        splits.forEach(s -> metrics.put(s, new RankingMetrics()));
        rank(
                model,
                table,
                interactions,
                splits,
                progress,
                (split, held, rank) -> metrics.get(split).add(rank));
        return metrics;
    }

    /**
     * Ranks the held-out items of the splits. A user's history of the validation is that of the test less its last event:
     * where neither was cut to max history, one pass gives both outputs.
     *
     * @param table item vectors [N, D]
     * @param progress told how many histories are done; may be null
     */
    public static void rank(
            Hllm model, Tensor table, Interactions interactions, List<Split> splits, LongConsumer progress, Sink sink) {
        int maxHistory = model.config().maxHistory();
        List<int[]> histories = new ArrayList<>();
        List<int[]> wanted = new ArrayList<>();
        List<EvaluationCase> cases = new ArrayList<>(); // one per vector, in order
        List<Split> split = new ArrayList<>();
        Map<Integer, EvaluationCase> validation = new HashMap<>();
        if (splits.contains(Split.VALIDATION)) {
            Sequences.evaluation(interactions, Split.VALIDATION, maxHistory).forEach(c -> validation.put(c.user(), c));
        }
        if (splits.contains(Split.TEST)) {
            for (EvaluationCase test : Sequences.evaluation(interactions, Split.TEST, maxHistory)) {
                int last = test.history().length - 1;
                EvaluationCase before = validation.get(test.user());
                histories.add(test.history());
                if (before != null && before.history().length == last) {
                    wanted.add(new int[] {last - 1, last});
                    cases.add(validation.remove(test.user()));
                    split.add(Split.VALIDATION);
                } else {
                    wanted.add(new int[] {last});
                }
                cases.add(test);
                split.add(Split.TEST);
            }
        }
        // What shares no pass, in the order of users.
        validation.values().stream()
                .sorted((a, b) -> Integer.compare(a.user(), b.user()))
                .forEach(c -> {
                    histories.add(c.history());
                    wanted.add(new int[] {c.history().length - 1});
                    cases.add(c);
                    split.add(Split.VALIDATION);
                });

        Context context = model.context();
        Ops ops = context.ops();
        try (Tensor normalised = context.zeros(DType.F32, table.size(0), table.size(1));
                Workspace workspace = context.workspace()) {
            ops.normalizeRows(normalised, table);
            UserEncoder.encode(
                    model,
                    table,
                    histories.toArray(int[][]::new),
                    wanted.toArray(int[][]::new),
                    MAX_ROWS,
                    progress,
                    (first, vectors) -> {
                        int count = (int) vectors.size(0);
                        Tensor ranks = workspace.ints(new int[count]);
                        List<EvaluationCase> part = cases.subList(first, first + count);
                        int[] offsets = new int[count + 1];
                        for (int i = 0; i < count; i++) {
                            offsets[i + 1] = offsets[i] + part.get(i).exclude().length;
                        }
                        ops.rank(
                                ranks,
                                vectors,
                                normalised,
                                workspace.ints(part.stream()
                                        .mapToInt(EvaluationCase::target)
                                        .toArray()),
                                workspace.ints(offsets),
                                workspace.ints(part.stream()
                                        .flatMapToInt(c -> Arrays.stream(c.exclude()))
                                        .toArray()));
                        int[] found = ranks.toInts();
                        for (int i = 0; i < count; i++) {
                            sink.accept(split.get(first + i), part.get(i), found[i]);
                        }
                        workspace.release(0);
                    });
        }
    }

    /** The baseline that any recommender has to beat: items ranked by their number of training events. */
    public static RankingMetrics popularity(Dataset data, Split split) {
        int[] counts =
                Sequences.popularity(data.interactions(), data.catalogue().size());
        RankingMetrics metrics = new RankingMetrics();
        for (EvaluationCase c : Sequences.evaluation(data.interactions(), split, 1)) {
            metrics.add(rank(counts, c));
        }
        return metrics;
    }

    private static int rank(int[] counts, EvaluationCase c) {
        if (Arrays.binarySearch(c.exclude(), c.target()) >= 0) {
            return counts.length + 1;
        }
        int rank = 1;
        for (int count : counts) {
            rank += count > counts[c.target()] ? 1 : 0;
        }
        for (int item : c.exclude()) {
            rank -= counts[item] > counts[c.target()] ? 1 : 0;
        }
        return rank;
    }

    /** Fails where nobody can be evaluated, which else would read as zero. */
    public static void requireUsers(Map<Split, RankingMetrics> metrics) {
        if (metrics.values().stream().allMatch(m -> m.users() == 0)) {
            throw new HllmException(
                    "no user has the 3 events that evaluation needs: the last is the test, the one before "
                            + "the validation, the rest the history");
        }
    }
}
