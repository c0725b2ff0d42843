package org.hllm4j.http;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.IOException;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicIntegerArray;
import java.util.stream.Stream;
import org.hllm4j.Tiny;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** {@code hllm serve} as a process of its own. */
class ServeProcessTest {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final int USERS = 8;
    private static final int CONNECTIONS = 32;

    @TempDir
    Path folder;

    private Path run;

    @BeforeEach
    void make() {
        System.out.println("seed " + Tiny.seed());
        run = TinyServer.run(folder, "run", Tiny.seed(), null).path();
    }

    /** A running server. */
    private record Served(Process process, String address) implements AutoCloseable {
        private static final HttpClient CLIENT = HttpClient.newHttpClient();

        HttpResponse<String> get(String path) throws IOException, InterruptedException {
            return CLIENT.send(
                    HttpRequest.newBuilder(URI.create(address + path)).build(), HttpResponse.BodyHandlers.ofString());
        }

        /** Status of the answer. */
        int send(String method, String path, String body) throws IOException, InterruptedException {
            return CLIENT.send(
                            HttpRequest.newBuilder(URI.create(address + path))
                                    .header("Content-Type", "application/json")
                                    .method(method, HttpRequest.BodyPublishers.ofString(body))
                                    .build(),
                            HttpResponse.BodyHandlers.ofString())
                    .statusCode();
        }

        boolean append(String user, String item, long timestamp) throws InterruptedException {
            String event = "{\"events\":[{\"item\":\"" + item + "\",\"timestamp\":" + timestamp + "}]}";
            try {
                return send("POST", "/v1/users/" + user + "/events", event) == 200;
            } catch (IOException e) {
                return false; // the server is gone
            }
        }

        @Override
        public void close() {
            process.destroyForcibly();
        }
    }

    private Process start(String... more) throws IOException {
        List<String> command = new ArrayList<>(List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-XX:+UseSerialGC",
                "-Djdk.httpserver.maxConnections=" + CONNECTIONS,
                "--enable-native-access=ALL-UNNAMED",
                "-Dhllm.library=" + System.getProperty("hllm.library"),
                "-cp",
                System.getProperty("java.class.path"),
                "org.hllm4j.cli.Main",
                "serve",
                "--run",
                run.toString(),
                "--items",
                folder.resolve("items.csv").toString(),
                "--cache-bytes",
                "4m",
                "--log",
                folder.resolve("events.log").toString()));
        command.addAll(List.of(more));
        ProcessBuilder builder = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT);
        builder.environment().remove("HLLM_TOKEN");
        return builder.start();
    }

    private Served served(String... more) throws IOException {
        Process process = start(
                Stream.concat(Stream.of("--port", "0"), Arrays.stream(more)).toArray(String[]::new));
        BufferedReader lines = process.inputReader();
        String line = lines.readLine();
        assertTrue(line != null && line.startsWith("Listening on http://127.0.0.1:"), line);
        return new Served(process, line.split(" ")[2].replaceFirst("/$", ""));
    }

    @Test
    void aKilledServerLosesNoAcknowledgedEvent() throws IOException, InterruptedException {
        Random random = new Random(Tiny.seed());
        AtomicIntegerArray acknowledged = new AtomicIntegerArray(USERS); // events of each user
        for (int round = 0; round < 2; round++) {
            try (Served served = served()) {
                AtomicInteger left = new AtomicInteger(100 + random.nextInt(300));
                List<Thread> clients = Stream.iterate(0, u -> u + 1)
                        .limit(USERS)
                        .map(user -> Thread.ofVirtual().start(() -> post(served, user, acknowledged, left)))
                        .toList();
                while (left.get() > 0 && served.process.isAlive()) {
                    Thread.sleep(1);
                }
                assertTrue(served.process.isAlive(), "it ended by itself");
                served.process.destroyForcibly().waitFor();
                for (Thread client : clients) {
                    client.join();
                }
            }
            try (Served served = served()) {
                for (int user = 0; user < USERS; user++) {
                    JsonNode kept = JSON.readTree(served.get("/v1/users/u" + user + "/events?limit=10000")
                            .body());
                    int count = kept.path("count").asInt();
                    System.out.println(
                            "u" + user + ": " + acknowledged.get(user) + " acknowledged, " + count + " kept");
                    assertTrue(count == acknowledged.get(user) || count == acknowledged.get(user) + 1, kept.toString());
                    for (int i = 0; i < count; i++) {
                        assertEquals(
                                "i" + i % TinyServer.ITEMS,
                                kept.path("events").path(i).path("item").asText());
                    }
                    acknowledged.set(user, count);
                }
                assertEquals(200, served.get("/v1/users/u1/recommendations").statusCode());
            }
        }
    }

    /** Event after event of one user, until the server does not answer. */
    private static void post(Served served, int user, AtomicIntegerArray acknowledged, AtomicInteger left) {
        try {
            for (int i = acknowledged.get(user); served.append("u" + user, "i" + i % TinyServer.ITEMS, i); i++) {
                acknowledged.set(user, i + 1);
                left.decrementAndGet();
            }
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    @Test
    void aKilledServerKeepsItemsAsTheyWere() throws IOException, InterruptedException {
        for (int round = 0; round < 2; round++) {
            try (Served served = served()) {
                String added = "{\"item\":\"n" + round + "\",\"fields\":{\"title\":\"film again " + round + "\"}}";
                assertEquals(200, served.send("POST", "/v1/items", added));
                assertEquals(200, served.send("DELETE", "/v1/items/i" + round, ""));
                served.process.destroyForcibly().waitFor();
            }
            try (Served served = served()) {
                JsonNode found =
                        JSON.readTree(served.get("/v1/items?query=again").body());
                assertEquals(1 + round, found.path("items").size(), found.toString());
                assertEquals(TinyServer.ITEMS, found.path("of").asInt(), "as many came as went");
                assertEquals(404, served.send("DELETE", "/v1/items/i" + round, ""));
                assertEquals(200, served.send("POST", "/v1/reload", "{}"));
                assertEquals(
                        found, JSON.readTree(served.get("/v1/items?query=again").body()));
            }
        }
    }

    @Test
    void clientsThatGoAwayLeaveNothing() throws IOException, InterruptedException {
        try (Served served = served()) {
            assertEquals(200, served.send("POST", "/v1/items", TinyServer.LONG_ITEM));
            assertEquals(200, served.send("POST", "/v1/users/large/events", TinyServer.LONG_EVENTS));
            for (int i = 0; i < 2 * CONNECTIONS; i++) {
                try (Socket client = RawHttp.unread(URI.create(served.address).getPort(), TinyServer.LARGE)) {
                    assertEquals('H', client.getInputStream().read(), "an answer to client " + i);
                    client.setSoLinger(true, 0); // a reset, in the midst of it
                }
            }
        }
    }

    @Test
    void aTerminatedServerEndsInOrder() throws IOException, InterruptedException {
        try (Served served = served("--fsync", "interval", "--slack", "2", "--batch-ms", "0.5")) {
            assertTrue(served.append("u", "i1", 1));
            assertEquals(200, served.get("/v1/users/u/recommendations").statusCode());
            served.process.destroy();
            assertTrue(served.process.waitFor(60, TimeUnit.SECONDS));
            assertEquals(130, served.process.exitValue());
        }
        try (Served served = served()) { // nobody has its log any more
            JsonNode kept = JSON.readTree(served.get("/v1/users/u/events").body());
            assertEquals(1, kept.path("count").asInt());
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"--host 0.0.0.0", "--cache-bytes 1x", "--batch 0", "--port 65536", "--fsync sometimes"})
    void wrongUsageEndsWith2(String options) throws IOException, InterruptedException {
        Process process = start(options.split(" "));
        assertTrue(process.waitFor(60, TimeUnit.SECONDS));
        assertEquals(2, process.exitValue());
    }
}
