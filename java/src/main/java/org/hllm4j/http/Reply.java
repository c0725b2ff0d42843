package org.hllm4j.http;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Map;

/** What goes back. */
record Reply(int status, String contentType, byte[] body, Map<String, String> headers) {
    private static final JsonMapper JSON = new JsonMapper();

    static Reply json(int status, Map<String, ?> content) {
        try {
            // By way of a String, which may hold half a surrogate pair out of an id; the writer of bytes refuses it.
            byte[] body = (JSON.writeValueAsString(content) + "\n").getBytes(StandardCharsets.UTF_8);
            return new Reply(status, "application/json", body, Map.of("Cache-Control", "no-store"));
        } catch (JsonProcessingException e) {
            throw new IllegalStateException(e);
        }
    }

    /** @param keysAndValues alternating, in the order in which they appear */
    static Reply ok(Object... keysAndValues) {
        return json(200, fields(keysAndValues));
    }

    static Map<String, Object> fields(Object... keysAndValues) {
        Map<String, Object> fields = new LinkedHashMap<>();
        for (int i = 0; i < keysAndValues.length; i += 2) {
            fields.put((String) keysAndValues[i], keysAndValues[i + 1]);
        }
        return fields;
    }

    Reply with(Map<String, String> more) {
        Map<String, String> all = new LinkedHashMap<>(headers);
        all.putAll(more);
        return new Reply(status, contentType, body, all);
    }
}
