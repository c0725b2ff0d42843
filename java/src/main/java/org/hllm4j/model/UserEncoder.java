package org.hllm4j.model;

import java.util.Arrays;
import java.util.function.LongConsumer;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;

/** User vectors of many histories, packed without padding, in bounded memory. */
public final class UserEncoder {
    /** Receives the vectors of consecutive requests as they come. */
    @FunctionalInterface
    public interface Sink {
        /**
         * @param first number of the first vector among all wanted ones, in request order
         * @param vectors [n, D], valid during the call
         */
        void accept(int first, Tensor vectors);
    }

    private UserEncoder() {}

    /**
     * @param table item vectors [N, D]
     * @param histories item rows of each history, oldest first, 1 to max history
     * @param wanted for each history the places (ascending) after which a vector is wanted; null: after the last event
     * @param maxRows events computed at a time
     * @param progress told how many histories are done; may be null
     */
    public static void encode(
            Hllm model,
            Tensor table,
            int[][] histories,
            int[][] wanted,
            int maxRows,
            LongConsumer progress,
            Sink sink) {
        Ops ops = model.context().ops();
        int first = 0;
        try (Workspace workspace = model.context().workspace()) {
            for (int begin = 0, end; begin < histories.length; begin = end) {
                int rows = 0;
                for (end = begin;
                        end < histories.length && (end == begin || rows + histories[end].length <= maxRows);
                        end++) {
                    rows += histories[end].length;
                }
                int[][] part = Arrays.copyOfRange(histories, begin, end);
                int[] lengths = Arrays.stream(part).mapToInt(h -> h.length).toArray();
                int[] outputs = wanted == null
                        ? UserLlm.lastRows(lengths)
                        : rows(lengths, Arrays.copyOfRange(wanted, begin, end));
                long mark = workspace.mark();
                Tensor x = workspace.floats(rows, model.config().width());
                ops.gatherRows(
                        x,
                        table,
                        workspace.ints(
                                Arrays.stream(part).flatMapToInt(Arrays::stream).toArray()));
                try (UserLlm.Pass pass = model.users().forward(workspace, x, lengths, outputs, false)) {
                    sink.accept(first, pass.output());
                }
                workspace.release(mark);
                first += outputs.length;
                if (progress != null) {
                    progress.accept(end);
                }
            }
        }
    }

    private static int[] rows(int[] lengths, int[][] wanted) {
        int[] rows = new int[Arrays.stream(wanted).mapToInt(w -> w.length).sum()];
        int n = 0;
        int begin = 0;
        for (int i = 0; i < lengths.length; i++) {
            for (int place : wanted[i]) {
                rows[n++] = begin + place;
            }
            begin += lengths[i];
        }
        return rows;
    }
}
