package org.hllm4j.perf;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.function.DoubleSupplier;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.model.Fusion;
import org.hllm4j.model.Hllm;
import org.hllm4j.model.HllmConfig;
import org.hllm4j.model.ItemEncoder;
import org.hllm4j.model.Pooling;
import org.hllm4j.weights.ModelConfig;
import org.hllm4j.weights.PretrainedModel;

/** What all rows of a run share. Owns the context and the model. */
final class Session implements AutoCloseable {
    static final ModelConfig SMOLLM2 = llama(576, 1536, 30, 9, 3, 49152, 1e5);
    private static final ModelConfig SMALL = llama(576, 1536, 2, 9, 3, 4096, 1e5); // its layers, but few
    static final ModelConfig TINYLLAMA = llama(2048, 5632, 22, 32, 4, 32000, 1e4);
    static final ModelConfig BAICHUAN2 = llama(4096, 11008, 32, 32, 32, 125696, 1e4);

    /** Positions of the longest text: a user's whole history, flat. */
    static final int MAX_TEXT = 16384;

    static final int MAX_HISTORY = 1024;

    final Context context;
    final Settings settings;
    final Rows rows;
    final Roofline roofline;
    final Path llm; // null: random weights
    final ModelConfig config;
    final Peer peer; // null: none
    private float[] itemToken;
    private Hllm model;

    Session(Context context, Settings settings, Rows rows, Roofline roofline, Path llm, Peer peer) {
        this.context = context;
        this.settings = settings;
        this.rows = rows;
        this.roofline = roofline;
        this.llm = llm;
        this.peer = peer;
        if (llm == null) {
            config = settings.quick() ? SMALL : SMOLLM2;
        } else {
            try (PretrainedModel pretrained = PretrainedModel.open(llm)) {
                config = pretrained.config();
            }
        }
    }

    static ModelConfig llama(
            int hidden, int intermediate, int layers, int heads, int kvHeads, int vocabulary, double theta) {
        return ModelConfig.parse(
                Report.text("""
                    {"model_type": "llama", "hidden_size": %d, "intermediate_size": %d, "num_hidden_layers": %d,
                     "num_attention_heads": %d, "num_key_value_heads": %d, "vocab_size": %d, "rms_norm_eps": 1e-5,
                     "rope_theta": %f, "initializer_range": 0.02, "tie_word_embeddings": true}
                    """, hidden, intermediate, layers, heads, kvHeads, vocabulary, theta), "perf");
    }

    boolean hasHf() {
        return peer != null && peer.model() != null;
    }

    /** The input vector of [ITEM] that {@code hf_hllm.py} draws; the same in each of its runs. */
    void itemToken(float[] values) {
        itemToken = values;
        release();
    }

    /** Both sides with the language model's weights, for inference; kept until {@link #release}. */
    Hllm model() {
        if (model == null) {
            model = newModel(Hllm.Trained.NOTHING, MAX_TEXT, MAX_HISTORY);
        }
        return model;
    }

    /** Frees the shared model, before something that needs the memory. */
    void release() {
        if (model != null) {
            model.close();
            model = null;
        }
    }

    /** The caller closes it. */
    Hllm newModel(Hllm.Trained trained, int maxText, int maxHistory) {
        return newModel(trained, new HllmConfig(config, config, Pooling.TOKEN, maxText, maxHistory), DType.F32);
    }

    /** A ranker whose head says nothing yet, with matrices of this type, for inference; the caller closes it. */
    Hllm newRanker(int maxHistory, DType storage) {
        HllmConfig late = new HllmConfig(config, config, Pooling.TOKEN, Items.SHORT, maxHistory, Fusion.LATE);
        Hllm fresh = newModel(Hllm.Trained.NOTHING, late, storage);
        fresh.randomiseRanker(1, 0.5);
        return fresh;
    }

    private Hllm newModel(Hllm.Trained trained, HllmConfig shape, DType storage) {
        Hllm fresh = new Hllm(context, shape, trained, storage);
        try {
            if (llm == null) {
                fresh.randomise(Hllm.Side.ITEM, 1);
                fresh.randomise(Hllm.Side.USER, 1);
            } else {
                try (PretrainedModel pretrained = PretrainedModel.open(llm)) {
                    fresh.load(Hllm.Side.ITEM, pretrained.tensors());
                    fresh.load(Hllm.Side.USER, pretrained.tensors());
                }
            }
            if (itemToken == null) {
                fresh.randomiseItemToken(1);
            } else {
                fresh.itemToken(itemToken);
            }
            return fresh;
        } catch (RuntimeException e) {
            fresh.close();
            throw e;
        }
    }

    /** Vectors of the texts of a pack, in their order. */
    float[] vectors(Hllm model, PackedTokens pack) {
        try (Workspace workspace = context.workspace();
                ItemEncoder.Pass pass = model.items().forward(workspace, pack, false)) {
            Tensor found = workspace.floats(pack.outputRow().length, config.hiddenSize());
            context.ops().gatherRows(found, pass.output(), workspace.ints(pack.outputRow()));
            return found.toFloats();
        }
    }

    /** Runs this benchmark again for one section, in a process whose peak of memory is the row's own. */
    void child(String group, String name) {
        try (Scratch scratch = Scratch.open()) {
            Path history = scratch.file("history.jsonl");
            List<String> arguments = new ArrayList<>(settings.arguments());
            arguments.addAll(List.of("--child", "--only", "^" + group + " " + name + "$"));
            arguments.addAll(List.of(
                    "--history",
                    history.toString(),
                    "--out",
                    scratch.file("report.md").toString()));
            Peer.java(Bench.class.getName(), arguments);
            Report.read(history).lines().forEach(line -> rows.add(line.row()));
        }
    }

    /** Seconds of ours and of the peer's, in turn: A B A B. */
    record Pairs(List<Double> ours, List<Double> theirs) {
        Timing time() {
            return Timing.of(ours);
        }

        Row.Comparison with(String peer, Boolean agrees, String check) {
            return Row.Comparison.of(peer, ours, theirs, agrees, check);
        }
    }

    Pairs pairs(DoubleSupplier ours, DoubleSupplier theirs) {
        Pairs pairs = new Pairs(new ArrayList<>(), new ArrayList<>());
        long start = System.nanoTime();
        do {
            pairs.ours.add(ours.getAsDouble());
            pairs.theirs.add(theirs.getAsDouble());
        } while (pairs.ours.size() < settings.runs() && (System.nanoTime() - start) / 1e9 < settings.pairing());
        return pairs;
    }

    @Override
    public void close() {
        release();
    }
}
