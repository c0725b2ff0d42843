package org.hllm4j.weights;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import org.hllm4j.HllmException;

/** JSON objects, read strictly: no duplicate keys, nothing behind the end. */
final class Json {
    static final ObjectMapper MAPPER = JsonMapper.builder()
            .enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
            .build();

    private Json() {}

    static JsonNode object(String json, String origin) {
        try {
            JsonNode node = MAPPER.readTree(json);
            if (!node.isObject()) {
                throw new HllmException(origin + ": expected a JSON object");
            }
            return node;
        } catch (JsonProcessingException e) {
            throw new HllmException(origin + ": not valid JSON: " + e.getOriginalMessage(), e);
        }
    }

    static JsonNode object(Path file) {
        return object(text(file), file.toString());
    }

    static String text(Path file) {
        try {
            return Files.readString(file, StandardCharsets.UTF_8);
        } catch (IOException e) {
            throw new HllmException(file.toAbsolutePath() + ": cannot be read as UTF-8 text: " + e, e);
        }
    }

    /** An object of alternating keys and values, in this order: the same text in every run, unlike Map.of. */
    static Map<String, Object> fields(Object... keysAndValues) {
        Map<String, Object> fields = new LinkedHashMap<>();
        for (int i = 0; i < keysAndValues.length; i += 2) {
            fields.put((String) keysAndValues[i], keysAndValues[i + 1]);
        }
        return fields;
    }

    static String write(Object value) {
        try {
            return MAPPER.writeValueAsString(value);
        } catch (JsonProcessingException e) {
            throw new HllmException("cannot write JSON: " + e.getOriginalMessage(), e);
        }
    }
}
