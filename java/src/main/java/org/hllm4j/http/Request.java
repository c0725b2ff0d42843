package org.hllm4j.http;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.URLDecoder;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
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
        return Fields.ofJson(bytes());
    }

    private byte[] bytes() throws IOException {
        try {
            byte[] body = content.readNBytes(limits.body() + 1);
            if (body.length > limits.body()) {
                content.transferTo(OutputStream.nullOutputStream()); // else the client may not get to see the answer
                throw new Refusal(413, "the body is longer than " + limits.body() + " bytes; send less at a time");
            }
            return body;
        } catch (IndexOutOfBoundsException e) { // the JDK takes the size of such a chunk for a negative one
            throw new IOException("a chunk of 2 GB or more", e);
        }
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

    /** Strictly: a sign in place of what is no UTF-8 would make one user of several. */
    private static String decode(String raw) {
        try {
            if (!StandardCharsets.US_ASCII.newEncoder().canEncode(raw)) {
                throw new CharacterCodingException();
            }
            byte[] bytes = URLDecoder.decode(raw, StandardCharsets.ISO_8859_1).getBytes(StandardCharsets.ISO_8859_1);
            return StandardCharsets.UTF_8
                    .newDecoder()
                    .decode(ByteBuffer.wrap(bytes))
                    .toString();
        } catch (IllegalArgumentException | CharacterCodingException e) {
            throw new Refusal(400, "the address cannot be decoded; expected UTF-8, percent-encoded, as %C3%A9");
        }
    }
}
