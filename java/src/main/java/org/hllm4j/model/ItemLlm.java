package org.hllm4j.model;

import java.util.function.Consumer;
import org.hllm4j.HllmException;
import org.hllm4j.data.PackedTokens;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.PlanSpec;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.nn.Packing;
import org.hllm4j.nn.Parameter;
import org.hllm4j.nn.Parameters;
import org.hllm4j.nn.Transformer;
import org.hllm4j.weights.ModelConfig;

/** Item text to item vector (HLLM section 3.1): the last hidden state at [ITEM], or the mean over the text's tokens. */
public final class ItemLlm implements ItemEncoder {
    static final String PREFIX = "item_llm.";

    private final Context context;
    private final Ops ops;
    private final ModelConfig config;
    private final int maxTextLength;
    private final Pooling pooling;
    private final Parameters parameters;
    private final Parameter words;
    private Tensor readWords; // of a mapped file; null: those of the parameter
    private final Parameter itemToken; // null with mean pooling
    private final Transformer transformer;
    private final Projection projection;

    /** [ITEM] is trained with the side, with adapters too; what brings its states to the User LLM's width, with either side. */
    static void declare(Parameters.Layout layout, HllmConfig hllm, Hllm.Trained trained) {
        ModelConfig config = hllm.item();
        boolean words = trained.item() && trained.itemLora() == null;
        layout.table(words(config), config.vocabSize(), config.hiddenSize(), words);
        Transformer.declare(layout, PREFIX + config.family().stem(), config, trained.item(), trained.itemLora());
        if (hllm.pooling() == Pooling.TOKEN) {
            layout.vector(Hllm.ITEM_TOKEN, config.hiddenSize(), trained.item());
        }
        if (hllm.projected()) {
            layout.matrix(Hllm.PROJECTION, hllm.width(), config.hiddenSize(), trained.item() || trained.user());
        }
    }

    /** Name of the word vectors. */
    static String words(ModelConfig config) {
        return PREFIX + config.family().stem() + config.family().words();
    }

    ItemLlm(Context context, Parameters parameters, HllmConfig hllm) {
        this.context = context;
        this.parameters = parameters;
        config = hllm.item();
        ops = context.ops();
        maxTextLength = hllm.maxTextLength();
        pooling = hllm.pooling();
        words = parameters.get(words(config));
        itemToken = pooling == Pooling.TOKEN ? parameters.get(Hllm.ITEM_TOKEN) : null;
        transformer =
                new Transformer(context, parameters, PREFIX + config.family().stem(), config, maxTextLength + 1);
        projection = new Projection(context, parameters, hllm.projected() ? Hllm.PROJECTION : null);
    }

    private final class Pass implements ItemEncoder.Pass {
        private final Tensor ids;
        private final Packing packing;
        private final Tensor pathOffsets;
        private final Tensor pathRows;
        private Transformer.Pass states;
        private Projection.Pass projected;

        private Pass(Tensor ids, Packing packing, Tensor pathOffsets, Tensor pathRows) {
            this.ids = ids;
            this.packing = packing;
            this.pathOffsets = pathOffsets;
            this.pathRows = pathRows;
        }

        @Override
        public Tensor output() {
            return projected.output();
        }

        @Override
        public void backward(Workspace workspace, Tensor doutput) {
            Tensor dpooled = projection.backward(workspace, projected, doutput);
            if (!transformer.trains()) {
                return; // the projection alone learns
            }
            Tensor dstates = dpooled;
            if (pooling == Pooling.MEAN) {
                dstates = workspace.floats(packing.rows(), config.hiddenSize());
                ops.segmentMeanBackward(dstates, dpooled, pathOffsets, pathRows);
            }
            Tensor dx = transformer.backward(workspace, states, dstates);
            ops.embeddingBackward(words.gradient(), itemToken == null ? null : itemToken.gradient(), dx, ids);
        }

        @Override
        public void close() {
            ids.close();
            packing.close();
            if (pathOffsets != null) {
                pathOffsets.close();
                pathRows.close();
            }
        }
    }

    @Override
    public Pass forward(Workspace workspace, PackedTokens tokens, boolean save) {
        boolean mean = pooling == Pooling.MEAN;
        for (int i = 0; i < tokens.rows(); i++) {
            if (tokens.positions()[i] > maxTextLength) {
                throw new HllmException(
                        "an item has more than " + maxTextLength + " tokens, the model's max text length");
            }
        }
        Pass pass = new Pass(
                context.of(tokens.ids()),
                packing(tokens, !mean),
                mean ? context.of(tokens.pathOffsets()) : null,
                mean ? context.of(tokens.pathRows()) : null);
        try {
            compute(workspace, tokens, pass, save);
            return pass;
        } catch (RuntimeException | Error e) {
            pass.close();
            throw e;
        }
    }

    private void compute(Workspace workspace, PackedTokens tokens, Pass pass, boolean save) {
        boolean mean = pooling == Pooling.MEAN;
        Tensor x = workspace.floats(tokens.rows(), config.hiddenSize());
        ops.embeddingForward(
                x, pass.ids, readWords == null ? words.value() : readWords, mean ? null : itemToken.value());
        pass.states = transformer.forward(workspace, x, pass.packing, save && transformer.trains());
        Tensor pooled = pass.states.output();
        if (mean) {
            pooled = workspace.floats(tokens.leaves(), config.hiddenSize());
            ops.segmentMeanForward(pooled, pass.states.output(), pass.pathOffsets, pass.pathRows);
        }
        pass.projected = projection.forward(workspace, pooled);
    }

    /** Reads word vectors where they are, f32 or bf16 [V, D], instead of a parameter, which is gone from here on. Owns them. */
    void readWords(Tensor table) {
        parameters.release(words.name());
        readWords = table;
    }

    /** Uploads a pack's plans; with {@code tail} only its leaves are wanted from the last layer. */
    private Packing packing(PackedTokens tokens, boolean tail) {
        int rows = tokens.rows();
        int[] positions = positions(tokens);
        PlanSpec all = new PlanSpec(
                config.family().causal(),
                rows,
                rows,
                tokens.segmentBegin(),
                tokens.segmentLength(),
                tokens.spanOffsets(),
                tokens.spanBegin(),
                tokens.spanLength());
        Packing.Tail leaves = !tail
                ? null
                : Packing.Tail.of(
                        context,
                        positions,
                        tokens.leafRow(),
                        tokens.tailSpanOffsets(),
                        tokens.tailSpanBegin(),
                        tokens.tailSpanLength(),
                        transformer.window());
        return new Packing(context.of(positions), context.plan(all.within(transformer.window())), leaves);
    }

    /** Where positions are learned, all texts end at the same one; else only differences count, and all begin at 0. */
    private int[] positions(PackedTokens tokens) {
        if (!config.family().encoder()) {
            return tokens.positions();
        }
        int[] positions = tokens.positions().clone();
        int end = pooling == Pooling.TOKEN ? maxTextLength + 1 : maxTextLength;
        for (int text = 0; text < tokens.segments(); text++) { // side by side, as encoders share nothing
            int begin = tokens.segmentBegin()[text];
            int length = tokens.segmentLength()[text];
            for (int row = begin; row < begin + length; row++) {
                positions[row] += end - length;
            }
        }
        return positions;
    }

    @Override
    public void recompute(boolean on) {
        transformer.recompute(on);
    }

    @Override
    public void pack(Consumer<String> fill) {
        transformer.pack(fill);
        fill.accept("");
        projection.refresh(false);
    }

    @Override
    public void refresh(boolean trainedOnly) {
        transformer.refresh(trainedOnly);
        projection.refresh(trainedOnly);
    }

    @Override
    public void close() {
        transformer.close();
        projection.close();
        if (readWords != null) {
            readWords.close();
        }
    }
}
