package org.hllm4j.perf;

import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.data.Interactions;
import org.hllm4j.data.MissingText;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.data.Split;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.eval.Evaluator;
import org.hllm4j.eval.RankingMetrics;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.UserEncoder;

/** The user side: evaluation, a user's update, ranking candidates, and what the hierarchy saves over one flat text. */
final class ServeRows {
    private static final int MAX_ROWS = 4096;
    private static final int CANDIDATES = 1000;

    private final Session session;
    private final int width;

    ServeRows(Session session) {
        this.session = session;
        width = session.config.hiddenSize();
    }

    void measure(List<Items> sets) {
        boolean quick = session.settings.quick();
        for (Items set : sets) {
            if (set.interactions() != null) {
                session.rows.section("evaluate", set.name(), () -> evaluate(set));
            }
        }
        session.rows.section("evaluate", "invented users", this::encodeUsers);
        for (int events : quick ? new int[] {10} : new int[] {10, 50, 200}) {
            session.rows.section("user", "update " + events, () -> update(events));
        }
        session.rows.section("user", "rank candidates", this::rankCandidates);
        for (int events : quick ? new int[] {10} : new int[] {10, 50, 200}) {
            session.rows.section("hierarchy", events + " events", () -> hierarchy(sets.getFirst(), events));
        }
    }

    /** The protocol's test split of real users; times do not depend on the values of the vectors. */
    private void evaluate(Items set) {
        Interactions log = Interactions.read(set.interactions(), set.catalogue(), MissingText.ALLOW);
        try (Hllm model = session.newModel(Hllm.Trained.NOTHING, Items.SHORT, 50);
                Tensor table = OpRows.random(session.context, log.catalogue().size(), width)) {
            RankingMetrics[] found = new RankingMetrics[1];
            Timing time = Timing.of(session.settings, () -> {
                Map<Split, RankingMetrics> metrics = Evaluator.evaluate(model, table, log, List.of(Split.TEST), null);
                found[0] = metrics.get(Split.TEST);
            });
            session.rows.add(Row.of(
                            "evaluate",
                            "test split, " + set.name(),
                            found[0].users() + " users, " + table.size(0) + " items",
                            time)
                    .useful(found[0].users(), "users"));
        }
    }

    /** Users of 50 events, packed: vectors and full ranking are what evaluation consists of. */
    private void encodeUsers() {
        int users = session.settings.quick() ? 8 : 80;
        int[][] histories = new int[users][];
        Arrays.setAll(histories, u -> items(50, u));
        Timing time = users(histories);
        session.rows.add(Row.of("evaluate", "user vectors, invented users", users + " users x 50 events", time)
                .arithmetic(Work.forward(session.config, 50L * users, users).rate(time.median(), session.roofline))
                .useful(users, "users"));
    }

    /** A user's vector after one more event, everything recomputed. */
    private void update(int events) {
        int[][] history = {items(events + 1, 1)};
        Timing time;
        Row.Comparison comparison = null;
        String note = "full recompute, one event more than the history";
        if (session.hasHf() && events == 50) {
            double[] cache = {0};
            // The peer takes the best of 5.
            Session.Pairs pairs = session.pairs(() -> users(history).min(), () -> {
                Peer.Answer answer = session.peer.hf("user", "--history", events);
                cache[0] = Peer.number(answer.line(), "cache_s");
                return Peer.number(answer.line(), "full_s");
            });
            time = pairs.time();
            String check = "random inputs there; the same layers are compared by embed";
            comparison = pairs.with(Peer.HF + " user, full", null, check);
            note += Report.text("; the peer with a K/V cache: %.1f ms", 1e3 * cache[0]);
        } else {
            time = users(history);
        }
        session.rows.add(Row.of("user", "update", events + " events", time)
                .arithmetic(Work.forward(session.config, events + 1, 1).rate(time.median(), session.roofline))
                .useful(1, "users")
                .peer(comparison)
                .note(note));
    }

    private Timing users(int[][] histories) {
        Hllm model = session.model();
        try (Tensor table = OpRows.random(session.context, CANDIDATES, width)) {
            return Timing.of(
                    session.settings,
                    () -> UserEncoder.encode(
                            model, table, histories, null, MAX_ROWS, null, (first, vectors) -> vectors.toFloats()));
        }
    }

    private static int[] items(int count, long seed) {
        return new SplittableRandom(seed).ints(count, 0, CANDIDATES).toArray();
    }

    /** The 10 best of 1,000 candidates for one user whose vector is known. */
    private void rankCandidates() {
        Ops ops = session.context.ops();
        try (Tensor table = OpRows.random(session.context, session.settings.quick() ? 5_000 : 100_000, width);
                Tensor user = OpRows.random(session.context, 1, width);
                Tensor candidates = session.context.of(new SplittableRandom(5)
                        .ints(CANDIDATES, 0, (int) table.size(0))
                        .toArray());
                Workspace workspace = session.context.workspace()) {
            Timing time = Timing.of(session.settings, () -> {
                Tensor chosen = workspace.floats(CANDIDATES, width);
                ops.gatherRows(chosen, table, candidates);
                Tensor scores = workspace.floats(1, 10);
                Tensor rows = workspace.ints(new int[10]).reshape(1, 10);
                ops.topk(scores, rows, user, chosen, null, null);
                rows.toInts();
                workspace.release(0);
            });
            session.rows.add(
                    Row.of("user", "rank candidates", CANDIDATES + " of " + table.size(0) + " x " + width, time)
                            .useful(1, "users"));
        }
    }

    // ---- Flat text against the hierarchy ----------------------------------------------------------------------------

    /** One user: all texts as one through the Item LLM, against item vectors (to be computed, or stored) through the User LLM. */
    private void hierarchy(Items set, int events) {
        SplittableRandom random = new SplittableRandom(7);
        int[][] all = set.tokens(set.size(), Items.SHORT);
        int[] history = new int[events];
        Arrays.setAll(history, e -> Items.popular(all.length, random));
        int prompt = Arrays.stream(all).mapToInt(t -> common(t, all[0])).min().orElse(0);
        int[] flat = IntStream.concat(
                        Arrays.stream(all[history[0]], 0, prompt),
                        Arrays.stream(history).flatMap(item -> Arrays.stream(all[item], prompt, all[item].length)))
                .limit(Session.MAX_TEXT - 1)
                .toArray();
        int[] distinct = Arrays.stream(history).sorted().distinct().toArray();
        int[][] texts = Arrays.stream(distinct).mapToObj(item -> all[item]).toArray(int[][]::new);
        int[] places = Arrays.stream(history)
                .map(item -> Arrays.binarySearch(distinct, item))
                .toArray();
        PackedTokens one = TokenTrie.pack(new int[][] {flat}, true, true);
        PackedTokens each = TokenTrie.pack(texts, true, true);
        Hllm model = session.model();
        String size = events + " events";
        add("one flat text", size, one.rows(), () -> session.vectors(model, one));
        add("item vectors, then user", size, each.rows() + events, () -> {
            try (Tensor table = session.context.of(session.vectors(model, each), texts.length, width)) {
                user(model, table, places);
            }
        });
        try (Tensor table = OpRows.random(session.context, texts.length, width)) {
            add("stored item vectors, then user", size, events, () -> user(model, table, places));
        }
    }

    private void add(String name, String size, long positions, Runnable work) {
        Double extra = Memory.extraGb(work);
        Timing time = Timing.of(session.settings, work);
        session.rows.add(Row.of("hierarchy", name, size, time)
                .useful(Row.Rate.of(positions, "positions"))
                .memory(extra, null)
                .note("peak beyond the weights"));
    }

    private static void user(Hllm model, Tensor table, int[] history) {
        UserEncoder.encode(model, table, new int[][] {history}, null, MAX_ROWS, null, (first, vectors) -> {
            if (!Float.isFinite(vectors.toFloats()[0])) {
                throw new HllmException("a user vector is not finite");
            }
        });
    }

    private static int common(int[] a, int[] b) {
        int mismatch = Arrays.mismatch(a, b);
        return mismatch < 0 ? a.length : mismatch;
    }
}
