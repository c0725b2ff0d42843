package org.hllm4j.weights;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Supplier;
import org.hllm4j.HllmException;

/**
 * A pretrained language model: its shape, its weights and its tokenizer, from a Hugging Face folder
 * ({@code config.json}, {@code model.safetensors} or {@code pytorch_model.bin}, single or sharded,
 * {@code tokenizer.json}) or from one GGUF file. Owns the mapped files until closed.
 */
public final class PretrainedModel implements AutoCloseable {
    private static final List<String> WEIGHT_FILES = List.of(
            "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json");
    private static final int MOST_LISTED = 12;

    private final String origin;
    private final ModelConfig config;
    private final TensorSource tensors;
    private final Supplier<String> tokenizer;

    private PretrainedModel(String origin, ModelConfig config, TensorSource tensors, Supplier<String> tokenizer) {
        this.origin = origin;
        this.config = config;
        this.tensors = tensors;
        this.tokenizer = tokenizer;
    }

    /**
     * Opens a folder in the Hugging Face layout, or a GGUF file.
     *
     * @throws HllmException naming what is missing and where it was looked for, or what is not supported
     */
    public static PretrainedModel open(Path folderOrGguf) {
        if (Files.isDirectory(folderOrGguf)) {
            return openFolder(folderOrGguf);
        }
        if (!Files.exists(folderOrGguf)) {
            throw new HllmException("no model at " + folderOrGguf.toAbsolutePath()
                    + "; expected a folder with config.json, weights and tokenizer.json, or a GGUF file");
        }
        Gguf gguf = Gguf.open(folderOrGguf);
        try {
            ModelConfig config = GgufConfig.read(gguf);
            TensorSource tensors = new BareNames(gguf, config.family());
            return new PretrainedModel(gguf.origin(), config, tensors, () -> GgufTokenizer.toJson(gguf));
        } catch (RuntimeException e) {
            gguf.close();
            throw e;
        }
    }

    private static PretrainedModel openFolder(Path folder) {
        Path configFile = folder.resolve("config.json");
        String weights = WEIGHT_FILES.stream()
                .filter(name -> Files.isRegularFile(folder.resolve(name)))
                .findFirst()
                .orElse(null);
        if (weights == null || !Files.isRegularFile(configFile)) {
            throw new HllmException("no model in " + folder.toAbsolutePath() + ": looked for config.json ("
                    + (Files.isRegularFile(configFile) ? "found" : "missing") + ") and one of " + WEIGHT_FILES + " ("
                    + (weights == null ? "none found" : "found " + weights) + ")");
        }
        ModelConfig config = ModelConfig.parse(Json.text(configFile), configFile.toString());
        TensorSource source =
                weights.startsWith("model.") ? Safetensors.openFolder(folder) : TorchCheckpoint.openFolder(folder);
        try {
            return new PretrainedModel(
                    folder.toString(),
                    config,
                    new BareNames(source, config.family()),
                    () -> tokenizerOf(folder, config.family()));
        } catch (RuntimeException e) {
            source.close();
            throw e;
        }
    }

    private static String tokenizerOf(Path folder, Family family) {
        Path file = folder.resolve("tokenizer.json");
        Path pieces = folder.resolve("tokenizer.model");
        if (Files.isRegularFile(file)) {
            return Json.text(file);
        }
        if (!Files.isRegularFile(pieces)) {
            throw new HllmException("no tokenizer.json and no tokenizer.model in " + folder.toAbsolutePath()
                    + "; transformers writes the first: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)");
        }
        Path settings = folder.resolve("tokenizer_config.json");
        JsonNode flags = Files.isRegularFile(settings)
                ? Json.object(Json.text(settings), settings.toString())
                : Json.MAPPER.createObjectNode();
        try {
            return SentencePieceTokenizer.toJson(
                    Files.readAllBytes(pieces),
                    pieces.toString(),
                    flags.path("add_bos_token").asBoolean(family.beginsTexts()),
                    flags.path("add_eos_token").asBoolean(false));
        } catch (IOException e) {
            throw new HllmException(pieces + ": cannot be read: " + e, e);
        }
    }

    /** The shape of the model. */
    public ModelConfig config() {
        return config;
    }

    /**
     * The weights under Hugging Face's names of the family, without the leading "model." or "bert.": for a Llama
     * {@code embed_tokens.weight}, {@code layers.N.self_attn.q_proj.weight}, ..., {@code norm.weight}. Closed with this
     * model.
     */
    public TensorSource tensors() {
        return tensors;
    }

    /** The content of {@code tokenizer.json}; rebuilt from {@code tokenizer.model}, or from the metadata of a GGUF. */
    public String tokenizerJson() {
        return tokenizer.get();
    }

    /** Whether all its matrices are stored as bf16. */
    public boolean storedInBf16() {
        return TensorGroup.of(config).stream()
                .filter(group -> group.kind() == TensorGroup.Kind.MATRIX)
                .flatMap(group -> group.names().stream())
                .allMatch(name -> tensors.info(name).type() == StoredType.BF16);
    }

    /**
     * Checks that the weights are those that the config describes: HllmException listing what is missing, of the wrong
     * shape, or unexpected (output layers, poolers and stored tables are fine).
     */
    public void check() {
        if (config.layers() > tensors.names().size()) {
            throw new HllmException(origin + ": the config says " + config.layers() + " layers, but there are only "
                    + tensors.names().size() + " tensors");
        }
        Map<String, long[]> expected = expectedShapes(config);
        List<String> missing = new ArrayList<>();
        List<String> wrong = new ArrayList<>();
        expected.forEach((name, shape) -> {
            if (!tensors.names().contains(name)) {
                missing.add(name);
            } else if (!Arrays.equals(tensors.info(name).shape(), shape)) {
                wrong.add(name + " " + Arrays.toString(tensors.info(name).shape()) + " instead of "
                        + Arrays.toString(shape));
            }
        });
        List<String> extra = tensors.names().stream()
                .filter(name -> !expected.containsKey(name) && !config.family().ignores(name))
                .toList();
        if (!missing.isEmpty() || !wrong.isEmpty() || !extra.isEmpty()) {
            throw new HllmException(origin + ": the weights do not fit the config (" + config.layers() + " layers):"
                    + list("missing", missing) + list("wrong shape", wrong) + list("unexpected", extra));
        }
    }

    private static String list(String what, List<String> names) {
        if (names.isEmpty()) {
            return "";
        }
        String shown = String.join(", ", names.subList(0, Math.min(names.size(), MOST_LISTED)));
        int more = names.size() - MOST_LISTED;
        return "\n  " + what + ": " + shown + (more > 0 ? " and " + more + " more" : "");
    }

    private static Map<String, long[]> expectedShapes(ModelConfig config) {
        Map<String, long[]> shapes = new LinkedHashMap<>();
        shapes.put(config.family().words(), new long[] {config.vocabSize(), config.hiddenSize()});
        for (TensorGroup group : TensorGroup.of(config)) {
            for (int i = 0; i < group.names().size(); i++) {
                shapes.put(group.names().get(i), group.shape(i));
            }
        }
        return shapes;
    }

    @Override
    public void close() {
        tensors.close();
    }

    /** LlamaForCausalLM saves "model.norm.weight", LlamaModel "norm.weight": the same tensors under bare names. */
    private static final class BareNames implements TensorSource {
        private final TensorSource source;
        private final Map<String, String> sourceNames = new LinkedHashMap<>();

        BareNames(TensorSource source, Family family) {
            this.source = source;
            String prefix = family.filePrefix();
            for (String name : source.names()) {
                String bare = name.startsWith(prefix) ? name.substring(prefix.length()) : name;
                if (sourceNames.put(bare, name) != null) {
                    throw new HllmException(
                            source.origin() + ": holds both '" + bare + "' and '" + prefix + bare + "'");
                }
            }
        }

        @Override
        public String origin() {
            return source.origin();
        }

        @Override
        public Set<String> names() {
            return Collections.unmodifiableSet(sourceNames.keySet());
        }

        @Override
        public TensorInfo info(String name) {
            TensorInfo info = source.info(sourceNames.getOrDefault(name, name));
            return new TensorInfo(name, info.type(), info.shape());
        }

        @Override
        public void read(String name, long first, FloatBuffer out) {
            source.read(sourceNames.getOrDefault(name, name), first, out);
        }

        @Override
        public ByteBuffer stored(String name) {
            return source.stored(sourceNames.getOrDefault(name, name));
        }

        @Override
        public void unload(String name) {
            source.unload(sourceNames.getOrDefault(name, name));
        }

        @Override
        public void close() {
            source.close();
        }
    }
}
