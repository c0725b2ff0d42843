package org.hllm4j.model;

import java.util.List;
import java.util.function.LongConsumer;
import org.hllm4j.data.LabelledSequence;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.nn.Parameter;

/** What a ranker says of the labelled events of many sequences, packed without padding, in bounded memory. */
public final class EventScorer {
    private EventScorer() {}

    /**
     * @param table item vectors [N, D]
     * @param maxRows events and branches computed at a time
     * @param progress told how many sequences are done; may be null
     * @return the logit of each labelled event, in the order of sequences and places
     */
    public static float[] logits(
            Hllm model, Tensor table, List<LabelledSequence> sequences, int maxRows, LongConsumer progress) {
        float[] logits =
                new float[sequences.stream().mapToInt(s -> s.places().length).sum()];
        int first = 0;
        try (Workspace workspace = model.context().workspace()) {
            for (int begin = 0, end; begin < sequences.size(); begin = end) {
                int rows = 0;
                for (end = begin; end < sequences.size(); end++) {
                    int more = sequences.get(end).items().length
                            + sequences.get(end).places().length;
                    if (end > begin && rows + more > maxRows) {
                        break;
                    }
                    rows += more;
                }
                long mark = workspace.mark();
                Tensor part = logits(model, table, sequences.subList(begin, end), workspace);
                part.read(0, logits, first, (int) part.size(0));
                first += (int) part.size(0);
                workspace.release(mark);
                if (progress != null) {
                    progress.accept(end);
                }
            }
        }
        return logits;
    }

    private static Tensor logits(Hllm model, Tensor table, List<LabelledSequence> sequences, Workspace workspace) {
        Ops ops = model.context().ops();
        Parameter token = model.ranker().userToken();
        int width = model.config().width();
        int[] targets = LabelledSequence.targets(sequences).toArray();
        int[] inputs = Branches.inputs(
                model.config().fusion(), LabelledSequence.histories(sequences).toArray(), targets);
        Tensor x = workspace.floats(inputs.length, width);
        ops.embeddingForward(x, workspace.ints(inputs), table, token == null ? null : token.value());
        Tensor vectors = workspace.floats(targets.length, width);
        ops.gatherRows(vectors, table, workspace.ints(targets));
        try (UserLlm.Pass user = model.users().forward(workspace, x, Branches.of(sequences), false, false)) {
            return model.ranker()
                    .forward(workspace, user.output(), vectors, LabelledSequence.priors(sequences))
                    .logits();
        }
    }
}
