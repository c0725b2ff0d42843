package org.hllm4j.serve;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.EnumSet;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.function.LongConsumer;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.MemoryNeed;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.Manifest;
import org.hllm4j.run.RunFolder;
import org.hllm4j.serve.ItemChanges.Change;
import org.hllm4j.text.ItemText;
import org.hllm4j.text.ItemTokenizer;

/**
 * One generation of what answers: a run's model, the items with their vectors, and the context they live in; owns all
 * of them. Items may be added and removed. A row number once given stays, so that histories keep their meaning.
 *
 * <p>What is about the device is for one thread at a time: the engine's, once an {@link Engine} has it. What items
 * there are, and the properties of the model, any thread may ask.
 */
public final class Snapshot implements AutoCloseable {
    private static final System.Logger LOG = System.getLogger(Snapshot.class.getName());
    private static final String LESS =
            "--dtype=bf16, --add-items=no, a smaller --cache-bytes, or a model of fewer layers or less width";
    static final int LEAST_SPARE = 256; // rows by which the tables grow
    private static final int MAX_TARGETS = 4096; // that the head sees at a time

    private final RunFolder run;
    private final String modelHash;
    private final List<String> textKeys;
    private final Context context;
    private final Catalogue catalogue;
    private final Hllm model;
    private final float[] priors; // of the catalogue's items
    private final Workspace workspace;
    private Tensor table; // [capacity, D]
    private Tensor normalised;
    private final String tokenizerJson; // null: the item side is not kept
    private ItemTokenizer tokenizer; // made for the first item that is added
    private final List<Change> added = new CopyOnWriteArrayList<>(); // rows after the catalogue's
    private final Map<String, Integer> addedRows = new ConcurrentHashMap<>(); // of ids whose row is not the catalogue's
    private final Map<String, Change> applied = new HashMap<>(); // by id
    private final Set<Integer> removed = ConcurrentHashMap.newKeySet();

    private Snapshot(
            RunFolder run,
            Manifest manifest,
            String tokenizerJson,
            float[] priors,
            Context context,
            Catalogue catalogue,
            Hllm model,
            Tensor table) {
        this.run = run;
        this.modelHash = manifest.modelHash();
        this.textKeys = manifest.textKeys();
        this.context = context;
        this.catalogue = catalogue;
        this.model = model;
        this.tokenizerJson = tokenizerJson;
        this.priors = priors;
        this.table = table;
        workspace = context.workspace();
        normalised = context.zeros(DType.F32, table.size(0), table.size(1));
        context.ops().normalizeRows(normalised, table);
    }

    /** Whether items can be added by their texts, for which the Item LLM stays in memory. */
    public enum AddItems {
        YES,
        /** It is loaded only to encode a catalogue whose vectors are not stored, before the User LLM is. */
        NO,
        /** Where both fit. */
        AUTO
    }

    /**
     * How a snapshot is opened.
     *
     * @param device "cpu" or "cuda"
     * @param storage of the matrices, F32 or BF16; on a GPU also what it computes in
     * @param addItems whether items can be added
     * @param beside bytes of the device's memory that will be wanted beside the model, as for a cache
     */
    public record Options(String device, DType storage, AddItems addItems, long beside) {}

    /** {@link #open(RunFolder, Catalogue, Options, LongConsumer)} where items can be added, if that fits. */
    public static Snapshot open(
            RunFolder run, Catalogue catalogue, String device, DType storage, LongConsumer progress) {
        return open(run, catalogue, new Options(device, storage, AddItems.AUTO, 0), progress);
    }

    /**
     * Loads a run. Item vectors are the run's stored ones where they belong to this catalogue, else they are computed
     * from the catalogue's texts, so that new items and changed catalogues work.
     *
     * @param catalogue read with the manifest's text keys
     * @param progress told how many items are encoded; may be null
     * @throws HllmException where it does not fit in the device's memory, with the arithmetic; or where the run is given
     *     another model meanwhile
     */
    public static Snapshot open(RunFolder run, Catalogue catalogue, Options options, LongConsumer progress) {
        DType storage = options.storage;
        Set<Hllm.Side> sides = sides(run, catalogue, options);
        Context context = Context.open(options.device, Context.activations(options.device, storage));
        Hllm model = null;
        Tensor table = null;
        try {
            Manifest manifest = run.manifest();
            table = run.loadItems(context, catalogue);
            if (table == null && !sides.contains(Hllm.Side.ITEM)) {
                Set<Hllm.Side> itemSide = EnumSet.of(Hllm.Side.ITEM);
                need(run, catalogue, itemSide, options).require(options.device, "encoding the items", LESS);
                try (Hllm items = run.load(context, storage, itemSide)) {
                    table = encoded(items, run, catalogue, progress);
                }
            }
            model = run.load(context, storage, sides);
            if (table == null) {
                table = encoded(model, run, catalogue, progress);
            }
            float[] priors = run.loadPriors(catalogue);
            boolean readsTexts = model.has(Hllm.Side.ITEM) && manifest.idWidth() == null;
            String tokenizerJson = readsTexts ? run.tokenizerJson() : null;
            if (!run.manifest().modelHash().equals(manifest.modelHash())) { // the parts may be of both
                throw new HllmException(run.path() + ": was given another model while it was loaded; try again");
            }
            return new Snapshot(run, manifest, tokenizerJson, priors, context, catalogue, model, table);
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

    /** What stays in memory: the user side, and the item side where it is wanted and fits. */
    private static Set<Hllm.Side> sides(RunFolder run, Catalogue catalogue, Options options) {
        if (options.addItems != AddItems.NO) {
            Set<Hllm.Side> both = EnumSet.allOf(Hllm.Side.class);
            MemoryNeed need = need(run, catalogue, both, options);
            if (options.addItems == AddItems.YES) {
                need.require(options.device, "serving with items that can be added", LESS);
                return both;
            }
            if (need.fits(options.device)) {
                return both;
            }
        }
        Set<Hllm.Side> users = EnumSet.of(Hllm.Side.USER);
        need(run, catalogue, users, options).require(options.device, "serving", LESS);
        if (options.addItems == AddItems.AUTO) {
            LOG.log(
                    System.Logger.Level.WARNING,
                    "{0}: both sides do not fit in memory; items cannot be added by text, as the Item LLM is not kept",
                    run.path());
        }
        return users;
    }

    private static MemoryNeed need(RunFolder run, Catalogue catalogue, Set<Hllm.Side> sides, Options options) {
        return run.need(sides, options.storage, options.device)
                .with(
                        "item vectors, as they are and normalised",
                        2L * DType.F32.bytes() * catalogue.size() * run.width())
                .with("users' keys and values", sides.contains(Hllm.Side.USER) ? options.beside : 0);
    }

    private static Tensor encoded(Hllm model, RunFolder run, Catalogue catalogue, LongConsumer progress) {
        LOG.log(
                System.Logger.Level.INFO,
                "{0}: no stored vectors of this model and catalogue; encoding {1} items",
                run.path(),
                catalogue.size());
        return CatalogueEncoder.table(model, run.tokens(catalogue), CatalogueEncoder.rows(model), progress);
    }

    // ---- Any thread -------------------------------------------------------------------------------------------------

    /** Hash of all that an item vector depends on: it tells models apart. */
    public String modelHash() {
        return modelHash;
    }

    /** Of the ranker; null: the model has no ranking head. */
    public Fusion fusion() {
        return model.config().fusion();
    }

    public int maxHistory() {
        return model.config().maxHistory();
    }

    public String device() {
        return context.device();
    }

    /** Columns that make an item's text. */
    public List<String> textKeys() {
        return textKeys;
    }

    public Catalogue catalogue() {
        return catalogue;
    }

    /** Rows that were ever given, removed ones included. */
    public int rows() {
        return catalogue.size() + added.size();
    }

    /** Items that answers may hold. */
    public int items() {
        return rows() - removed.size();
    }

    /** Row of an item, removed ones included, or -1. */
    public int row(String id) {
        Integer row = addedRows.get(id);
        return row == null ? catalogue.row(id) : row;
    }

    public boolean removed(int row) {
        return removed.contains(row);
    }

    /** Id of a row. */
    public String id(int row) {
        return row < catalogue.size()
                ? catalogue.id(row)
                : added.get(row - catalogue.size()).id();
    }

    /** Text of a row under a text key; empty where there is none. */
    public String field(int row, String key) {
        return row < catalogue.size()
                ? catalogue.field(row, key)
                : added.get(row - catalogue.size()).fields().getOrDefault(key, "");
    }

    /** Rows of the items that are known, in their order; others are left out. */
    int[] rows(Collection<String> ids) {
        return ids.stream().mapToInt(this::row).filter(row -> row >= 0).toArray();
    }

    // ---- Items, by the device's thread ------------------------------------------------------------------------------

    /** Makes the changes that this snapshot does not have yet, as {@link ItemChanges} says. */
    public void apply(ItemChanges changes) {
        apply(changes.all());
    }

    void apply(List<Change> changes) {
        List<Change> fresh = new ArrayList<>();
        List<Change> texts = new ArrayList<>();
        for (Change change : changes) {
            if (applied.put(change.id(), change) == change) {
                continue;
            }
            fresh.add(change);
            if (!holds(change)) {
                Integer row = addedRows.remove(change.id());
                if (row != null) {
                    removed.add(row);
                }
            } else if (!change.fields().equals(ownText(change.id()).fields())) {
                texts.add(change);
            }
        }
        if (!texts.isEmpty()) {
            add(texts);
        }
        for (Change change : fresh) {
            int row = row(change.id());
            if (row >= 0 && change.removed()) {
                removed.add(row);
            } else {
                removed.remove(row);
            }
        }
    }

    /** An item's text as a change. */
    Change text(String id, Map<String, String> fields) {
        if (model.config().ids() != null) {
            throw new UnanswerableException(
                    run.path() + ": this model knows its items by their ids; only a model of texts takes "
                            + "an item \"" + id + "\" that it was not trained on");
        }
        requireItemSide();
        if (id.isEmpty() || fields.isEmpty() || !textKeys.containsAll(fields.keySet())) {
            throw new UnanswerableException("item \"" + id + "\" with fields " + fields.keySet()
                    + ": expected an id, and fields among the model's text keys " + textKeys);
        }
        int row = catalogue.row(id);
        Map<String, String> instead = row < 0
                ? null
                : textKeys.stream().collect(Collectors.toMap(key -> key, key -> catalogue.field(row, key)));
        return new Change(id, Map.copyOf(fields), instead, false);
    }

    /** The removal of an item, which keeps its text, as histories may hold it. */
    Change removal(String id) {
        Change own = ownText(id);
        return new Change(id, own.fields(), own.instead(), true);
    }

    /** The text that an item was given; without fields where there is none. */
    private Change ownText(String id) {
        Integer row = addedRows.get(id);
        return row == null ? new Change(id, null, null, false) : added.get(row - catalogue.size());
    }

    /** Whether a change gives an item a text, and the catalogue has no newer one. */
    private boolean holds(Change change) {
        int row = catalogue.row(change.id());
        if (change.fields() == null || row >= 0 && !saysStill(row, change.instead())) {
            return false;
        }
        if (model.config().ids() != null || change.fields().keySet().stream().noneMatch(textKeys::contains)) {
            LOG.log(
                    System.Logger.Level.WARNING,
                    "item \"{0}\", added with fields {1}, has no text for this model of {2}",
                    change.id(),
                    change.fields().keySet(),
                    textKeys);
            return false;
        }
        return true;
    }

    /** Whether the catalogue's text of a row is this one; null: none. */
    private boolean saysStill(int row, Map<String, String> text) {
        return text != null
                && textKeys.stream().allMatch(key -> catalogue.field(row, key).equals(text.getOrDefault(key, "")));
    }

    private void requireItemSide() {
        if (!model.has(Hllm.Side.ITEM)) {
            throw new UnanswerableException(
                    run.path() + ": items cannot be added by text here, as the Item LLM is not kept in memory; "
                            + "--add-items=yes keeps it");
        }
    }

    private void add(List<Change> texts) {
        requireItemSide();
        if (tokenizer == null) {
            tokenizer = ItemTokenizer.fromJson(tokenizerJson, run.path().toString());
        }
        ItemText itemText = new ItemText(textKeys);
        int[][] tokens = tokenizer.encodeAll(
                texts.stream().map(text -> itemText.of(text.fields()::get)).toList(),
                model.config().maxTextLength(),
                null);
        int first = rows();
        int end = first + texts.size();
        table = withRoom(table, end);
        normalised = withRoom(normalised, end);
        CatalogueEncoder.encode(model, tokens, CatalogueEncoder.rows(model), null, (items, vectors) -> {
            for (int i = 0; i < items.length; i++) {
                long row = first + items[i];
                context.ops().convert(table.rows(row, row + 1), vectors.rows(i, i + 1L));
                context.ops().normalizeRows(normalised.rows(row, row + 1), vectors.rows(i, i + 1L));
            }
        });
        added.addAll(texts);
        for (int row = first; row < end; row++) {
            String id = texts.get(row - first).id();
            int before = row(id);
            addedRows.put(id, row);
            if (before >= 0) {
                removed.add(before);
            }
        }
    }

    /** A table of at least {@code rows}: this one, or a larger copy in its place. */
    private Tensor withRoom(Tensor old, int rows) {
        if (rows <= old.size(0)) {
            return old;
        }
        int capacity = Math.max(rows, rows() + Math.max(LEAST_SPARE, rows() / 8));
        Tensor larger = context.zeros(DType.F32, capacity, old.size(1));
        context.ops().convert(larger.rows(0, old.size(0)), old);
        old.close();
        return larger;
    }

    // ---- Answers, by the device's thread ----------------------------------------------------------------------------

    Hllm model() {
        return model;
    }

    /** Item vectors [capacity, D], in row order, not normalised. */
    Tensor table() {
        return table;
    }

    /** Stack for one answer; it is given back by {@code release(0)}. */
    Workspace workspace() {
        return workspace;
    }

    /**
     * The k best items for each user vector, best first, without the removed ones.
     *
     * @param vectors [B, D]
     * @param excluded rows that each leaves out
     */
    List<List<Recommender.Recommendation>> best(Tensor vectors, int k, List<int[]> excluded) {
        int[] gone = removed.stream().mapToInt(Integer::intValue).toArray();
        int[] offsets = new int[excluded.size() + 1];
        for (int i = 0; i < excluded.size(); i++) {
            offsets[i + 1] = offsets[i] + excluded.get(i).length + gone.length;
        }
        int[] out = excluded.stream()
                .flatMapToInt(rows -> IntStream.concat(Arrays.stream(rows), Arrays.stream(gone)))
                .toArray();
        return best(vectors, k, normalised.rows(0, rows()), workspace.ints(offsets), workspace.ints(out), null);
    }

    /** The k best of these rows for one user vector of width D. */
    List<Recommender.Recommendation> bestOf(int[] rows, float[] vector, int k) {
        if (rows.length == 0) {
            return List.of();
        }
        long mark = workspace.mark();
        Tensor chosen = workspace.floats(rows.length, vector.length);
        context.ops().gatherRows(chosen, normalised, workspace.ints(rows));
        List<Recommender.Recommendation> best =
                best(upload(vector), k, chosen, null, null, rows).getFirst();
        workspace.release(mark);
        return best;
    }

    /** @param rowOf the row of each of the candidates; null: they are all rows */
    private List<List<Recommender.Recommendation>> best(
            Tensor vectors, int k, Tensor candidates, Tensor offsets, Tensor excluded, int[] rowOf) {
        int count = (int) vectors.size(0);
        int most = (int) Math.min(k, candidates.size(0));
        Ops ops = context.ops();
        Tensor unit = workspace.floats(vectors.shape());
        ops.normalizeRows(unit, vectors);
        Tensor scores = workspace.floats(count, most);
        Tensor places = workspace.ints(new int[count * most]);
        ops.topk(scores, places.reshape(count, most), unit, candidates, offsets, excluded);
        float[] score = scores.toFloats();
        int[] place = places.toInts();
        List<List<Recommender.Recommendation>> answers = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            List<Recommender.Recommendation> best = new ArrayList<>();
            for (int j = i * most; j < (i + 1) * most && place[j] >= 0; j++) {
                int row = rowOf == null ? place[j] : rowOf[place[j]];
                best.add(new Recommender.Recommendation(row, id(row), score[j]));
            }
            answers.add(best);
        }
        return answers;
    }

    /**
     * Logits of the ranking head.
     *
     * @param states [n, D] of the User LLM
     * @param stateOf which of them each target goes with
     * @param targets item rows
     */
    float[] logits(float[] states, int[] stateOf, int[] targets) {
        Ops ops = context.ops();
        int width = model.config().width();
        float[] logits = new float[targets.length];
        Tensor all = upload(states);
        for (int begin = 0, end; begin < targets.length; begin = end) {
            end = Math.min(targets.length, begin + MAX_TARGETS);
            long mark = workspace.mark();
            Tensor each = workspace.floats(end - begin, width);
            ops.gatherRows(each, all, workspace.ints(Arrays.copyOfRange(stateOf, begin, end)));
            int[] rows = Arrays.copyOfRange(targets, begin, end);
            Tensor vectors = workspace.floats(rows.length, width);
            ops.gatherRows(vectors, table, workspace.ints(rows));
            float[] part = model.ranker()
                    .forward(workspace, each, vectors, priors(rows))
                    .logits()
                    .toFloats();
            System.arraycopy(part, 0, logits, begin, part.length);
            workspace.release(mark);
        }
        return logits;
    }

    /** What is known of items by themselves; one keeps that with another text. */
    private float[] priors(int[] rows) {
        float[] known = new float[rows.length];
        for (int i = 0; i < rows.length; i++) {
            int row = rows[i] < catalogue.size() ? rows[i] : catalogue.row(id(rows[i]));
            known[i] = row < 0 ? 0 : priors[row];
        }
        return known;
    }

    /** Rows of width D on the device, in the workspace. */
    Tensor upload(float[] rows) {
        int width = model.config().width();
        Tensor tensor = workspace.floats(rows.length / width, width);
        tensor.write(rows);
        return tensor;
    }

    @Override
    public void close() {
        if (tokenizer != null) {
            tokenizer.close();
        }
        workspace.close();
        normalised.close();
        table.close();
        model.close();
        context.close();
    }
}
