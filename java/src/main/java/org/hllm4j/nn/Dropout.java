package org.hllm4j.nn;

import org.hllm4j.data.DropoutMask;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;

/**
 * What a training step leaves out of its input vectors and of what each half of a layer adds to the stream; what is left is
 * the larger for it. Attention's weights are not thinned.
 *
 * @param rate share of the elements, from 0 to below 1
 * @param seed of the run
 * @param step of the training
 */
public record Dropout(double rate, long seed, long step) {
    /** Site of the input vectors. */
    static final int INPUT = 0;

    /** Site of a layer's half: 0, attention, or 1, the MLP. */
    static int site(int layer, int half) {
        return 1 + 2 * layer + half;
    }

    /** Factors [like's shape] of a site; the same whenever they are asked for. */
    Tensor mask(Workspace workspace, int site, Tensor like) {
        float[] values = new float[Math.toIntExact(like.elements())];
        DropoutMask.fill(seed, step, site, rate, values);
        Tensor mask = workspace.floats(like.shape());
        mask.write(values);
        return mask;
    }
}
