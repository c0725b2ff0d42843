package org.hllm4j.serve;

import java.nio.FloatBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.LongAdder;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.engine.Context;
import org.hllm4j.model.Fusion;

/**
 * One thread that owns a device: it answers what {@link Retriever}s and {@link Ranker}s ask, many users at a time,
 * changes items, and takes over new models between two batches. A question that finds the queue full is refused at once
 * with {@link BusyException}. All methods may be called by any thread; futures complete on the engine's, so that what
 * hangs on them must be short.
 *
 * <p>An answer is that of one generation: the model, table and items that the engine had when it took the question from
 * the queue.
 */
public final class Engine implements AutoCloseable {
    /**
     * @param cache of every generation
     * @param queue questions that may wait
     * @param batch questions answered at a time
     * @param gather how long the first question of a batch waits for others; zero: not at all
     * @param listener told of every answer
     */
    public record Options(UserFeatureCache.Options cache, int queue, int batch, Duration gather, Listener listener) {
        public Options {
            if (queue < 1 || batch < 1 || gather.isNegative()) {
                throw new HllmException("engine: queue " + queue + " and batch " + batch
                        + " must be at least 1, and gather " + gather + " not negative");
            }
        }
    }

    /** Hears of answers, on the engine's thread: for metrics. */
    @FunctionalInterface
    public interface Listener {
        Listener NONE = (operation, waited, computed, batch) -> {};

        /**
         * @param operation "recommend" or "rank"
         * @param waited nanoseconds in the queue
         * @param computed nanoseconds that the batch took
         * @param batch questions in it
         */
        void answered(String operation, long waited, long computed, int batch);
    }

    /**
     * @param cache of the present generation
     * @param waiting questions in the queue
     * @param answered questions, since the start
     * @param failed questions that were taken and ended with an exception, since the start
     * @param busy questions refused because the queue was full, since the start
     * @param generations models since the start
     * @param deviceBytes that this process has on the device now, see {@link Context#liveBytes}
     */
    public record Stats(
            UserFeatureCache.Stats cache,
            int waiting,
            long answered,
            long failed,
            long busy,
            long generations,
            long deviceBytes) {}

    private static final int MAX_STATES = 16384; // of the User LLM at a time, unless one question alone has more

    private static final System.Logger LOG = System.getLogger(Engine.class.getName());

    /** A result that counts once it is kept. */
    private record Kept<T>(T value, Runnable await) {}

    private final ItemChanges changes;
    private final Options options;
    private final Inbox inbox;
    private final Thread thread;
    private final LongAdder answered = new LongAdder();
    private final LongAdder failed = new LongAdder();
    private final LongAdder busy = new LongAdder();
    private final LongAdder generations = new LongAdder();
    private volatile Snapshot snapshot;
    private volatile UserFeatureCache cache;

    /**
     * @param first is the engine's from now on, which closes it, even where this constructor fails
     * @param changes of items, which are made in each generation
     */
    public Engine(Snapshot first, ItemChanges changes, Options options) {
        this.changes = changes;
        this.options = options;
        inbox = new Inbox(options.queue);
        snapshot = first;
        try {
            first.apply(changes);
            cache = new UserFeatureCache(first.model(), options.cache);
        } catch (RuntimeException e) {
            first.close();
            throw e;
        }
        generations.increment();
        thread = Thread.ofPlatform().name("hllm-engine").start(this::run);
    }

    // ---- Any thread -------------------------------------------------------------------------------------------------

    /** The present generation, to be asked about its items; it may be gone a moment later, but still tells those. */
    public Snapshot snapshot() {
        return snapshot;
    }

    /** Whether questions are answered: until it is closed, unless something went very wrong. */
    public boolean isRunning() {
        return thread.isAlive();
    }

    public Stats stats() {
        return new Stats(
                cache.stats(),
                inbox.waiting(),
                answered.sum(),
                failed.sum(),
                busy.sum(),
                generations.sum(),
                Context.liveBytes(snapshot.device()));
    }

    /** @throws BusyException when the queue is full */
    CompletableFuture<Answer> ask(Question question) {
        try {
            inbox.put(question);
        } catch (BusyException e) {
            busy.increment();
            throw e;
        }
        return question.answer();
    }

    /**
     * Adds an item by its text, or gives an item another text; completes with its row, when that is kept.
     *
     * @param fields text by text key
     */
    public CompletableFuture<Integer> add(String id, Map<String, String> fields) {
        return kept(chore(() -> {
            Runnable await = make(snapshot.text(id, fields));
            return new Kept<>(snapshot.row(id), await);
        }));
    }

    /** Keeps an item out of answers; completes with whether there was such an item, when that is kept. */
    public CompletableFuture<Boolean> remove(String id) {
        return kept(chore(() -> {
            int row = snapshot.row(id);
            return row < 0 || snapshot.removed(row)
                    ? new Kept<>(false, () -> {})
                    : new Kept<>(true, make(snapshot.removal(id)));
        }));
    }

    private Runnable make(ItemChanges.Change change) {
        snapshot.apply(List.of(change));
        return changes.put(change);
    }

    /** Waits for the disk on a thread of its own: the engine's goes on. Whoever cancels the result does not stop it. */
    private static <T> CompletableFuture<T> kept(CompletableFuture<Kept<T>> made) {
        return made.thenApplyAsync(
                        kept -> {
                            kept.await.run();
                            return kept.value;
                        },
                        Thread::startVirtualThread)
                .copy();
    }

    /**
     * Takes over another generation between two batches, and closes the present one. Changes of items that it does not have
     * yet are made in it. Keys and values belong to a model, so all users' are computed anew. Where it fails, the present one
     * goes on.
     *
     * @param next is the engine's from now on, which closes it, even where this fails
     */
    public CompletableFuture<Void> swap(Snapshot next) {
        try {
            return chore(() -> take(next));
        } catch (ClosedException e) {
            next.close();
            throw e;
        }
    }

    private <T> CompletableFuture<T> chore(Callable<T> work) {
        CompletableFuture<T> result = new CompletableFuture<>();
        inbox.put(() -> {
            try {
                result.complete(work.call());
            } catch (Exception | Error e) {
                result.completeExceptionally(e);
            }
        });
        return result;
    }

    /** Takes no more questions, answers those that wait, and frees the device. A second call does nothing. */
    @Override
    public void close() {
        inbox.close();
        boolean interrupted = false;
        while (thread.isAlive()) {
            try {
                thread.join();
            } catch (InterruptedException e) {
                interrupted = true; // the device must be free when this returns
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    // ---- The engine's thread ----------------------------------------------------------------------------------------

    private void run() {
        Runnable chore;
        List<Question> batch;
        do { // in turn, so that many chores do not keep questions waiting
            chore = inbox.chore();
            if (chore != null) {
                chore.run();
            }
            batch = inbox.batch(options.batch, options.gather.toNanos());
            try {
                answer(batch);
            } catch (RuntimeException | Error e) {
                fail(batch, e);
            }
        } while (chore != null || !batch.isEmpty());
        cache.close();
        snapshot.close();
    }

    private Void take(Snapshot next) {
        Snapshot old = snapshot;
        try {
            next.apply(changes);
            UserFeatureCache.check(next.model(), options.cache); // while there is still one
            cache.close(); // first, as two may be more than there is memory for
            cache = new UserFeatureCache(next.model(), options.cache);
        } catch (RuntimeException | Error e) {
            next.close(); // a cache that is closed is made again by the next batch
            throw e;
        }
        snapshot = next;
        old.close();
        generations.increment();
        return null;
    }

    /** A question on its way to an answer. */
    private static final class Asked {
        private final Question question;
        private final int[] history;
        private final int[] candidates; // null: the whole catalogue
        private final UserFeatureCache.Request request;
        private UserFeatureCache.Output output;
        private List<Recommender.Recommendation> items;

        Asked(Question question, int[] history, int[] candidates, int... targets) {
            this.question = question;
            this.history = history;
            this.candidates = candidates;
            request = new UserFeatureCache.Request(question.user(), history, targets);
        }

        int states() {
            return Math.max(1, request.targets().length);
        }
    }

    private void answer(List<Question> batch) {
        long begin = System.nanoTime();
        List<Asked> asked = new ArrayList<>();
        for (Question question : batch) {
            if (!question.answer().isDone()) { // nobody waits for a cancelled one
                try {
                    asked.add(prepared(question));
                } catch (RuntimeException e) { // this question's alone
                    fail(question, e);
                }
            }
        }
        for (int from = 0, end; from < asked.size(); from = end) {
            int states = asked.get(from).states();
            for (end = from + 1; end < asked.size() && states + asked.get(end).states() <= MAX_STATES; end++) {
                states += asked.get(end).states();
            }
            List<Asked> group = asked.subList(from, end);
            try {
                answerAll(group);
            } catch (RuntimeException | Error e) { // this group's alone
                fail(group.stream().map(a -> a.question).toList(), e);
            } finally {
                snapshot.workspace().release(0);
            }
        }
        long computed = System.nanoTime() - begin;
        for (Asked a : asked) {
            if (!a.question.answer().isCompletedExceptionally()) {
                String operation = a.question instanceof Question.Recommend ? "recommend" : "rank";
                options.listener.answered(operation, begin - a.question.asked(), computed, batch.size());
            }
        }
    }

    private void fail(List<Question> questions, Throwable reason) {
        LOG.log(System.Logger.Level.ERROR, questions.size() + " questions failed", reason);
        questions.forEach(question -> fail(question, reason));
    }

    private void fail(Question question, Throwable reason) {
        if (!question.answer().isDone()) {
            failed.increment();
            question.answer().completeExceptionally(reason);
        }
    }

    private Asked prepared(Question question) {
        int[] history = snapshot.rows(question.history());
        if (question instanceof Question.Rank rank) {
            if (snapshot.fusion() == null) {
                throw new UnanswerableException(
                        "this run has no ranking head: train one with `hllm train-ranker`, or ask for "
                                + "recommendations among the candidates");
            }
            int[] candidates = rank.candidates().stream().mapToInt(this::known).toArray();
            boolean early = snapshot.fusion() == Fusion.EARLY;
            return new Asked(question, history, candidates, early ? candidates : new int[] {UserFeatureCache.USER});
        }
        if (history.length == 0) {
            throw new UnanswerableException(
                    (question.user() == null ? "the history" : "user \"" + question.user() + "\"")
                            + " has no event whose item is in the catalogue; expected at least one");
        }
        return new Asked(question, history, allowed((Question.Recommend) question));
    }

    /** Rows that an answer may hold but for history and denied ones; null: all. */
    private int[] allowed(Question.Recommend question) {
        Set<String> allow = question.filter().allow();
        return allow == null
                ? null
                : Arrays.stream(snapshot.rows(allow))
                        .filter(row -> !snapshot.removed(row))
                        .sorted()
                        .toArray();
    }

    private int known(String id) {
        int row = snapshot.row(id);
        if (row < 0) {
            throw new UnanswerableException("candidate \"" + id + "\" is not in the catalogue");
        }
        return row;
    }

    private void answerAll(List<Asked> asked) {
        if (cache.isClosed()) { // by a swap that failed
            cache = new UserFeatureCache(snapshot.model(), options.cache);
        }
        List<UserFeatureCache.Output> outputs = cache.outputs(
                snapshot.table(), asked.stream().map(a -> a.request).toList());
        for (int i = 0; i < asked.size(); i++) {
            asked.get(i).output = outputs.get(i);
        }
        recommend(asked.stream()
                .filter(a -> a.question instanceof Question.Recommend && a.candidates == null)
                .toList());
        for (Asked a : asked) {
            if (a.question instanceof Question.Recommend recommend && a.candidates != null) {
                int[] out = excluded(a);
                Arrays.sort(out);
                int[] rows = Arrays.stream(a.candidates)
                        .filter(row -> Arrays.binarySearch(out, row) < 0)
                        .toArray();
                a.items = snapshot.bestOf(rows, a.output.states(), recommend.k());
            }
        }
        rank(asked.stream().filter(a -> a.question instanceof Question.Rank).toList());
        answered.add(asked.size());
        for (Asked a : asked) {
            UserFeatureCache.Output o = a.output;
            a.question
                    .answer()
                    .complete(new Answer(a.items, o.events(), o.computed(), o.needed(), snapshot.modelHash()));
        }
    }

    /** The best of the whole table, which is read once for all of them. */
    private void recommend(List<Asked> asked) {
        if (asked.isEmpty()) {
            return;
        }
        int most = asked.stream()
                .mapToInt(a -> ((Question.Recommend) a.question).k())
                .max()
                .orElseThrow();
        List<List<Recommender.Recommendation>> best = snapshot.best(
                snapshot.upload(states(asked)),
                most,
                asked.stream().map(this::excluded).toList());
        for (int i = 0; i < best.size(); i++) {
            int k = ((Question.Recommend) asked.get(i).question).k();
            asked.get(i).items = best.get(i).subList(0, Math.min(k, best.get(i).size()));
        }
    }

    private int[] excluded(Asked asked) {
        int[] denied =
                snapshot.rows(((Question.Recommend) asked.question).filter().deny());
        return IntStream.concat(Arrays.stream(asked.history), Arrays.stream(denied))
                .toArray();
    }

    /** One pass of the head over the candidates of all. */
    private void rank(List<Asked> asked) {
        IntStream.Builder stateOf = IntStream.builder();
        int states = 0;
        for (Asked a : asked) {
            boolean own = a.request.targets() == a.candidates; // early fusion: a state for each candidate
            for (int i = 0; i < a.candidates.length; i++) {
                stateOf.add(own ? states++ : states);
            }
            states += own ? 0 : 1;
        }
        int[] targets =
                asked.stream().flatMapToInt(a -> Arrays.stream(a.candidates)).toArray();
        if (targets.length == 0) {
            return;
        }
        float[] logits = snapshot.logits(states(asked), stateOf.build().toArray(), targets);
        int at = 0;
        for (Asked a : asked) {
            List<Recommender.Recommendation> items = new ArrayList<>();
            for (int row : a.candidates) {
                items.add(new Recommender.Recommendation(
                        row, snapshot.id(row), (float) (1 / (1 + Math.exp(-logits[at++])))));
            }
            items.sort(Comparator.comparingDouble(item -> -item.score()));
            a.items = items;
        }
    }

    private static float[] states(List<Asked> asked) {
        FloatBuffer all = FloatBuffer.allocate(
                asked.stream().mapToInt(a -> a.output.states().length).sum());
        asked.forEach(a -> all.put(a.output.states()));
        return all.array();
    }
}
