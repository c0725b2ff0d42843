package org.hllm4j.perf;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.data.TokenTrie;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.model.CatalogueEncoder;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.ItemLlm;

/** Catalogue embedding, from token ids to vectors in Java memory; what the trie saves; memory of the whole command. */
final class EmbedRows {
    static final String GROUP = "embed";
    static final String TRIE = "trie";
    static final int FIRST = 512;
    private static final double TOLERANCE = 1e-3;

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
            if (set.size() > FIRST) {
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
            return session.peer.hf(
                    "embed",
                    "--items",
                    csv,
                    "--keys",
                    keys,
                    "--n",
                    0,
                    "--max-len",
                    maxLength,
                    "--dtype",
                    dtype,
                    "--out",
                    npy);
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
        Hllm model = session.model();
        float[] vectors = new float[tokens.length * width];
        Runnable ours =
                () -> CatalogueEncoder.encode(model, tokens, CatalogueEncoder.DEFAULT_ROWS, null, (items, found) -> {
                    float[] values = found.toFloats();
                    for (int i = 0; i < items.length; i++) {
                        System.arraycopy(values, i * width, vectors, items[i] * width, width);
                    }
                });
        Timing time;
        Row.Comparison comparison = null;
        if (session.hasHf() && set.catalogue() != null) {
            try (PeerEmbedding peer = new PeerEmbedding(set, tokens.length)) {
                double[] worst = {0};
                // The peer warms up with 8 items too.
                CatalogueEncoder.encode(model, set.tokens(8, maxLength), 64, null, (items, found) -> {});
                Session.Pairs pairs = session.pairs(() -> Timing.once(ours), () -> {
                    Peer.Answer answer = peer.run(maxLength, "float32");
                    worst[0] = Math.max(worst[0], Peer.error(vectors, Peer.floats(peer.npy), width));
                    if (answer.line().path("tokens").asLong() != inputTokens(tokens)) {
                        worst[0] = Double.POSITIVE_INFINITY;
                    }
                    return Peer.number(answer.line(), "seconds");
                });
                time = pairs.time();
                comparison = Row.Comparison.of(
                        Peer.HF + " embed",
                        pairs.ours(),
                        pairs.theirs(),
                        worst[0] < TOLERANCE,
                        String.format(Locale.ROOT, "largest relative error of a vector %.1e", worst[0]));
            }
        } else {
            time = Timing.of(session.settings, ours);
        }

        Trie trie = new Trie(tokens);
        double seconds = time.median();
        String what = set.name() + (count == FIRST ? ", first items" : ", whole catalogue");
        session.rows.add(Row.of(GROUP, what + ", cut at " + maxLength, tokens.length + " items", time)
                .arithmetic(trie.work.rate(seconds, session.roofline))
                .useful(
                        Row.Rate.of(tokens.length / seconds, "items/s"),
                        Row.Rate.of(inputTokens(tokens) / seconds, "tokens/s"))
                .peer(comparison)
                .note(String.format(
                        Locale.ROOT,
                        "%d of %d token rows computed; sorting and packing take %.1f %% of the time",
                        trie.rows,
                        inputTokens(tokens),
                        100 * trie.seconds / seconds)));
    }

    static long inputTokens(int[][] tokens) {
        return Arrays.stream(tokens).mapToLong(t -> t.length + 1).sum();
    }

    /** What the encoder computes for these tokens, and the time that finding this out takes. */
    private final class Trie {
        final double seconds;
        long rows;
        Work work = Work.NOTHING;

        Trie(int[][] tokens) {
            List<PackedTokens> packs = new ArrayList<>();
            seconds = Timing.once(() -> {
                for (int[] chunk : TokenTrie.chunks(tokens, CatalogueEncoder.DEFAULT_ROWS)) {
                    int[][] part = Arrays.stream(chunk).mapToObj(i -> tokens[i]).toArray(int[][]::new);
                    packs.add(TokenTrie.pack(part, true, true));
                }
            });
            for (PackedTokens pack : packs) {
                rows += pack.rows();
                work = work.plus(Work.forward(session.config, pack.rows(), pack.leaves()));
            }
        }
    }

    /** Nodes per token, and that the vectors are those of items that share nothing. */
    private void trie(Items set) {
        int[][] all = set.tokens(set.size(), Items.SHORT);
        Trie trie = new Trie(all);
        int[][] some = set.tokens(64, Items.SHORT);
        double error = Peer.error(vectors(some, true), vectors(some, false), width);
        Row row = Row.of(TRIE, set.name(), all.length + " items", null)
                .useful(Row.Rate.of((double) trie.rows / inputTokens(all), "nodes per token"))
                .note(String.format(
                        Locale.ROOT,
                        "%d of %d tokens, cut at %d; vectors differ by %.1e at most from those of items side by side",
                        trie.rows,
                        inputTokens(all),
                        Items.SHORT,
                        error));
        session.rows.add(error < TOLERANCE ? row : Row.failed(TRIE, set.name(), "unequal vectors: " + row.note()));
    }

    private float[] vectors(int[][] tokens, boolean share) {
        Hllm model = session.model();
        PackedTokens pack = TokenTrie.pack(tokens, true, share);
        try (Workspace workspace = session.context.workspace();
                ItemLlm.Pass pass = model.items().forward(workspace, pack, false)) {
            Tensor found = workspace.floats(tokens.length, width);
            session.context.ops().gatherRows(found, pass.output(), workspace.ints(pack.outputRow()));
            return found.toFloats();
        }
    }

    /** Peak of resident memory of the whole command against the peer's whole process. */
    private void memory(Items set, String dtype, String torchType) {
        try (PeerEmbedding peer = new PeerEmbedding(set, FIRST)) {
            List<String> command = new ArrayList<>(List.of(
                    Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                    "-XX:+UseSerialGC",
                    "--enable-native-access=ALL-UNNAMED"));
            if (System.getProperty("hllm.library") != null) {
                command.add("-Dhllm.library=" + System.getProperty("hllm.library"));
            }
            command.addAll(List.of(
                    "-cp",
                    System.getProperty("java.class.path"),
                    "org.hllm4j.cli.Main",
                    "embed",
                    "--llm",
                    session.llm.toString(),
                    "--items",
                    peer.csv.toString(),
                    "--text-keys",
                    peer.keys,
                    "--dtype",
                    dtype,
                    "--out",
                    peer.scratch.file("ours.npy").toString()));
            double ours = Peer.execute(command, Map.of()).peakGb();
            double theirs = peer.run(Items.SHORT, torchType).peakGb();
            session.rows.add(Row.of("memory", "embed command, " + dtype + " weights", FIRST + " items", null)
                    .memory(ours)
                    .note(String.format(
                            Locale.ROOT,
                            "peak of the process; %s with %s: %.2f GB, of which ours is %.2f",
                            Peer.HF,
                            torchType,
                            theirs,
                            ours / theirs)));
        }
    }
}
