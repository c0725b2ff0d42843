package org.hllm4j.http;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.hllm4j.Tiny;
import org.hllm4j.engine.Context;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Whatever is sent, the server answers it or says in JSON why not, and goes on. */
class HttpFuzzTest {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Map<String, String> BODIES = Map.of(
            "POST /v1/users/u/events", "{\"events\":[{\"item\":\"i1\",\"timestamp\":12}]}",
            "POST /v1/users/u/recommendations", "{\"k\":3,\"allow\":[\"i1\",\"i4\"],\"deny\":[]}",
            "POST /v1/users/u/rank", "{\"candidates\":[\"i1\",\"i2\"]}",
            "POST /v1/recommendations", "{\"history\":[\"i1\",\"i2\"],\"k\":3}",
            "POST /v1/items", "{\"item\":\"n1\",\"fields\":{\"title\":\"film 1\"}}",
            "POST /v1/reload", "{\"run\":\"nowhere\",\"items\":\"nothing\"}",
            "GET /v1/items?query=film&limit=3", "",
            "GET /v1/users/u/events?limit=3", "",
            "GET /v1/users/u/recommendations?k=3", "",
            "DELETE /v1/items/i29", "");
    private static final List<String> REQUESTS =
            BODIES.keySet().stream().sorted().toList();

    @TempDir
    static Path folder;

    private static TinyServer server;

    private final Random random = new Random(Tiny.seed());
    private final Map<Integer, Integer> statuses = new TreeMap<>();

    @BeforeAll
    static void start() {
        System.out.println("seed " + Tiny.seed());
        server = new TinyServer(folder, TinyServer.run(folder, "run", Tiny.seed(), null));
        server.events("u", "i1", "i2");
    }

    @AfterEach
    void itStillWorks() {
        System.out.println("statuses: " + statuses);
        assertEquals(200, server.get("/health/ready").status());
        assertEquals(200, server.get("/v1/users/u/recommendations").status());
    }

    @AfterAll
    static void stop() {
        server.close();
        assertEquals(0, Context.liveBytes(Tiny.device()));
    }

    @Test
    void randomBytes() throws IOException {
        for (int i = 0; i < 300; i++) {
            byte[] bytes = new byte[random.nextInt(300)];
            random.nextBytes(bytes);
            if (i % 3 == 0) { // an answer of the JDK's server, that knows no JSON
                bytes = ("POST " + new String(bytes, StandardCharsets.ISO_8859_1) + " HTTP/1.1\r\n\r\n")
                        .getBytes(StandardCharsets.ISO_8859_1);
            }
            RawHttp.Response response = RawHttp.send(server.port(), bytes);
            statuses.merge(response.status(), 1, Integer::sum);
            assertTrue(response.status() == 0 || response.status() >= 400, response.toString());
        }
        assertTrue(statuses.getOrDefault(400, 0) > 50, statuses.toString());
    }

    @Test
    void brokenBodies() throws IOException {
        for (int i = 0; i < 600; i++) {
            String request = REQUESTS.get(random.nextInt(REQUESTS.size()));
            send(request, broken(BODIES.get(request).getBytes(StandardCharsets.UTF_8)));
        }
        assertTrue(statuses.getOrDefault(400, 0) > 100, statuses.toString());
    }

    private byte[] broken(byte[] body) {
        byte[] changed = body.clone();
        switch (random.nextInt(4)) {
            case 0 -> changed = Arrays.copyOf(body, random.nextInt(body.length + 1));
            case 1 -> random.nextBytes(changed);
            case 2 -> {
                for (int i = 0; i < Math.min(3, changed.length); i++) {
                    changed[random.nextInt(changed.length)] = (byte) random.nextInt(256);
                }
            }
            default ->
                changed = ("[".repeat(random.nextInt(3000)) + new String(body, StandardCharsets.UTF_8))
                        .getBytes(StandardCharsets.UTF_8);
        }
        return changed;
    }

    /** Any value wherever one may be, under the names that are expected there. */
    @Test
    void wrongTypes() throws IOException {
        for (int i = 0; i < 1000; i++) {
            String request = REQUESTS.get(random.nextInt(REQUESTS.size()));
            send(request, object(0).getBytes(StandardCharsets.UTF_8));
        }
        assertTrue(statuses.getOrDefault(400, 0) > 100, statuses.toString());
    }

    private String object(int depth) {
        List<String> names = List.of(
                "events",
                "item",
                "timestamp",
                "k",
                "allow",
                "deny",
                "history",
                "candidates",
                "fields",
                "title",
                "run",
                "x");
        return IntStream.range(0, random.nextInt(4))
                .mapToObj(i -> "\"" + names.get(random.nextInt(names.size())) + "\":" + value(depth + 1))
                .collect(Collectors.joining(",", "{", "}"));
    }

    private String value(int depth) {
        return switch (random.nextInt(depth > 4 ? 8 : 11)) {
            case 0 -> "null";
            case 1 -> "" + random.nextBoolean();
            case 2 -> "" + random.nextLong();
            case 3 -> "1e" + random.nextInt(100_000);
            case 4 -> "9".repeat(1 + random.nextInt(900));
            case 5 -> "\"i" + random.nextInt(40) + "\"";
            case 6 -> "\"\\ud800\\u0000" + "y".repeat(random.nextInt(700)) + "\"";
            case 7 -> "\"\"";
            case 8 -> object(depth);
            default ->
                IntStream.range(0, random.nextInt(4))
                        .mapToObj(i -> value(depth + 1))
                        .collect(Collectors.joining(",", "[", "]"));
        };
    }

    @Test
    void oddPaths() throws IOException {
        String letters = "/v1usersitem%20/.;?&=+{}k2F~";
        for (int i = 0; i < 600; i++) {
            String path = IntStream.range(0, random.nextInt(40))
                    .mapToObj(c -> "" + letters.charAt(random.nextInt(letters.length())))
                    .collect(Collectors.joining());
            if (i % 2 == 0) {
                String valid = REQUESTS.get(random.nextInt(REQUESTS.size())).split(" ")[1];
                path = valid.substring(1, 1 + random.nextInt(valid.length())) + path;
            }
            String method = List.of("GET", "POST", "DELETE", "PUT", "OPTIONS", "X", "get")
                    .get(random.nextInt(7));
            RawHttp.Response response = RawHttp.send(
                    server.port(), method + " /" + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            boolean refusedByTheJdk = response.body().startsWith("<h1>400");
            if (!refusedByTheJdk) { // no URI at all, as %zz
                check(response);
            }
        }
        assertTrue(statuses.getOrDefault(404, 0) > 50, statuses.toString());
    }

    @Test
    void hugeAndLyingBodies() throws IOException {
        String head = "POST /v1/users/u/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                + "Content-Type: application/json\r\n";
        byte[] huge = new byte[8 << 20];
        Arrays.fill(huge, (byte) '[');
        assertEquals(
                413,
                check(RawHttp.send(server.port(), joined(head + "Content-Length: " + huge.length + "\r\n\r\n", huge))));
        String chunk = Integer.toHexString(huge.length) + "\r\n";
        assertEquals(
                413,
                check(RawHttp.send(
                        server.port(),
                        joined(
                                head + "Transfer-Encoding: chunked\r\n\r\n" + chunk,
                                huge,
                                "\r\n0\r\n\r\n".getBytes(StandardCharsets.UTF_8)))));
        for (String lie : List.of(
                "Content-Length: 999999999999\r\n\r\n{}",
                "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
                "Transfer-Encoding: chunked\r\n\r\n80000000\r\n{}")) {
            assertEquals(400, check(RawHttp.send(server.port(), head + lie)));
        }
        RawHttp.Response headers = RawHttp.send(server.port(), head + "X: " + "x".repeat(1 << 20) + "\r\n\r\n");
        assertTrue(headers.status() == 0 || headers.status() >= 400, headers.head());
    }

    private static byte[] joined(String head, byte[]... parts) throws IOException {
        ByteArrayOutputStream all = new ByteArrayOutputStream();
        all.write(head.getBytes(StandardCharsets.ISO_8859_1));
        for (byte[] part : parts) {
            all.write(part);
        }
        return all.toByteArray();
    }

    private void send(String request, byte[] body) throws IOException {
        check(RawHttp.send(
                server.port(),
                joined(
                        request
                                + " HTTP/1.1\r\n"
                                + "Host: localhost\r\n"
                                + "Connection: close\r\n"
                                + "Content-Type:"
                                + " application/json\r\n"
                                + "Content-Length:"
                                + " " + body.length + "\r\n\r\n",
                        body)));
    }

    /** JSON, and where it is an error, one that says what was wrong and is not ours. */
    private int check(RawHttp.Response response) throws IOException {
        statuses.merge(response.status(), 1, Integer::sum);
        String head = response.head();
        assertTrue(response.status() >= 200 && response.status() != 500, head + "\n" + response.body());
        if (response.status() >= 400) {
            assertTrue(head.contains("application/json"), head + "\n" + response.body());
            JsonNode error = JSON.readTree(response.body()).path("error");
            assertEquals(response.status(), error.path("status").asInt(), response.body());
            assertTrue(error.path("message").asText().length() > 5, response.body());
        }
        return response.status();
    }
}
