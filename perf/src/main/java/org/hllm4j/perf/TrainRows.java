package org.hllm4j.perf;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.model.Hllm;
import org.hllm4j.train.AdamWOptimizer;
import org.hllm4j.train.GenerativeStep;

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
        if (!quick) {
            session.rows.section(GROUP, "8 x 20", () -> step(set, 8, 20, false));
        }
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
            List<Double> all = new ArrayList<>();
            // Like the peer, some steps of which the fastest after the first counts.
            Runnable steps = () -> {
                List<Double> seconds = new ArrayList<>();
                for (Draw draw : draws) {
                    seconds.add(Timing.once(() -> {
                        last[0] = step.run(draw.positives, draw.negatives);
                        optimizer.step(1e-4);
                        optimizer.zeroGradients();
                    }));
                }
                if (Double.isNaN(loss[0])) {
                    loss[0] = last[0].loss();
                }
                all.add(new Timing(seconds.subList(1, seconds.size())).min());
            };
            Row.Comparison comparison = null;
            if (pair) {
                comparison = compare(set, users, events, tokens.length, steps, all, loss);
            } else {
                double spent = 0;
                while (all.size() < session.settings.runs() && spent < session.settings.longRun()) {
                    spent += Timing.once(steps);
                }
            }
            Timing time = new Timing(all);
            double seconds = time.median();
            session.rows.add(Row.of(
                            GROUP, "step, both sides, " + set.name(), users + " users x " + events + " events", time)
                    .arithmetic(work(tokens, draws.getLast(), users, events).rate(seconds, session.roofline))
                    .useful(
                            Row.Rate.of(users / seconds, "users/s"),
                            Row.Rate.of(last[0].tokens() / seconds, "tokens/s"))
                    .memory(known ? Double.valueOf(Memory.peakGb()) : null)
                    .peer(comparison)
                    .note(last[0].rows() + " of " + last[0].tokens()
                            + " rows computed; peak of this whole process; time:" + " faster of two steps"));
        }
    }

    private Row.Comparison compare(
            Items set, int users, int events, int items, Runnable steps, List<Double> all, double[] loss) {
        try (Scratch scratch = Scratch.open()) {
            set.write(scratch.file("items.csv"), items);
            double[] theirLoss = {0};
            List<Double> theirs = session.pairs(
                            () -> {
                                steps.run();
                                return all.getLast();
                            },
                            () -> {
                                JsonNode line = session.peer
                                        .hf(
                                                "train",
                                                "--items",
                                                scratch.file("items.csv"),
                                                "--keys",
                                                String.join(",", set.keys()),
                                                "--n",
                                                0,
                                                "--users",
                                                users,
                                                "--seq",
                                                events,
                                                "--steps",
                                                STEPS - 1)
                                        .line();
                                theirLoss[0] = Peer.number(line, "loss");
                                return Peer.number(line, "step_s");
                            })
                    .theirs();
            return Row.Comparison.of(
                    Peer.HF + " train",
                    all,
                    theirs,
                    Math.abs(loss[0] - theirLoss[0]) < TOLERANCE * Math.max(1, theirLoss[0]),
                    String.format(
                            Locale.ROOT, "same draws; loss after two updates %.5f and %.5f", loss[0], theirLoss[0]));
        }
    }

    private static List<Draw> draws(int users, int events, int items) {
        Zipf zipf = new Zipf(1.3, 1);
        SplittableRandom random = new SplittableRandom(2);
        int[] sizes = IntStream.generate(() -> users).limit(STEPS).toArray();
        return Arrays.stream(sizes)
                .mapToObj(count -> new Draw(
                        IntStream.range(0, count)
                                .mapToObj(u -> IntStream.range(0, events + 1)
                                        .map(e -> zipf.below(items))
                                        .toArray())
                                .toArray(int[][]::new),
                        random.ints((long) count * (events + 1), 0, items).toArray()))
                .toList();
    }

    /** What {@code hf_hllm.py train} draws, by the generator it uses. */
    private List<Draw> peerDraws(int users, int events, int items) {
        String program = String.format(Locale.ROOT, """
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
    private Work work(int[][] tokens, Draw draw, int users, int events) {
        int[][] texts = IntStream.concat(
                        Arrays.stream(draw.positives).flatMapToInt(Arrays::stream), Arrays.stream(draw.negatives))
                .sorted()
                .distinct()
                .mapToObj(i -> tokens[i])
                .toArray(int[][]::new);
        Work items = Work.NOTHING;
        List<int[]> chunks = TokenTrie.chunks(texts, MAX_ROWS);
        for (int[] chunk : chunks) {
            int[][] part = Arrays.stream(chunk).mapToObj(i -> texts[i]).toArray(int[][]::new);
            PackedTokens pack = TokenTrie.pack(part, true, true);
            items = items.plus(Work.forward(session.config, pack.rows(), pack.leaves()));
        }
        long positions = (long) users * events;
        return items.times(chunks.size() > 1 ? 4 : 3)
                .plus(Work.forward(session.config, positions, positions).times(3));
    }
}
