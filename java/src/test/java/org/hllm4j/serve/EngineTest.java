package org.hllm4j.serve;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.hllm4j.HllmException;
import org.hllm4j.Tiny;
import org.hllm4j.data.Catalogue;
import org.hllm4j.data.LabelledSequence;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.DeviceOutOfMemoryException;
import org.hllm4j.model.EventScorer;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.nn.KeyValueArena;
import org.hllm4j.run.RunFolder;
import org.hllm4j.serve.HistorySource.Event;
import org.hllm4j.serve.Recommender.Recommendation;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

/** Retriever and ranker over an engine, from run folders of random models. */
class EngineTest {
    private static final int ITEMS = 26;
    private static final int PAGES = 5; // fewer than users
    private static final Filter ALL = Filter.NONE;

    @TempDir
    Path folder;

    private final Random random = new Random(Tiny.seed());
    private Catalogue catalogue;
    private EventLog source;
    private ItemChanges changes;

    @BeforeEach
    void begin() {
        System.out.println("seed " + Tiny.seed());
        catalogue = Tiny.dataset(folder, 3, ITEMS).catalogue();
        source = EventLog.open(folder.resolve("events.log"), new Fsync.Never());
        changes = ItemChanges.inMemory();
    }

    @AfterEach
    void nothingIsLeft() {
        changes.close();
        source.close();
        assertEquals(0, Context.liveBytes(Tiny.device()));
    }

    // ---- World ------------------------------------------------------------------------------------------------------

    /** A run of random weights, all of another seed. */
    private RunFolder run(String name, Fusion fusion, long seed) {
        RunFolder run = RunFolder.create(folder.resolve(name));
        try (Context context = Context.open(Tiny.device());
                Hllm model = Tiny.ranker(context, fusion, seed)) {
            if (fusion != null) {
                model.parameters()
                        .get("ranker.down_proj.weight") // zero at first: all would rank the same
                        .value()
                        .write(gaussian(model.config().width(), seed));
            }
            run.save(
                    model,
                    1,
                    new RunFolder.Description(
                            List.of("title"),
                            catalogue,
                            tokenizer(),
                            Map.of(),
                            Map.of(),
                            Map.of("native", "test"),
                            fusion == null ? null : gaussian(ITEMS, seed)));
        }
        return run;
    }

    /** Words and numbers, one token each. */
    private static String tokenizer() {
        List<String> words = Stream.concat(
                        Stream.of(
                                "[UNK]",
                                "Compress",
                                "the",
                                "following",
                                "sentence",
                                "into",
                                "embedding",
                                ":",
                                "title",
                                "film"),
                        IntStream.range(0, ITEMS).mapToObj(Integer::toString))
                .toList();
        StringBuilder vocabulary = new StringBuilder();
        words.forEach(word -> vocabulary
                .append(vocabulary.isEmpty() ? "" : ",")
                .append('"')
                .append(word)
                .append("\":")
                .append(words.indexOf(word)));
        return """
            {"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
             "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
             "model":{"type":"WordLevel","vocab":{%s},"unk_token":"[UNK]"}}
            """.formatted(vocabulary);
    }

    private static float[] gaussian(int count, long seed) {
        Random random = new Random(seed);
        float[] values = new float[count];
        for (int i = 0; i < count; i++) {
            values[i] = (float) random.nextGaussian();
        }
        return values;
    }

    private Snapshot snapshot(RunFolder run, DType storage) {
        return Snapshot.open(run, catalogue, Tiny.device(), storage, null);
    }

    private Snapshot snapshot(RunFolder run) {
        return snapshot(run, DType.F32);
    }

    /** Without slack, so that the model sees what {@link Recommender} shows it. */
    private Engine engine(Snapshot snapshot, int queue, int batch, Duration gather, Engine.Listener listener) {
        return new Engine(
                snapshot, changes, new Engine.Options(cacheOptions(snapshot, 0), queue, batch, gather, listener));
    }

    private static UserFeatureCache.Options cacheOptions(Snapshot snapshot, Integer slack) {
        DType activations = Context.activations(Tiny.device(), DType.F32);
        long row = KeyValueArena.bytesPerRow(snapshot.model().config().user(), activations);
        return new UserFeatureCache.Options((16 * PAGES + 8) * row, slack, 8, activations);
    }

    private Engine engine(Snapshot snapshot) {
        return engine(snapshot, 100, 16, Duration.ZERO, Engine.Listener.NONE);
    }

    private Engine engine(RunFolder run) {
        return engine(snapshot(run));
    }

    private String anItem() {
        return "i" + random.nextInt(ITEMS);
    }

    private static List<String> ids(Answer answer) {
        return answer.items().stream().map(Recommendation::itemId).toList();
    }

    private static HllmException failure(CompletableFuture<?> future) {
        CompletionException e = assertThrows(CompletionException.class, future::join);
        return assertInstanceOf(HllmException.class, e.getCause());
    }

    // ---- Answers ----------------------------------------------------------------------------------------------------

    @ParameterizedTest
    @CsvSource({"LATE, F32", "EARLY, F32", "LATE, BF16"})
    void answersAreThoseOfTheModel(Fusion fusion, DType storage) {
        assumeTrue(storage == DType.F32 || Tiny.device().equals("cpu"), "on a GPU it computes in that type as well");
        RunFolder run = run("run", fusion, 1);
        try (Recommender expected = Recommender.open(run, catalogue, Tiny.device(), storage, null);
                Engine engine = engine(snapshot(run, storage));
                Retriever retriever = new Retriever(engine, source);
                Ranker ranker = new Ranker(engine, source)) {
            for (int step = 0; step < 60; step++) {
                String user = "u" + random.nextInt(8);
                source.append(List.of(new Event(user, anItem(), step)));
                List<String> history = source.history(user).items();
                Answer best = retriever.recommend(user, ITEMS, ALL).join();
                checkBest(expected, history, best);
                assertEquals(
                        best.items(),
                        retriever.recommend(history, ITEMS, ALL).join().items());
                List<String> candidates = random.ints(1 + random.nextInt(20), 0, ITEMS)
                        .mapToObj(i -> "i" + i)
                        .toList();
                checkRanking(
                        expected,
                        history,
                        candidates,
                        ranker.rank(user, candidates).join());
                checkRanking(
                        expected,
                        history,
                        candidates,
                        ranker.rank(history, candidates).join());
            }
            checkRanking(
                    expected,
                    List.of(),
                    List.of("i1", "i2"),
                    ranker.rank("nobody", List.of("i2", "i1")).join());
            assertTrue(
                    failure(retriever.recommend("nobody", 3, ALL)).getMessage().contains("nobody"));
            assertTrue(
                    failure(ranker.rank("u1", List.of("i1", "ix"))).getMessage().contains("ix"));
            Engine.Stats stats = engine.stats();
            assertEquals(4 * 60 + 1, stats.answered());
            assertEquals(2, stats.failed());
            assertTrue(stats.cache().evictions() > 0 && stats.cache().hits() > 0, stats.toString());
        }
    }

    private static void checkBest(Recommender expected, List<String> history, Answer answer) {
        int[] rows = history.stream().mapToInt(expected.catalogue()::row).toArray();
        List<Recommendation> all = expected.recommend(List.of(rows), ITEMS).getFirst();
        assertEquals(all.size(), answer.items().size());
        Map<String, Float> scores = new HashMap<>();
        all.forEach(r -> scores.put(r.itemId(), r.score()));
        for (int i = 0; i < all.size(); i++) { // near ties may change places
            Recommendation found = answer.items().get(i);
            assertEquals(all.get(i).score(), found.score(), 1e-4);
            assertEquals(scores.get(found.itemId()), found.score(), 1e-4);
        }
        assertEquals(Math.min(history.size(), Tiny.MAX_HISTORY), answer.events());
    }

    private static void checkRanking(
            Recommender expected, List<String> history, List<String> candidates, Answer answer) {
        assertEquals(
                candidates.stream().sorted().toList(),
                ids(answer).stream().sorted().toList());
        List<String> seen = history.subList(Math.max(0, history.size() - Tiny.MAX_HISTORY), history.size());
        float[] priors = gaussian(ITEMS, 1); // as the run of that seed has them
        float before = 1;
        assertTrue(Set.copyOf(candidates).size() < 2
                || answer.items().getLast().score() < answer.items().getFirst().score());
        for (Recommendation item : answer.items()) {
            int[] rows = Stream.concat(seen.stream(), Stream.of(item.itemId()))
                    .mapToInt(expected.catalogue()::row)
                    .toArray();
            LabelledSequence sequence = new LabelledSequence(
                    0, rows, new int[] {seen.size()}, new float[] {0}, new float[] {priors[rows[seen.size()]]});
            float logit = EventScorer.logits(expected.model(), expected.table(), List.of(sequence), 100, null)[0];
            assertEquals(1 / (1 + Math.exp(-logit)), item.score(), 1e-4);
            assertTrue(item.score() <= before);
            before = item.score();
        }
    }

    @Test
    void filtersAndLimits() {
        try (Engine engine = engine(run("run", null, 1));
                Retriever retriever = new Retriever(engine, source);
                Ranker ranker = new Ranker(engine, source)) {
            List<String> history = List.of("i1", "unknown", "i2");
            List<String> all = ids(retriever.recommend(history, 1000, ALL).join());
            assertEquals(ITEMS - 2, all.size());
            assertEquals(
                    all.subList(0, 3), ids(retriever.recommend(history, 3, ALL).join()));
            Set<String> some = Set.of(all.get(9), all.get(4), all.get(6), "i1", "unknown");
            assertEquals(
                    List.of(all.get(4), all.get(9)),
                    ids(retriever
                            .recommend(history, 5, new Filter(some, Set.of(all.get(6), "ix")))
                            .join()));
            assertEquals(
                    List.of(),
                    ids(retriever
                            .recommend(history, 5, new Filter(Set.of("i1"), Set.of()))
                            .join()));
            assertEquals(
                    all.subList(2, 5),
                    ids(retriever
                            .recommend(history, 3, new Filter(null, Set.copyOf(all.subList(0, 2))))
                            .join()));
            assertThrows(HllmException.class, () -> retriever.recommend(history, 0, ALL));
            assertThrows(HllmException.class, () -> ranker.rank(history, List.of()));
            assertTrue(failure(ranker.rank(history, List.of("i3"))).getMessage().contains("train-ranker"));
            Retriever closed = new Retriever(engine, source);
            closed.close();
            assertThrows(HllmException.class, () -> closed.recommend(history, 3, ALL));
        }
    }

    // ---- Items and models -------------------------------------------------------------------------------------------

    @Test
    void itemsComeAndGo() {
        RunFolder run = run("run", Fusion.EARLY, 1);
        try (Engine engine = engine(run);
                Retriever retriever = new Retriever(engine, source);
                Ranker ranker = new Ranker(engine, source)) {
            List<String> history = List.of("i1", "i2");
            Map<String, Float> before =
                    scores(retriever.recommend(history, 100, ALL).join());
            assertEquals(ITEMS, engine.add("new", Map.of("title", "film 7")).join());
            Map<String, Float> with =
                    scores(retriever.recommend(history, 100, ALL).join());
            assertEquals(before.get("i7"), with.get("new"), 1e-5, "the same text");
            assertEquals("film 7", engine.snapshot().field(engine.snapshot().row("new"), "title"));
            assertEquals(ITEMS + 1, engine.snapshot().items());

            assertTrue(engine.remove("i7").join());
            assertFalse(engine.remove("i7").join());
            assertFalse(engine.remove("unknown").join());
            Map<String, Float> without =
                    scores(retriever.recommend(history, 100, ALL).join());
            assertFalse(without.containsKey("i7"));
            assertEquals(
                    List.of("new"),
                    ids(retriever
                            .recommend(history, 9, new Filter(Set.of("i7", "new"), Set.of()))
                            .join()));
            assertEquals(
                    2,
                    ranker.rank(List.of("i7"), List.of("new", "i7"))
                            .join()
                            .items()
                            .size(),
                    "histories keep it");

            assertEquals(ITEMS + 1, engine.add("i7", Map.of("title", "film 9")).join(), "again, with another text");
            assertEquals(
                    before.get("i9"),
                    scores(retriever.recommend(history, 100, ALL).join()).get("i7"),
                    1e-5);
            for (int i = 0; i < 300; i++) { // the table grows
                engine.add("many" + i % 5, Map.of("title", "film " + i % ITEMS)).join();
            }
            Map<String, Float> grown =
                    scores(retriever.recommend(history, 1000, ALL).join());
            assertEquals(ITEMS - 2 + 1 + 5, grown.size());
            assertEquals(before.get("i" + 299 % ITEMS), grown.get("many4"), 1e-5);
            assertTrue(failure(engine.add("bad", Map.of("colour", "red")))
                    .getMessage()
                    .contains("colour"));

            engine.remove("i3").join();
            engine.swap(snapshot(run)).join();
            Map<String, Float> swapped =
                    scores(retriever.recommend(history, 1000, ALL).join());
            grown.remove("i3");
            assertEquals(grown.keySet(), swapped.keySet());
            grown.forEach((id, score) -> assertEquals(score, swapped.get(id), 1e-5, id));
        }
    }

    /** After a restart, under another catalogue that knows some of the items, and back. */
    @Test
    void changesOfItemsOutliveTheEngine() throws IOException {
        RunFolder run = run("run", null, 1);
        List<String> history = List.of("i1", "i2");
        Map<String, Float> plain; // of "film n" by "in"
        Map<String, Float> changed;
        try (Engine engine = kept(run);
                Retriever retriever = new Retriever(engine, source)) {
            plain = scores(retriever.recommend(history, 100, ALL).join());
            engine.add("new", Map.of("title", "film 7")).join();
            engine.add("other", Map.of("title", "film 6")).join();
            engine.add("i7", Map.of("title", "film 9")).join();
            engine.add("i8", Map.of("title", "film 9")).join();
            engine.add("gone", Map.of("title", "film 9")).join();
            List.of("gone", "i3", "i4").forEach(id -> engine.remove(id).join());
            engine.add("i4", Map.of("title", "film 5")).join();
            changed = scores(retriever.recommend(history, 100, ALL).join());
        }
        changes.close();
        try (Engine engine = kept(run);
                Retriever retriever = new Retriever(engine, source)) {
            assertClose(changed, scores(retriever.recommend(history, 100, ALL).join()));
            assertEquals(ITEMS + 2 - 1, engine.snapshot().items());
            assertEquals(
                    scores(retriever.recommend(List.of("i9"), 100, ALL).join()).get("i1"),
                    scores(retriever.recommend(List.of("gone"), 100, ALL).join())
                            .get("i1"),
                    1e-5,
                    "histories keep it");

            Catalogue first = catalogue;
            Path items = folder.resolve("later.csv");
            Files.writeString(
                    items,
                    Files.readString(folder.resolve("items.csv")).replace("i8,film 8", "i8,film 12")
                            + "new,film 11\ngone,film 3\n");
            catalogue = Catalogue.read(items, List.of("title"));
            Map<String, Float> expected = new HashMap<>(changed);
            expected.put("new", plain.get("i11"));
            expected.put("i8", plain.get("i12"));
            Snapshot later = snapshot(run);
            later.apply(changes);
            engine.remove("i5").join(); // while it was loaded
            engine.add("i7", Map.of("title", "film 10")).join();
            engine.swap(later).join();
            expected.remove("i5");
            expected.put("i7", plain.get("i10"));
            assertClose(expected, scores(retriever.recommend(history, 100, ALL).join()));

            engine.add("gone", Map.of("title", "film 13")).join();
            expected.put("gone", plain.get("i13"));
            assertClose(expected, scores(retriever.recommend(history, 100, ALL).join()));
            catalogue = first;
            engine.swap(snapshot(run)).join();
            expected.put("new", plain.get("i7"));
            expected.put("i8", plain.get("i9"));
            assertClose(expected, scores(retriever.recommend(history, 100, ALL).join()));
        }
    }

    private Engine kept(RunFolder run) {
        changes = ItemChanges.open(folder.resolve("events.log.items"), new Fsync.Always());
        return engine(run);
    }

    private static void assertClose(Map<String, Float> expected, Map<String, Float> found) {
        assertEquals(expected.keySet(), found.keySet());
        expected.forEach((id, score) -> assertEquals(score, found.get(id), 1e-5, id));
    }

    private static Map<String, Float> scores(Answer answer) {
        Map<String, Float> scores = new HashMap<>();
        answer.items().forEach(r -> scores.put(r.itemId(), r.score()));
        return scores;
    }

    /** What one thread asked, and got. */
    private record Heard(List<String> history, Answer answer) {}

    @Test
    void manyThreadsPostAndAskWhileModelsAreSwapped() throws Exception {
        List<RunFolder> runs = List.of(run("one", null, 1), run("two", null, 2));
        int threads = 12;
        int each = 25;
        Collection<Heard> heard = new ConcurrentLinkedQueue<>();
        AtomicInteger busy = new AtomicInteger();
        try (Engine engine =
                engine(snapshot(runs.getFirst()), threads / 2, 4, Duration.ofMillis(1), Engine.Listener.NONE)) {
            try (Retriever retriever = new Retriever(engine, source);
                    ExecutorService pool = Executors.newVirtualThreadPerTaskExecutor()) {
                List<Future<?>> posting = new ArrayList<>();
                for (int t = 0; t < threads; t++) {
                    String own = "u" + t;
                    Random mine = new Random(Tiny.seed() + t);
                    posting.add(pool.submit(() -> {
                        for (int i = 0; i < each; i++) {
                            source.append(List.of(
                                    new Event(own, "i" + mine.nextInt(ITEMS), i),
                                    new Event("all", "i" + mine.nextInt(ITEMS), i)));
                            String user = i % 3 == 0 ? "all" : own;
                            try {
                                Answer answer =
                                        retriever.recommend(user, ITEMS, ALL).join();
                                if (!user.equals("all")) { // others post for that one
                                    heard.add(new Heard(source.history(own).items(), answer));
                                }
                            } catch (BusyException e) {
                                busy.incrementAndGet();
                            }
                        }
                    }));
                }
                for (int swap = 1; swap <= 6; swap++) {
                    Thread.sleep(20);
                    engine.swap(snapshot(runs.get(swap % 2))).join();
                }
                for (Future<?> one : posting) {
                    one.get();
                }
            }
            Engine.Stats stats = engine.stats();
            System.out.println(stats + ", " + heard.size() + " answers checked");
            assertEquals(threads * each, stats.answered() + stats.busy());
            assertEquals(busy.get(), stats.busy());
            assertEquals(0, stats.failed() + stats.waiting());
            assertEquals(7, stats.generations());
        }
        for (int t = 0; t < threads; t++) {
            assertEquals(each, source.history("u" + t).size());
        }
        assertEquals(threads * each, source.history("all").size());
        int compared = 0;
        for (RunFolder run : runs) {
            try (Recommender expected = Recommender.open(run, catalogue, Tiny.device(), DType.F32, null)) {
                for (Heard one : heard) {
                    if (one.answer.model().equals(run.manifest().modelHash())) {
                        checkBest(expected, one.history, one.answer);
                        compared++;
                    }
                }
            }
        }
        assertEquals(heard.size(), compared);
        assertTrue(compared > 10, compared + " answers");
    }

    @Test
    void aRunThatIsTrainedAnewWhileItIsLoadedIsRefused() throws IOException {
        RunFolder run = run("run", null, 1);
        HllmException refused = assertThrows(
                HllmException.class,
                () -> Snapshot.open(run, catalogue, Tiny.device(), DType.F32, encoded -> run("run", null, 2)));
        assertTrue(refused.getMessage().contains("try again"), refused.getMessage());
        try (Engine engine = engine(run)) {
            Files.delete(run.path().resolve("model-1/item/tokenizer.json")); // once it is loaded, nothing is read
            assertEquals(ITEMS, engine.add("new", Map.of("title", "film 7")).join());
        }
    }

    @Test
    void aSwapThatFailsLeavesTheModelAndItsUsers() throws IOException {
        RunFolder run = run("run", null, 1);
        RunFolder shorter = run("shorter", null, 2);
        String manifest = Files.readString(shorter.manifestFile());
        Files.writeString(shorter.manifestFile(), manifest.replace("\"maxHistory\" : 6", "\"maxHistory\" : 2"));
        source.append(List.of(new Event("u", "i1", 1), new Event("u", "i2", 2), new Event("u", "i3", 3)));
        for (Integer slack : new Integer[] {4, null}) {
            Snapshot first = snapshot(run);
            Engine.Options options =
                    new Engine.Options(cacheOptions(first, slack), 9, 1, Duration.ZERO, Engine.Listener.NONE);
            try (Engine engine = new Engine(first, changes, options);
                    Retriever retriever = new Retriever(engine, source)) {
                List<Recommendation> before =
                        retriever.recommend("u", 5, ALL).join().items();
                CompletableFuture<Void> swap = engine.swap(snapshot(shorter));
                if (slack == null) { // what the model takes
                    swap.join();
                    assertEquals(3, retriever.recommend("u", 5, ALL).join().events());
                    continue;
                }
                assertTrue(failure(swap).getMessage().contains("slack 4"));
                assertEquals(0, retriever.recommend("u", 5, ALL).join().computed(), "still cached");

                Snapshot next = snapshot(run);
                Context.memoryLimit(Tiny.device(), 1);
                assertInstanceOf(DeviceOutOfMemoryException.class, failure(engine.swap(next)));
                failure(retriever.recommend("u", 5, ALL));
                Context.memoryLimit(Tiny.device(), 0);
                assertEquals(before, retriever.recommend("u", 5, ALL).join().items());
                assertEquals(1, engine.stats().generations());
            } finally {
                Context.memoryLimit(Tiny.device(), 0);
            }
        }
    }

    @Test
    void tablesThatCouldNotGrowGrowLater() {
        RunFolder run = run("run", null, 1);
        try (Engine engine = engine(run)) {
            long bytes = (ITEMS + Snapshot.LEAST_SPARE) * 4L * run.width(); // of a larger table; there are two
            Context.memoryLimit(Tiny.device(), Context.liveBytes(Tiny.device()) + bytes * 3 / 2);
            assertInstanceOf(DeviceOutOfMemoryException.class, failure(engine.add("new", Map.of("title", "film 7"))));
            Context.memoryLimit(Tiny.device(), 0);
            assertEquals(ITEMS, engine.add("new", Map.of("title", "film 7")).join());
        } finally {
            Context.memoryLimit(Tiny.device(), 0);
        }
    }

    // ---- The queue --------------------------------------------------------------------------------------------------

    @Test
    void aFullQueueIsBusyAndACloseAnswersWhatWaits() throws Exception {
        Standstill still = new Standstill();
        Engine engine = engine(snapshot(run("run", null, 1)), 3, 2, Duration.ZERO, still);
        Retriever retriever = new Retriever(engine, source);
        List<CompletableFuture<Answer>> asked = new ArrayList<>();
        asked.add(retriever.recommend(List.of("i1"), 3, ALL));
        still.await();
        for (int i = 0; i < 3; i++) {
            asked.add(retriever.recommend(List.of("i1"), 3, ALL));
        }
        BusyException busy = assertThrows(BusyException.class, () -> retriever.recommend(List.of("i1"), 3, ALL));
        assertTrue(busy.getMessage().contains("3 requests"), busy.getMessage());
        assertEquals(3, engine.stats().waiting());
        asked.get(2).cancel(false);
        asked.add(retriever.recommend(List.of("i1"), 3, ALL)); // in its place
        Thread closing = Thread.ofPlatform().start(engine::close);
        still.goOn();
        closing.join();
        List<String> answer = ids(asked.get(0).join());
        assertEquals(3, answer.size());
        assertEquals(answer, ids(asked.get(1).join()));
        assertEquals(answer, ids(asked.get(3).join()));
        assertEquals(answer, ids(asked.get(4).join()));
        assertEquals(1, engine.stats().busy());
        assertEquals(4, engine.stats().answered(), "nobody waited for the cancelled one");
        assertThrows(HllmException.class, () -> retriever.recommend(List.of("i1"), 3, ALL));
        Snapshot late = snapshot(new RunFolder(folder.resolve("run")));
        assertThrows(HllmException.class, () -> engine.swap(late));
        engine.close();
    }

    @Test
    void changesOfItemsTakeTurnsWithQuestions() throws Exception {
        Standstill still = new Standstill();
        try (Engine engine = engine(snapshot(run("run", null, 1)), 9, 1, Duration.ZERO, still);
                Retriever retriever = new Retriever(engine, source)) {
            retriever.recommend(List.of("i1"), 3, ALL);
            still.await();
            for (int i = 0; i < 10; i++) {
                engine.add("new" + i, Map.of("title", "film " + i));
            }
            List<CompletableFuture<Integer>> items = IntStream.range(0, 2)
                    .mapToObj(i -> retriever.recommend(List.of("i1"), 3, ALL))
                    .map(answer -> answer.thenApply(a -> engine.snapshot().items())) // by the engine's thread
                    .toList();
            still.goOn();
            assertEquals(
                    List.of(ITEMS + 1, ITEMS + 2),
                    items.stream().map(CompletableFuture::join).toList());
        } finally {
            still.goOn();
        }
    }

    @Test
    void aChangeThatNobodyWaitsForIsKeptAllTheSame() throws Exception {
        Standstill still = new Standstill();
        Path file = folder.resolve("events.log.items");
        changes = ItemChanges.open(file, new Fsync.Always());
        long empty = Files.size(file);
        try (Engine engine = engine(snapshot(run("run", null, 1)), 9, 1, Duration.ZERO, still);
                Retriever retriever = new Retriever(engine, source)) {
            retriever.recommend(List.of("i1"), 3, ALL);
            still.await();
            assertTrue(engine.add("new", Map.of("title", "film 7")).cancel(false));
            still.goOn();
            long deadline = System.nanoTime() + Duration.ofMinutes(1).toNanos();
            while (Files.size(file) == empty) {
                assertTrue(System.nanoTime() < deadline, "nothing is written");
                Thread.sleep(5);
            }
        } finally {
            still.goOn();
        }
    }

    /** Of a batch, those that are computed together: the first does not fit in memory, the second does. */
    @Test
    void questionsThatFailDoNotFailOthers() {
        AtomicInteger heard = new AtomicInteger();
        Engine engine = engine(
                snapshot(run("run", Fusion.EARLY, 1)),
                9,
                2,
                Duration.ofMinutes(10),
                (operation, waited, computed, batch) -> heard.incrementAndGet());
        try (engine;
                Ranker ranker = new Ranker(engine, source)) {
            List<String> history = List.of("i1", "i2");
            List<String> many = IntStream.range(0, 16384).mapToObj(i -> "i1").toList();
            List<CompletableFuture<Answer>> warm = Stream.of("i3", "i4")
                    .map(item -> ranker.rank(history, List.of(item)))
                    .toList();
            warm.forEach(CompletableFuture::join);
            Context.memoryLimit(Tiny.device(), Context.liveBytes(Tiny.device()) + (1 << 20));
            CompletableFuture<Answer> large = ranker.rank(history, many);
            CompletableFuture<Answer> small = ranker.rank(history, List.of("i3"));
            assertInstanceOf(DeviceOutOfMemoryException.class, failure(large));
            assertEquals(warm.getFirst().join().items(), small.join().items());
            assertEquals(1, engine.stats().failed());
        } finally {
            Context.memoryLimit(Tiny.device(), 0);
        }
        assertEquals(3, heard.get());
    }

    @Test
    void questionsThatComeTogetherAreAnsweredTogether() {
        Collection<Integer> batches = new ConcurrentLinkedQueue<>();
        Engine engine = engine(
                snapshot(run("run", null, 1)),
                100,
                6,
                Duration.ofMinutes(10),
                (o, waited, computed, batch) -> batches.add(batch));
        try (engine;
                Retriever retriever = new Retriever(engine, source)) {
            List<CompletableFuture<Answer>> asked = IntStream.range(0, 12)
                    .mapToObj(i -> retriever.recommend(List.of("i" + i), 2, ALL))
                    .toList();
            asked.forEach(CompletableFuture::join); // long before the ten minutes are over
            CompletableFuture<Answer> alone = retriever.recommend(List.of("i1"), 2, ALL);
            engine.close(); // does not wait for a batch to fill
            assertEquals(2, alone.join().items().size());
        }
        assertEquals(13, batches.size());
        assertEquals(12, batches.stream().filter(b -> b == 6).count());
    }

    /** More than is computed at a time, of one question and of a batch. */
    @ParameterizedTest
    @EnumSource(Fusion.class)
    void manyCandidatesAreRankedInParts(Fusion fusion) {
        List<String> all = IntStream.range(0, ITEMS).mapToObj(i -> "i" + i).toList();
        List<String> many = random.ints(9000, 0, ITEMS).mapToObj(i -> "i" + i).toList();
        List<String> history = List.of("i1", "i2");
        try (Engine engine =
                        engine(snapshot(run("run", fusion, 1)), 100, 3, Duration.ofMinutes(10), Engine.Listener.NONE);
                Ranker ranker = new Ranker(engine, source)) {
            List<CompletableFuture<Answer>> asked = Stream.of(all, many, many)
                    .map(candidates -> ranker.rank(history, candidates))
                    .toList();
            Map<String, Float> expected = scores(asked.getFirst().join());
            assertEquals(ITEMS, expected.size());
            for (CompletableFuture<Answer> answer : asked.subList(1, 3)) {
                List<Recommendation> items = answer.join().items();
                assertEquals(many.size(), items.size());
                items.forEach(item -> assertEquals(expected.get(item.itemId()), item.score(), 1e-5));
            }
        }
    }

    @Test
    void anEngineThatCannotStartLeavesNothing() {
        RunFolder run = run("run", null, 1);
        UserFeatureCache.Options tiny = new UserFeatureCache.Options(100, 0, 8, DType.F32);
        Snapshot snapshot = snapshot(run);
        assertThrows(
                HllmException.class,
                () -> new Engine(
                        snapshot, changes, new Engine.Options(tiny, 1, 1, Duration.ZERO, Engine.Listener.NONE)));
        assertThrows(HllmException.class, () -> new Engine.Options(tiny, 0, 1, Duration.ZERO, Engine.Listener.NONE));
    }
}
