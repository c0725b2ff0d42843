package org.hllm4j.model;

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
    static final String PREFIX = "item_llm.model.";

    private final Context context;
    private final Ops ops;
    private final int width;
    private final Pooling pooling;
    private final Parameter words;
    private final Parameter itemToken; // null with mean pooling
    private final Transformer transformer;

    static void declare(Parameters.Layout layout, ModelConfig config, Pooling pooling, boolean trainable) {
        layout.table(PREFIX + "embed_tokens.weight", config.vocabSize(), config.hiddenSize(), trainable);
        Transformer.declare(layout, PREFIX, config, trainable);
        if (pooling == Pooling.TOKEN) {
            layout.vector(Hllm.ITEM_TOKEN, config.hiddenSize(), trainable);
        }
    }

    ItemLlm(Context context, Parameters parameters, HllmConfig config) {
        this.context = context;
        ops = context.ops();
        width = config.width();
        pooling = config.pooling();
        words = parameters.get(PREFIX + "embed_tokens.weight");
        itemToken = pooling == Pooling.TOKEN ? parameters.get(Hllm.ITEM_TOKEN) : null;
        transformer = new Transformer(context, parameters, PREFIX, config.item(), config.maxTextLength() + 1);
    }

    private final class Pass implements ItemEncoder.Pass {
        private final Tensor ids;
        private final Packing packing;
        private final Tensor pathOffsets;
        private final Tensor pathRows;
        private Transformer.Pass states;
        private Tensor output;

        private Pass(Tensor ids, Packing packing, Tensor pathOffsets, Tensor pathRows) {
            this.ids = ids;
            this.packing = packing;
            this.pathOffsets = pathOffsets;
            this.pathRows = pathRows;
        }

        @Override
        public Tensor output() {
            return output;
        }

        @Override
        public void backward(Workspace workspace, Tensor doutput) {
            Tensor dstates = doutput;
            if (pooling == Pooling.MEAN) {
                dstates = workspace.floats(packing.rows(), width);
                ops.segmentMeanBackward(dstates, doutput, pathOffsets, pathRows);
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
            if (tokens.positions()[i] >= transformer.maxPositions()) {
                throw new HllmException("an item has more than " + (transformer.maxPositions() - 1)
                        + " tokens, the model's max text length");
            }
        }
        Pass pass = new Pass(
                context.of(tokens.ids()),
                packing(context, tokens, !mean),
                mean ? context.of(tokens.pathOffsets()) : null,
                mean ? context.of(tokens.pathRows()) : null);
        Tensor x = workspace.floats(tokens.rows(), width);
        ops.embeddingForward(x, pass.ids, words.value(), mean ? null : itemToken.value());
        pass.states = transformer.forward(workspace, x, pass.packing, save);
        if (mean) {
            pass.output = workspace.floats(tokens.leaves(), width);
            ops.segmentMeanForward(pass.output, pass.states.output(), pass.pathOffsets, pass.pathRows);
        } else {
            pass.output = pass.states.output();
        }
        return pass;
    }

    /** Uploads a pack's plans; with {@code tail} only its leaves are wanted from the last layer. */
    private static Packing packing(Context context, PackedTokens tokens, boolean tail) {
        int rows = tokens.rows();
        PlanSpec all = new PlanSpec(
                true,
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
                        tokens.positions(),
                        tokens.leafRow(),
                        tokens.tailSpanOffsets(),
                        tokens.tailSpanBegin(),
                        tokens.tailSpanLength());
        return new Packing(context.of(tokens.positions()), context.plan(all), leaves);
    }

    @Override
    public void recompute(boolean on) {
        transformer.recompute(on);
    }

    @Override
    public void pack() {
        transformer.pack();
    }

    @Override
    public void refresh() {
        transformer.refresh();
    }

    @Override
    public void close() {
        transformer.close();
    }
}
