package org.hllm4j.nn;

import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;
import org.hllm4j.HllmException;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.weights.Family;
import org.hllm4j.weights.ModelConfig;
import org.hllm4j.weights.TensorGroup;

/**
 * A transformer from input vectors to final hidden states: the one loop over layers that every family, every model and
 * every use (embedding, training, serving) goes through. One thread at a time.
 */
public final class Transformer implements AutoCloseable {
    private final Ops ops;
    private final Parameters parameters;
    private final String prefix;
    private final Family family;
    private final int width;
    private final int maxPositions;
    private final int window;
    private final List<Block> blocks = new ArrayList<>();
    private final TextEmbedding input; // null where positions are rotary
    private final Norm norm; // null where the last layer ends in one
    private final Tensor ropeTable; // null where positions are learned
    private boolean recompute;

    /**
     * Declares the parameters below {@code prefix} ("item_llm.model."), word embeddings excepted.
     *
     * @param lora null: without adapters; else they are trained, and nothing else is
     */
    public static void declare(
            Parameters.Layout layout, String prefix, ModelConfig config, boolean trainable, Lora lora) {
        for (TensorGroup group : TensorGroup.of(config)) {
            TensorGroup named = group.withPrefix(prefix);
            if (lora != null && group.kind() == TensorGroup.Kind.MATRIX) {
                layout.adapted(named, lora);
            } else {
                layout.group(named, trainable && lora == null);
            }
        }
    }

    /** @param maxPositions longest sequence that will be given */
    public Transformer(Context context, Parameters parameters, String prefix, ModelConfig config, int maxPositions) {
        ops = context.ops();
        this.parameters = parameters;
        this.prefix = prefix;
        width = config.hiddenSize();
        this.maxPositions = maxPositions;
        window = config.slidingWindow() < maxPositions ? config.slidingWindow() : 0;
        family = config.family();
        if (family.encoder() && maxPositions > config.maxPositions()) {
            throw new HllmException(
                    "texts of up to " + maxPositions + " tokens, [ITEM] included, but the model has learned " + "only "
                            + config.maxPositions() + " positions; shorten --max-text-length");
        }
        input = family.encoder() ? new TextEmbedding(context, parameters, prefix, config) : null;
        ropeTable = family.encoder()
                ? null
                : context.of(RopeTable.of(maxPositions, config), maxPositions, config.headDim());
        for (int i = 0; i < config.layers(); i++) {
            blocks.add(new Block(context, parameters, layer(i), config, i));
        }
        norm = family.finalNorm() == null ? null : Norm.of(ops, parameters, prefix + family.finalNorm(), config);
    }

    /** Bytes of a row in the workspace of a pass that does not save: the stream, and what a layer makes of it. */
    public static long bytesOfRow(ModelConfig config, DType activations) {
        long wide = (long) config.heads() * config.headDim();
        long narrow = (long) config.kvHeads() * config.headDim();
        long d = config.hiddenSize();
        return 2 * DType.F32.bytes() * d
                + activations.bytes() * (2 * d + 2 * wide + 2 * narrow + 3L * config.intermediateSize());
    }

    /** One forward pass. {@code output} [T, D], or [I, D] with a tail, is after the final norm. */
    public static final class Pass {
        private final Packing packing;
        private final List<Tensor> inputs = new ArrayList<>(); // of each layer
        private final List<Block.Saved> saved = new ArrayList<>(); // of each layer, unless it will be recomputed
        private TextEmbedding.Saved embedding;
        private Tensor last;
        private Tensor stats;
        private Tensor output;

        private Pass(Packing packing) {
            this.packing = packing;
        }

        public Tensor output() {
            return output;
        }
    }

    /**
     * Whether a forward that saves keeps the input of each layer only, and backward runs each layer's forward again: less
     * memory for more arithmetic, the same bits.
     */
    public void recompute(boolean on) {
        recompute = on;
    }

    /**
     * @param x input vectors [T, D] in the workspace; overwritten unless {@code save}
     * @param save whether {@link #backward} will follow: its tensors stay in the workspace until the caller releases them
     */
    public Pass forward(Workspace workspace, Tensor x, Packing packing, boolean save) {
        if (x.size(0) != packing.rows() || x.size(1) != width) {
            throw new HllmException("transformer input is [" + x.size(0) + "," + x.size(1) + "], expected ["
                    + packing.rows() + "," + width + "]");
        }
        if (save && packing.store() != null) {
            throw new IllegalArgumentException("keys and values in an arena have no backward pass");
        }
        Pass pass = new Pass(packing);
        Tensor stream = x;
        if (input != null) {
            TextEmbedding.Result embedded = input.forward(workspace, x, packing);
            stream = embedded.y();
            pass.embedding = embedded.saved();
        }
        stream = packing.thinned(ops, workspace, Dropout.INPUT, stream);
        Block.Keep keep = !save ? Block.Keep.NOTHING : recompute ? Block.Keep.INPUT : Block.Keep.ALL;
        for (int i = 0; i < blocks.size(); i++) {
            pass.inputs.add(stream);
            Block.Result result = blocks.get(i).forward(workspace, stream, packing, tail(packing, i), ropeTable, keep);
            stream = result.x();
            if (keep == Block.Keep.ALL) {
                pass.saved.add(result.saved());
            }
        }
        pass.last = stream;
        if (norm == null) {
            pass.output = stream;
            return pass;
        }
        pass.stats = norm.saved(workspace, stream.size(0));
        pass.output = workspace.floats(stream.size(0), width);
        norm.forward(pass.output, pass.stats, stream);
        return pass;
    }

    /**
     * Adds to the gradients of what is trained.
     *
     * @param doutput gradient of the pass's output
     * @return gradient of its input [T, D], in the workspace
     */
    public Tensor backward(Workspace workspace, Pass pass, Tensor doutput) {
        Tensor d = workspace.floats(pass.last.size(0), width);
        if (norm == null) {
            ops.convert(d, doutput);
        } else {
            norm.backward(d, doutput, pass.stats, pass.last, false);
        }
        for (int i = blocks.size() - 1; i >= 0; i--) {
            Block block = blocks.get(i);
            Tensor x = pass.inputs.get(i);
            Packing.Tail tail = tail(pass.packing, i);
            Tensor dx = tail == null ? d : workspace.floats(x.size(0), width);
            long mark = workspace.mark();
            Block.Saved saved =
                    pass.saved.isEmpty() ? block.again(workspace, x, pass.packing, tail, ropeTable) : pass.saved.get(i);
            block.backward(workspace, dx, d, saved, pass.packing, tail, ropeTable);
            workspace.release(mark);
            d = dx;
        }
        d = pass.packing.thinned(ops, workspace, Dropout.INPUT, d);
        return input == null ? d : input.backward(workspace, d, pass.embedding, pass.packing);
    }

    private Packing.Tail tail(Packing packing, int layer) {
        return layer == blocks.size() - 1 ? packing.tail() : null;
    }

    /** Whether {@link #backward} adds to gradients. */
    public boolean trains() {
        return blocks.stream().anyMatch(Block::trains);
    }

    /** D, of its inputs and outputs. */
    public int width() {
        return width;
    }

    /** Longest sequence that positions exist for. */
    public int maxPositions() {
        return maxPositions;
    }

    /**
     * Keeps frozen matrices in the kernels' order alone, a layer at a time: their parameters are gone from here on.
     *
     * @param fill told what the names of a layer's parameters begin with, before its turn: there they may be filled
     */
    public void pack(Consumer<String> fill) {
        for (int i = 0; i < blocks.size(); i++) {
            fill.accept(layer(i));
            blocks.get(i).refresh(false);
            blocks.get(i).pack();
            parameters.release(layer(i));
        }
    }

    private String layer(int i) {
        return prefix + family.layerNames().layer(i);
    }

    /** Positions that a query sees, for {@link org.hllm4j.engine.PlanSpec#within}; 0: no sequence is long enough to tell. */
    public int window() {
        return window;
    }

    /** Takes over parameter values that were written; {@code trainedOnly}: by an optimiser. */
    public void refresh(boolean trainedOnly) {
        blocks.forEach(block -> block.refresh(trainedOnly));
    }

    @Override
    public void close() {
        blocks.forEach(Block::close);
        if (input != null) {
            input.close();
        } else {
            ropeTable.close();
        }
    }
}
