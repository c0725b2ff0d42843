package org.hllm4j.run;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.type.TypeReference;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.EnumSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.function.Consumer;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.hllm4j.HllmException;
import org.hllm4j.data.Catalogue;
import org.hllm4j.data.Gaussian;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.MemoryNeed;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;
import org.hllm4j.model.IdTable;
import org.hllm4j.model.Pooling;
import org.hllm4j.nn.Parameter;
import org.hllm4j.nn.Parameters;
import org.hllm4j.text.ItemText;
import org.hllm4j.weights.ModelConfig;
import org.hllm4j.weights.PendingFile;
import org.hllm4j.weights.Safetensors;
import org.hllm4j.weights.SafetensorsWriter;
import org.hllm4j.weights.StoredType;
import org.hllm4j.weights.TensorInfo;
import org.hllm4j.weights.TensorSource;
import org.hllm4j.weights.TensorWriter;

/**
 * The folder that training writes and everything else loads:
 *
 * <pre>
 * manifest.json            see {@link Manifest}; names the model folder
 * model-STEP/item/         the Item LLM as a Hugging Face folder, with the tokenizer; none where items are known by ids
 * model-STEP/user/         the User LLM likewise (one unused word embedding, as its inputs are vectors)
 * model-STEP/hllm.safetensors        [ITEM] token or table of ids, logit scale; a ranker's head and [USER] token
 * model-STEP/item_priors.json        what a ranker adds to the logits of items, by id, where it does
 * items.safetensors        the catalogue's item vectors, with the hashes of model and ids that they belong to
 * checkpoint-STEP.safetensors        state of an unfinished training
 * </pre>
 *
 * A model is written whole into a new folder before the manifest names it, so that at every moment the run has either
 * the old model or the new one.
 */
public final class RunFolder {
    private static final int CHUNK = 1 << 20; // elements
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final String ITEM = "item_llm.";
    private static final String USER = "user_llm.";
    private static final String PRIORS = "item_priors.json";
    private static final String TRAINED =
            "(manifest|summary|quickstart|budget|comparison)\\.json|steps\\.jsonl|items\\.safetensors|model-\\d+"
                    + "|checkpoint-\\d+\\.safetensors|events\\.out\\.tfevents\\..*";

    private final Path path;

    public RunFolder(Path path) {
        this.path = path.toAbsolutePath();
    }

    /** Makes the folder if it is not there. */
    public static RunFolder create(Path path) {
        try {
            Files.createDirectories(path);
        } catch (IOException e) {
            throw new HllmException(path + ": cannot be made: " + e, e);
        }
        return new RunFolder(path);
    }

    public Path path() {
        return path;
    }

    public Path manifestFile() {
        return path.resolve("manifest.json");
    }

    public boolean hasModel() {
        return Files.exists(manifestFile());
    }

    /** @throws HllmException where no model was saved yet */
    public Manifest manifest() {
        return Manifest.read(manifestFile());
    }

    private Path modelFolder(Manifest manifest) {
        return path.resolve(manifest.modelFolder());
    }

    /**
     * What belongs to a model beside its weights, and goes into the manifest.
     *
     * @param itemPriors what a ranker adds to the logit of each item of the catalogue; null: nothing
     */
    public record Description(
            List<String> textKeys,
            Catalogue catalogue,
            String tokenizerJson,
            Map<String, Object> training,
            Map<String, Map<String, Double>> metrics,
            Map<String, String> environment,
            float[] itemPriors) {
        /** Of a model that adds nothing. */
        public Description(
                List<String> textKeys,
                Catalogue catalogue,
                String tokenizerJson,
                Map<String, Object> training,
                Map<String, Map<String, Double>> metrics,
                Map<String, String> environment) {
            this(textKeys, catalogue, tokenizerJson, training, metrics, environment, null);
        }
    }

    /** Saves the model as the run's, replacing an earlier one. */
    public Manifest save(Hllm model, long step, Description description) {
        String name = "model-" + step;
        Path folder = path.resolve(name);
        Map<String, String> sha256 = new TreeMap<>();
        delete(folder); // of a save that was interrupted
        boolean byId = model.config().ids() != null;
        for (Hllm.Side side : byId ? List.of(Hllm.Side.USER) : List.of(Hllm.Side.values())) {
            String sideName = side.name().toLowerCase(Locale.ROOT);
            Path to = folder.resolve(sideName);
            writeSide(model, side, to);
            if (side == Hllm.Side.ITEM) {
                PendingFile.write(
                        to.resolve("tokenizer.json"),
                        description.tokenizerJson().getBytes(StandardCharsets.UTF_8));
                sha256.put("item/tokenizer.json", Hashes.of(to.resolve("tokenizer.json")));
            }
            sha256.put(sideName + "/config.json", Hashes.of(to.resolve("config.json")));
            sha256.put(sideName + "/model.safetensors", Hashes.of(to.resolve("model.safetensors")));
        }
        List<Parameter> rest = model.parameters().all().stream()
                .filter(p -> !p.name().startsWith(ITEM) && !p.name().startsWith(USER))
                .toList();
        write(folder.resolve("hllm.safetensors"), model.parameters(), rest, "");
        sha256.put("hllm.safetensors", Hashes.of(folder.resolve("hllm.safetensors")));
        if (description.itemPriors() != null) {
            writePriors(folder.resolve(PRIORS), description.catalogue(), description.itemPriors());
            sha256.put(PRIORS, Hashes.of(folder.resolve(PRIORS)));
        }
        sha256.put("prompt", Hashes.of(ItemText.PROMPT.getBytes(StandardCharsets.UTF_8)));
        sha256.put("ids", Hashes.of(description.catalogue()));
        HllmConfig config = model.config();
        Manifest manifest = new Manifest(
                Manifest.SCHEMA,
                name,
                config.pooling(),
                config.maxTextLength(),
                config.maxHistory(),
                config.fusion(),
                description.textKeys(),
                description.catalogue().size(),
                byId ? config.ids().width() : null,
                sha256,
                description.training(),
                description.metrics(),
                description.environment());
        write(manifest);
        removeOldModels(name);
        return manifest;
    }

    /**
     * Makes a run of a model folder that lies in this one, for both sides and without training: its files become those of
     * the User LLM too, by links.
     *
     * @param llm {@code model-0/item} of this folder
     */
    public Manifest saveUntrained(
            Path llm, int maxTextLength, int maxHistory, List<String> textKeys, Catalogue catalogue, long seed) {
        Path folder = llm.getParent();
        Path user = folder.resolve("user");
        delete(user);
        create(user);
        Map<String, String> sha256 = new TreeMap<>();
        try (Stream<Path> files = Files.list(llm)) {
            for (Path file : files.sorted().toList()) {
                String hash = Hashes.of(file);
                sha256.put("item/" + file.getFileName(), hash);
                if (!file.endsWith("tokenizer.json")) {
                    Files.createLink(user.resolve(file.getFileName()), file);
                    sha256.put("user/" + file.getFileName(), hash);
                }
            }
        } catch (IOException e) {
            throw new HllmException(user + ": cannot be linked to the files of " + llm + ": " + e, e);
        }
        Path rest = folder.resolve("hllm.safetensors");
        float[] token = new float[config(llm).hiddenSize()];
        Gaussian.fill(seed, 0, token, 0.02f);
        List<TensorInfo> infos = List.of(
                new TensorInfo(Hllm.ITEM_TOKEN, StoredType.F32, new long[] {token.length}),
                new TensorInfo(Hllm.LOGIT_SCALE, StoredType.F32, new long[] {1}));
        try (SafetensorsWriter writer = SafetensorsWriter.create(rest, infos, Map.of("format", "pt"))) {
            writer.append(Hllm.ITEM_TOKEN, FloatBuffer.wrap(token));
            writer.append(Hllm.LOGIT_SCALE, FloatBuffer.wrap(new float[] {Hllm.LOGIT_SCALE_START}));
        }
        sha256.put("hllm.safetensors", Hashes.of(rest));
        sha256.put("prompt", Hashes.of(ItemText.PROMPT.getBytes(StandardCharsets.UTF_8)));
        sha256.put("ids", Hashes.of(catalogue));
        Manifest manifest = new Manifest(
                Manifest.SCHEMA,
                folder.getFileName().toString(),
                Pooling.TOKEN,
                maxTextLength,
                maxHistory,
                null,
                textKeys,
                catalogue.size(),
                null,
                sha256,
                Map.of("model", "hllm"),
                Map.of(),
                Map.of());
        write(manifest);
        return manifest;
    }

    /** Replaces the manifest by one with other metrics. */
    public void write(Manifest manifest) {
        PendingFile.write(manifestFile(), manifest.toJson());
    }

    /** One side as a Hugging Face folder: config.json and model.safetensors (the tokenizer is the caller's). */
    public static void writeSide(Hllm model, Hllm.Side side, Path folder) {
        create(folder);
        boolean item = side == Hllm.Side.ITEM;
        ModelConfig config = (item ? model.config().item() : model.config().user()).withTieWordEmbeddings(true);
        String prefix = item ? ITEM : USER;
        List<Parameter> own = new ArrayList<>(
                model.of(side).stream().filter(p -> p.name().startsWith(prefix)).toList());
        if (item) {
            write(folder.resolve("model.safetensors"), model.parameters(), own, prefix);
        } else {
            config = config.withoutWords();
            try (Tensor none = model.context().zeros(DType.F32, 1, config.hiddenSize())) {
                String words = prefix + config.family().stem() + config.family().words();
                own.add(new Parameter(words, none, null, null));
                write(folder.resolve("model.safetensors"), model.parameters(), own, prefix);
            }
        }
        PendingFile.write(folder.resolve("config.json"), config.toJson().getBytes(StandardCharsets.UTF_8));
    }

    /** Writes some of a model's parameters as a safetensors file, float32, with what their adapters add. */
    private static void write(Path file, Parameters of, List<Parameter> parameters, String dropped) {
        List<TensorInfo> infos = parameters.stream()
                .map(p -> new TensorInfo(
                        p.name().substring(dropped.length()),
                        StoredType.F32,
                        p.value().shape()))
                .toList();
        try (SafetensorsWriter writer = SafetensorsWriter.create(file, infos, Map.of("format", "pt"))) {
            for (int i = 0; i < infos.size(); i++) {
                String name = infos.get(i).name();
                of.read(parameters.get(i), values -> append(writer, name, values));
            }
        }
    }

    /** Appends a float32 device tensor, chunk by chunk. */
    public static void append(TensorWriter writer, String name, Tensor tensor) {
        Tensor flat = tensor.reshape(tensor.elements());
        FloatBuffer chunk = FloatBuffer.allocate((int) Math.min(CHUNK, tensor.elements()));
        for (long at = 0; at < tensor.elements(); at += chunk.limit()) {
            chunk.clear().limit((int) Math.min(chunk.capacity(), tensor.elements() - at));
            flat.read(at, chunk);
            writer.append(name, chunk.rewind());
        }
    }

    /** Fills a contiguous float32 device tensor, chunk by chunk. */
    public static void read(TensorSource source, String name, Tensor tensor) {
        Tensor flat = tensor.reshape(tensor.elements());
        FloatBuffer chunk = FloatBuffer.allocate((int) Math.min(CHUNK, tensor.elements()));
        for (long at = 0; at < tensor.elements(); at += chunk.limit()) {
            chunk.clear().limit((int) Math.min(chunk.capacity(), tensor.elements() - at));
            source.read(name, at, chunk);
            flat.write(at, chunk.flip());
        }
    }

    /** Loads the run's model; its files must be those of the manifest. The caller closes it. */
    public Hllm load(Context context, DType storage) {
        Hllm model = new Hllm(context, config(), Hllm.Trained.NOTHING, storage);
        return filled(model, model::load);
    }

    /** Loads sides of the run's model that will only compute, see {@link Hllm#loadPacked}. The caller closes it. */
    public Hllm load(Context context, DType storage, Set<Hllm.Side> sides) {
        Manifest manifest = manifest();
        verify(manifest, sides);
        HllmConfig config = config(manifest);
        RunTensors tensors = tensors(manifest, config);
        Hllm model = null;
        try {
            model = new Hllm(context, config, sides, storage);
            model.loadPacked(tensors);
            return model;
        } catch (RuntimeException e) {
            if (model != null) {
                model.close();
            }
            tensors.close();
            throw e;
        }
    }

    /** D, the width of item and user vectors. */
    public int width() {
        return config(manifest()).width();
    }

    /** What {@link #load(Context, DType, Set)} and one pass take of a device's memory. */
    public MemoryNeed need(Set<Hllm.Side> sides, DType storage, String device) {
        Manifest manifest = manifest();
        HllmConfig config = config(manifest);
        try (RunTensors tensors = tensors(manifest, config)) {
            return Hllm.need(config, sides, storage, device, tensors, "");
        }
    }

    /** Loads the run's two sides into a model that has a ranking head to be trained. The caller closes it. */
    public Hllm loadForRanking(Context context, Fusion fusion, Hllm.Trained trained) {
        Hllm model = new Hllm(context, config().withFusion(fusion), trained, DType.F32);
        return filled(model, model::loadGenerative);
    }

    private Hllm filled(Hllm model, Consumer<TensorSource> load) {
        try (RunTensors tensors = tensors(manifest(), model.config())) {
            load.accept(tensors);
            return model;
        } catch (RuntimeException e) {
            model.close();
            throw e;
        }
    }

    /** The model's weights, mapped; the caller closes them. */
    private RunTensors tensors(Manifest manifest, HllmConfig config) {
        Path folder = modelFolder(manifest);
        List<Safetensors> open = new ArrayList<>();
        try {
            open.add(Safetensors.open(folder.resolve("hllm.safetensors")));
            open.add(Safetensors.openFolder(folder.resolve("user")));
            if (config.ids() == null) {
                open.add(Safetensors.openFolder(folder.resolve("item")));
            }
            return new RunTensors(
                    path.toString(), config.ids() == null ? open.getLast() : null, open.get(1), open.getFirst());
        } catch (RuntimeException e) {
            open.forEach(Safetensors::close);
            throw e;
        }
    }

    /** Shape of the run's model, whose files must be those of the manifest. */
    public HllmConfig config() {
        Manifest manifest = manifest();
        verify(manifest, EnumSet.allOf(Hllm.Side.class));
        return config(manifest);
    }

    /** Fails where a file that these sides need is not the manifest's. */
    private void verify(Manifest manifest, Set<Hllm.Side> sides) {
        Path folder = modelFolder(manifest);
        Set<String> left = EnumSet.complementOf(EnumSet.copyOf(sides)).stream()
                .map(side -> side.name().toLowerCase(Locale.ROOT) + "/model")
                .collect(Collectors.toSet());
        manifest.sha256().forEach((name, expected) -> {
            if (name.equals("prompt") || name.equals("ids") || left.stream().anyMatch(name::startsWith)) {
                return;
            }
            Path file = folder.resolve(name);
            if (!Files.exists(file) || !Hashes.of(file).equals(expected)) {
                throw new HllmException(file + (Files.exists(file) ? " was changed after it was saved" : " is missing")
                        + ": it is not the file that manifest.json describes. Train again, or restore the folder");
            }
        });
    }

    private HllmConfig config(Manifest manifest) {
        Path folder = modelFolder(manifest);
        if (manifest.idWidth() != null) {
            return new HllmConfig(
                    new IdTable(manifest.items(), manifest.idWidth()),
                    config(folder.resolve("user")),
                    manifest.maxHistory());
        }
        return new HllmConfig(
                config(folder.resolve("item")),
                config(folder.resolve("user")),
                manifest.pooling(),
                manifest.maxTextLength(),
                manifest.maxHistory(),
                manifest.fusion());
    }

    private static ModelConfig config(Path folder) {
        Path file = folder.resolve("config.json");
        try {
            return ModelConfig.parse(Files.readString(file), file.toString());
        } catch (IOException e) {
            throw new HllmException(file + ": cannot be read: " + e, e);
        }
    }

    /** @throws HllmException where items are known by their ids */
    public String tokenizerJson() {
        requireTexts("to read a text");
        Path file = modelFolder(manifest()).resolve("item/tokenizer.json");
        try {
            return Files.readString(file);
        } catch (IOException e) {
            throw new HllmException(file + ": cannot be read: " + e, e);
        }
    }

    /** Fails where the model knows items by their ids; {@code what} is what needs texts, as "to export it". */
    public void requireTexts(String what) {
        Manifest manifest = manifest();
        if (manifest.idWidth() != null) {
            throw new HllmException(path + " holds a model of the kind " + manifest.kind()
                    + ", which knows its items by their ids: there is no Item LLM " + what
                    + ". That takes a model of `hllm train --model hllm`");
        }
    }

    /**
     * What the model reads of each item: its text's tokens, or its id.
     *
     * @throws HllmException where a model of ids does not know just these items
     */
    public int[][] tokens(Catalogue catalogue) {
        Manifest manifest = manifest();
        if (manifest.idWidth() == null) {
            return Start.tokens(
                    catalogue, manifest.textKeys(), tokenizerJson(), path.toString(), manifest.maxTextLength(), null);
        }
        if (!Hashes.of(catalogue).equals(manifest.sha256().get("ids"))) {
            throw new HllmException(
                    path + " holds a model of the kind " + manifest.kind() + ", which knows by their ids the "
                            + manifest.items() + " items that it was trained on; the " + catalogue.size()
                            + " given are not the same, in the same order. Give the items.csv of its training, or train again: "
                            + "only a model of `hllm train --model hllm` reads the texts of new items");
        }
        return IdTable.tokens(catalogue.size());
    }

    // ---- Item vectors -----------------------------------------------------------------------------------------------

    private Path itemFile() {
        return path.resolve("items.safetensors");
    }

    /** Stores the catalogue's item vectors [N, D] beside the hashes of the model and the ids that they belong to. */
    public void saveItems(Tensor table, Catalogue catalogue) {
        Map<String, String> meta = Map.of("model_sha256", manifest().modelHash(), "ids_sha256", Hashes.of(catalogue));
        try (SafetensorsWriter writer = SafetensorsWriter.create(
                itemFile(), List.of(new TensorInfo("items", StoredType.F32, table.shape())), meta)) {
            append(writer, "items", table);
        }
    }

    /** The stored item vectors [N, D], or null where there are none for just this model and catalogue. */
    public Tensor loadItems(Context context, Catalogue catalogue) {
        if (!Files.exists(itemFile())) {
            return null;
        }
        try (Safetensors file = Safetensors.open(itemFile())) {
            if (!manifest().modelHash().equals(file.metadata().get("model_sha256"))
                    || !Hashes.of(catalogue).equals(file.metadata().get("ids_sha256"))) {
                return null;
            }
            long[] shape = file.info("items").shape();
            Tensor table = context.zeros(DType.F32, shape);
            read(file, "items", table);
            return table;
        }
    }

    // ---- Item priors ------------------------------------------------------------------------------------------------

    private static void writePriors(Path file, Catalogue catalogue, float[] priors) {
        Map<String, Float> byId = new TreeMap<>();
        for (int row = 0; row < priors.length; row++) {
            if (priors[row] != 0) {
                byId.put(catalogue.id(row), priors[row]);
            }
        }
        try {
            PendingFile.write(file, JSON.writeValueAsBytes(byId));
        } catch (JsonProcessingException e) {
            throw new IllegalStateException(e);
        }
    }

    /** What the run's ranker adds to the logit of each item of a catalogue: 0 for those that it was not trained with. */
    public float[] loadPriors(Catalogue catalogue) {
        float[] priors = new float[catalogue.size()];
        Path file = modelFolder(manifest()).resolve(PRIORS);
        if (!Files.exists(file)) {
            return priors;
        }
        try {
            Map<String, Float> byId = JSON.readValue(file.toFile(), new TypeReference<Map<String, Float>>() {});
            byId.forEach((id, prior) -> {
                int row = catalogue.row(id);
                if (row >= 0) {
                    priors[row] = prior;
                }
            });
            return priors;
        } catch (IOException e) {
            throw new HllmException(file + ": cannot be read: " + e, e);
        }
    }

    // ---- House-keeping ----------------------------------------------------------------------------------------------

    /** Deletes what a training leaves here, so that the next one begins anew; other files stay. */
    public void clear() {
        if (!Files.exists(path)) {
            return;
        }
        try (Stream<Path> files = Files.list(path)) {
            files.filter(f -> f.getFileName().toString().matches(TRAINED))
                    .toList()
                    .forEach(RunFolder::delete);
        } catch (IOException e) {
            throw new HllmException(path + ": cannot be listed: " + e, e);
        }
    }

    private void removeOldModels(String current) {
        try (Stream<Path> files = Files.list(path)) {
            files.filter(f -> f.getFileName().toString().matches("model-\\d+"))
                    .filter(f -> !f.getFileName().toString().equals(current))
                    .toList()
                    .forEach(RunFolder::delete);
        } catch (IOException e) {
            throw new HllmException(path + ": cannot be listed: " + e, e);
        }
    }

    private static void delete(Path folder) {
        if (!Files.exists(folder)) {
            return;
        }
        try (Stream<Path> files = Files.walk(folder)) {
            for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
                Files.delete(file);
            }
        } catch (IOException e) {
            throw new HllmException(folder + ": cannot be deleted: " + e, e);
        }
    }

    /** Free bytes where the run is written; the folder must be there. */
    public long freeBytes() {
        return path.toFile().getUsableSpace(); // a FileStore needs a mount point, which a chroot may not show
    }
}
