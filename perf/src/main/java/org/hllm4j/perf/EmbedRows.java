package org.hllm4j.perf;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.DoubleSupplier;
import org.hllm4j.HllmException;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.model.CatalogueEncoder;

/** Catalogue embedding, from token ids to vectors in Java memory; what the trie saves; memory of the whole command. */
final class EmbedRows {
    static final String GROUP = "embed";
    static final String TRIE = "trie";
    static final int FIRST = 512;
    private static final double TOLERANCE = 1e-3;
    private static final double RARE_TOLERANCE = 1e-2;

    private final Session session;
    private final int width;

    EmbedRows(Session session) {
        this.session = session;
        width = session.config.hiddenSize();
    }

    void measure(List<Items> sets) {
        for (Items set : sets) {
            String name = set.name();
            session.rows.section(TRIE, name, () -> trie(set));
            session.rows.section(GROUP, name + " first", () -> embed(set, FIRST, Items.SHORT));
            if (set.areLong()) {
                session.rows.section(GROUP, name + " long first", () -> embed(set, FIRST, Items.LONG));
            }
            if (session.settings.whole() && set.size() > FIRST) {
                session.rows.section(GROUP, name + " whole", () -> embed(set, set.size(), Items.SHORT));
            }
        }
        if (session.hasHf() && sets.getFirst().catalogue() != null) {
            for (String[] types : new String[][] {{"f32", "float32"}, {"bf16", "bfloat16"}}) {
                session.rows.section("memory", types[0], () -> memory(sets.getFirst(), types[0], types[1]));
            }
        }
    }

    /** Lets our models have the [ITEM] vector that the peer draws: it is the same in each of its runs. */
    void takeItemToken(List<Items> sets) {
        Items set = sets.stream()
                .filter(s -> s.catalogue() != null)
                .findFirst()
                .orElseThrow(() -> new HllmException("a comparison with the peer needs --items"));
        try (PeerEmbedding few = new PeerEmbedding(set, 8)) {
            few.run(Items.SHORT, "float32");
            session.itemToken(few.itemToken());
        }
    }

    /** Runs of {@code hf_hllm.py embed} on the first items of a set. */
    private final class PeerEmbedding implements AutoCloseable {
        private final Scratch scratch = Scratch.open();
        private final String keys;
        private final Path csv = scratch.file("items.csv");
        private final Path npy = scratch.file("vectors.npy");

        PeerEmbedding(Items set, int count) {
            keys = String.join(",", set.keys());
            set.write(csv, count);
        }

        Peer.Answer run(int maxLength, String dtype) {
            String line = "embed --items %s --keys %s --n 0 --max-len %s --dtype %s --out %s";
            return session.peer.hf(line, csv, keys, maxLength, dtype, npy);
        }

        float[] itemToken() {
            return Peer.floats(scratch.file("vectors.npy.item_token.npy"));
        }

        @Override
        public void close() {
            scratch.close();
        }
    }

    private void embed(Items set, int count, int maxLength) {
        int[][] tokens = set.tokens(session.settings.quick() ? Math.min(count, 96) : count, maxLength);
        session.model(); // loading it is not measured
        float[] vectors = new float[tokens.length * width];
        Profile[] profile = new Profile[1];
        DoubleSupplier ours = () -> {
            profile[0] = Profile.of(() -> encode(tokens, (items, found) -> {
                float[] values = found.toFloats();
                for (int i = 0; i < items.length; i++) {
                    System.arraycopy(values, i * width, vectors, items[i] * width, width);
                }
            }));
            return profile[0].seconds();
        };
        Timing time;
        Row.Comparison comparison = null;
        if (session.hasHf() && set.catalogue() != null) {
            try (PeerEmbedding peer = new PeerEmbedding(set, tokens.length)) {
                List<double[]> errors = new ArrayList<>();
                encode(set.tokens(8, maxLength), (items, found) -> {}); // the peer warms up with 8 items too
                Session.Pairs pairs = session.pairs(ours, () -> {
                    Peer.Answer answer = peer.run(maxLength, "float32");
                    boolean same = answer.line().path("tokens").asLong() == inputTokens(tokens);
                    errors.add(Peer.errors(vectors, same ? Peer.floats(peer.npy) : new float[0], width));
                    return Peer.number(answer.line(), "seconds");
                });
                time = pairs.time();
                double[] last = errors.getLast();
                String check = Report.text(
                        "relative error of a vector %.1e, largest %.1e", last[last.length / 2], last[last.length - 1]);
                comparison = pairs.with(Peer.HF + " embed", errors.stream().allMatch(EmbedRows::equal), check);
            }
        } else {
            time = Timing.ofRuns(session.settings, ours);
        }
        Work.Packs packs = Work.packs(session.config, tokens, CatalogueEncoder.DEFAULT_ROWS);
        String what = set.name() + (count == FIRST ? ", first items" : ", whole catalogue");
        session.rows.add(Row.of(GROUP, what + ", cut at " + maxLength, tokens.length + " items", time)
                .arithmetic(packs.work().rate(time.median(), session.roofline))
                .useful(tokens.length, "items")
                .useful(inputTokens(tokens), "tokens")
                .peer(comparison)
                .profile(profile[0])
                .note(Report.text(
                        "%d of %d token rows computed; %.1f %% of the time outside native operations",
                        packs.rows(), inputTokens(tokens), 100 * profile[0].outside())));
    }

    /** Few texts of a large catalogue make so much of rounding that PyTorch itself is 3e-4 off its double precision there. */
    private static boolean equal(double[] errors) {
        int rare = errors.length / 1000;
        return errors[errors.length - 1 - rare] < TOLERANCE && errors[errors.length - 1] < RARE_TOLERANCE;
    }

    private void encode(int[][] tokens, CatalogueEncoder.Sink sink) {
        CatalogueEncoder.encode(session.model(), tokens, CatalogueEncoder.DEFAULT_ROWS, null, sink);
    }

    static long inputTokens(int[][] tokens) {
        return Arrays.stream(tokens).mapToLong(t -> t.length + 1).sum();
    }

    /** Nodes per token, and that the vectors are those of items that share nothing. */
    private void trie(Items set) {
        int[][] all = set.tokens(set.size(), Items.SHORT);
        long rows =
                Work.packs(session.config, all, CatalogueEncoder.DEFAULT_ROWS).rows();
        int[][] some = set.tokens(64, Items.SHORT);
        double error = Peer.error(vectors(some, true), vectors(some, false), width);
        Row row = Row.of(TRIE, set.name(), all.length + " items", null)
                .useful(Row.Rate.of((double) rows / inputTokens(all), "nodes per token"))
                .note(Report.text(
                        "%d of %d tokens, cut at %d; vectors differ by %.1e at most from those of items side by side",
                        rows, inputTokens(all), Items.SHORT, error));
        session.rows.add(error < TOLERANCE ? row : Row.failed(TRIE, set.name(), "unequal vectors: " + row.note()));
    }

    private float[] vectors(int[][] tokens, boolean share) {
        return session.vectors(session.model(), TokenTrie.pack(tokens, true, share));
    }

    /** Peak of resident memory of the whole command against the peer's whole process. */
    private void memory(Items set, String dtype, String torchType) {
        int count = session.settings.quick() ? 32 : FIRST;
        try (PeerEmbedding peer = new PeerEmbedding(set, count)) {
            List<String> line = Peer.words(
                    "embed --llm %s --items %s --text-keys %s --dtype %s --threads %s --out %s",
                    session.llm, peer.csv, peer.keys, dtype, session.settings.threads(), peer.scratch.file("ours.npy"));
            double ours = Peer.java("org.hllm4j.cli.Main", line).peakGb();
            double theirs = peer.run(Items.SHORT, torchType).peakGb();
            session.rows.add(Row.of("memory", "embed command, " + dtype + " weights", count + " items", null)
                    .memory(ours, theirs)
                    .note(Report.text(
                            "peaks of the processes; %s with %s; ours is %.2f of it",
                            Peer.HF, torchType, ours / theirs)));
        }
    }
}
