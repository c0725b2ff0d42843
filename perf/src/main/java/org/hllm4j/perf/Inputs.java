package org.hllm4j.perf;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.SplittableRandom;
import java.util.function.Consumer;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Ops;
import org.hllm4j.engine.Tensor;
import org.hllm4j.engine.Weight;

/** What an operation works on, on one device; closed together. The same calls give the same values on every device. */
final class Inputs implements AutoCloseable {
    private static final int BLOCK = 1 << 18; // elements filled at a time

    final Context context;
    final Ops ops;
    private final Deque<Runnable> closing = new ArrayDeque<>();
    private long seed;

    Inputs(Context context) {
        this.context = context;
        ops = context.ops();
    }

    <T> T own(T it, Consumer<T> close) {
        closing.push(() -> close.accept(it));
        return it;
    }

    /** Zeros in float32. */
    Tensor zeros(long... shape) {
        return own(context.zeros(DType.F32, shape), Tensor::close);
    }

    /** Zeros in the type of activations. */
    Tensor empty(long... shape) {
        return own(context.zeros(context.activations(), shape), Tensor::close);
    }

    /** Uniform in [-1, 1), in float32. */
    Tensor floats(long... shape) {
        Tensor tensor = zeros(shape);
        fill(tensor);
        return tensor;
    }

    /** The same in the type of activations. */
    Tensor random(long... shape) {
        if (context.activations() == DType.F32) {
            return floats(shape);
        }
        Tensor narrow = empty(shape);
        try (Tensor wide = context.zeros(DType.F32, shape)) {
            fill(wide);
            ops.convert(narrow, wide);
        }
        return narrow;
    }

    /** A matrix [rows, columns] stored in the type of activations. */
    Weight weight(long rows, long columns) {
        return own(context.weight(floats(rows, columns), context.activations()), Weight::close);
    }

    private void fill(Tensor tensor) {
        seed++;
        float[] block = new float[BLOCK];
        for (long at = 0; at < tensor.elements(); at += BLOCK) {
            int count = (int) Math.min(BLOCK, tensor.elements() - at);
            SplittableRandom random = new SplittableRandom(seed << 40 | at / BLOCK);
            for (int i = 0; i < count; i++) {
                block[i] = random.nextInt() * 0x1p-31f;
            }
            tensor.write(at, block, 0, count);
        }
    }

    @Override
    public void close() {
        closing.forEach(Runnable::run); // the last first
        closing.clear();
    }
}
