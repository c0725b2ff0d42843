package org.hllm4j.nn;

import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.hllm4j.HllmException;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;

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
        private record Group(String[] names, long[] rows, long columns, boolean matrix, boolean trainable) {
            long elements() {
                long sum = 0;
                for (long r : rows) {
                    sum += r;
                }
                return sum * columns;
            }
        }

        private final List<Group> groups = new ArrayList<>();

        public Layout vector(String name, long size, boolean trainable) {
            groups.add(new Group(new String[] {name}, new long[] {size}, 1, false, trainable));
            return this;
        }

        /** A table of rows that are looked up, always float32. */
        public Layout table(String name, long rows, long columns, boolean trainable) {
            groups.add(new Group(new String[] {name}, new long[] {rows}, columns, false, trainable));
            return this;
        }

        public Layout matrix(String name, long rows, long columns, boolean trainable) {
            return matrices(new String[] {name}, new long[] {rows}, columns, trainable);
        }

        /** Matrices of equal width that one product computes. */
        public Layout matrices(String[] names, long[] rows, long columns, boolean trainable) {
            groups.add(new Group(names, rows, columns, true, trainable));
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
                    .filter(Group::matrix)
                    .mapToLong(Group::elements)
                    .sum();
        }

        private long elements(boolean trainable) {
            long sum = 0;
            for (Group group : groups) {
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
        for (Layout.Group group : layout.groups) {
            long size = group.elements();
            Tensor value;
            Tensor gradient = null;
            if (group.trainable) {
                value = values.rows(at, at + size);
                gradient = gradients.rows(at, at + size);
                at += align(size);
            } else {
                value = context.zeros(group.matrix ? storage : DType.F32, size);
                frozen.put(group.names[0], value);
            }
            split(group, value, gradient);
        }
    }

    private void split(Layout.Group group, Tensor value, Tensor gradient) {
        long begin = 0;
        boolean vector = group.columns == 1 && group.names.length == 1 && !group.matrix;
        for (int i = 0; i < group.names.length; i++) {
            long end = begin + group.rows[i] * group.columns;
            long[] shape = vector ? new long[] {group.rows[i]} : new long[] {group.rows[i], group.columns};
            Parameter part = new Parameter(
                    group.names[i],
                    value.rows(begin, end).reshape(shape),
                    gradient == null ? null : gradient.rows(begin, end).reshape(shape));
            if (named.put(group.names[i], part) != null) {
                throw new IllegalArgumentException("parameter " + group.names[i] + " is declared twice");
            }
            begin = end;
        }
        if (!vector) {
            long rows = group.elements() / group.columns;
            fused.put(
                    group.names[0],
                    new Parameter(
                            group.names.length == 1 ? group.names[0] : String.join("+", group.names),
                            value.reshape(rows, group.columns),
                            gradient == null ? null : gradient.reshape(rows, group.columns)));
        }
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

    /** The group that starts with the named matrix, as one matrix. */
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
            if (name.startsWith(prefix) && !parameter.trainable()) {
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
