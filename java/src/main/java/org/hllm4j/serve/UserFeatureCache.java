package org.hllm4j.serve;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Deque;
import java.util.HashMap;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.model.AppendGraph;
import org.hllm4j.model.CachedHistory;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.RankingHead;
import org.hllm4j.model.UserLlm;
import org.hllm4j.nn.KeyValueArena;
import org.hllm4j.nn.Parameter;

/**
 * What the User LLM says of users, with their keys and values kept between requests: new events cost their own
 * positions only, and what was asked before costs nothing.
 *
 * <p>The model sees a <b>window</b> of a history: all of it up to {@code maxHistory + slack} events, then the last
 * {@code maxHistory}, which grow to {@code maxHistory + slack} again. Where it begins follows from the number of events
 * alone, so an answer does not depend on what is cached.
 *
 * <p>Keys and values of a position depend on the window up to there and on nothing else. So whatever was computed for a
 * user is kept as far as it agrees, item by item, with the window that is asked for: events may be appended, inserted
 * or forgotten at will, and the answer is always that of the history given.
 *
 * <p>Memory is one arena of pages of 16 positions within a budget of bytes. A user without a free page takes those of
 * the users who were not asked for longest; they are computed anew when they come back. A cache belongs to one model,
 * and to the row numbers of one {@link Snapshot}: another one gets a new cache. One thread at a time, except {@link
 * #stats}.
 */
public final class UserFeatureCache implements AutoCloseable {
    /** In {@link Request#targets}: the [USER] token of late fusion. */
    public static final int USER = -1;

    private static final int DEFAULT_SLACK = 16;
    private static final int PAGE = 16;
    private static final int MAX_ROWS = 4096; // computed at a time, unless one history alone is longer
    private static final int MAX_GRAPH_ROWS = 128; // of more rows, operations take longer than their launches

    /**
     * @param bytes of the arena
     * @param slack events beyond max history that a window may grow to, at most {@link UserLlm#mostSlack}; more: fewer windows are
     *     computed anew, and keys take more memory. Null: 16, or the most that the model takes
     * @param branches targets that are computed at a time; their rows are part of the arena
     * @param dtype of keys and values, see {@link KeyValueArena}
     */
    public record Options(long bytes, Integer slack, int branches, DType dtype) {
        int slackFor(Hllm model) {
            return slack == null ? Math.min(DEFAULT_SLACK, model.users().mostSlack()) : slack;
        }
    }

    /**
     * @param user whose keys and values are kept; null: nobody's, nothing is kept
     * @param history item rows, all of them, oldest first
     * @param targets item rows that end the history, each by itself (early fusion), or {@link #USER} alone (late
     *     fusion); none: the prediction after the last event is wanted
     */
    public record Request(String user, int[] history, int... targets) {}

    /**
     * @param states [targets, D] of the User LLM at the targets, or [1, D] at the last event; not to be changed
     * @param events in the window
     * @param computed positions that were computed
     * @param needed positions that the window and the targets have
     */
    public record Output(float[] states, int events, int computed, int needed) {}

    /**
     * Counts since the cache was made.
     *
     * @param hits requests of users of whose window something was cached
     * @param misses requests where nothing was
     * @param evictions users who lost their pages to others
     * @param pagesUsed now
     * @param pages in all
     * @param computed positions
     * @param needed positions without a cache
     * @param launches of graphs; each did what otherwise a pass does
     */
    public record Stats(
            long hits,
            long misses,
            long evictions,
            int pagesUsed,
            int pages,
            long computed,
            long needed,
            long launches) {}

    /** What a graph is made for. */
    private record Shape(int users, boolean branch) {}

    /** What is cached of one user. */
    private static final class Entry {
        private int[] items = {}; // whose keys and values lie in the pages
        private int[] pages = {};
        private float[] prediction; // of just these items; null: not asked for
        private float[] feature; // the same at [USER]
        private boolean pinned; // in use by the present round

        /** Arena rows of the first events. */
        int[] rows(int count) {
            return IntStream.range(0, count)
                    .map(i -> pages[i / PAGE] * PAGE + i % PAGE)
                    .toArray();
        }
    }

    /** A request on its way. */
    private final class Work {
        private final Request request;
        private final Object key;
        private final int[] window;
        private final float[] states;
        private int done; // of the outputs
        private int computed;

        Work(Request request) {
            this.request = request;
            key = request.user == null ? new Object() : request.user;
            int events = request.history.length;
            window = Arrays.copyOfRange(request.history, start(events, maxHistory, slack), events);
            states = new float[outputs() * width];
            if (window.length == 0 && request.targets.length == 0) {
                throw new HllmException("the history is empty; expected at least one event to predict the next from");
            }
            if (userToken == null && IntStream.of(request.targets).anyMatch(target -> target == USER)) {
                throw new HllmException("the model has no [USER] token: it is no ranker with late fusion");
            }
        }

        int outputs() {
            return Math.max(1, request.targets.length);
        }

        int needed() {
            return window.length + request.targets.length;
        }

        boolean isDone() {
            return done == outputs();
        }

        boolean asksForFeature() {
            return request.targets.length == 1 && request.targets[0] == USER;
        }

        /** What is known of this window already, or null. */
        float[] remembered(Entry entry) {
            boolean same = entry != null && Arrays.equals(entry.items, window);
            return !same
                    ? null
                    : request.targets.length == 0 ? entry.prediction : asksForFeature() ? entry.feature : null;
        }

        /** Events at the start of the window that need not be computed. */
        int kept(Entry entry) {
            int differs = Arrays.mismatch(entry.items, window);
            int same = differs < 0 ? window.length : differs;
            return request.targets.length == 0
                    ? Math.min(same, window.length - 1)
                    : same; // the last event has the output
        }
    }

    /** A request's part of one forward. {@code entry} is null for an empty history. */
    private record Step(Work work, Entry entry, int kept, int[] targets, int[] branches) {
        int[] inputs() {
            return IntStream.concat(Arrays.stream(work.window, kept, work.window.length), Arrays.stream(targets))
                    .toArray();
        }

        void addTo(List<CachedHistory> histories) {
            if (entry != null) {
                int events = work.window.length;
                histories.add(new CachedHistory(entry.rows(events), events - kept, branches));
            } else { // each target is a history of its own
                Arrays.stream(branches)
                        .forEach(row -> histories.add(new CachedHistory(new int[] {row}, 1, new int[0])));
            }
        }
    }

    private final Hllm model;
    private final Options options;
    private final int maxHistory;
    private final int slack;
    private final int width;
    private final Parameter userToken; // null without one
    private final KeyValueArena arena; // pages, then the rows of branches
    private final Workspace workspace;
    private final Map<Shape, AppendGraph> graphs; // made when first asked for; null where the device has none
    private final int pages;
    private final Deque<Integer> free = new ArrayDeque<>();
    private final Map<Object, Entry> entries = new LinkedHashMap<>(16, 0.75f, true); // least recently asked for first
    private long hits;
    private long misses;
    private long evictions;
    private long computed;
    private long needed;
    private long launches;
    private boolean closed;
    private volatile Stats stats;

    /** @param model stays the caller's, and must stay open */
    public UserFeatureCache(Hllm model, Options options) {
        this.model = model;
        this.options = options;
        maxHistory = model.config().maxHistory();
        width = model.config().width();
        RankingHead ranker = model.ranker();
        userToken = ranker == null ? null : ranker.userToken();
        slack = options.slackFor(model);
        pages = check(model, options);
        arena = new KeyValueArena(
                model.context(), model.config().user(), pages * PAGE + options.branches, options.dtype);
        workspace = model.context().workspace();
        graphs = model.context().device().equals("cpu") ? null : new HashMap<>();
        IntStream.range(0, pages).forEach(free::add);
        publish();
    }

    /**
     * Pages that a cache of these options has for a model.
     *
     * @throws HllmException where the model does not take the slack, or the bytes do not hold one user
     */
    static int check(Hllm model, Options options) {
        int maxHistory = model.config().maxHistory();
        int mostSlack = model.users().mostSlack();
        int slack = options.slackFor(model);
        if (slack < 0 || slack > mostSlack || options.branches < 1) {
            throw new HllmException("user cache: slack " + slack + " must be from 0 to " + mostSlack
                    + " for a model whose max history is " + maxHistory + ", and branches " + options.branches
                    + " at least 1");
        }
        long rowBytes = KeyValueArena.bytesPerRow(model.config().user(), options.dtype);
        long pages = (Math.min(options.bytes / rowBytes, Integer.MAX_VALUE / 2) - options.branches) / PAGE;
        int least = pagesFor(maxHistory + slack);
        if (pages < least) {
            throw new HllmException("user cache: " + options.bytes + " bytes do not hold one user's "
                    + (maxHistory + slack) + " events and " + options.branches + " branches; expected at least "
                    + rowBytes * ((long) least * PAGE + options.branches));
        }
        return (int) pages;
    }

    /** First event of the window of a history: 0, until it has more than {@code max + slack} events. */
    static int start(int events, int max, int slack) {
        return events <= max + slack ? 0 : (slack + 1) * Math.ceilDiv(events - max - slack, slack + 1);
    }

    /**
     * Answers requests, in one forward for all new events and targets where the memory allows it.
     *
     * @param table item vectors [N, D]; those of the rows asked for must not change during the life of the cache
     * @param requests of any users, one also several times
     */
    public List<Output> outputs(Tensor table, List<Request> requests) {
        List<Work> all = requests.stream().map(Work::new).toList();
        List<Work> waiting = new ArrayList<>(all);
        try {
            while (!waiting.isEmpty()) {
                List<Step> round = choose(waiting);
                if (!round.isEmpty()) {
                    compute(table, round);
                }
                waiting.removeIf(Work::isDone);
            }
        } catch (RuntimeException | Error e) {
            List<Object> pinned = entries.entrySet().stream()
                    .filter(entry -> entry.getValue().pinned)
                    .map(Map.Entry::getKey)
                    .toList();
            pinned.forEach(this::forget); // what their pages hold is not known
            throw e;
        } finally {
            all.stream().filter(work -> work.request.user == null).forEach(work -> forget(work.key));
            publish();
        }
        return all.stream()
                .map(work -> new Output(work.states, work.window.length, work.computed, work.needed()))
                .toList();
    }

    /** As many of the waiting as go together, a user once, within pages, branches and rows; what is known is done. */
    private List<Step> choose(List<Work> waiting) {
        List<Step> round = new ArrayList<>();
        int rows = 0;
        int branches = 0;
        for (Work work : waiting) {
            Entry entry = work.window.length == 0 ? null : entries.get(work.key);
            if (entry != null && entry.pinned) {
                continue;
            }
            boolean first = work.done == 0;
            float[] remembered = work.remembered(entry);
            if (remembered != null) {
                System.arraycopy(remembered, 0, work.states, 0, width);
                work.done = 1;
                count(work, true);
                continue;
            }
            int kept = entry == null ? 0 : work.kept(entry);
            int targets = Math.min(work.request.targets.length - work.done, options.branches - branches);
            int more = work.window.length - kept + targets;
            if (targets == 0 && work.request.targets.length > 0 || rows > 0 && rows + more > MAX_ROWS) {
                continue;
            }
            if (work.window.length > 0) {
                entry = entry == null ? new Entry() : entry;
                if (!reserve(work.key, entry, pagesFor(work.window.length))) {
                    continue;
                }
            }
            if (first) {
                count(work, kept > 0);
            }
            int begin = pages * PAGE + branches;
            round.add(new Step(
                    work,
                    entry,
                    kept,
                    Arrays.copyOfRange(work.request.targets, work.done, work.done + targets),
                    IntStream.range(begin, begin + targets).toArray()));
            rows += more;
            branches += targets;
        }
        return round;
    }

    private void count(Work work, boolean hit) {
        hits += hit ? 1 : 0;
        misses += hit ? 0 : 1;
        needed += work.needed();
    }

    /** Gives a user this many pages and pins them; false where those of the pinned users are in the way. */
    private boolean reserve(Object key, Entry entry, int count) {
        entry.pinned = true;
        Iterator<Entry> eldest = entries.values().iterator();
        while (free.size() + entry.pages.length < count && eldest.hasNext()) {
            Entry other = eldest.next();
            if (!other.pinned) {
                release(other, 0);
                eldest.remove();
                evictions++;
            }
        }
        int had = entry.pages.length;
        if (free.size() + had < count) {
            entry.pinned = false;
            return false;
        }
        entries.put(key, entry);
        release(entry, Math.min(had, count));
        entry.pages = Arrays.copyOf(entry.pages, count);
        for (int i = had; i < count; i++) {
            entry.pages[i] = free.remove();
        }
        return true;
    }

    private void release(Entry entry, int keep) {
        for (int i = keep; i < entry.pages.length; i++) {
            free.addFirst(entry.pages[i]);
        }
        entry.pages = Arrays.copyOf(entry.pages, keep);
    }

    private void forget(Object key) {
        Entry entry = entries.remove(key);
        if (entry != null) {
            release(entry, 0);
        }
    }

    private void compute(Tensor table, List<Step> round) {
        int[] inputs = round.stream()
                .flatMapToInt(step -> Arrays.stream(step.inputs()))
                .toArray();
        List<CachedHistory> histories = new ArrayList<>();
        round.forEach(step -> step.addTo(histories));
        float[] states;
        try {
            int branches = round.stream().mapToInt(step -> step.branches.length).sum();
            states = graphs != null && isAppend(histories, branches)
                    ? launch(table, inputs, histories, branches)
                    : forward(table, inputs, histories);
        } finally {
            workspace.release(0);
        }
        int at = 0;
        for (Step step : round) {
            Work work = step.work;
            int count = Math.max(1, step.targets.length);
            System.arraycopy(states, at * width, work.states, work.done * width, count * width);
            at += count;
            work.done += count;
            work.computed += step.inputs().length;
            computed += step.inputs().length;
            if (step.entry != null) {
                keep(step.entry, work);
            }
        }
    }

    private Tensor vectors(Tensor table, int[] inputs) {
        Tensor x = workspace.floats(inputs.length, width);
        Tensor special = userToken == null ? null : userToken.value();
        model.context().ops().embeddingForward(x, workspace.ints(inputs), table, special);
        return x;
    }

    private float[] forward(Tensor table, int[] inputs, List<CachedHistory> histories) {
        try (UserLlm.Pass pass = model.users().forward(workspace, vectors(table, inputs), arena, histories)) {
            return pass.output().toFloats();
        }
    }

    // ---- Graphs -----------------------------------------------------------------------------------------------------

    /** Whether everybody has one event more, either all with one branch or all without, and there is such a graph. */
    private boolean isAppend(List<CachedHistory> histories, int branches) {
        int each = branches == 0 ? 0 : 1;
        int rows = usersOfGraph(histories) * (1 + each);
        return rows <= Math.min(MAX_GRAPH_ROWS, options.branches)
                && histories.stream().allMatch(h -> h.fresh() == 1 && h.branches().length == each);
    }

    /** Graphs are made for 1, 2, 4, 8, ... users. */
    private static int usersOfGraph(List<CachedHistory> histories) {
        return Integer.highestOneBit(2 * histories.size() - 1);
    }

    /** Launches the graph; users that it has too many see nothing but rows of branches that nobody uses now. */
    private float[] launch(Tensor table, int[] inputs, List<CachedHistory> histories, int branches) {
        int outputs = histories.size();
        int users = usersOfGraph(histories);
        boolean branch = branches > 0;
        int spare = pages * PAGE + branches;
        while (histories.size() < users) {
            int[] event = {spare++};
            histories.add(new CachedHistory(event, 1, branch ? new int[] {spare++} : new int[0]));
        }
        Tensor x = vectors(table, Arrays.copyOf(inputs, branch ? 2 * users : users)); // item 0 for them
        AppendGraph graph = graphs.computeIfAbsent(
                new Shape(users, branch),
                shape -> model.users().appendGraph(arena, histories, pagesFor(maxHistory + slack) + 1));
        launches++;
        return graph.run(x, histories).rows(0, outputs).toFloats();
    }

    private static void keep(Entry entry, Work work) {
        if (!Arrays.equals(entry.items, work.window)) {
            entry.items = work.window;
            entry.prediction = entry.feature = null;
        }
        if (work.request.targets.length == 0) {
            entry.prediction = work.states;
        } else if (work.asksForFeature()) {
            entry.feature = work.states;
        }
        entry.pinned = false;
    }

    private void publish() {
        stats = new Stats(hits, misses, evictions, pages - free.size(), pages, computed, needed, launches);
    }

    private static int pagesFor(int events) {
        return Math.ceilDiv(events, PAGE);
    }

    /** Counts as of the last answers; any thread. */
    public Stats stats() {
        return stats;
    }

    boolean isClosed() {
        return closed;
    }

    /** Frees the memory; a second call does nothing. */
    @Override
    public void close() {
        closed = true;
        if (graphs != null) {
            graphs.values().forEach(AppendGraph::close);
        }
        workspace.close();
        arena.close();
    }
}
