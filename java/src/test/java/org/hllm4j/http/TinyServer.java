package org.hllm4j.http;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.hllm4j.Tiny;
import org.hllm4j.data.Dataset;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.run.RunFolder;
import org.hllm4j.serve.Engine;
import org.hllm4j.serve.EventLog;
import org.hllm4j.serve.Fsync;
import org.hllm4j.serve.ItemChanges;
import org.hllm4j.serve.Snapshot;
import org.hllm4j.serve.UserFeatureCache;

/** A server over a small random model in this process, and a client of it. */
final class TinyServer implements AutoCloseable {
    static final int ITEMS = 30;
    static final int SLACK = 4;
    static final Engine.Options ENGINE = new Engine.Options(
            new UserFeatureCache.Options(4 << 20, SLACK, 64, DType.F32), 64, 16, Duration.ZERO, Engine.Listener.NONE);

    /** An item, and a user's events, so that the answer to {@link #LARGE} is of 10 MB: more than two sockets hold. */
    static final String LONG_ITEM = "{\"item\":\"n\",\"fields\":{\"title\":\"" + "x".repeat(100_000) + "\"}}";

    static final String LONG_EVENTS =
            "{\"events\":[" + String.join(",", Collections.nCopies(100, "{\"item\":\"n\"}")) + "]}";
    static final String LARGE = "/v1/users/large/events?limit=100";

    private static final ObjectMapper JSON = new ObjectMapper();

    /** Status, headers and content of an answer. */
    record Answered(int status, HttpResponse<String> response) {
        JsonNode json() {
            try {
                return JSON.readTree(response.body());
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }

        String message() {
            return json().path("error").path("message").asText();
        }

        String field() {
            return json().path("error").path("field").asText();
        }

        List<String> items() {
            return json().path("items")
                    .valueStream()
                    .map(item -> item.path("item").asText())
                    .toList();
        }
    }

    final HttpClient client = HttpClient.newHttpClient();
    final Metrics metrics = new Metrics();
    final Engine engine;
    final EventLog log;
    final ItemChanges changes;
    final HllmServer server;
    private final Path folder;
    private final String token;

    /** @param listener hears of answers after the metrics */
    TinyServer(
            Path folder, RunFolder run, String token, Limits limits, Engine.Options options, Engine.Listener listener) {
        this.folder = folder;
        this.token = token;
        log = EventLog.open(folder.resolve("events.log"), new Fsync.Never());
        changes = ItemChanges.open(folder.resolve("events.log.items"), new Fsync.Never());
        engine = new Engine(
                open(run.path()),
                changes,
                new Engine.Options(
                        options.cache(),
                        options.queue(),
                        options.batch(),
                        options.gather(),
                        (name, waited, took, batch) -> {
                            metrics.answered(name, waited, took, batch);
                            listener.answered(name, waited, took, batch);
                        }));
        server = new HllmServer(
                new HllmServer.Options(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), token, limits),
                engine,
                log,
                metrics,
                (path, items) -> open(path == null ? run.path() : path));
    }

    TinyServer(Path folder, RunFolder run) {
        this(folder, run, null, Limits.DEFAULTS, ENGINE, Engine.Listener.NONE);
    }

    private Snapshot open(Path run) {
        return Snapshot.open(
                new RunFolder(run), Tiny.dataset(folder, 5, ITEMS).catalogue(), Tiny.device(), DType.F32, null);
    }

    /** Writes items.csv and a run of random weights, with a ranking head if there is a fusion. */
    static RunFolder run(Path folder, String name, long seed, Fusion fusion) {
        Dataset data = Tiny.dataset(folder, 5, ITEMS);
        RunFolder run = RunFolder.create(folder.resolve(name));
        try (Context context = Context.open(Tiny.device());
                Hllm model = Tiny.ranker(context, fusion, seed)) {
            try (Tensor table = CatalogueEncoder.table(model, data.tokens(), 4096, null)) {
                run.save(
                        model,
                        1,
                        new RunFolder.Description(
                                List.of("title"),
                                data.catalogue(),
                                tokenizer(),
                                Map.of(),
                                Map.of(),
                                Map.of("seed", "" + seed)));
                run.saveItems(table, data.catalogue());
            }
        }
        return run;
    }

    /** Words of the titles. */
    private static String tokenizer() {
        String numbers = IntStream.range(0, ITEMS)
                .mapToObj(i -> "\"" + i + "\":" + (i + 2))
                .collect(Collectors.joining(","));
        return """
            {"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
             "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
             "model":{"type":"WordLevel","unk_token":"[UNK]","vocab":{"[UNK]":0,"film":1,%s}}}\
            """.formatted(numbers);
    }

    int port() {
        return server.address().getPort();
    }

    Answered get(String path) {
        return send(request(path).GET());
    }

    Answered delete(String path) {
        return send(request(path).DELETE());
    }

    Answered post(String path, String body) {
        return send(request(path)
                .header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(body)));
    }

    /** Adds items to a user's history. */
    Answered events(String user, String... items) {
        return post(
                "/v1/users/" + user + "/events",
                IntStream.range(0, items.length)
                        .mapToObj(i -> "{\"item\":\"" + items[i] + "\"}")
                        .collect(Collectors.joining(",", "{\"events\":[", "]}")));
    }

    HttpRequest.Builder request(String path) {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + port() + path))
                .version(HttpClient.Version.HTTP_1_1)
                .timeout(Duration.ofMinutes(2));
        return token == null ? request : request.header("Authorization", "Bearer " + token);
    }

    Answered send(HttpRequest.Builder request) {
        try {
            HttpResponse<String> response = client.send(request.build(), HttpResponse.BodyHandlers.ofString());
            return new Answered(response.statusCode(), response);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    @Override
    public void close() {
        client.shutdownNow();
        server.close();
        engine.close();
        changes.close();
        log.close();
    }

    static Path folder(Path parent, String name) {
        try {
            return Files.createDirectories(parent.resolve(name));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }
}
