package org.hllm4j.http;

import java.io.IOException;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Supplier;
import org.hllm4j.HllmException;
import org.hllm4j.engine.NativeException;
import org.hllm4j.serve.Answer;
import org.hllm4j.serve.ClosedException;
import org.hllm4j.serve.DiskException;
import org.hllm4j.serve.Engine;
import org.hllm4j.serve.Filter;
import org.hllm4j.serve.HistorySource;
import org.hllm4j.serve.Ranker;
import org.hllm4j.serve.Retriever;
import org.hllm4j.serve.Snapshot;

/** What is below /v1: users, items, and the model. Any thread. */
final class Api {
    private static final int DEFAULT_K = 10;
    private static final int CHANGES = 16; // of items, that may wait for the engine
    private static final int ID_CHARACTERS = 1 << 20; // of a user's id, over the events of a request

    private final Engine engine;
    private final HistorySource source;
    private final SnapshotLoader loader;
    private final Limits limits;
    private final Retriever retriever;
    private final Ranker ranker;
    private final Semaphore changes = new Semaphore(CHANGES);
    private final AtomicBoolean reloading = new AtomicBoolean();
    private volatile boolean keepsAll = true; // events and changes of items

    Api(Engine engine, HistorySource source, SnapshotLoader loader, Limits limits) {
        this.engine = engine;
        this.source = source;
        this.loader = loader;
        this.limits = limits;
        retriever = new Retriever(engine, source);
        ranker = new Ranker(engine, source);
    }

    List<Route> routes() {
        return List.of(
                new Route("GET", "/v1/users/{id}/events", this::history),
                new Route("POST", "/v1/users/{id}/events", this::append),
                new Route("GET", "/v1/users/{id}/recommendations", this::recommend),
                new Route("POST", "/v1/users/{id}/recommendations", this::recommendFiltered),
                new Route("POST", "/v1/users/{id}/rank", this::rank),
                new Route("POST", "/v1/recommendations", this::recommendHistory),
                new Route("GET", "/v1/items", this::search),
                new Route("POST", "/v1/items", this::add),
                new Route("DELETE", "/v1/items/{id}", this::remove),
                new Route("POST", "/v1/reload", this::reload));
    }

    /** Whether everything that can be asked for can be had. */
    boolean isHealthy() {
        return keepsAll;
    }

    // ---- Users ------------------------------------------------------------------------------------------------------

    private Reply history(Request request) {
        int limit = (int) request.query().integer("limit", 50, 1, limits.list());
        request.query().noOthers();
        HistorySource.Events events = source.history(request.id());
        List<Map<String, Object>> last = new ArrayList<>();
        for (int i = Math.max(0, events.size() - limit); i < events.size(); i++) {
            Map<String, Object> entry = item(events.items().get(i));
            entry.put("timestamp", events.timestamps()[i]);
            last.add(entry);
        }
        return Reply.ok("user", request.id(), "count", events.size(), "events", last);
    }

    private Reply append(Request request) throws IOException {
        String user = user(request);
        Fields body = body(request);
        List<Fields> entries = body.objects("events", 1, limits.list());
        int most = ID_CHARACTERS / user.length();
        if (entries.size() > most) {
            throw Refusal.ofField(
                    413,
                    "events",
                    entries.size() + " events, each of which is kept with the user's id of " + user.length()
                            + " characters; send at most " + most + " at a time");
        }
        List<HistorySource.Event> events = new ArrayList<>();
        for (Fields entry : entries) {
            String item = entry.required(entry.id("item"), "item", "an item's id");
            long now = System.currentTimeMillis();
            events.add(new HistorySource.Event(
                    user, item, entry.integer("timestamp", now, Long.MIN_VALUE, Long.MAX_VALUE)));
            entry.noOthers();
            requireKnown(item, entry.at("item"));
        }
        body.noOthers();
        try {
            source.append(events);
        } catch (HllmException e) {
            throw notKept(e);
        }
        return Reply.ok("user", user, "appended", events.size());
    }

    private Refusal notKept(HllmException reason) {
        keepsAll = false;
        return new Refusal(500, reason.getMessage());
    }

    private Reply recommend(Request request) {
        int k = k(request.query(), DEFAULT_K);
        request.query().noOthers();
        String user = user(request);
        return answered(request, () -> retriever.recommend(user, k, Filter.NONE));
    }

    private Reply recommendFiltered(Request request) throws IOException {
        int k = k(request.query(), DEFAULT_K);
        Fields body = body(request);
        int most = k(body, k);
        Filter filter = filter(body);
        body.noOthers();
        String user = user(request);
        return answered(request, () -> retriever.recommend(user, most, filter));
    }

    private Reply recommendHistory(Request request) throws IOException {
        int k = k(request.query(), DEFAULT_K);
        Fields body = body(request);
        List<String> history = body.required(body.ids("history", 1, limits.list()), "history", "a list of item ids");
        int most = k(body, k);
        Filter filter = filter(body);
        body.noOthers();
        requireKnown(history, "history");
        return answered(request, () -> retriever.recommend(history, most, filter));
    }

    private Reply rank(Request request) throws IOException {
        Fields body = body(request);
        List<String> candidates =
                body.required(body.ids("candidates", 1, limits.list()), "candidates", "a list of item ids");
        body.noOthers();
        requireKnown(candidates, "candidates");
        String user = user(request);
        return answered(request, () -> ranker.rank(user, candidates));
    }

    private static String user(Request request) {
        if (request.id().length() > Fields.LONGEST_ID) {
            throw new Refusal(400, "the user's id is longer than " + Fields.LONGEST_ID + " characters");
        }
        return request.id();
    }

    private int k(Fields fields, int otherwise) {
        return (int) fields.integer("k", otherwise, 1, limits.k());
    }

    private Filter filter(Fields body) {
        List<String> allow = body.ids("allow", 0, limits.list());
        List<String> deny = body.ids("deny", 0, limits.list());
        return new Filter(allow == null ? null : new HashSet<>(allow), deny == null ? Set.of() : new HashSet<>(deny));
    }

    private void requireKnown(List<String> items, String field) {
        for (int i = 0; i < items.size(); i++) {
            requireKnown(items.get(i), field + "[" + i + "]");
        }
    }

    private void requireKnown(String item, String field) {
        if (engine.snapshot().row(item) < 0) {
            throw Refusal.ofField(422, field, "\"" + field + "\": item \"" + item + "\" is not in the catalogue");
        }
    }

    private Reply answered(Request request, Supplier<CompletableFuture<Answer>> question) {
        long begin = System.nanoTime();
        Answer answer = await(question.get());
        List<Map<String, Object>> items = new ArrayList<>();
        answer.items().forEach(best -> {
            Map<String, Object> entry = item(best.itemId()); // by id: rows may be those of a model that is gone by now
            entry.put("score", best.score());
            items.add(entry);
        });
        Map<String, Object> fields = Reply.fields();
        if (request.id() != null) {
            fields.put("user", request.id());
        }
        fields.putAll(Reply.fields(
                "items",
                items,
                "events",
                answer.events(),
                "computed",
                answer.computed(),
                "needed",
                answer.needed(),
                "model",
                answer.model(),
                "milliseconds",
                (System.nanoTime() - begin) / 1000 / 1e3));
        return Reply.json(200, fields);
    }

    // ---- Items ------------------------------------------------------------------------------------------------------

    private Reply search(Request request) {
        int limit = (int) request.query().integer("limit", 20, 1, limits.k());
        String words = request.query().text("query", "").toLowerCase(Locale.ROOT);
        request.query().noOthers();
        Snapshot snapshot = engine.snapshot();
        String key = titleKey(snapshot);
        List<Map<String, Object>> found = new ArrayList<>();
        for (int row = 0; row < snapshot.rows() && found.size() < limit; row++) {
            if (!snapshot.removed(row)
                    && snapshot.field(row, key).toLowerCase(Locale.ROOT).contains(words)) {
                found.add(Reply.fields("item", snapshot.id(row), "title", snapshot.field(row, key)));
            }
        }
        return Reply.ok("items", found, "of", snapshot.items());
    }

    private Reply add(Request request) throws IOException {
        Fields body = body(request);
        String item = body.required(body.id("item"), "item", "an item's id");
        Map<String, String> texts = body.texts("fields");
        body.noOthers();
        List<String> keys = engine.snapshot().textKeys();
        texts.keySet().stream().filter(key -> !keys.contains(key)).findFirst().ifPresent(key -> {
            throw Refusal.ofField(
                    422, "fields." + key, "\"fields." + key + "\" is no text of this model's items; expected " + keys);
        });
        change(() -> engine.add(item, texts));
        return Reply.ok("item", item, "items", engine.snapshot().items());
    }

    private Reply remove(Request request) {
        request.query().noOthers();
        if (!change(() -> engine.remove(request.id()))) {
            throw new Refusal(404, "item \"" + request.id() + "\" is not in the catalogue");
        }
        return Reply.ok("item", request.id(), "items", engine.snapshot().items());
    }

    private <T> T change(Supplier<CompletableFuture<T>> work) {
        if (!changes.tryAcquire()) {
            throw Refusal.busy("busy: " + CHANGES + " changes of items are waiting; try again shortly");
        }
        CompletableFuture<T> change;
        try {
            change = work.get();
        } catch (RuntimeException e) {
            changes.release();
            throw e;
        }
        change.whenComplete((result, error) -> changes.release());
        try {
            return await(change.copy()); // whoever stops waiting does not stop the change, and its place stays taken
        } catch (DiskException e) {
            throw notKept(e);
        }
    }

    private Map<String, Object> item(String id) {
        Snapshot snapshot = engine.snapshot();
        int row = snapshot.row(id);
        return Reply.fields("item", id, "title", row < 0 ? "" : snapshot.field(row, titleKey(snapshot)));
    }

    private static String titleKey(Snapshot snapshot) {
        List<String> keys = snapshot.textKeys();
        return keys.contains("title") ? "title" : keys.getFirst();
    }

    // ---- Models -----------------------------------------------------------------------------------------------------

    private Reply reload(Request request) throws IOException {
        Fields body = body(request);
        Path run = path(body, "run");
        Path items = path(body, "items");
        body.noOthers();
        if (!reloading.compareAndSet(false, true)) {
            throw new Refusal(409, "a model is being loaded already; wait until that is done");
        }
        // On a thread of its own, as one thread has to keep to a device while it loads. No limit of time.
        CompletableFuture<Void> done;
        try {
            done = CompletableFuture.supplyAsync(
                            () -> loader.open(run, items),
                            load -> Thread.ofPlatform()
                                    .daemon()
                                    .name("hllm-reload")
                                    .start(load))
                    .thenCompose(engine::swap)
                    .whenComplete((result, error) -> reloading.set(false));
        } catch (RuntimeException | Error e) { // no thread to be had
            reloading.set(false);
            throw e;
        }
        try {
            await(done, Long.MAX_VALUE);
        } catch (NativeException | ClosedException e) {
            throw e;
        } catch (HllmException e) { // the folder's or the file's
            throw new Refusal(422, e.getMessage());
        }
        Snapshot snapshot = engine.snapshot();
        return Reply.ok("model", snapshot.modelHash(), "items", snapshot.items());
    }

    private static Path path(Fields body, String name) {
        String text = body.text(name, null);
        try {
            return text == null ? null : Path.of(text);
        } catch (InvalidPathException e) {
            throw Refusal.ofField(400, name, "\"" + name + "\": expected a path, found " + e.getMessage());
        }
    }

    // ---- All --------------------------------------------------------------------------------------------------------

    private static Fields body(Request request) throws IOException {
        Fields body = request.body();
        request.query().noOthers();
        return body;
    }

    private <T> T await(CompletableFuture<T> future) {
        return await(future, limits.time().toNanos());
    }

    private static <T> T await(CompletableFuture<T> future, long nanos) {
        try {
            return future.get(nanos, TimeUnit.NANOSECONDS);
        } catch (TimeoutException e) {
            future.cancel(false); // a question that still waits is not answered any more
            throw new Refusal(504, "not done within " + nanos / 1_000_000 + " ms; try again when there is less to do");
        } catch (InterruptedException | CancellationException e) {
            throw Refusal.busy("the server is stopping");
        } catch (ExecutionException e) {
            switch (e.getCause()) {
                case RuntimeException cause -> throw cause;
                case Error cause -> throw cause;
                case null, default -> throw new IllegalStateException(e.getCause());
            }
        }
    }
}
