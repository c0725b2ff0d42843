package org.hllm4j.model;

import java.util.Arrays;
import java.util.List;
import java.util.function.Function;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Graph;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.PlanSpec;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.nn.KeyValueArena;
import org.hllm4j.nn.Packing;
import org.hllm4j.nn.Transformer;

/**
 * A step over cached histories that launches as one: as many users each time, as many fresh events and branches of each;
 * which users, how long their histories and where their rows are is read from the device's memory. Where a pass of few
 * rows is a hundred short operations, launching them takes longer than they do. One thread at a time.
 */
public final class AppendGraph implements AutoCloseable {
    private final Ops ops;
    private final Function<List<CachedHistory>, CachedHistory.Step> steps;
    private final Packing packing;
    private final Workspace workspace;
    private final Tensor inputs; // [T, D]
    private final Tensor outputs; // [I, D]
    private Graph graph;

    AppendGraph(
            Context context,
            Transformer transformer,
            KeyValueArena arena,
            Function<List<CachedHistory>, CachedHistory.Step> steps,
            List<CachedHistory> histories,
            int spans) {
        this.steps = steps;
        ops = context.ops();
        CachedHistory.Step step = steps.apply(histories);
        packing = new CachedHistory.Step(
                        step.positions(),
                        step.stored(),
                        step.outputs(),
                        withRoom(step.all(), spans),
                        withRoom(step.last(), spans))
                .packing(context, arena);
        workspace = context.workspace();
        inputs = context.zeros(DType.F32, step.positions().length, transformer.width());
        outputs = context.zeros(DType.F32, step.outputs().length, transformer.width());
        Runnable work = () -> {
            Tensor x = workspace.floats(inputs.shape());
            ops.convert(x, inputs);
            ops.convert(
                    outputs, transformer.forward(workspace, x, packing, false).output());
            workspace.release(0);
        };
        try {
            work.run();
            work.run(); // a workspace has all its memory after a second use
            graph = context.capture(work);
        } catch (RuntimeException | Error e) {
            close();
            throw e;
        }
    }

    /** The same plan with so many spans, of which an update may make use. */
    private static PlanSpec withRoom(PlanSpec spec, int spans) {
        int[] offsets = spec.spanOffsets().clone();
        offsets[offsets.length - 1] = spans; // empty ones, seen by the last segment
        return new PlanSpec(
                spec.causal(),
                spec.queryRows(),
                spec.keyRows(),
                spec.segmentBegin(),
                spec.segmentLength(),
                offsets,
                Arrays.copyOf(spec.spanBegin(), spans),
                Arrays.copyOf(spec.spanLength(), spans));
    }

    /**
     * The outputs of other histories, as many and of as many rows as those it was made with.
     *
     * @param x [T, D] as {@link UserLlm#forward} takes it; stays as it is
     * @return [I, D], until the next call
     */
    public Tensor run(Tensor x, List<CachedHistory> histories) {
        CachedHistory.Step step = steps.apply(histories);
        ops.convert(inputs, x);
        packing.positions().write(step.positions());
        packing.plan().update(step.all());
        packing.tail().positions().write(step.outputPositions());
        packing.tail().plan().update(step.last());
        packing.store().rows().write(step.stored());
        graph.launch();
        return outputs;
    }

    @Override
    public void close() {
        if (graph != null) {
            graph.close();
        }
        outputs.close();
        inputs.close();
        workspace.close();
        packing.close();
    }
}
