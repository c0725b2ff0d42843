package org.hllm4j.model;

import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.function.Consumer;
import org.hllm4j.HllmException;
import org.hllm4j.data.Gaussian;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.MemoryNeed;
import org.hllm4j.engine.Tensor;
import org.hllm4j.nn.Lora;
import org.hllm4j.nn.LowRank;
import org.hllm4j.nn.Parameter;
import org.hllm4j.nn.Parameters;
import org.hllm4j.nn.Transformer;
import org.hllm4j.weights.ModelConfig;
import org.hllm4j.weights.TensorInfo;
import org.hllm4j.weights.TensorSource;

/**
 * The hierarchy: an {@link ItemEncoder} whose vectors are the inputs of a {@link UserLlm}, and the temperature of their loss.
 * With an {@link ItemLlm} it is an HLLM, with an {@link ItemTable} an id-based recommender.
 * Parameters have the names of the official checkpoint. Fresh, everything is zero: fill each side with {@link #load} or
 * {@link #randomise}. One thread at a time; owns its parameters.
 */
public final class Hllm implements AutoCloseable {
    /** Log of the loss's scale, learned. */
    public static final String LOGIT_SCALE = "logit_scale";

    /** Where it starts. */
    public static final float LOGIT_SCALE_START = (float) Math.log(1 / 0.07);

    /** Input vector of [ITEM], learned. */
    public static final String ITEM_TOKEN = "item_emb_tokens";

    /** From the Item LLM's width to the User LLM's, [D, width of the Item LLM]; absent where they agree. */
    public static final String PROJECTION = "item_projection.weight";

    /** A half of the hierarchy, for what is done to one of them. */
    public enum Side {
        ITEM,
        USER;

        /** What the names of its LLM's parameters begin with. */
        public String prefix() {
            return this == ITEM ? ItemLlm.PREFIX : UserLlm.PREFIX;
        }

        /** Whether it has the parameter of this name. */
        boolean has(String name) {
            return name.startsWith(this == ITEM ? "item_" : UserLlm.PREFIX);
        }

        /** Shape of its LLM; an item side without one has random weights as the user side's are. */
        ModelConfig llm(HllmConfig config) {
            return this == ITEM && config.ids() == null ? config.item() : config.user();
        }
    }

    private static final float TOKEN_STD = 0.02f;
    private static final int CHUNK = 1 << 20; // elements copied at a time

    private final HllmConfig config;
    private final Context context;
    private final Parameters parameters;
    private final ItemEncoder items; // null where that side is not there
    private final UserLlm users; // likewise
    private final RankingHead ranker; // null without one
    private final List<TensorSource> read = new ArrayList<>(); // files that are read in place

    /**
     * What is trained: gradients are kept for it.
     *
     * @param itemLora through which adapters the Item LLM is trained, its own weights staying as they are; null: without
     * @param userLora likewise
     */
    public record Trained(boolean item, boolean user, boolean ranker, Lora itemLora, Lora userLora) {
        public static final Trained NOTHING = new Trained(false, false);

        public Trained {
            if (itemLora != null && !item || userLora != null && !user) {
                throw new IllegalArgumentException("adapters on a side that is not trained");
            }
        }

        /** Without adapters. */
        public Trained(boolean item, boolean user, boolean ranker) {
            this(item, user, ranker, null, null);
        }

        /** A model without a ranking head. */
        public Trained(boolean item, boolean user) {
            this(item, user, false);
        }

        /** The same through adapters; null: without. */
        public Trained withLora(Lora ofItem, Lora ofUser) {
            return new Trained(item, user, ranker, ofItem, ofUser);
        }
    }

    /** @param storage of the matrices that are not trained */
    public Hllm(Context context, HllmConfig config, Trained trained, DType storage) {
        this(context, config, EnumSet.allOf(Side.class), trained, storage);
    }

    /** Of which nothing is trained, and these sides alone are there. */
    public Hllm(Context context, HllmConfig config, Set<Side> sides, DType storage) {
        this(context, config, sides, Trained.NOTHING, storage);
    }

    private Hllm(Context context, HllmConfig config, Set<Side> sides, Trained trained, DType storage) {
        this.config = config;
        this.context = context;
        parameters = new Parameters(context, layout(config, sides, trained), storage);
        items = !sides.contains(Side.ITEM)
                ? null
                : config.ids() == null
                        ? new ItemLlm(context, parameters, config)
                        : new ItemTable(context, parameters, config);
        users = sides.contains(Side.USER) ? new UserLlm(context, parameters, config) : null;
        ranker = config.fusion() == null ? null : new RankingHead(context, parameters, config);
        parameters.get(LOGIT_SCALE).value().write(new float[] {LOGIT_SCALE_START});
    }

    /** All parameters; the logit scale and the projection are trained with either side. */
    public static Parameters.Layout layout(HllmConfig config, Trained trained) {
        return layout(config, EnumSet.allOf(Side.class), trained);
    }

    private static Parameters.Layout layout(HllmConfig config, Set<Side> sides, Trained trained) {
        Parameters.Layout layout = new Parameters.Layout();
        if (sides.contains(Side.ITEM) && config.ids() == null) {
            ItemLlm.declare(layout, config, trained);
        } else if (sides.contains(Side.ITEM)) {
            ItemTable.declare(layout, config.ids(), config.width(), trained.item());
        }
        if (sides.contains(Side.USER)) {
            UserLlm.declare(layout, config.user(), trained.user(), trained.userLora());
        }
        layout.vector(LOGIT_SCALE, 1, trained.item() || trained.user());
        if (config.fusion() != null) {
            RankingHead.declare(layout, config.width(), config.fusion(), trained.ranker());
        }
        return layout;
    }

    /**
     * What sides take of a device's memory that only compute, filled by {@link #loadPacked}: weights, and one pass.
     *
     * @param source that will be loaded; {@code dropped} is what its names lack
     */
    public static MemoryNeed need(
            HllmConfig config, Set<Side> sides, DType storage, String device, TensorSource source, String dropped) {
        MemoryNeed need = new MemoryNeed();
        long layer = 0;
        long row = 0;
        for (Side side : Side.values()) {
            if (!sides.contains(side)) {
                continue;
            }
            ModelConfig llm = side.llm(config);
            Parameters.Layout layout = layout(config, EnumSet.of(side), Trained.NOTHING);
            boolean texts = side == Side.ITEM && config.ids() == null;
            String words = texts ? ItemLlm.words(llm).substring(dropped.length()) : null;
            long inPlace = texts && inPlace(device, source, words) != null
                    ? DType.F32.bytes() * (long) llm.vocabSize() * llm.hiddenSize()
                    : 0;
            need.with(
                    String.format(
                            Locale.ROOT,
                            "%s side, %.2f billion parameters, matrices in %s%s",
                            side == Side.ITEM ? "item" : "user",
                            layout.frozenElements() / 1e9,
                            storage.name().toLowerCase(Locale.ROOT),
                            inPlace > 0 ? ", word vectors read in their file" : ""),
                    layout.frozenBytes(storage) - inPlace);
            if (side == Side.USER || texts) {
                layer = Math.max(layer, storage.bytes() * layout.frozenMatrixElements() / llm.layers());
                row = Math.max(row, Transformer.bytesOfRow(llm, Context.activations(device, storage)));
            }
        }
        return need.with("a layer that is being packed", device.equals("cpu") ? layer : 0)
                .with("activations of " + CatalogueEncoder.DEFAULT_ROWS + " rows", CatalogueEncoder.DEFAULT_ROWS * row);
    }

    /** Copies a pretrained model's tensors, under names without prefix ("layers.0..."), into one side. */
    public void load(Side side, TensorSource source) {
        String prefix = side.prefix() + side.llm(config).family().stem();
        for (Parameter parameter : of(side)) {
            String name = parameter.name();
            if (name.startsWith(prefix)) {
                copy(parameter, source, name.substring(prefix.length()));
            }
        }
        refresh();
    }

    /** Copies every tensor of an official checkpoint, or of a run, by its own name. */
    public void load(TensorSource source) {
        parameters.all().forEach(parameter -> copy(parameter, source, parameter.name()));
        refresh();
    }

    /**
     * As {@link #load(Side, TensorSource)} and {@link #pack} in one: every layer is packed as soon as it is copied, so that
     * there are never two copies of more than one. Word vectors are not copied at all on a CPU, but read in the file, if it
     * has them in f32 or bf16. The source is this model's from here on, which closes it.
     */
    public void loadPacked(Side side, TensorSource source) {
        String prefix = side.prefix() + side.llm(config).family().stem();
        read.add(source);
        loadPacked(side, source, prefix);
    }

    /** The same for the sides that there are, from a run, by its own names. */
    public void loadPacked(TensorSource source) {
        read.add(source);
        for (Side side : Side.values()) {
            if (has(side)) {
                loadPacked(side, source, "");
            }
        }
        for (Parameter parameter : parameters.all()) {
            if (Arrays.stream(Side.values()).noneMatch(side -> side.has(parameter.name()))) {
                copy(parameter, source, parameter.name());
            }
        }
        if (ranker != null) {
            ranker.refresh(false);
        }
    }

    /** @param dropped what the source's names lack; parameters whose names begin otherwise are left as they are */
    private void loadPacked(Side side, TensorSource source, String dropped) {
        List<Parameter> left = new ArrayList<>(of(side));
        left.removeIf(parameter -> !parameter.name().startsWith(dropped));
        if (items instanceof ItemLlm texts && side == Side.ITEM) {
            String words = ItemLlm.words(config.item());
            left.removeIf(parameter -> parameter.name().equals(words)
                    && readInPlace(texts, source, parameter, words.substring(dropped.length())));
        }
        Consumer<String> fill = prefix -> left.removeIf(parameter -> {
            boolean its = parameter.name().startsWith(prefix);
            if (its) {
                copy(parameter, source, parameter.name().substring(dropped.length()));
            }
            return its;
        });
        pack(side, fill);
    }

    private boolean readInPlace(ItemLlm texts, TensorSource source, Parameter words, String name) {
        DType type = inPlace(context.device(), source, name);
        if (type == null) {
            return false;
        }
        checkShape(source, name, words);
        texts.readWords(context.wrap(source.stored(name), type, words.value().shape()));
        return true;
    }

    /** The type in which a device can read a tensor where its file has it; null: it cannot. */
    private static DType inPlace(String device, TensorSource source, String name) {
        DType type = elements(source.info(name));
        return device.equals("cpu") && type != null && source.stored(name) != null ? type : null;
    }

    /** The type of a tensor's stored elements; null where they have to be converted. */
    private static DType elements(TensorInfo info) {
        return switch (info.type()) {
            case F32 -> DType.F32;
            case BF16 -> DType.BF16;
            default -> null;
        };
    }

    /** Copies all but the ranking head, which stays as it is. */
    public void loadGenerative(TensorSource source) {
        generative().forEach(parameter -> copy(parameter, source, parameter.name()));
        refresh();
    }

    /** The start weights of a model that was never trained: N(0, initializer_range), norms 1, biases 0. */
    public void randomise(Side side, long seed) {
        double std = side.llm(config).initializerRange();
        long stream = side == Side.ITEM ? 1L << 32 : 2L << 32;
        for (Parameter parameter : of(side)) {
            if (!parameter.name().equals(ITEM_TOKEN) && !parameter.name().equals(PROJECTION)) {
                if (parameter.value().rank() == 1) { // of a norm, or a bias
                    context.ops().fill(parameter.value(), parameter.name().endsWith(".bias") ? 0 : 1);
                } else {
                    fill(parameter, seed, stream, (float) std);
                }
            }
            stream++;
        }
        refresh();
    }

    /** What no pretrained model brings: [ITEM], N(0, 0.02), and the projection, which keeps the size of a vector. */
    public void randomiseItemToken(long seed) {
        if (config.pooling() == Pooling.TOKEN) {
            fill(parameters.get(ITEM_TOKEN), seed, 0, TOKEN_STD);
        }
        if (config.projected()) {
            fill(parameters.get(PROJECTION), seed, 1, (float)
                    (1 / Math.sqrt(config.item().hiddenSize())));
            refresh();
        }
    }

    /** Fresh adapters: the inner side N(0, 1 / 3K) for inputs of width K, as others start it; the outer stays zero, as made. */
    public void randomiseAdapters(long seed) {
        long stream = 4L << 32;
        for (LowRank adapter : parameters.adapters()) {
            double width = adapter.down().value().size(1);
            fill(adapter.down(), seed, stream++, (float) Math.sqrt(1 / (3 * width)));
        }
        refresh();
    }

    /**
     * A fresh ranking head: [USER] and the gates N(0, 0.02), norms 1, and nothing behind the gates: every logit starts at the
     * base rate, and no random pairing of users and items stays in the way.
     *
     * @param rate share of ones among the labels
     */
    public void randomiseRanker(long seed, double rate) {
        long stream = 3L << 32;
        for (Parameter parameter : parameters.all()) {
            String name = parameter.name();
            if (name.equals(RankingHead.BIAS)) {
                parameter.value().write(new float[] {(float) Math.log(rate / (1 - rate))});
            } else if (name.startsWith(RankingHead.PREFIX) && name.endsWith("norm.weight")) {
                context.ops().fill(parameter.value(), 1);
            } else if (name.startsWith(RankingHead.PREFIX) && !name.equals(RankingHead.DOWN)) { // which is zero as made
                fill(parameter, seed, stream, TOKEN_STD);
            }
            stream++;
        }
        refresh();
    }

    /** Sets the [ITEM] token [D]. */
    public void itemToken(float[] values) {
        if (config.pooling() != Pooling.TOKEN || values.length != config.item().hiddenSize()) {
            throw new HllmException("the [ITEM] token of this model has "
                    + (config.pooling() == Pooling.TOKEN
                            ? config.item().hiddenSize() + " numbers, not " + values.length
                            : "no numbers: it pools by the mean"));
        }
        parameters.get(ITEM_TOKEN).value().write(values);
    }

    /** The parameters of one side; the [ITEM] token and the projection belong to the item's. */
    public List<Parameter> of(Side side) {
        List<Parameter> chosen = new ArrayList<>();
        for (Parameter parameter : parameters.all()) {
            if (side.has(parameter.name())) {
                chosen.add(parameter);
            }
        }
        return chosen;
    }

    /** Whether anything of a side is trained. */
    public boolean trains(Side side) {
        return of(side).stream().anyMatch(p -> p.trainable() || p.adapter() != null);
    }

    private void fill(Parameter parameter, long seed, long stream, float std) {
        float[] values = new float[Math.toIntExact(parameter.value().elements())];
        Gaussian.fill(seed, stream, values, std);
        write(parameter.value(), 0, FloatBuffer.wrap(values));
    }

    private void copy(Parameter parameter, TensorSource source, String name) {
        TensorInfo info = checkShape(source, name, parameter);
        Tensor value = parameter.value();
        ByteBuffer stored = elements(info) == value.dtype() ? source.stored(name) : null;
        if (stored != null) {
            value.reshape(value.elements()).write(0, stored);
            source.unload(name);
            return;
        }
        FloatBuffer chunk = FloatBuffer.allocate((int) Math.min(CHUNK, info.elements()));
        for (long at = 0; at < info.elements(); at += chunk.limit()) {
            chunk.clear().limit((int) Math.min(chunk.capacity(), info.elements() - at));
            source.read(name, at, chunk);
            write(value, at, chunk.flip());
        }
        source.unload(name);
    }

    private static TensorInfo checkShape(TensorSource source, String name, Parameter parameter) {
        TensorInfo info = source.info(name);
        if (!sameShape(info.shape(), parameter.value().shape())) {
            throw new HllmException(source.origin() + ": tensor '" + name + "' has shape "
                    + Arrays.toString(info.shape()) + ", expected "
                    + Arrays.toString(parameter.value().shape()));
        }
        return info;
    }

    /** Leading dimensions of 1 do not count: the official checkpoint keeps the [ITEM] token as [1, 1, D], a scalar as []. */
    private static boolean sameShape(long[] found, long[] expected) {
        int skip = 0;
        while (skip < found.length && found.length - skip > expected.length && found[skip] == 1) {
            skip++;
        }
        long[] rest = Arrays.copyOfRange(found, skip, found.length);
        return Arrays.equals(rest, expected) || found.length == 0 && Arrays.equals(expected, new long[] {1});
    }

    /** Writes float32 values into a tensor of either storage. */
    private void write(Tensor value, long first, FloatBuffer values) {
        Tensor flat = value.reshape(value.elements());
        if (value.dtype() == DType.F32) {
            flat.write(first, values);
            return;
        }
        int count = values.remaining();
        try (Tensor wide = context.zeros(DType.F32, count)) {
            wide.write(0, values);
            context.ops().convert(flat.rows(first, first + count), wide);
        }
    }

    /**
     * Whether passes that save keep each layer's input only, and backward runs each layer's forward again: less memory for
     * more arithmetic, the same bits.
     */
    public void recompute(boolean on) {
        items().recompute(on);
        users().recompute(on);
    }

    /**
     * For a side that will only compute: its matrices stay in the order in which kernels read them fastest, which a first
     * use would make as a second copy, and no other. Their parameters can neither be read nor written from here on.
     */
    public void pack(Side side) {
        pack(side, prefix -> {});
    }

    private void pack(Side side, Consumer<String> fill) {
        if (side == Side.ITEM) {
            items().pack(fill);
        } else {
            users().pack(fill);
        }
    }

    /** Whether a side is there. */
    public boolean has(Side side) {
        return side == Side.ITEM ? items != null : users != null;
    }

    public HllmConfig config() {
        return config;
    }

    public Context context() {
        return context;
    }

    public Parameters parameters() {
        return parameters;
    }

    /** @throws HllmException where the model was made without this side */
    public ItemEncoder items() {
        if (items == null) {
            throw new HllmException("this model was loaded without its Item LLM: it can encode no items");
        }
        return items;
    }

    /** @throws HllmException where the model was made without this side */
    public UserLlm users() {
        if (users == null) {
            throw new HllmException("this model was loaded without its User LLM: it can encode no users");
        }
        return users;
    }

    /** All parameters but those of a ranking head: what an official checkpoint holds. */
    public List<Parameter> generative() {
        return parameters.all().stream()
                .filter(parameter -> !parameter.name().startsWith(RankingHead.PREFIX))
                .toList();
    }

    /** The ranking head, or null where the model has none. */
    public RankingHead ranker() {
        return ranker;
    }

    public Parameter logitScale() {
        return parameters.get(LOGIT_SCALE);
    }

    /** Takes over parameter values that were written. */
    public void refresh() {
        refresh(false);
    }

    /** Takes over values of what is trained (an optimiser step, a loaded checkpoint); what is not stays packed as it is. */
    public void refreshTrained() {
        refresh(true);
    }

    private void refresh(boolean trainedOnly) {
        if (items != null) {
            items.refresh(trainedOnly);
        }
        if (users != null) {
            users.refresh(trainedOnly);
        }
        if (ranker != null) {
            ranker.refresh(trainedOnly);
        }
    }

    @Override
    public void close() {
        if (items != null) {
            items.close();
        }
        if (users != null) {
            users.close();
        }
        if (ranker != null) {
            ranker.close();
        }
        parameters.close();
        read.forEach(TensorSource::close);
    }
}
