package org.hllm4j.run;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.LongConsumer;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.data.Dataset;
import org.hllm4j.data.Interactions;
import org.hllm4j.data.MissingText;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.MemoryNeed;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;
import org.hllm4j.model.Pooling;
import org.hllm4j.text.ItemText;
import org.hllm4j.text.ItemTokenizer;
import org.hllm4j.weights.ModelConfig;
import org.hllm4j.weights.PretrainedModel;

/**
 * What a training starts from: the pretrained language models and how an HLLM is made of them.
 *
 * @param itemLlm folder or GGUF file of the Item LLM; its tokenizer is the one used
 * @param userLlm of the User LLM; the same path is fine; null: only items are wanted, and the user side is next to nothing
 * @param itemInit whether the Item LLM starts pretrained or random
 * @param userInit likewise
 * @param freeze which side keeps its start weights
 * @param itemLayers the first so many layers of the Item LLM, its final norm kept; 0: all
 * @param userLayers likewise
 * @param pooling how an item's vector is made
 * @param maxTextLength tokens of an item's text
 * @param maxHistory events that the User LLM sees
 * @param textKeys columns of items.csv that make the text
 * @param seed of random weights
 * @param adapters through which sides are trained
 */
public record Start(
        Path itemLlm,
        Path userLlm,
        Init itemInit,
        Init userInit,
        Freeze freeze,
        int itemLayers,
        int userLayers,
        Pooling pooling,
        int maxTextLength,
        int maxHistory,
        List<String> textKeys,
        long seed,
        Adapters adapters)
        implements ModelStart {

    /** Without adapters. */
    public Start(
            Path itemLlm,
            Path userLlm,
            Init itemInit,
            Init userInit,
            Freeze freeze,
            int itemLayers,
            int userLayers,
            Pooling pooling,
            int maxTextLength,
            int maxHistory,
            List<String> textKeys,
            long seed) {
        this(
                itemLlm,
                userLlm,
                itemInit,
                userInit,
                freeze,
                itemLayers,
                userLayers,
                pooling,
                maxTextLength,
                maxHistory,
                textKeys,
                seed,
                Adapters.NONE);
    }

    public enum Init {
        PRETRAINED,
        RANDOM
    }

    public enum Freeze {
        NONE,
        ITEM,
        USER,
        BOTH;

        Hllm.Trained trained(boolean ranker) {
            return new Hllm.Trained(this == NONE || this == USER, this == NONE || this == ITEM, ranker);
        }
    }

    /** Both sides from one model, everything trained: the paper's setting with histories of 50. */
    public static Start of(Path llm) {
        return new Start(
                llm,
                llm,
                Init.PRETRAINED,
                Init.PRETRAINED,
                Freeze.NONE,
                0,
                0,
                Pooling.TOKEN,
                64,
                50,
                List.of("title", "tag", "description"),
                1);
    }

    /** The first layers only, for machines or time that do not allow more. */
    public Start withLayers(int item, int user) {
        return with(freeze, item, user, maxHistory, textKeys, adapters);
    }

    public Start withTextKeys(List<String> keys) {
        return with(freeze, itemLayers, userLayers, maxHistory, List.copyOf(keys), adapters);
    }

    public Start withMaxHistory(int events) {
        return with(freeze, itemLayers, userLayers, events, textKeys, adapters);
    }

    public Start withFreeze(Freeze frozen) {
        return with(frozen, itemLayers, userLayers, maxHistory, textKeys, adapters);
    }

    public Start withAdapters(Adapters chosen) {
        return with(freeze, itemLayers, userLayers, maxHistory, textKeys, chosen);
    }

    private Start with(
            Freeze freeze, int itemLayers, int userLayers, int maxHistory, List<String> textKeys, Adapters adapters) {
        return new Start(
                itemLlm,
                userLlm,
                itemInit,
                userInit,
                freeze,
                itemLayers,
                userLayers,
                pooling,
                maxTextLength,
                maxHistory,
                textKeys,
                seed,
                adapters);
    }

    /** The HLLM's shape, read from the models' configurations. */
    public HllmConfig config() {
        ModelConfig item = shape(itemLlm, itemLayers, "--item-layers");
        return new HllmConfig(
                item,
                userLlm == null ? ModelConfig.least(item.hiddenSize()) : shape(userLlm, userLayers, "--user-layers"),
                pooling,
                maxTextLength,
                maxHistory);
    }

    /**
     * The shape of a pretrained model's first layers.
     *
     * @param layers 0: all
     * @param option that the number comes from
     */
    public static ModelConfig shape(Path llm, int layers, String option) {
        try (PretrainedModel model = PretrainedModel.open(llm)) {
            ModelConfig config = model.config();
            if (layers < 0 || layers > config.layers()) {
                throw new HllmException(
                        option + " is " + layers + ", but the model has " + config.layers() + " layers");
            }
            return layers == 0 ? config : config.withLayers(layers);
        }
    }

    @Override
    public HllmConfig config(Dataset data) {
        return config();
    }

    @Override
    public Hllm model(Context context, Dataset data) {
        return model(context);
    }

    @Override
    public Hllm.Trained trained() {
        return trained(false);
    }

    /** @param ranker whether a ranking head is trained too */
    Hllm.Trained trained(boolean ranker) {
        return adapters.on(freeze.trained(ranker));
    }

    /** Beside adapters, as they are stored: in bf16 where all of them are. */
    @Override
    public DType storage() {
        Hllm.Trained trained = trained();
        boolean itemStays = !trained.item() || trained.itemLora() != null;
        boolean userStays = !trained.user() || trained.userLora() != null;
        return adapters.any()
                        && (!itemStays || storedInBf16(itemLlm, itemInit))
                        && (!userStays || storedInBf16(userLlm, userInit))
                ? DType.BF16
                : DType.F32;
    }

    private static boolean storedInBf16(Path llm, Init init) {
        if (init == Init.RANDOM) {
            return false;
        }
        try (PretrainedModel model = PretrainedModel.open(llm)) {
            return model.storedInBf16();
        }
    }

    /** The model with its start weights; the caller closes it. */
    public Hllm model(Context context) {
        return model(context, trained(), storage());
    }

    /** The model for inference, with its matrices in the given storage; the caller closes it. */
    public Hllm model(Context context, DType storage) {
        return model(context, Hllm.Trained.NOTHING, storage);
    }

    /** The item side alone, pretrained, which will only compute: see {@link Hllm#loadPacked}. The caller closes it. */
    public Hllm items(Context context, DType storage) {
        PretrainedModel pretrained = PretrainedModel.open(itemLlm);
        Hllm model = null;
        try {
            pretrained.check();
            model = new Hllm(context, config(), EnumSet.of(Hllm.Side.ITEM), storage);
            model.loadPacked(Hllm.Side.ITEM, pretrained.tensors());
            model.randomiseItemToken(seed);
            return model;
        } catch (RuntimeException e) {
            if (model != null) {
                model.close();
            }
            pretrained.close();
            throw e;
        }
    }

    /** What {@link #items} and one pass take of a device's memory. */
    public MemoryNeed itemsNeed(DType storage, String device) {
        try (PretrainedModel pretrained = PretrainedModel.open(itemLlm)) {
            pretrained.check();
            HllmConfig config = config();
            String dropped = Hllm.Side.ITEM.prefix() + config.item().family().stem();
            return Hllm.need(config, EnumSet.of(Hllm.Side.ITEM), storage, device, pretrained.tensors(), dropped);
        }
    }

    /** The model with a ranking head, which is zero yet; the caller closes it. */
    Hllm ranker(Context context, Fusion fusion) {
        return filled(new Hllm(context, config().withFusion(fusion), trained(true), storage()));
    }

    private Hllm model(Context context, Hllm.Trained trained, DType storage) {
        return filled(new Hllm(context, config(), trained, storage));
    }

    private Hllm filled(Hllm model) {
        try {
            fill(model, Hllm.Side.ITEM, itemLlm, itemInit);
            fill(model, Hllm.Side.USER, userLlm, userInit);
            model.randomiseItemToken(seed);
            model.randomiseAdapters(seed);
            return model;
        } catch (RuntimeException e) {
            model.close();
            throw e;
        }
    }

    private void fill(Hllm model, Hllm.Side side, Path llm, Init init) {
        if (init == Init.RANDOM) {
            model.randomise(side, seed);
            return;
        }
        try (PretrainedModel pretrained = PretrainedModel.open(llm)) {
            pretrained.check();
            model.load(side, pretrained.tensors());
        }
    }

    /** Content of the Item LLM's tokenizer.json. */
    public String tokenizerJson() {
        try (PretrainedModel item = PretrainedModel.open(itemLlm)) {
            return item.tokenizerJson();
        }
    }

    /** Reads both tables and tokenises the items. */
    public Dataset dataset(Path items, Path interactions, MissingText missing, LongConsumer progress) {
        Interactions log = Interactions.read(interactions, Catalogue.read(items, textKeys), missing);
        return dataset(log, progress);
    }

    @Override
    public Dataset dataset(Interactions log, LongConsumer progress) {
        return new Dataset(
                log.catalogue(),
                log,
                tokens(log.catalogue(), textKeys, tokenizerJson(), itemLlm.toString(), maxTextLength, progress));
    }

    /** Token ids of every item's text, cut to {@code maxTextLength}; none for a bare item. */
    public static int[][] tokens(
            Catalogue catalogue,
            List<String> textKeys,
            String tokenizerJson,
            String origin,
            int maxTextLength,
            LongConsumer progress) {
        ItemText text = new ItemText(textKeys);
        List<String> texts = new ArrayList<>();
        List<Integer> rows = new ArrayList<>();
        for (int row = 0; row < catalogue.size(); row++) {
            if (!catalogue.bare(row)) {
                int item = row;
                texts.add(text.of(key -> catalogue.field(item, key)));
                rows.add(row);
            }
        }
        int[][] tokens = new int[catalogue.size()][];
        Arrays.setAll(tokens, i -> new int[0]);
        try (ItemTokenizer tokenizer = ItemTokenizer.fromJson(tokenizerJson, origin)) {
            int[][] encoded = tokenizer.encodeAll(texts, maxTextLength, progress);
            for (int i = 0; i < encoded.length; i++) {
                tokens[rows.get(i)] = encoded[i];
            }
        }
        return tokens;
    }

    @Override
    public Origin origin() {
        return new Origin(textKeys, tokenizerJson(), asMap());
    }

    /** How the weights started, for a run's manifest; files by name and hash of what identifies them, not by path. */
    public Map<String, Object> asMap() {
        Map<String, Object> map = new LinkedHashMap<>();
        map.put("model", "hllm");
        map.put("item_llm", identity(itemLlm));
        map.put("user_llm", userLlm == null ? "" : identity(userLlm));
        map.put("item_init", itemInit.name().toLowerCase(Locale.ROOT));
        map.put("user_init", userInit.name().toLowerCase(Locale.ROOT));
        map.put("freeze", freeze.name().toLowerCase(Locale.ROOT));
        map.put("item_layers", itemLayers);
        map.put("user_layers", userLayers);
        map.put("start_seed", seed);
        adapters.describe(map);
        return map;
    }

    /** Name and hash of a pretrained model. */
    static String identity(Path llm) {
        try {
            Path file = Files.isDirectory(llm) ? llm.resolve("config.json") : llm;
            String hash = Files.isDirectory(llm)
                    ? Hashes.of(file)
                    : Hashes.of((Files.size(file) + "").getBytes(StandardCharsets.UTF_8));
            return llm.toAbsolutePath().normalize().getFileName() + " " + hash.substring(0, 12);
        } catch (IOException e) {
            throw new HllmException(llm + ": cannot be read: " + e, e);
        }
    }
}
