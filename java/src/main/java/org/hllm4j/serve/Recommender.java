package org.hllm4j.serve;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.function.LongConsumer;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.data.Interactions;
import org.hllm4j.data.Split;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.eval.Evaluator;
import org.hllm4j.eval.RankingMetrics;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.UserEncoder;
import org.hllm4j.run.RunFolder;

/**
 * A trained model with a catalogue's item vectors: answers what a user with some history may like. Owns its device,
 * model and vectors. One thread at a time; {@link Engine} serves many.
 */
public final class Recommender implements AutoCloseable {
    private static final int MAX_ROWS = 4096;

    /**
     * @param item row in the catalogue
     * @param score cosine of the user's and the item's vector
     */
    public record Recommendation(int item, String itemId, float score) {}

    private final Snapshot snapshot;

    private Recommender(Snapshot snapshot) {
        this.snapshot = snapshot;
    }

    /** Loads a run on the CPU, in float32. */
    public static Recommender open(RunFolder run, Catalogue catalogue) {
        return open(run, catalogue, "cpu", DType.F32, null);
    }

    /** Loads a run; see {@link Snapshot#open}. */
    public static Recommender open(
            RunFolder run, Catalogue catalogue, String device, DType storage, LongConsumer progress) {
        return new Recommender(Snapshot.open(
                run, catalogue, new Snapshot.Options(device, storage, Snapshot.AddItems.NO, 0), progress));
    }

    /**
     * The k best items for each history, best first; items of the history are left out.
     *
     * @param histories item rows, oldest first, at least one each; only the last max history count for the vector
     */
    public List<List<Recommendation>> recommend(List<int[]> histories, int k) {
        if (k < 1) {
            throw new HllmException("asked for " + k + " recommendations; expected at least 1");
        }
        List<List<Recommendation>> answers = new ArrayList<>();
        encode(histories, (first, vectors) -> {
            int end = first + (int) vectors.size(0);
            answers.addAll(snapshot.best(vectors, k, histories.subList(first, end)));
            snapshot.workspace().release(0);
        });
        return answers;
    }

    /**
     * User vectors of histories, as rows of width D, not normalised.
     *
     * @param histories as in {@link #recommend}
     */
    public float[][] userVectors(List<int[]> histories) {
        float[][] vectors = new float[histories.size()][];
        int width = model().config().width();
        encode(histories, (first, found) -> {
            float[] values = found.toFloats();
            for (int i = 0; i < found.size(0); i++) {
                vectors[first + i] = Arrays.copyOfRange(values, i * width, (i + 1) * width);
            }
        });
        return vectors;
    }

    /** Ranking metrics of this model on a log of the same catalogue; see {@link Evaluator}. */
    public Map<Split, RankingMetrics> evaluate(Interactions interactions, List<Split> splits, LongConsumer progress) {
        Map<Split, RankingMetrics> metrics = Evaluator.evaluate(model(), table(), interactions, splits, progress);
        Evaluator.requireUsers(metrics);
        return metrics;
    }

    private void encode(List<int[]> histories, UserEncoder.Sink sink) {
        UserEncoder.encode(model(), table(), cut(histories), null, MAX_ROWS, null, sink);
    }

    private int[][] cut(List<int[]> histories) {
        int most = snapshot.maxHistory();
        int[][] cut = new int[histories.size()][];
        for (int i = 0; i < cut.length; i++) {
            int[] history = histories.get(i);
            if (history.length == 0) {
                throw new HllmException("history " + i + " is empty; expected at least one item");
            }
            cut[i] = Arrays.copyOfRange(history, Math.max(0, history.length - most), history.length);
        }
        return cut;
    }

    public Catalogue catalogue() {
        return snapshot.catalogue();
    }

    public Hllm model() {
        return snapshot.model();
    }

    /** Item vectors [N, D] on the device, in row order, not normalised; owned by the recommender. */
    public Tensor table() {
        return snapshot.table();
    }

    @Override
    public void close() {
        snapshot.close();
    }
}
