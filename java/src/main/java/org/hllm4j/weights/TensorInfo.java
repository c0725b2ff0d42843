package org.hllm4j.weights;

import java.util.Arrays;
import org.hllm4j.HllmException;

/**
 * What a file says about one tensor.
 *
 * @param name as the source lists it
 * @param type how its elements are stored
 * @param shape row-major (PyTorch) order, outermost dimension first; empty for a scalar
 */
public record TensorInfo(String name, StoredType type, long[] shape) {
    public TensorInfo {
        shape = shape.clone();
        elements(name, shape);
    }

    /** As the constructor, with the file in the message of an error. */
    static TensorInfo in(String origin, String name, StoredType type, long[] shape) {
        try {
            return new TensorInfo(name, type, shape);
        } catch (HllmException e) {
            throw new HllmException(origin + ": " + e.getMessage(), e);
        }
    }

    @Override
    public long[] shape() {
        return shape.clone();
    }

    /** The product of the dimensions; 1 for a scalar. */
    public long elements() {
        return elements(name, shape);
    }

    /** The size of the stored tensor in bytes. */
    public long bytes() {
        return type.bytes(elements());
    }

    private static long elements(String name, long[] shape) {
        long product = 1;
        try {
            for (long dimension : shape) {
                if (dimension < 0) {
                    throw new HllmException("tensor " + name + ": negative dimension in " + Arrays.toString(shape));
                }
                product = Math.multiplyExact(product, dimension);
            }
            // the largest element has 8 bytes: sizes in bytes must fit as well
            Math.multiplyExact(product, 8L);
        } catch (ArithmeticException e) {
            throw new HllmException("tensor " + name + ": shape " + Arrays.toString(shape) + " overflows", e);
        }
        return product;
    }

    @Override
    public String toString() {
        return name + " " + type + Arrays.toString(shape);
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof TensorInfo that
                && name.equals(that.name)
                && type == that.type
                && Arrays.equals(shape, that.shape);
    }

    @Override
    public int hashCode() {
        return 31 * name.hashCode() + Arrays.hashCode(shape);
    }
}
