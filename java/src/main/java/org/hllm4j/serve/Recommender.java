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
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.eval.Evaluator;
import org.hllm4j.eval.RankingMetrics;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.UserEncoder;
import org.hllm4j.run.Manifest;
import org.hllm4j.run.RunFolder;
import org.hllm4j.run.Start;

/**
 * A trained model with a catalogue's item vectors: answers what a user with some history may like. Owns its device, model
 * and vectors. One thread at a time.
 */
public final class Recommender implements AutoCloseable {
    private static final System.Logger LOG = System.getLogger(Recommender.class.getName());
    private static final int MAX_ROWS = 4096;

    /**
     * @param item row in the catalogue
     * @param score cosine of the user's and the item's vector
     */
    public record Recommendation(int item, String itemId, float score) {}

    private final Context context;
    private final Catalogue catalogue;
    private final Hllm model;
    private final Tensor table;
    private final Tensor normalised;

    private Recommender(Context context, Catalogue catalogue, Hllm model, Tensor table) {
        this.context = context;
        this.catalogue = catalogue;
        this.model = model;
        this.table = table;
        this.normalised = context.zeros(DType.F32, table.size(0), table.size(1));
        context.ops().normalizeRows(normalised, table);
    }

    /** Loads a run on the CPU, in float32. */
    public static Recommender open(RunFolder run, Catalogue catalogue) {
        return open(run, catalogue, "cpu", DType.F32, null);
    }

    /**
     * Loads a run. Item vectors are the run's stored ones where they belong to this catalogue, else they are computed from
     * the catalogue's texts, so that new items and changed catalogues work.
     *
     * @param catalogue read with the manifest's text keys
     * @param device "cpu"
     * @param storage of the matrices, F32 or BF16
     * @param progress told how many items are encoded; may be null
     */
    public static Recommender open(
            RunFolder run, Catalogue catalogue, String device, DType storage, LongConsumer progress) {
        Context context = Context.open(device);
        Hllm model = null;
        Tensor table = null;
        try {
            model = run.load(context, storage);
            table = storage == DType.F32 ? run.loadItems(context, catalogue) : null;
            if (table == null) {
                LOG.log(
                        System.Logger.Level.INFO,
                        "{0}: no stored vectors of this model, catalogue and precision; encoding {1} items",
                        run.path(),
                        catalogue.size());
                Manifest manifest = run.manifest();
                int[][] tokens = Start.tokens(
                        catalogue,
                        manifest.textKeys(),
                        run.tokenizerJson(),
                        run.path().toString(),
                        manifest.maxTextLength(),
                        null);
                table = CatalogueEncoder.table(model, tokens, CatalogueEncoder.DEFAULT_ROWS, progress);
            }
            return new Recommender(context, catalogue, model, table);
        } catch (RuntimeException e) {
            if (table != null) {
                table.close();
            }
            if (model != null) {
                model.close();
            }
            context.close();
            throw e;
        }
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
        Ops ops = context.ops();
        try (Workspace workspace = context.workspace()) {
            UserEncoder.encode(model, table, cut(histories), null, MAX_ROWS, null, (first, vectors) -> {
                int count = (int) vectors.size(0);
                List<int[]> part = histories.subList(first, first + count);
                int[] offsets = new int[count + 1];
                for (int i = 0; i < count; i++) {
                    offsets[i + 1] = offsets[i] + part.get(i).length;
                }
                Tensor unit = workspace.floats(count, model.config().width());
                ops.normalizeRows(unit, vectors);
                Tensor scores = workspace.floats(count, k);
                Tensor rows = workspace.ints(new int[count * k]);
                ops.topk(
                        scores,
                        rows.reshape(count, k),
                        unit,
                        normalised,
                        workspace.ints(offsets),
                        workspace.ints(
                                part.stream().flatMapToInt(Arrays::stream).toArray()));
                float[] score = scores.toFloats();
                int[] row = rows.toInts();
                for (int i = 0; i < count; i++) {
                    List<Recommendation> best = new ArrayList<>();
                    for (int j = i * k; j < (i + 1) * k && row[j] >= 0; j++) {
                        best.add(new Recommendation(row[j], catalogue.id(row[j]), score[j]));
                    }
                    answers.add(best);
                }
                workspace.release(0);
            });
        }
        return answers;
    }

    /**
     * User vectors of histories, as rows of width D, not normalised.
     *
     * @param histories as in {@link #recommend}
     */
    public float[][] userVectors(List<int[]> histories) {
        float[][] vectors = new float[histories.size()][];
        int width = model.config().width();
        UserEncoder.encode(model, table, cut(histories), null, MAX_ROWS, null, (first, found) -> {
            float[] values = found.toFloats();
            for (int i = 0; i < found.size(0); i++) {
                vectors[first + i] = Arrays.copyOfRange(values, i * width, (i + 1) * width);
            }
        });
        return vectors;
    }

    /** Ranking metrics of this model on a log of the same catalogue; see {@link Evaluator}. */
    public Map<Split, RankingMetrics> evaluate(Interactions interactions, List<Split> splits, LongConsumer progress) {
        Map<Split, RankingMetrics> metrics = Evaluator.evaluate(model, table, interactions, splits, progress);
        Evaluator.requireUsers(metrics);
        return metrics;
    }

    private int[][] cut(List<int[]> histories) {
        int most = model.config().maxHistory();
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
        return catalogue;
    }

    public Hllm model() {
        return model;
    }

    /** Item vectors [N, D] on the device, in row order, not normalised; owned by the recommender. */
    public Tensor table() {
        return table;
    }

    @Override
    public void close() {
        normalised.close();
        table.close();
        model.close();
        context.close();
    }
}
