package org.hllm4j.http;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.Socket;
import java.net.http.HttpRequest;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.engine.Context;
import org.hllm4j.http.TinyServer.Answered;
import org.hllm4j.model.Fusion;
import org.hllm4j.run.RunFolder;
import org.hllm4j.serve.Engine;
import org.hllm4j.serve.Standstill;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

/** Every route over real HTTP, with a small random model. */
class HllmServerTest {
    @TempDir
    Path folder;

    private RunFolder run;

    @BeforeEach
    void make() {
        System.out.println("seed " + Tiny.seed());
        run = TinyServer.run(folder, "run", Tiny.seed(), null);
    }

    @AfterEach
    void nothingIsLeft() {
        assertEquals(0, Context.liveBytes(Tiny.device()));
    }

    @Test
    void eventsMakeRecommendations() {
        try (TinyServer server = new TinyServer(folder, run)) {
            Answered none = server.get("/v1/users/u1/recommendations");
            assertEquals(422, none.status());
            assertTrue(none.message().contains("user \"u1\" has no event"), none.message());

            Answered kept = server.events("u1", "i1", "i2", "i3");
            assertEquals(200, kept.status(), kept.response().body());
            assertEquals(3, kept.json().path("appended").asInt());
            Answered first = server.get("/v1/users/u1/recommendations?k=5");
            assertEquals(200, first.status(), first.response().body());
            assertEquals(5, first.items().size());
            assertTrue(
                    first.items().stream().noneMatch(Set.of("i1", "i2", "i3")::contains),
                    first.items().toString());
            JsonNode best = first.json().path("items").path(0);
            assertEquals(
                    best.path("item").asText().replace("i", "film "),
                    best.path("title").asText());
            List<Double> scores = new ArrayList<>();
            first.json()
                    .path("items")
                    .forEach(item -> scores.add(item.path("score").asDouble()));
            assertEquals(scores.stream().sorted((a, b) -> Double.compare(b, a)).toList(), scores);
            assertEquals("3 of 3", cost(first));
            assertEquals(run.manifest().modelHash(), first.json().path("model").asText());

            assertEquals("0 of 3", cost(server.get("/v1/users/u1/recommendations?k=5"))); // remembered
            server.events("u1", "i4");
            Answered next = server.get("/v1/users/u1/recommendations?k=5");
            assertEquals("1 of 4", cost(next));
            assertEquals(4, next.json().path("events").asInt());

            Answered nobody = server.post("/v1/recommendations?k=5", "{\"history\":[\"i1\",\"i2\",\"i3\",\"i4\"]}");
            assertEquals(next.items(), nobody.items());
            assertEquals("4 of 4", cost(nobody));

            String best0 = next.items().get(0);
            Answered denied = server.post("/v1/users/u1/recommendations", "{\"k\":4,\"deny\":[\"" + best0 + "\"]}");
            assertEquals(next.items().subList(1, 5), denied.items());
            Answered allowed = server.post(
                    "/v1/users/u1/recommendations", "{\"allow\":[\"i1\",\"i20\",\"" + best0 + "\",\"nothing\"]}");
            assertEquals(List.of(best0, "i20"), allowed.items());

            JsonNode history = server.get("/v1/users/u1/events?limit=2").json();
            assertEquals(4, history.path("count").asInt());
            assertEquals("i3", history.path("events").path(0).path("item").asText());
            assertEquals("film 4", history.path("events").path(1).path("title").asText());
        }
    }

    private static String cost(Answered answered) {
        return answered.json().path("computed").asInt() + " of "
                + answered.json().path("needed").asInt();
    }

    @Test
    void idsMayHoldAnything() throws IOException {
        try (TinyServer server = new TinyServer(folder, run)) {
            assertEquals(200, server.events("a%2Fb%20c+d%C3%A9", "i1").status());
            assertEquals(1, server.log.history("a/b c+d\u00e9").size());
            assertEquals(
                    "a/b c+d\u00e9",
                    server.get("/v1/users/a%2Fb%20c+d%C3%A9/recommendations")
                            .json()
                            .path("user")
                            .asText());
            assertEquals(400, server.events("d%E9", "i1").status(), "Latin-1");
            String raw = "GET /v1/users/d\u00e9/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            RawHttp.Response refused = RawHttp.send(server.port(), raw.getBytes(StandardCharsets.UTF_8));
            assertEquals(400, refused.status());
            assertTrue(refused.body().contains("percent-encoded"), refused.body());
        }
    }

    @Test
    void aTimestampPlacesAnEvent() {
        try (TinyServer server = new TinyServer(folder, run)) {
            String events = "{\"events\":[{\"item\":\"i1\",\"timestamp\":20},{\"item\":\"i2\",\"timestamp\":10}]}";
            assertEquals(200, server.post("/v1/users/u/events", events).status());
            assertEquals(List.of("i2", "i1"), server.log.history("u").items());
        }
    }

    @ParameterizedTest
    @EnumSource(Fusion.class)
    void ranksCandidates(Fusion fusion) {
        RunFolder ranker = TinyServer.run(folder, "ranker", Tiny.seed(), fusion);
        try (TinyServer server = new TinyServer(folder, ranker)) {
            server.events("u", "i1", "i2");
            Answered ranked = server.post("/v1/users/u/rank", "{\"candidates\":[\"i3\",\"i7\",\"i2\"]}");
            assertEquals(200, ranked.status(), ranked.response().body());
            assertEquals(Set.of("i2", "i3", "i7"), Set.copyOf(ranked.items()));
            ranked.json().path("items").forEach(item -> {
                double probability = item.path("score").asDouble();
                assertTrue(probability > 0 && probability < 1, ranked.response().body());
            });
            assertEquals(
                    fusion.name(),
                    server.get("/health/ready").json().path("ranker").asText());
        }
    }

    @Test
    void rankingTakesARanker() {
        try (TinyServer server = new TinyServer(folder, run)) {
            Answered refused = server.post("/v1/users/u/rank", "{\"candidates\":[\"i3\"]}");
            assertEquals(422, refused.status());
            assertTrue(refused.message().contains("train-ranker"), refused.message());
        }
    }

    @Test
    void itemsComeAndGo() {
        try (TinyServer server = new TinyServer(folder, run)) {
            assertEquals(
                    3, server.get("/v1/items?query=FILM%201&limit=3").items().size());
            assertEquals(List.of("i17"), server.get("/v1/items?query=m+17").items());
            Answered added = server.post("/v1/items", "{\"item\":\"n1\",\"fields\":{\"title\":\"film 3 again\"}}");
            assertEquals(200, added.status(), added.response().body());
            assertEquals(TinyServer.ITEMS + 1, added.json().path("items").asInt());
            assertEquals(List.of("n1"), server.get("/v1/items?query=again").items());
            assertEquals(200, server.events("u", "n1", "i1").status());
            assertTrue(server.post("/v1/recommendations?k=100", "{\"history\":[\"i1\"]}")
                    .items()
                    .contains("n1"));

            assertEquals(200, server.delete("/v1/items/n1").status());
            assertEquals(List.of(), server.get("/v1/items?query=again").items());
            assertFalse(server.post("/v1/recommendations?k=100", "{\"history\":[\"i1\"]}")
                    .items()
                    .contains("n1"));
            assertEquals(404, server.delete("/v1/items/n1").status());
            assertEquals(200, server.get("/v1/users/u/recommendations").status(), "a history may hold it");
        }
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', quoteCharacter = '`', textBlock = """
        /v1/users/u/events          | {                                             | 400 |                   | not JSON
        /v1/users/u/events          | [1]                                           | 400 |                   | a list; expected a JSON object
        /v1/users/u/events          | {} x                                          | 400 |                   | not JSON
        /v1/users/u/events          | {"events":[],"events":[]}                     | 400 |                   | Duplicate
        /v1/users/u/events          | {}                                            | 400 | events            | is missing
        /v1/users/u/events          | {"events":3}                                  | 400 | events            | expected a list, found a number
        /v1/users/u/events          | {"events":[]}                                 | 400 | events            | 1 to 10000 entries, found 0
        /v1/users/u/events          | {"events":["i1"]}                             | 400 | events[0]         | expected an object
        /v1/users/u/events          | {"events":[{}]}                               | 400 | events[0].item    | is missing
        /v1/users/u/events          | {"events":[{"item":"i1"},{"item":7}]}         | 400 | events[1].item    | expected a string, found a number
        /v1/users/u/events          | {"events":[{"item":""}]}                      | 400 | events[0].item    | 1 to 512 characters
        /v1/users/u/events          | {"events":[{"item":"i1","timestamp":1.5}]}    | 400 | events[0].timestamp | a whole number
        /v1/users/u/events          | {"events":[{"item":"i1","time":1}]}           | 400 | events[0].time    | not known here; expected item, timestamp
        /v1/users/u/events          | {"events":[{"item":"i1"},{"item":"no"}]}      | 422 | events[1].item    | not in the catalogue
        /v1/users/u/recommendations | {"k":0}                                       | 400 | k                 | from 1 to 1000, found 0
        /v1/users/u/recommendations | {"k":99999999999999999999}                    | 400 | k                 | found another number
        /v1/users/u/recommendations | {"k":"5"}                                     | 400 | k                 | found a string
        /v1/users/u/events          | {"events":[{"item":"i1","timestamp":"5"}]}    | 400 | events[0].timestamp | found a string
        /v1/users/u/recommendations?k=x | {}                                        | 400 | k                 | found a string
        /v1/users/u/recommendations?k=1&k=2 | {}                                    | 400 | k                 | comes twice
        /v1/users/u/recommendations?n=2 | {}                                        | 400 | n                 | not known here; expected k
        /v1/users/u/recommendations | {"allow":"i1"}                                | 400 | allow             | expected a list
        /v1/recommendations         | {"k":3}                                       | 400 | history           | is missing
        /v1/recommendations         | {"history":["i1","zz"]}                       | 422 | history[1]        | not in the catalogue
        /v1/users/u/rank            | {"candidates":[]}                             | 400 | candidates        | 1 to 10000 entries
        /v1/items                   | {"item":"n","fields":{"name":"x"}}            | 422 | fields.name       | expected [title]
        /v1/items                   | {"item":"n","fields":{"title":1}}             | 400 | fields.title      | expected a string
        /v1/items                   | {"item":"n"}                                  | 400 | fields            | is missing
        /v1/reload                  | {"run":"/nowhere"}                            | 422 |                   | not a run folder
        /v1/reload                  | {"run":"\\u0000"}                             | 400 | run               | expected a path
        /v1/users//events           | {}                                            | 404 |                   | nothing at
        /v1/nothing                 | {}                                            | 404 |                   | openapi.yaml\
        """)
    void errorsSayWhichFieldAndWhatWasExpected(String path, String body, int status, String field, String message) {
        try (TinyServer server = new TinyServer(folder, run)) {
            Answered refused = server.post(path, body);
            assertEquals(status, refused.status(), refused.response().body());
            assertEquals(field == null ? "" : field, refused.field());
            assertTrue(refused.message().contains(message), refused.message());
            assertEquals(status, refused.json().path("error").path("status").asInt());
            assertEquals(0, server.log.events());
        }
    }

    @Test
    void methodsTypesAndSizesAreChecked() {
        try (TinyServer server = new TinyServer(folder, run)) {
            Answered wrongMethod = server.delete("/v1/users/u/events");
            assertEquals(405, wrongMethod.status());
            assertEquals(
                    "GET, POST",
                    wrongMethod.response().headers().firstValue("Allow").orElseThrow());
            Answered untyped = server.send(server.request("/v1/items").POST(HttpRequest.BodyPublishers.ofString("{}")));
            assertEquals(415, untyped.status());
            Answered huge = server.post("/v1/items", "{\"item\":\"" + "x".repeat(4 << 20) + "\"}");
            assertEquals(413, huge.status());
            assertTrue(huge.message().contains("longer than 262144 bytes"), huge.message());
            String longId = "u".repeat(Fields.LONGEST_ID);
            String[] events = Collections.nCopies(2049, "i1").toArray(String[]::new);
            Answered many = server.events(longId, events);
            assertEquals(413, many.status());
            assertTrue(many.message().contains("send at most 2048 at a time"), many.message());
            assertEquals(200, server.events(longId, Arrays.copyOf(events, 2048)).status());
            HttpRequest.Builder head =
                    server.request("/health/ready").method("HEAD", HttpRequest.BodyPublishers.noBody());
            assertEquals(200, server.send(head).status());
        }
    }

    @Test
    void aTokenOpensAllButThePage() {
        try (TinyServer server =
                new TinyServer(folder, run, "secret", Limits.DEFAULTS, TinyServer.ENGINE, Engine.Listener.NONE)) {
            assertEquals(200, server.events("u", "i1").status());
            for (Route route : server.server.routes()) {
                String path = route.path().replace("{id}", "u");
                for (String given : new String[] {null, "Bearer wrong", "secret"}) {
                    HttpRequest.Builder request =
                            server.request(path).method(route.method(), HttpRequest.BodyPublishers.noBody());
                    Answered answered = server.send(
                            given == null
                                    ? HttpRequest.newBuilder(
                                            request.build(), (name, value) -> !name.equals("Authorization"))
                                    : request.setHeader("Authorization", given));
                    boolean open = Set.of("/", "/openapi.yaml", "/health/live", "/health/ready")
                            .contains(path);
                    assertEquals(open ? 200 : 401, answered.status(), route + " with " + given);
                }
            }
            assertEquals(1, server.log.events());
        }
    }

    @Test
    void aTokenMayHoldAnything() throws IOException {
        try (TinyServer server =
                new TinyServer(folder, run, "d\u00e9", Limits.DEFAULTS, TinyServer.ENGINE, Engine.Listener.NONE)) {
            String request = "GET /v1/items HTTP/1.1\r\nAuthorization: Bearer d\u00e9\r\nConnection: close\r\n\r\n";
            assertEquals(
                    200,
                    RawHttp.send(server.port(), request.getBytes(StandardCharsets.UTF_8))
                            .status());
            assertEquals(401, RawHttp.send(server.port(), request).status(), "Latin-1");
        }
    }

    @Test
    void withoutATokenOnlyThisMachineIsServed() throws IOException {
        InetSocketAddress everywhere = new InetSocketAddress("0.0.0.0", 0);
        assertThrows(HllmException.class, () -> new HllmServer.Options(everywhere, null, Limits.DEFAULTS));
        try (TinyServer server = new TinyServer(folder, run)) {
            RawHttp.Response lured = RawHttp.send(
                    server.port(), "GET /v1/items HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
            assertEquals(403, lured.status());
            RawHttp.Response local = RawHttp.send(
                    server.port(), "GET /v1/items HTTP/1.1\r\nHost: localhost:80\r\nConnection: close\r\n\r\n");
            assertEquals(200, local.status());
        }
    }

    /** The engine stands still in its listener: a first question was answered, a second waits, a third finds no place. */
    @Test
    void aFullQueueSaysBusy() throws InterruptedException {
        Standstill still = new Standstill();
        Engine.Options narrow =
                new Engine.Options(TinyServer.ENGINE.cache(), 1, 1, Duration.ZERO, Engine.Listener.NONE);
        try (TinyServer server = new TinyServer(folder, run, null, Limits.DEFAULTS, narrow, still)) {
            server.events("u", "i1");
            assertEquals(200, server.get("/v1/users/u/recommendations").status());
            still.await();
            CompletableFuture<Answered> second =
                    CompletableFuture.supplyAsync(() -> server.get("/v1/users/u/recommendations"));
            while (server.engine.stats().waiting() == 0) {
                Thread.sleep(5);
            }
            Answered third = server.get("/v1/users/u/recommendations");
            assertEquals(503, third.status());
            assertEquals(
                    "1", third.response().headers().firstValue("Retry-After").orElseThrow());
            assertTrue(third.message().contains("busy"), third.message());
            assertEquals(200, server.events("u", "i2").status(), "events do not need the engine");
            assertTrue(server.get("/metrics").response().body().contains("\nhllm_busy_total 1\n"));
            still.goOn();
            assertEquals(200, second.join().status());
        } finally {
            still.goOn();
        }
    }

    /** It keeps its place among the requests until then. */
    @Test
    @Timeout(60)
    void aClientThatDoesNotReadIsGivenUp() throws IOException, InterruptedException {
        Limits limits = Limits.DEFAULTS.withRequests(1).withTime(Duration.ofSeconds(3));
        try (TinyServer server = new TinyServer(folder, run, null, limits, TinyServer.ENGINE, Engine.Listener.NONE)) {
            assertEquals(200, server.post("/v1/items", TinyServer.LONG_ITEM).status());
            assertEquals(
                    200,
                    server.post("/v1/users/large/events", TinyServer.LONG_EVENTS)
                            .status());
            try (Socket client = RawHttp.unread(server.port(), TinyServer.LARGE)) {
                assertEquals('H', client.getInputStream().read(), "the answer begins");
                assertEquals(503, server.get("/v1/items").status());
                while (server.get("/v1/items").status() == 503) {
                    Thread.sleep(5);
                }
                assertTrue(RawHttp.read(client.getInputStream()).length < 10_000_000, "all of the answer came");
            }
        }
    }

    @Test
    void timeAndRequestsAreLimited() throws InterruptedException {
        Standstill still = new Standstill();
        Limits limits = Limits.DEFAULTS.withRequests(1).withTime(Duration.ofSeconds(3));
        try (TinyServer server = new TinyServer(folder, run, null, limits, TinyServer.ENGINE, still)) {
            server.events("u", "i1");
            assertEquals(200, server.get("/v1/users/u/recommendations").status());
            still.await();
            CompletableFuture<Answered> late =
                    CompletableFuture.supplyAsync(() -> server.get("/v1/users/u/recommendations"));
            while (server.engine.stats().waiting() == 0) {
                Thread.sleep(5);
            }
            assertEquals(503, server.events("u", "i1").status(), "one request at a time");
            assertEquals(200, server.get("/health/live").status());
            assertEquals(200, server.get("/metrics").status());
            assertEquals(504, late.join().status());
            still.goOn();
            assertEquals(200, server.get("/v1/users/u/recommendations").status());
        } finally {
            still.goOn();
        }
    }

    /** One that nobody waits for any more has its place until it is made. */
    @Test
    void changesOfItemsThatWaitAreLimited() throws InterruptedException {
        Standstill still = new Standstill();
        Limits limits = Limits.DEFAULTS.withTime(Duration.ofMillis(1500));
        try (TinyServer server = new TinyServer(folder, run, null, limits, TinyServer.ENGINE, still)) {
            server.events("u", "i1");
            assertEquals(200, server.get("/v1/users/u/recommendations").status());
            still.await();
            List<CompletableFuture<Answered>> late = Stream.generate(() -> CompletableFuture.supplyAsync(
                            () -> server.delete("/v1/items/i1"), Thread::startVirtualThread))
                    .limit(16)
                    .toList();
            List<Integer> found = new ArrayList<>();
            late.forEach(answer -> found.add(answer.join().status()));
            found.add(server.delete("/v1/items/i1").status());
            still.goOn(); // before anything can fail: a close waits for it
            assertEquals(Collections.nCopies(16, 504), found.subList(0, 16));
            assertEquals(503, found.getLast());
            while (server.engine.snapshot().items() == TinyServer.ITEMS) {
                Thread.sleep(5);
            }
        } finally {
            still.goOn();
        }
    }

    @Test
    void aModelIsReplacedUnderLoad() {
        RunFolder other = TinyServer.run(folder, "other", Tiny.seed() + 1, null);
        List<RunFolder> runs = List.of(run, other);
        try (TinyServer server = new TinyServer(folder, run)) {
            Map<String, List<String>> expected = new ConcurrentHashMap<>(); // by model and user
            List<String> users = List.of("a", "b", "c", "d");
            for (int i = 0; i < users.size(); i++) {
                server.events(users.get(i), "i" + i, "i" + (i + 5), "i" + (i + 9));
            }
            for (RunFolder each : runs) {
                assertEquals(200, reload(server, each).status());
                for (String user : users) {
                    Answered answered = server.get("/v1/users/" + user + "/recommendations");
                    assertEquals(
                            each.manifest().modelHash(),
                            answered.json().path("model").asText());
                    expected.put(each.manifest().modelHash() + user, answered.items());
                }
            }
            CountDownLatch done = new CountDownLatch(1);
            AtomicInteger compared = new AtomicInteger();
            List<CompletableFuture<Set<String>>> clients = users.stream()
                    .map(user -> CompletableFuture.supplyAsync(
                            () -> {
                                Set<String> models = new TreeSet<>();
                                while (done.getCount() > 0) {
                                    Answered answered = server.get("/v1/users/" + user + "/recommendations");
                                    assertEquals(
                                            200,
                                            answered.status(),
                                            answered.response().body());
                                    String model = answered.json().path("model").asText();
                                    assertEquals(expected.get(model + user), answered.items());
                                    compared.incrementAndGet();
                                    models.add(model);
                                }
                                return models;
                            },
                            work -> Thread.ofVirtual().start(work)))
                    .toList();
            try {
                for (int round = 0; round < 10; round++) {
                    Answered swapped = reload(server, runs.get(round % 2));
                    assertEquals(200, swapped.status(), swapped.response().body());
                }
            } finally {
                done.countDown();
            }
            for (CompletableFuture<Set<String>> client : clients) {
                assertEquals(2, client.join().size(), "a client saw both models");
            }
            System.out.println(compared + " answers compared while 10 models were swapped");
            assertTrue(server.get("/metrics").response().body().contains("\nhllm_generations_total 13\n"));
        }
    }

    private static Answered reload(TinyServer server, RunFolder next) {
        return server.post("/v1/reload", "{\"run\":\"" + next.path() + "\"}");
    }

    @Test
    void metricsCountWhatHappened() {
        try (TinyServer server = new TinyServer(folder, run)) {
            server.events("u", "i1", "i2");
            server.get("/v1/users/u/recommendations");
            server.events("u", "i3");
            server.get("/v1/users/u/recommendations");
            server.get("/v1/users/u/recommendations?k=0");
            Answered answered = server.get("/metrics");
            String type =
                    answered.response().headers().firstValue("Content-Type").orElseThrow();
            assertTrue(type.startsWith("text/plain; version=0.0.4"), type);
            String text = answered.response().body();
            String route = "route=\"GET /v1/users/{id}/recommendations\"";
            for (String line : List.of(
                    "hllm_requests_total{" + route + ",status=\"200\"} 2",
                    "hllm_requests_total{" + route + ",status=\"400\"} 1",
                    "hllm_request_seconds_count{" + route + "} 3",
                    "hllm_request_seconds_bucket{" + route + ",le=\"+Inf\"} 3",
                    "hllm_queue_seconds_count{operation=\"recommend\"} 2",
                    "hllm_batch_size_bucket{le=\"1.0\"} 2",
                    "hllm_answered_total 2",
                    "hllm_cache_hits_total 1",
                    "hllm_cache_misses_total 1",
                    "hllm_cache_pages_used 1",
                    "hllm_positions_computed_total 3",
                    "hllm_positions_needed_total 5",
                    "hllm_queue_waiting 0",
                    "hllm_log_events 3")) {
                assertTrue(text.contains("\n" + line + "\n"), line + " is not in\n" + text);
            }
            Pattern sample = Pattern.compile("[a-z_]+(\\{([a-z]+=\"[^\"]*\",?)+})? [0-9.eE+-]+");
            List<String> samples =
                    text.lines().filter(line -> !line.startsWith("#")).toList();
            samples.forEach(line -> assertTrue(sample.matcher(line).matches(), line));
            Set<String> typed = new TreeSet<>();
            text.lines().filter(line -> line.startsWith("# TYPE ")).forEach(line -> {
                assertTrue(typed.add(line.split(" ")[2]), "twice: " + line);
            });
            samples.forEach(line -> assertTrue(
                    typed.contains(line.replaceFirst("[{ ].*", "").replaceFirst("_(bucket|sum|count)$", "")), line));
        }
    }

    @Test
    void healthIsTold() {
        try (TinyServer server = new TinyServer(folder, run)) {
            assertEquals(
                    "live", server.get("/health/live").json().path("status").asText());
            JsonNode ready = server.get("/health/ready").json();
            assertEquals("ready", ready.path("status").asText());
            assertEquals(TinyServer.ITEMS, ready.path("items").asInt());
            server.log.close(); // a source that takes no more events
            assertEquals(500, server.events("u", "i1").status());
            assertEquals(503, server.get("/health/ready").status());
            assertEquals(200, server.get("/health/live").status());
        }
        try (TinyServer server = new TinyServer(folder, run)) {
            assertEquals(200, server.delete("/v1/items/i3").status());
            server.changes.close();
            assertEquals(500, server.delete("/v1/items/i4").status());
            assertEquals(503, server.get("/health/ready").status());
            server.events("u", "i1");
            server.engine.close();
            assertEquals(503, server.get("/v1/users/u/recommendations").status());
            assertEquals(503, server.post("/v1/reload", "{}").status());
        }
    }

    @Test
    void whatIsUnderWayIsAnsweredBeforeItStops() throws InterruptedException {
        Standstill still = new Standstill();
        try (TinyServer server = new TinyServer(folder, run, null, Limits.DEFAULTS, TinyServer.ENGINE, still)) {
            server.events("u", "i1");
            assertEquals(200, server.get("/v1/users/u/recommendations").status());
            still.await();
            CompletableFuture<Answered> waiting =
                    CompletableFuture.supplyAsync(() -> server.get("/v1/users/u/recommendations"));
            while (server.engine.stats().waiting() == 0) {
                Thread.sleep(5);
            }
            CompletableFuture<Void> stopped = CompletableFuture.runAsync(server.server::close);
            Answered ready = server.get("/health/ready");
            while (ready.status() == 200) {
                ready = server.get("/health/ready");
            }
            assertEquals(503, ready.status());
            assertEquals(503, server.events("u", "i1").status());
            assertFalse(stopped.isDone());
            still.goOn();
            assertEquals(200, waiting.join().status());
            stopped.join();
        } finally {
            still.goOn();
        }
    }

    @Test
    void theDescriptionListsExactlyTheRoutes() throws IOException {
        Set<String> described = new TreeSet<>();
        String path = "";
        boolean paths = false;
        for (String line : openApi().lines().toList()) {
            paths = line.startsWith(" ") ? paths : line.equals("paths:");
            Matcher name = Pattern.compile("  (/[^:]*):").matcher(line);
            Matcher method = Pattern.compile("    (get|put|post|delete|patch|head|options):")
                    .matcher(line);
            if (paths && name.matches()) {
                path = name.group(1);
            } else if (paths && method.matches()) {
                described.add(method.group(1).toUpperCase(Locale.ROOT) + " " + path);
            }
        }
        try (TinyServer server = new TinyServer(folder, run)) {
            Set<String> routes = new TreeSet<>();
            server.server.routes().forEach(route -> routes.add(route.toString()));
            assertEquals(routes, described);
            assertEquals(openApi(), server.get("/openapi.yaml").response().body());
            assertTrue(server.get("/").response().body().contains("positions computed"));
        }
    }

    private static String openApi() throws IOException {
        try (InputStream in = HllmServer.class.getResourceAsStream("openapi.yaml")) {
            return new String(in.readAllBytes(), StandardCharsets.UTF_8);
        }
    }
}
