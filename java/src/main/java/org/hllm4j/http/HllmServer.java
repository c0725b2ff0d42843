package org.hllm4j.http;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import org.hllm4j.HllmException;
import org.hllm4j.serve.BusyException;
import org.hllm4j.serve.ClosedException;
import org.hllm4j.serve.Engine;
import org.hllm4j.serve.HistorySource;
import org.hllm4j.serve.Snapshot;
import org.hllm4j.serve.UnanswerableException;

/**
 * An engine and its users' histories behind HTTP; {@code openapi.yaml} tells what can be asked. Listens as soon as it is made.
 * Answers are JSON, errors too: {@code {"error": {"status", "message", "field"}}}. What is not HTTP at all never comes here:
 * the JDK's server answers 400 by itself.
 *
 * <p>Closing it answers what is under way; engine, changes of items and source stay open, and are to be closed after it, in this order.
 */
public final class HllmServer implements AutoCloseable {
    /**
     * @param address port 0: any that is free
     * @param token that requests must carry, as {@code Authorization: Bearer}; null: none, on a loopback address only
     * @param limits of requests
     */
    public record Options(InetSocketAddress address, String token, Limits limits) {
        public Options {
            if (address.isUnresolved()) {
                throw new HllmException("host \"" + address.getHostString() + "\" has no address");
            }
            if (token == null && !address.getAddress().isLoopbackAddress()) {
                throw new HllmException("listening on " + address.getHostString()
                        + ", which other machines reach, takes a" + " token that requests must carry");
            }
        }
    }

    private static final System.Logger LOG = System.getLogger(HllmServer.class.getName());
    private static final Set<String> LOOPBACK = Set.of("localhost", "127.0.0.1", "[::1]");

    private final Options options;
    private final Engine engine;
    private final HistorySource source;
    private final Metrics metrics;
    private final Api api;
    private final List<Route> routes = new ArrayList<>();
    private final Semaphore places;
    private final ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor();
    private final HttpServer server;
    private volatile boolean stopping;

    /**
     * @param metrics the engine's listener
     * @param loader for reloads
     * @throws HllmException where the address cannot be listened on
     */
    public HllmServer(Options options, Engine engine, HistorySource source, Metrics metrics, SnapshotLoader loader) {
        this.options = options;
        this.engine = engine;
        this.source = source;
        this.metrics = metrics;
        api = new Api(engine, source, loader, options.limits);
        places = new Semaphore(options.limits.requests());
        routes.add(new Route("GET", "/", request -> page()));
        routes.add(new Route("GET", "/openapi.yaml", request -> file("openapi.yaml", "application/yaml")));
        routes.add(new Route("GET", "/health/live", request -> Reply.ok("status", "live")));
        routes.add(new Route("GET", "/health/ready", request -> ready()));
        routes.add(new Route("GET", "/metrics", request -> numbers()));
        routes.addAll(api.routes());
        settings(options.limits);
        try {
            server = HttpServer.create(options.address, 0);
        } catch (IOException e) {
            throw new HllmException(
                    "cannot listen on " + options.address.getHostString() + ":" + options.address.getPort() + ": "
                            + e.getMessage() + "; name another port or host",
                    e);
        }
        server.createContext("/", this::handle);
        server.setExecutor(threads);
        server.start();
    }

    /** The JDK reads these once, when its server is first used; whoever set them already had a reason. */
    private static void settings(Limits limits) {
        long seconds = Math.max(1, limits.time().toSeconds());
        Map.of(
                        "sun.net.httpserver.nodelay", "true", // else answers may wait 40 ms for an acknowledgement
                        "sun.net.httpserver.maxReqTime", "" + seconds, // to send a request
                        "sun.net.httpserver.maxReqHeaderSize", "16384",
                        "sun.net.httpserver.maxIdleConnections", "1000",
                        "jdk.httpserver.maxConnections", "10000")
                .forEach((name, value) -> {
                    if (System.getProperty(name) == null) {
                        System.setProperty(name, value);
                    }
                });
    }

    /** Where it listens. */
    public InetSocketAddress address() {
        return server.getAddress();
    }

    List<Route> routes() {
        return routes;
    }

    // ---- A request's thread -----------------------------------------------------------------------------------------

    /** @throws IOException where the client went away: the JDK's server forgets a connection only where this throws */
    private void handle(HttpExchange exchange) throws IOException {
        long begin = System.nanoTime();
        String name = "none";
        boolean placed = false;
        Reply reply;
        try (exchange) {
            try {
                Route route = route(exchange);
                name = route.toString();
                requireAllowed(route, exchange);
                Request request = request(route, exchange);
                if (route.works()) {
                    takePlace();
                    placed = true;
                }
                reply = route.handler().answer(request);
            } catch (Exception | Error e) {
                reply = refusal(e).reply();
            }
            metrics.replied(name, reply.status(), System.nanoTime() - begin);
            sendInTime(exchange, reply);
        } catch (IOException e) {
            LOG.log(System.Logger.Level.DEBUG, "a client went away", e);
            throw e;
        } finally {
            if (placed) {
                places.release();
            }
        }
    }

    private Route route(HttpExchange exchange) {
        String path = exchange.getRequestURI().getRawPath();
        List<Route> here = routes.stream().filter(route -> route.matches(path)).toList();
        if (here.isEmpty()) {
            throw new Refusal(404, "there is nothing at " + path + "; GET /openapi.yaml tells what there is");
        }
        String method = exchange.getRequestMethod().equals("HEAD") ? "GET" : exchange.getRequestMethod();
        return here.stream()
                .filter(route -> route.method().equals(method))
                .findFirst()
                .orElseThrow(() -> {
                    String allowed =
                            String.join(", ", here.stream().map(Route::method).toList());
                    return Refusal.withHeader(405, path + " takes " + allowed, "Allow", allowed);
                });
    }

    private Request request(Route route, HttpExchange exchange) {
        return new Request(
                route.id(exchange.getRequestURI().getRawPath()),
                Fields.ofQuery(Request.query(exchange.getRequestURI().getRawQuery())),
                exchange.getRequestHeaders().getFirst("Content-Type"),
                exchange.getRequestBody(),
                options.limits);
    }

    private void takePlace() {
        if (stopping) {
            throw Refusal.busy("the server is stopping");
        }
        if (!places.tryAcquire()) {
            throw Refusal.busy("busy: " + options.limits.requests() + " requests are worked on; try again shortly");
        }
    }

    private void requireAllowed(Route route, HttpExchange exchange) {
        if (options.token == null) {
            // A name of another site that was made to lead here would let that site's pages in.
            String host = exchange.getRequestHeaders().getFirst("Host");
            String name = host == null ? "localhost" : host.replaceFirst(":[0-9]*$", "");
            if (!LOOPBACK.contains(name) && !name.equals(options.address.getHostString())) {
                throw new Refusal(403, "Host is " + host + "; without a token, expected localhost or its address");
            }
        } else if (!route.open()) {
            String given = exchange.getRequestHeaders().getFirst("Authorization");
            byte[] expected = ("Bearer " + options.token).getBytes(StandardCharsets.UTF_8);
            if (given == null || !MessageDigest.isEqual(given.getBytes(StandardCharsets.ISO_8859_1), expected)) {
                throw Refusal.withHeader(
                        401, "expected the header Authorization: Bearer TOKEN", "WWW-Authenticate", "Bearer");
            }
        }
    }

    private static Refusal refusal(Throwable error) {
        return switch (error) {
            case Refusal refusal -> refusal;
            case BusyException busy -> Refusal.busy(busy.getMessage());
            case UnanswerableException unanswerable -> new Refusal(422, unanswerable.getMessage());
            case ClosedException closed -> Refusal.busy(closed.getMessage());
            case HllmException failed -> failed(failed, failed.getMessage());
            case IOException cut -> new Refusal(400, "the body could not be read: " + cut.getMessage());
            default -> failed(error, "an error that should not happen; the server's log has more");
        };
    }

    private static Refusal failed(Throwable error, String message) {
        LOG.log(System.Logger.Level.ERROR, "a request failed", error);
        return new Refusal(500, message);
    }

    /** Gives a client up that does not read: an interrupt ends a write to a socket, and closes that. */
    private void sendInTime(HttpExchange exchange, Reply reply) throws IOException {
        Thread sender = Thread.currentThread();
        CompletableFuture<Void> sent = new CompletableFuture<>();
        sent.orTimeout(options.limits.time().toNanos(), TimeUnit.NANOSECONDS).exceptionally(late -> {
            sender.interrupt();
            return null;
        });
        try {
            send(exchange, reply);
        } finally {
            sent.complete(null);
        }
    }

    private static void send(HttpExchange exchange, Reply reply) throws IOException {
        exchange.getResponseHeaders().set("Content-Type", reply.contentType());
        exchange.getResponseHeaders().set("X-Content-Type-Options", "nosniff");
        reply.headers().forEach(exchange.getResponseHeaders()::set);
        if (exchange.getRequestMethod().equals("HEAD")) {
            exchange.sendResponseHeaders(reply.status(), -1);
            return;
        }
        exchange.sendResponseHeaders(reply.status(), reply.body().length);
        try (OutputStream out = exchange.getResponseBody()) {
            out.write(reply.body());
        }
    }

    // ---- What is not below /v1 --------------------------------------------------------------------------------------

    private Reply ready() {
        if (stopping) {
            throw Refusal.busy("the server is stopping");
        }
        if (!engine.isRunning()) {
            throw new Refusal(503, "the engine has ended; the server's log may tell why");
        }
        if (!api.isHealthy()) {
            throw new Refusal(503, "what is posted is not kept any more; the server's answers to it tell why");
        }
        Snapshot snapshot = engine.snapshot();
        return Reply.ok(
                "status",
                "ready",
                "model",
                snapshot.modelHash(),
                "ranker",
                Objects.toString(snapshot.fusion(), null),
                "items",
                snapshot.items());
    }

    private Reply numbers() {
        byte[] text = metrics.text(engine, source).getBytes(StandardCharsets.UTF_8);
        return new Reply(200, "text/plain; version=0.0.4; charset=utf-8", text, Map.of());
    }

    private static Reply page() {
        return file("index.html", "text/html; charset=utf-8")
                .with(Map.of(
                        "Content-Security-Policy",
                        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self';"
                                + " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"));
    }

    private static Reply file(String name, String contentType) {
        try (InputStream in = HllmServer.class.getResourceAsStream(name)) {
            return new Reply(200, contentType, in.readAllBytes(), Map.of());
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /**
     * Takes no more requests, waits for those under way, at most as long as one may take, and stops listening. A second call
     * does nothing.
     */
    @Override
    public synchronized void close() {
        if (stopping) {
            return;
        }
        stopping = true;
        try {
            places.tryAcquire(options.limits.requests(), options.limits.time().toMillis(), TimeUnit.MILLISECONDS);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
        server.stop(1); // not 0: the last answers may still be on their way out
        threads.shutdownNow();
    }
}
