package org.hllm4j.nn;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.weights.TensorGroup;
import org.hllm4j.weights.TensorGroup.Kind;

/**
 * All parameters of a model in flat buffers: one of what is trained, one of its gradients, so that the gradient norm, the
 * optimiser and a checkpoint are one call each; and one or two of what is frozen. Owns the buffers.
 *
 * <p>Matrices that are computed as one product (q, k, v; gate, up) lie one after the other and are also known as one: see
 * {@link #fused}.
 */
public final class Parameters implements AutoCloseable {
    private static final int ALIGN = 16; // elements: every group starts on a cache line

    /** What a model is made of; groups keep the order in which they are declared. */
    public static final class Layout {
        private record Declared(TensorGroup tensors, boolean trainable) {
            long elements() {
                return tensors.rows().stream().mapToLong(Long::longValue).sum() * tensors.columns();
            }

            boolean matrix() {
                return tensors.kind() == TensorGroup.Kind.MATRIX;
            }
        }

        private final List<Declared> groups = new ArrayList<>();

        public Layout vector(String name, long size, boolean trainable) {
            return group(new TensorGroup(Kind.VECTOR, List.of(name), List.of(size), 1), trainable);
        }

        /** A table of rows that are looked up, always float32. */
        public Layout table(String name, long rows, long columns, boolean trainable) {
            return group(new TensorGroup(Kind.TABLE, List.of(name), List.of(rows), columns), trainable);
        }

        public Layout matrix(String name, long rows, long columns, boolean trainable) {
            return group(new TensorGroup(Kind.MATRIX, List.of(name), List.of(rows), columns), trainable);
        }

        /** Matrices of equal width that one product computes. */
        public Layout matrices(String[] names, long[] rows, long columns, boolean trainable) {
            List<Long> each = Arrays.stream(rows).boxed().toList();
            return group(new TensorGroup(Kind.MATRIX, List.of(names), each, columns), trainable);
        }

        public Layout group(TensorGroup tensors, boolean trainable) {
            groups.add(new Declared(tensors, trainable));
            return this;
        }

        /** Elements of what is trained, alignment included. */
        public long trainableElements() {
            return elements(true);
        }

        public long frozenElements() {
            return elements(false);
        }

        /** Elements of the matrices. */
        public long matrixElements() {
            return groups.stream()
                    .filter(Declared::matrix)
                    .mapToLong(Declared::elements)
                    .sum();
        }

        private long elements(boolean trainable) {
            long sum = 0;
            for (Declared group : groups) {
                sum += group.trainable == trainable ? align(group.elements()) : 0;
            }
            return sum;
        }
    }

    private final Tensor values;
    private final Tensor gradients;
    private final Map<String, Tensor> frozen = new LinkedHashMap<>(); // by the first name of the group
    private final Map<String, Parameter> named = new LinkedHashMap<>();
    private final Map<String, Parameter> fused = new LinkedHashMap<>();

    /**
     * Allocates zeros.
     *
     * @param storage of frozen matrices; F32 when anything is trained
     */
    public Parameters(Context context, Layout layout, DType storage) {
        long trained = layout.trainableElements();
        if (trained > 0 && storage != DType.F32) {
            throw new HllmException("training keeps float32 master weights; dtype " + storage + " is for inference");
        }
        values = trained == 0 ? null : context.zeros(DType.F32, trained);
        gradients = trained == 0 ? null : context.zeros(DType.F32, trained);
        long at = 0;
        for (Layout.Declared group : layout.groups) {
            long size = group.elements();
            Tensor value;
            Tensor gradient = null;
            if (group.trainable) {
                value = values.rows(at, at + size);
                gradient = gradients.rows(at, at + size);
                at += align(size);
            } else {
                value = context.zeros(group.matrix() ? storage : DType.F32, size);
                frozen.put(group.tensors.names().getFirst(), value);
            }
            split(group, value, gradient);
        }
    }

    private void split(Layout.Declared group, Tensor value, Tensor gradient) {
        TensorGroup tensors = group.tensors;
        long begin = 0;
        for (int i = 0; i < tensors.names().size(); i++) {
            String name = tensors.names().get(i);
            long end = begin + tensors.rows().get(i) * tensors.columns();
            Parameter part = part(tensors, name, value, gradient, begin, end);
            if (named.put(name, part) != null) {
                throw new IllegalArgumentException("parameter " + name + " is declared twice");
            }
            begin = end;
        }
        fused.put(
                tensors.names().getFirst(),
                part(tensors, String.join("+", tensors.names()), value, gradient, 0, group.elements()));
    }

    private static Parameter part(
            TensorGroup tensors, String name, Tensor value, Tensor gradient, long begin, long end) {
        long[] shape = tensors.kind() == Kind.VECTOR
                ? new long[] {end - begin}
                : new long[] {(end - begin) / tensors.columns(), tensors.columns()};
        return new Parameter(
                name,
                value.rows(begin, end).reshape(shape),
                gradient == null ? null : gradient.rows(begin, end).reshape(shape));
    }

    private static long align(long elements) {
        return (elements + ALIGN - 1) / ALIGN * ALIGN;
    }

    public Parameter get(String name) {
        Parameter parameter = named.get(name);
        if (parameter == null) {
            throw new HllmException("the model has no parameter '" + name + "'");
        }
        return parameter;
    }

    /** The group that starts with the named tensor, as one; null where there is none. */
    public Parameter fused(String firstName) {
        return fused.get(firstName);
    }

    /** Every parameter by its own name, in the order of declaration. */
    public Collection<Parameter> all() {
        return Collections.unmodifiableCollection(named.values());
    }

    /** Frees frozen matrices whose names start with {@code prefix}; from here on their tensors are refused. */
    void release(String prefix) {
        fused.forEach((name, parameter) -> {
            boolean matrix = parameter.value().rank() == 2; // norms and biases are read as they are
            if (name.startsWith(prefix) && matrix && !parameter.trainable()) {
                frozen.get(name).close();
            }
        });
    }

    /** Flat buffer [P] of what is trained, or null when all is frozen. */
    public Tensor values() {
        return values;
    }

    /** Flat buffer [P] of the gradients, or null when all is frozen. */
    public Tensor gradients() {
        return gradients;
    }

    @Override
    public void close() {
        frozen.values().forEach(Tensor::close);
        if (values != null) {
            gradients.close();
            values.close();
        }
    }
}
