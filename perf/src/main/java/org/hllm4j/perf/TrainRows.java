package org.hllm4j.perf;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.SplittableRandom;
import java.util.function.DoubleSupplier;
import java.util.stream.IntStream;
import org.hllm4j.model.Hllm;
import org.hllm4j.train.AdamWOptimizer;
import org.hllm4j.train.GenerativeStep;
import org.hllm4j.weights.ModelConfig;

/** A training step of both sides: forward, backward, clipping and AdamW, on popular (Zipf) items. */
final class TrainRows {
    static final String GROUP = "train";
    private static final int MAX_ROWS = 4096; // token rows whose activations are held
    private static final int STEPS = 3; // as the peer: the first warms up
    private static final double TOLERANCE = 1e-3; // of the loss, after two updates that magnify rounding

    private final Session session;

    /** Item rows of a step: users x (events + 1) positives, and as many negatives. */
    private record Draw(int[][] positives, int[] negatives) {}

    TrainRows(Session session) {
        this.session = session;
    }

    void measure(Items set) {
        boolean quick = session.settings.quick();
        session.rows.section(GROUP, "4 x 10", () -> step(set, quick ? 2 : 4, quick ? 4 : 10, session.hasHf()));
        session.rows.section(GROUP, "8 x 20", () -> {
            if (session.settings.child()) {
                step(set, quick ? 3 : 8, quick ? 5 : 20, false);
            } else {
                session.release();
                session.child(GROUP, "8 x 20");
            }
        });
    }

    private void step(Items set, int users, int events, boolean compare) {
        int[][] tokens = set.tokens(EmbedRows.FIRST, Items.SHORT);
        boolean pair = compare && set.catalogue() != null;
        List<Draw> draws = pair ? peerDraws(users, events, tokens.length) : draws(users, events, tokens.length);
        session.release();
        boolean known = Memory.resetPeak();
        try (Hllm model = session.newModel(new Hllm.Trained(true, true), Items.SHORT, events);
                GenerativeStep step = new GenerativeStep(model, tokens, MAX_ROWS, 0.99f, null);
                AdamWOptimizer optimizer = new AdamWOptimizer(model, 0.01f, 1)) {
            GenerativeStep.Result[] last = new GenerativeStep.Result[1];
            double[] loss = {Double.NaN}; // of the last of the first steps
            Profile[] fastest = new Profile[1];
            List<Double> all = new ArrayList<>();
            // Like the peer, some steps of which the fastest after the first counts.
            Runnable steps = () -> {
                List<Profile> profiles = new ArrayList<>();
                for (Draw draw : draws) {
                    profiles.add(Profile.of(() -> {
                        last[0] = step.run(draw.positives, draw.negatives);
                        optimizer.step(1e-4);
                        optimizer.zeroGradients();
                    }));
                }
                if (Double.isNaN(loss[0])) {
                    loss[0] = last[0].loss();
                }
                fastest[0] = profiles.stream()
                        .skip(1)
                        .min(Comparator.comparingDouble(Profile::seconds))
                        .orElseThrow();
                all.add(fastest[0].seconds());
            };
            Row.Comparison comparison = null;
            if (pair) {
                comparison = compare(set, users, events, tokens.length, steps, all, loss);
            } else {
                double spent = 0;
                do {
                    spent += Timing.once(steps);
                } while (all.size() < session.settings.runs() && spent < session.settings.longRun());
            }
            Double peak = known ? Double.valueOf(Memory.peakGb()) : null;
            Timing time = Timing.of(all);
            session.rows.add(Row.of(
                            GROUP, "step, both sides, " + set.name(), users + " users x " + events + " events", time)
                    .arithmetic(
                            work(session.config, tokens, draws.getLast().positives, draws.getLast().negatives, MAX_ROWS)
                                    .rate(time.median(), session.roofline))
                    .useful(users, "users")
                    .useful(last[0].tokens(), "tokens")
                    .memory(peak, null)
                    .peer(comparison)
                    .profile(fastest[0])
                    .note(last[0].rows() + " of " + last[0].tokens()
                            + " rows computed; peak of the whole process; time: faster of two steps"));
        }
    }

    private Row.Comparison compare(
            Items set, int users, int events, int items, Runnable steps, List<Double> all, double[] loss) {
        try (Scratch scratch = Scratch.open()) {
            Path csv = scratch.file("items.csv");
            set.write(csv, items);
            String keys = String.join(",", set.keys());
            String options = "train --items %s --keys %s --n 0 --users %s --seq %s --steps %s";
            double[] theirLoss = {0};
            DoubleSupplier ours = () -> {
                steps.run();
                return all.getLast();
            };
            Session.Pairs pairs = session.pairs(ours, () -> {
                JsonNode line = session.peer
                        .hf(options, csv, keys, users, events, STEPS - 1)
                        .line();
                theirLoss[0] = Peer.number(line, "loss");
                return Peer.number(line, "step_s");
            });
            boolean agrees = Math.abs(loss[0] - theirLoss[0]) < TOLERANCE * Math.max(1, theirLoss[0]);
            String check = Report.text("same draws; loss after two updates %.5f and %.5f", loss[0], theirLoss[0]);
            return pairs.with(Peer.HF + " train", agrees, check);
        }
    }

    private static List<Draw> draws(int users, int events, int items) {
        SplittableRandom random = new SplittableRandom(2);
        List<Draw> draws = new ArrayList<>();
        while (draws.size() < STEPS) {
            int[][] positives = new int[users][events + 1];
            for (int[] user : positives) {
                Arrays.setAll(user, e -> Items.popular(items, random));
            }
            draws.add(new Draw(
                    positives,
                    random.ints((long) users * (events + 1), 0, items).toArray()));
        }
        return draws;
    }

    /** What {@code hf_hllm.py train} draws, by the generator it uses. */
    private List<Draw> peerDraws(int users, int events, int items) {
        String program = Report.text("""
            import json, numpy
            g = numpy.random.default_rng(0)
            for _ in range(%d):
                pos = g.zipf(1.3, (%d, %d)) %% %d
                neg = g.integers(0, %d, (%d, %d))
                print(json.dumps(dict(pos=pos.tolist(), neg=neg.ravel().tolist())))
            """, STEPS, users, events + 1, items, items, users, events + 1);
        return session.peer.python("-c", program).lines().stream()
                .map(line -> {
                    int[][] positives = new int[users][];
                    Arrays.setAll(positives, u -> ints(line.get("pos").get(u)));
                    return new Draw(positives, ints(line.get("neg")));
                })
                .toList();
    }

    private static int[] ints(JsonNode array) {
        return IntStream.range(0, array.size())
                .map(i -> array.get(i).intValue())
                .toArray();
    }

    /** Forward and backward of both sides; chunks of items that do not fit are encoded twice. */
    static Work work(ModelConfig config, int[][] tokens, int[][] positives, int[] negatives, int maxRows) {
        int[][] texts = IntStream.concat(
                        Arrays.stream(positives).flatMapToInt(Arrays::stream), Arrays.stream(negatives))
                .sorted()
                .distinct()
                .mapToObj(i -> tokens[i])
                .toArray(int[][]::new);
        Work.Packs packs = Work.packs(config, texts, maxRows);
        long positions =
                Arrays.stream(positives).mapToLong(user -> user.length - 1).sum();
        return packs.work()
                .times(packs.count() > 1 ? 4 : 3)
                .plus(Work.forward(config, positions, positions).times(3));
    }
}
