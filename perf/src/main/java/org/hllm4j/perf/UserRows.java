package org.hllm4j.perf;

import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.SplittableRandom;
import java.util.function.DoubleSupplier;
import java.util.stream.IntStream;
import org.hllm4j.HllmException;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.UserEncoder;
import org.hllm4j.serve.UserFeatureCache;
import org.hllm4j.serve.UserFeatureCache.Output;
import org.hllm4j.serve.UserFeatureCache.Request;

/** Users whose keys and values are cached: one event more, 64 users at once, and candidates over one history. */
final class UserRows {
    private static final String GROUP = "user";
    private static final int ITEMS = 1000;
    private static final int EVENTS = 50; // cached
    private static final int SLACK = 14;
    private static final int[] PREDICTION = {}; // after the last event, of a generative run
    private static final int[] FEATURE = {UserFeatureCache.USER};
    private static final int BEST_OF = 5; // runs, as the peer
    private static final int MAX_ROWS = 4096;
    private static final double TOLERANCE = 1e-4;
    private static final String PEER = Peer.HF + " user, cached";
    private static final String ONE_BY_ONE = "one user after the other";
    private static final String SEPARATE = "sequences of their own";

    private final Session session;
    private final boolean quick;
    private final int users;
    private final int candidates;

    UserRows(Session session) {
        this.session = session;
        quick = session.settings.quick();
        users = quick ? 4 : 64;
        candidates = quick ? 8 : 500;
    }

    void measure() {
        for (DType type : List.of(DType.F32, DType.BF16)) {
            String weights = type.name().toLowerCase(Locale.ROOT);
            session.rows.section(GROUP, "cache " + weights, () -> {
                try (Served served = new Served(type)) {
                    served.event("event and [USER], " + weights + " weights", FEATURE);
                    served.event("event, " + weights + " weights", PREDICTION);
                    served.repeated();
                    served.together("event of each, " + weights + " weights", PREDICTION);
                    served.together("event and [USER] of each, " + weights + " weights", FEATURE);
                    served.candidates("early candidates, " + weights + " weights");
                }
            });
        }
    }

    /** A model, with a cache that holds all users. */
    private final class Served implements AutoCloseable {
        private final DType weights;
        private final Hllm model;
        private final UserFeatureCache cache;
        private final Tensor table;
        private final int[][] histories = new int[users][];

        Served(DType weights) {
            this.weights = weights;
            model = session.newRanker(EVENTS + 1, weights);
            cache = new UserFeatureCache(model, new UserFeatureCache.Options(512L << 20, SLACK, candidates, DType.F32));
            table = OpRows.random(session.context, ITEMS, session.config.hiddenSize());
            Arrays.setAll(histories, u -> items(EVENTS + 1, u));
        }

        /** Bytes of the matrices that one row goes through. */
        private double bytes() {
            return positions(1, 1).flops() / 2 * weights.bytes();
        }

        private Request request(int user, int[] targets) {
            return new Request("u" + user, histories[user], targets);
        }

        /** The last event of everybody becomes another one, so that the events before it stay cached. */
        private void change() {
            for (int[] history : histories) {
                history[EVENTS] = (history[EVENTS] + 1) % ITEMS;
            }
        }

        private List<Output> answer(List<Request> requests) {
            return cache.outputs(table, requests);
        }

        /** Answers after a change, which must cost new events and targets alone, against those where nothing is cached. */
        private void check(List<Request> requests) {
            answer(requests);
            change();
            List<Output> found = answer(requests);
            List<Output> whole = answer(requests.stream()
                    .map(request -> new Request(null, request.history(), request.targets()))
                    .toList());
            for (int i = 0; i < found.size(); i++) {
                Output output = found.get(i);
                double error = Peer.error(output.states(), whole.get(i).states(), session.config.hiddenSize());
                if (output.computed() != 1 + requests.get(i).targets().length || !(error < TOLERANCE)) {
                    throw new HllmException("computed " + output.computed() + " of " + output.needed()
                            + " positions; the state is off by " + error + " from that of the whole history");
                }
            }
        }

        void event(String name, int[] targets) {
            List<Request> user = List.of(request(0, targets));
            check(user);
            Runnable one = () -> {
                change();
                answer(user);
            };
            Row row = Row.of(GROUP, name, EVENTS + " events cached", Timing.of(session.settings, one))
                    .arithmetic(bytes(), "GB/s", session.roofline.readBytes(), Roofline.READ)
                    .useful(1, "users")
                    .profile(Profile.of(one))
                    .note(1 + targets.length + " of " + (EVENTS + 1 + targets.length) + " positions computed");
            if (session.hasHf()) {
                DoubleSupplier best = () -> IntStream.range(0, BEST_OF)
                        .mapToDouble(i -> Timing.once(one))
                        .min()
                        .orElseThrow();
                Session.Pairs pairs = session.pairs(
                        best,
                        () -> Peer.number(
                                session.peer.hf("user --history %s", EVENTS).line(), "cache_s"));
                row = row.peer(pairs.with(PEER, null, "float32, one position; random inputs there"));
            }
            session.rows.add(row);
        }

        void repeated() {
            List<Request> same = List.of(request(0, PREDICTION));
            Timing time = Timing.of(session.settings, () -> answer(same));
            session.rows.add(Row.of(GROUP, "repeated request", EVENTS + " events cached", time)
                    .useful(1, "users")
                    .note("0 positions computed: the answer was remembered"));
        }

        /** All users in one pass, against one user after the other. */
        void together(String name, int[] targets) {
            List<Request> all =
                    IntStream.range(0, users).mapToObj(u -> request(u, targets)).toList();
            check(all);
            Session.Pairs pairs = session.pairs(
                    () -> {
                        change();
                        return Timing.once(() -> answer(all));
                    },
                    () -> {
                        change();
                        return Timing.once(() -> all.forEach(request -> answer(List.of(request))));
                    });
            session.rows.add(Row.of(GROUP, name, users + " users", pairs.time())
                    .arithmetic(positions((1L + targets.length) * users, users)
                            .rate(pairs.time().median(), session.roofline))
                    .useful(users, "users")
                    .peer(pairs.with(ONE_BY_ONE, true, "both equal to whole histories computed"))
                    .profile(Profile.of(() -> {
                        change();
                        answer(all);
                    })));
        }

        private Work positions(long rows, long finished) {
            return Work.forward(session.config, rows, finished);
        }

        /** Each candidate a position over the same history, against a sequence for each. */
        void candidates(String name) {
            int[] targets = items(candidates, users);
            int[][] sequences = new int[candidates][];
            List<Request> request = List.of(new Request("u0", Arrays.copyOf(histories[0], EVENTS), targets));
            Arrays.setAll(sequences, i -> {
                int[] sequence = Arrays.copyOf(histories[0], EVENTS + 1);
                sequence[EVENTS] = targets[i];
                return sequence;
            });
            answer(request);
            int width = session.config.hiddenSize();
            float[] states = new float[candidates * width];
            Session.Pairs pairs = session.pairs(
                    () -> Timing.once(() -> answer(request)),
                    () -> Timing.once(() ->
                            UserEncoder.encode(model, table, sequences, null, MAX_ROWS, null, (first, vectors) -> {
                                float[] part = vectors.toFloats();
                                System.arraycopy(part, 0, states, first * width, part.length);
                            })));
            double error = Peer.error(answer(request).getFirst().states(), states, width);
            session.rows.add(Row.of(GROUP, name, candidates + " over " + EVENTS + " events cached", pairs.time())
                    .arithmetic(
                            positions(candidates, candidates).rate(pairs.time().median(), session.roofline))
                    .useful(candidates, "candidates")
                    .peer(pairs.with(
                            SEPARATE,
                            error < TOLERANCE,
                            Report.text("largest relative error of a state %.1e", error))));
        }

        @Override
        public void close() {
            table.close();
            cache.close();
            model.close();
        }
    }

    private static int[] items(int count, long seed) {
        return new SplittableRandom(seed).ints(count, 0, ITEMS).toArray();
    }
}
