package org.hllm4j.nn;

import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;

/**
 * The parameters of an adapter: to a frozen matrix [N, K] they add scale * up down.
 *
 * @param down [R, K]
 * @param up [N, R]; zero at the start, so that training begins at the frozen model
 */
public record LowRank(Parameter down, Parameter up, float scale) {
    LowRank rows(long begin, long end) {
        return new LowRank(down, up.rows(begin, end), scale);
    }

    /** A row [1, R] of the scale, which the caller closes. */
    Tensor scaleRow(Context context) {
        Tensor row = context.zeros(DType.F32, 1, down.value().size(0));
        context.ops().fill(row, scale);
        return row;
    }

    /** matrix [N, K], float32, += scale * up down. */
    void addTo(Context context, Tensor matrix) {
        try (Tensor row = scaleRow(context);
                Tensor scaled = context.zeros(DType.F32, up.value().shape())) {
            context.ops().mul(scaled, up.value(), row.repeat(scaled.size(0)), false);
            context.ops().matmul(matrix, scaled, down.value(), false, false, true);
        }
    }
}
