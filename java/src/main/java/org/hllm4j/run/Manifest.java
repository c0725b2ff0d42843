package org.hllm4j.run;

import com.fasterxml.jackson.annotation.JsonInclude;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Pooling;

/**
 * {@code manifest.json}: what a run folder holds and how it came about. Replacing it is what makes a newly written model
 * the run's model.
 *
 * @param schema version of this file
 * @param modelFolder folder of the weights below the run folder
 * @param pooling how item vectors are made
 * @param maxTextLength tokens of an item's text
 * @param maxHistory events that the User LLM sees
 * @param fusion of a ranker; null: the model has no ranking head
 * @param textKeys columns of items.csv that make an item's text
 * @param items number of items the model was trained on
 * @param idWidth width of the table of item ids; null: items are known by their texts
 * @param sha256 hash of each file of the model folder, and of "prompt" and "ids"
 * @param training options of the training, by name
 * @param metrics of the saved model, by split and name
 * @param environment versions, instruction set, threads: what bit-equality depends on
 */
@JsonInclude(JsonInclude.Include.NON_NULL)
public record Manifest(
        int schema,
        String modelFolder,
        Pooling pooling,
        int maxTextLength,
        int maxHistory,
        Fusion fusion,
        List<String> textKeys,
        int items,
        Integer idWidth,
        Map<String, String> sha256,
        Map<String, Object> training,
        Map<String, Map<String, Double>> metrics,
        Map<String, String> environment) {
    static final int SCHEMA = 1;
    private static final JsonMapper JSON = JsonMapper.builder()
            .enable(SerializationFeature.INDENT_OUTPUT)
            .enable(SerializationFeature.ORDER_MAP_ENTRIES_BY_KEYS)
            .disable(DeserializationFeature.FAIL_ON_UNKNOWN_PROPERTIES)
            .build();

    /** Name of the kind of model, as of {@code train --model}. */
    public String kind() {
        return training == null ? "hllm" : String.valueOf(training.getOrDefault("model", "hllm"));
    }

    static Manifest read(Path file) {
        String json;
        try {
            json = Files.readString(file);
        } catch (IOException e) {
            throw new HllmException(
                    file.toAbsolutePath().getParent() + " is not a run folder: it has no readable manifest.json, which "
                            + "`hllm train --out DIR` writes there",
                    e);
        }
        try {
            Manifest manifest = JSON.readValue(json, Manifest.class);
            if (manifest.schema != SCHEMA || manifest.modelFolder == null || manifest.sha256 == null) {
                throw new HllmException(file + ": schema " + manifest.schema + "; this version reads schema " + SCHEMA);
            }
            return manifest;
        } catch (JsonProcessingException e) {
            throw new HllmException(file + ": not a manifest: " + e.getOriginalMessage(), e);
        }
    }

    byte[] toJson() {
        try {
            return JSON.writeValueAsString(this).getBytes(StandardCharsets.UTF_8);
        } catch (JsonProcessingException e) {
            throw new IllegalStateException(e);
        }
    }

    /** Hash of everything an item vector depends on; stored vectors carry it. */
    public String modelHash() {
        StringBuilder all = new StringBuilder();
        sha256.entrySet().stream()
                .filter(e -> !e.getKey().equals("ids"))
                .sorted(Map.Entry.comparingByKey())
                .forEach(e ->
                        all.append(e.getKey()).append('=').append(e.getValue()).append('\n'));
        return Hashes.of((all + textKeys.toString() + maxTextLength + pooling).getBytes(StandardCharsets.UTF_8));
    }
}
