package org.hllm4j.http;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;

/**
 * What a route is asked.
 *
 * @param id what stands for {id} in the path; null on a route without
 * @param query its fields
 * @param contentType of the body, or null
 * @param content the body, not read yet
 * @param limits of the body
 */
record Request(String id, Fields query, String contentType, InputStream content, Limits limits) {
    /** The body, which must be a JSON object. */
    Fields body() throws IOException {
        if (contentType == null || !contentType.strip().toLowerCase(Locale.ROOT).matches("application/json( *;.*)?")) {
            // Besides: a web page of another site cannot send this type without being allowed to.
            throw new Refusal(415, "Content-Type is " + contentType + "; expected application/json");
        }
        byte[] body = content.readNBytes(limits.body() + 1);
        if (body.length > limits.body()) {
            content.transferTo(OutputStream.nullOutputStream()); // else the client may not get to see the answer
            throw new Refusal(413, "the body is longer than " + limits.body() + " bytes; send less at a time");
        }
        return Fields.ofJson(body);
    }

    static Map<String, String> query(String raw) {
        Map<String, String> query = new LinkedHashMap<>();
        for (String part : raw == null ? new String[0] : raw.split("&")) {
            int equals = part.indexOf('=');
            if (!part.isEmpty()) {
                String name = decode(equals < 0 ? part : part.substring(0, equals));
                if (query.put(name, equals < 0 ? "" : decode(part.substring(equals + 1))) != null) {
                    throw Refusal.ofField(400, name, "\"" + name + "\" comes twice in the query");
                }
            }
        }
        return query;
    }

    /** A segment of a path, in which a plus is a plus. */
    static String segment(String raw) {
        return decode(raw.replace("+", "%2B"));
    }

    private static String decode(String raw) {
        try {
            return URLDecoder.decode(raw, StandardCharsets.UTF_8);
        } catch (IllegalArgumentException e) {
            throw new Refusal(400, "the address cannot be decoded: " + e.getMessage());
        }
    }
}
