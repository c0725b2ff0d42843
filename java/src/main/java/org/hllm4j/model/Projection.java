package org.hllm4j.model;

import org.hllm4j.engine.Context;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Workspace;
import org.hllm4j.nn.Linear;
import org.hllm4j.nn.Parameters;

/** Brings item vectors to the User LLM's width by a learned matrix; where the widths agree, they pass as they are. */
final class Projection implements AutoCloseable {
    private final Linear linear; // null where the widths agree

    /** @param name of the matrix; null where the widths agree */
    Projection(Context context, Parameters parameters, String name) {
        linear = name == null ? null : new Linear(context, parameters.get(name));
    }

    /**
     * @param input [B, width before], as activations where there is a matrix
     * @param output [B, D]
     */
    record Pass(Tensor input, Tensor output) {}

    Pass forward(Workspace workspace, Tensor vectors) {
        if (linear == null) {
            return new Pass(vectors, vectors);
        }
        Tensor input = workspace.activation(vectors);
        Tensor output = workspace.floats(vectors.size(0), linear.rows());
        linear.forward(workspace, output, input, false);
        return new Pass(input, output);
    }

    /** From the gradient of the output to that of the input, float32; adds to the matrix's, where it is trained. */
    Tensor backward(Workspace workspace, Pass pass, Tensor doutput) {
        if (linear == null) {
            return doutput;
        }
        Tensor dinput = workspace.floats(pass.input.shape());
        linear.backward(workspace, dinput, workspace.activation(doutput), pass.input, false);
        return dinput;
    }

    void refresh(boolean trainedOnly) {
        if (linear != null) {
            linear.refresh(trainedOnly);
        }
    }

    @Override
    public void close() {
        if (linear != null) {
            linear.close();
        }
    }
}
