package org.hllm4j.http;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.WebSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import org.hllm4j.Tiny;
import org.hllm4j.engine.Context;
import org.hllm4j.serve.Engine;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The built-in page in a real browser: searches, picks items, sees recommendations change. */
class PageTest {
    private static final ObjectMapper JSON = new ObjectMapper();

    @TempDir
    Path folder;

    @AfterEach
    void nothingIsLeft() {
        assertEquals(0, Context.liveBytes(Tiny.device()));
    }

    @Test
    void picksAndSeesRecommendationsChange() throws Exception {
        Optional<Path> chromium = chromium();
        assumeTrue(chromium.isPresent(), "skipped: no chromium on the PATH");
        try (TinyServer server = new TinyServer(folder, TinyServer.run(folder, "run", Tiny.seed(), null));
                Browser browser = new Browser(chromium.get(), TinyServer.folder(folder, "profile"))) {
            browser.open("http://127.0.0.1:" + server.port() + "/?user=reader");
            browser.await("document.querySelectorAll('#found button').length === 12");
            browser.run("document.getElementById('query').value = 'FILM 17';"
                    + "document.getElementById('query').dispatchEvent(new Event('input'))");
            browser.await("document.querySelectorAll('#found button').length === 1");
            browser.run("document.querySelector('#found button').click()");
            browser.await("document.querySelectorAll('#recommended button').length === 10");
            assertEquals("film 17", browser.text("#history"));
            assertEquals(List.of("i17"), server.log.history("reader").items());
            String cost = browser.text("#cost");
            assertTrue(cost.matches("positions computed: 1 of 1; [0-9.]+ ms in the server, [0-9.]+ ms in all"), cost);
            String before = browser.text("#recommended");

            browser.run("document.querySelector('#recommended button').click()");
            browser.await("document.querySelectorAll('#history li').length === 2");
            browser.await("document.getElementById('cost').textContent.startsWith('positions computed: 1 of 2')");
            String after = browser.text("#recommended");
            assertTrue(!after.equals(before), after);
            List<String> recommended = server.get("/v1/users/reader/recommendations")
                    .json()
                    .path("items")
                    .valueStream()
                    .map(item -> item.path("title").asText())
                    .toList();
            for (String title : recommended) {
                assertTrue(after.contains(title), title + " is not in " + after);
            }
            assertEquals("", browser.text("#error"));

            browser.run("document.getElementById('reset').click()");
            browser.await("document.getElementById('history').children.length === 0");
            assertTrue(browser.text("#user").startsWith("page-"), browser.text("#user"));
        }
    }

    @Test
    void asksForTheToken() throws Exception {
        Optional<Path> chromium = chromium();
        assumeTrue(chromium.isPresent(), "skipped: no chromium on the PATH");
        try (TinyServer server = new TinyServer(
                        folder,
                        TinyServer.run(folder, "run", Tiny.seed(), null),
                        "secret",
                        Limits.DEFAULTS,
                        TinyServer.ENGINE,
                        Engine.Listener.NONE);
                Browser browser = new Browser(chromium.get(), TinyServer.folder(folder, "profile"))) {
            browser.open("http://127.0.0.1:" + server.port() + "/");
            browser.await("!document.getElementById('access').hidden");
            assertTrue(browser.text("#error").contains("Authorization"), browser.text("#error"));
            browser.run("document.getElementById('token').value = 'secret';"
                    + "document.getElementById('token').dispatchEvent(new Event('change'))");
            browser.await("document.querySelectorAll('#found button').length === 12");
            assertEquals("", browser.text("#error"));
        }
    }

    private static Optional<Path> chromium() {
        return Arrays.stream(System.getenv("PATH").split(File.pathSeparator))
                .flatMap(folder -> Stream.of("chromium", "chromium-browser", "google-chrome")
                        .map(name -> Path.of(folder, name)))
                .filter(Files::isExecutable)
                .findFirst();
    }

    /** A headless Chromium with one page, spoken to in its DevTools protocol. */
    private static final class Browser implements AutoCloseable, WebSocket.Listener {
        private final HttpClient client = HttpClient.newHttpClient();
        private final BlockingQueue<JsonNode> replies = new LinkedBlockingQueue<>();
        private final StringBuilder partial = new StringBuilder();
        private final Process process;
        private final WebSocket socket;
        private int calls;

        Browser(Path chromium, Path profile) throws IOException, InterruptedException {
            process = new ProcessBuilder(
                            chromium.toString(),
                            "--headless",
                            "--no-sandbox", // which root cannot have
                            "--disable-gpu",
                            "--disable-dev-shm-usage",
                            "--no-first-run",
                            "--remote-debugging-port=0",
                            "--user-data-dir=" + profile,
                            "about:blank")
                    .redirectOutput(ProcessBuilder.Redirect.DISCARD)
                    .start();
            BufferedReader lines = process.errorReader();
            String line = lines.readLine();
            while (line != null && !line.startsWith("DevTools listening on ws://")) {
                line = lines.readLine();
            }
            assertTrue(line != null, "chromium did not start");
            Thread.ofVirtual()
                    .start(() -> lines.lines().forEach(ignored -> {})); // else it stands when the pipe is full
            String host = URI.create(line.split(" ")[3]).getAuthority();
            HttpRequest pages = HttpRequest.newBuilder(URI.create("http://" + host + "/json/list"))
                    .build();
            JsonNode page = JSON.createObjectNode();
            while (!page.has("webSocketDebuggerUrl")) {
                for (JsonNode target : JSON.readTree(
                        client.send(pages, HttpResponse.BodyHandlers.ofString()).body())) {
                    page = target.path("type").asText().equals("page") ? target : page;
                }
            }
            socket = client.newWebSocketBuilder()
                    .buildAsync(URI.create(page.path("webSocketDebuggerUrl").asText()), this)
                    .join();
        }

        @Override
        public CompletionStage<?> onText(WebSocket from, CharSequence data, boolean last) {
            partial.append(data);
            if (last) {
                try {
                    replies.add(JSON.readTree(partial.toString()));
                } catch (IOException e) {
                    throw new IllegalStateException(e);
                }
                partial.setLength(0);
            }
            from.request(1);
            return null;
        }

        private JsonNode call(String method, Map<String, ?> parameters) throws IOException, InterruptedException {
            int id = ++calls;
            socket.sendText(JSON.writeValueAsString(Map.of("id", id, "method", method, "params", parameters)), true)
                    .join();
            JsonNode reply = replies.poll(60, TimeUnit.SECONDS);
            while (reply != null && reply.path("id").asInt() != id) {
                reply = replies.poll(60, TimeUnit.SECONDS);
            }
            assertTrue(reply != null && reply.has("result"), method + ": " + reply);
            return reply.path("result");
        }

        void open(String address) throws IOException, InterruptedException {
            call("Page.navigate", Map.of("url", address));
            await("document.readyState === 'complete' && location.href === '" + address + "'");
        }

        JsonNode run(String script) throws IOException, InterruptedException {
            JsonNode result = call("Runtime.evaluate", Map.of("expression", script, "returnByValue", true));
            assertTrue(!result.has("exceptionDetails"), script + ": " + result);
            return result.path("result").path("value");
        }

        String text(String selector) throws IOException, InterruptedException {
            return run("document.querySelector('" + selector + "').textContent").asText();
        }

        /** Waits for a condition, a minute at most. */
        void await(String condition) throws IOException, InterruptedException {
            long end = System.nanoTime() + TimeUnit.MINUTES.toNanos(1);
            while (!run(condition).asBoolean()) {
                assertTrue(System.nanoTime() < end, () -> {
                    try {
                        return condition + " does not come true in\n" + text("body");
                    } catch (IOException | InterruptedException e) {
                        return condition + ": " + e;
                    }
                });
                Thread.sleep(20);
            }
        }

        @Override
        public void close() {
            socket.abort();
            client.shutdownNow();
            process.descendants().forEach(ProcessHandle::destroyForcibly);
            process.destroyForcibly();
            process.onExit().join();
        }
    }
}
