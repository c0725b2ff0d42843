package org.hllm4j.perf;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.model.AppendGraph;
import org.hllm4j.model.CachedHistory;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.UserLlm;
import org.hllm4j.nn.KeyValueArena;
import org.hllm4j.serve.UserFeatureCache;

/** Users whose keys and values are cached, as a server has them: every time, each of them has one event more. */
final class GpuUsers {
    private static final int SLACK = 14;

    private final GpuModel of;
    private final Gpu gpu;
    private final boolean quick;
    private final int width;
    private final int events; // of a history, the new one included

    GpuUsers(GpuModel of) {
        this.of = of;
        gpu = of.gpu;
        quick = of.quick;
        width = of.config.hiddenSize();
        events = quick ? 10 : 51;
    }

    private String size(int users) {
        return users + (users == 1 ? " user" : " users") + " of " + (events - 1) + " events";
    }

    /** One event more and nothing else: as calls, and as a graph that is checked against them. */
    void append(Hllm model, int users) {
        List<CachedHistory> histories = new ArrayList<>();
        for (int u = 0; u < users; u++) {
            int first = u * events;
            int[] rows = IntStream.range(first, first + events).toArray();
            histories.add(new CachedHistory(rows, 1, new int[0]));
        }
        try (Inputs inputs = new Inputs(gpu.context);
                Workspace workspace = gpu.context.workspace();
                KeyValueArena arena =
                        new KeyValueArena(gpu.context, of.config, users * events, gpu.context.activations())) {
            Tensor vectors = inputs.floats(users, width);
            float[][] called = new float[1][];
            Timing calls = Timing.of(gpu.settings, () -> {
                Tensor x = workspace.floats(users, width);
                inputs.ops.convert(x, vectors);
                try (UserLlm.Pass pass = model.users().forward(workspace, x, arena, histories)) {
                    called[0] = pass.output().toFloats();
                }
                workspace.release(0);
            });
            gpu.add(of.row("append by calls", size(users), calls).useful(users, "users"));
            try (AppendGraph graph = model.users().appendGraph(arena, histories, 1)) {
                Gpu.compare("the graph's output", graph.run(vectors, histories).toFloats(), called[0]);
                Timing time = gpu.time(() -> graph.run(vectors, histories));
                gpu.add(gpu.rated(of.row("append by graph", size(users), time), 0, weights())
                        .useful(users, "users")
                        .note("with the copies that say who the users are"));
            }
        }
    }

    /** The best of a large catalogue for each user, none of the history's. */
    void recommend(Hllm model) {
        try (Inputs inputs = new Inputs(gpu.context)) {
            Tensor table = unitVectors(inputs, quick ? 300 : 1_000_000);
            Tensor narrow = inputs.empty(table.shape());
            inputs.ops.convert(narrow, table);
            for (int users : quick ? new int[] {3} : new int[] {1, 32, 128}) {
                try (Asking asking = new Asking(model, table, users, 1)) {
                    recommend(asking, narrow, users);
                }
            }
        }
    }

    private void recommend(Asking asking, Tensor table, int users) {
        int best = quick ? 5 : GpuModel.K;
        int[] offsets = IntStream.rangeClosed(0, users).map(u -> u * events).toArray();
        Workspace workspace = asking.workspace;
        Ops ops = gpu.context.ops();
        Timing time = Timing.of(gpu.settings, () -> {
            Tensor queries = asking.states(new int[0]);
            ops.normalizeRows(queries, queries);
            Tensor scores = workspace.floats(users, best);
            Tensor found = workspace.ints(new int[users * best]).reshape(users, best);
            Tensor excluded = workspace.ints(
                    Arrays.stream(asking.histories).flatMapToInt(Arrays::stream).toArray());
            ops.topk(scores, found, workspace.activation(queries), table, workspace.ints(offsets), excluded);
            found.toInts();
            workspace.release(0);
        });
        double flops = Work.forward(of.config, users, users).flops() + 2.0 * users * table.elements();
        double bytes = weights() + (double) table.elements() * table.dtype().bytes();
        String what = "recommend, best " + best + " of " + table.size(0);
        gpu.add(gpu.rated(of.row(what, size(users), time), flops, bytes).useful(users, "users"));
    }

    /** Candidates for one user: the head for each with late fusion, also a position of the User LLM with early fusion. */
    void rank(Hllm model) {
        Fusion fusion = model.config().fusion();
        boolean early = fusion == Fusion.EARLY;
        int items = quick ? 300 : 10_000;
        int candidates = quick ? 8 : 500;
        int[] targets = new SplittableRandom(3).ints(candidates, 0, items).toArray();
        try (Inputs inputs = new Inputs(gpu.context);
                Asking asking = new Asking(model, unitVectors(inputs, items), 1, candidates)) {
            Workspace workspace = asking.workspace;
            Timing time = Timing.of(gpu.settings, () -> {
                Tensor states = asking.states(early ? targets : new int[] {UserFeatureCache.USER});
                Tensor each = workspace.floats(candidates, width);
                inputs.ops.gatherRows(each, states, workspace.ints(rowsOfStates(candidates, early)));
                Tensor vectors = workspace.floats(candidates, width);
                inputs.ops.gatherRows(vectors, asking.table, workspace.ints(targets));
                model.ranker()
                        .forward(workspace, each, vectors, new float[candidates])
                        .logits()
                        .toFloats();
                workspace.release(0);
            });
            long rows = 1L + (early ? candidates : 1);
            double head = 2.0 * candidates * (early ? 2 : 6) * width * width;
            double flops = Work.forward(of.config, rows, rows).flops() + head;
            String what = "rank with " + fusion.name().toLowerCase(Locale.ROOT) + " fusion";
            gpu.add(gpu.rated(of.row(what, candidates + " candidates, " + size(1), time), flops, weights())
                    .useful(candidates, "candidates"));
        }
    }

    /** A candidate's own state with early fusion, the user's with late fusion. */
    private static int[] rowsOfStates(int candidates, boolean early) {
        return early ? IntStream.range(0, candidates).toArray() : new int[candidates];
    }

    private Tensor unitVectors(Inputs inputs, int items) {
        Tensor table = inputs.floats(items, width);
        inputs.ops.normalizeRows(table, table);
        return table;
    }

    /** Bytes of the matrices that one row goes through. */
    private double weights() {
        return Work.forward(of.config, 1, 1).flops()
                / 2
                * gpu.context.activations().bytes();
    }

    /** A cache with users in it. */
    private final class Asking implements AutoCloseable {
        final Workspace workspace = gpu.context.workspace();
        final Tensor table;
        final int[][] histories;
        private final UserFeatureCache cache;

        Asking(Hllm model, Tensor table, int users, int branches) {
            this.table = table;
            // At least as many branches as a graph has rows.
            cache = new UserFeatureCache(
                    model,
                    new UserFeatureCache.Options(
                            quick ? 1 << 24 : 1 << 30, SLACK, Math.max(branches, 128), gpu.context.activations()));
            histories = new int[users][];
            Arrays.setAll(
                    histories,
                    u -> new SplittableRandom(u)
                            .ints(events, 0, (int) table.size(0))
                            .toArray());
            states(new int[0]); // all but the last event will be cached
            workspace.release(0);
        }

        /** Of each user after another last event, [users * max(1, targets), D] in the workspace. */
        Tensor states(int[] targets) {
            List<UserFeatureCache.Request> requests = new ArrayList<>();
            for (int u = 0; u < histories.length; u++) {
                histories[u][events - 1] = (histories[u][events - 1] + 1) % (int) table.size(0);
                requests.add(new UserFeatureCache.Request("u" + u, histories[u], targets));
            }
            List<UserFeatureCache.Output> outputs = cache.outputs(table, requests);
            int each = Math.max(1, targets.length) * width;
            Tensor states = workspace.floats((long) histories.length * each / width, width);
            for (int u = 0; u < histories.length; u++) {
                states.write((long) u * each, outputs.get(u).states(), 0, each);
            }
            return states;
        }

        @Override
        public void close() {
            cache.close();
            workspace.close();
        }
    }
}
