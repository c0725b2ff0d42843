package org.hllm4j.nn;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.function.Consumer;
import java.util.function.ToLongFunction;
import org.hllm4j.HllmException;
import org.hllm4j.engine.Context;
import org.hllm4j.engine.DType;
import org.hllm4j.engine.Tensor;
import org.hllm4j.weights.TensorGroup;
import org.hllm4j.weights.TensorGroup.Kind;

/**
 * All parameters of a model in flat buffers: one of what is trained, adapters included, one of its gradients, so that the
 * gradient norm, the optimiser and a checkpoint are one call each; and one for each group of what is frozen. Owns the
 * buffers.
 *
 * <p>Matrices that are computed as one product (q, k, v; gate, up) lie one after the other and are also known as one: see
 * {@link #fused}.
 */
public final class Parameters implements AutoCloseable {
    private static final int ALIGN = 16; // elements: every group starts on a cache line

    /** What a model is made of; groups keep the order in which they are declared. */
    public static final class Layout {
        /** @param lora of the adapter that is trained beside the group; null: there is none */
        private record Declared(TensorGroup tensors, boolean trainable, Lora lora) {
            long rows() {
                return tensors.rows().stream().mapToLong(Long::longValue).sum();
            }

            long elements() {
                return rows() * tensors.columns();
            }

            /** Places in the flat buffers. */
            long trained() {
                return trainable ? align(elements()) : align(down()) + align(up());
            }

            private long down() {
                return lora == null ? 0 : lora.rank() * tensors.columns();
            }

            private long up() {
                return lora == null ? 0 : lora.rank() * rows();
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
            groups.add(new Declared(tensors, trainable, null));
            return this;
        }

        /** Matrices that one product computes, which stay as they are, and one adapter for them all, which is trained. */
        public Layout adapted(TensorGroup tensors, Lora lora) {
            Declared group = new Declared(tensors, false, lora);
            long most = Math.min(tensors.columns(), group.rows());
            if (lora.rank() > most) {
                throw new HllmException("adapters of rank " + lora.rank() + " are larger than "
                        + tensors.names().getFirst() + " itself, which has rank " + most + " at most");
            }
            groups.add(group);
            return this;
        }

        /** Elements of what is trained, alignment included. */
        public long trainableElements() {
            return sum(Declared::trained);
        }

        /** Elements of the model, adapters left out. */
        public long elements() {
            return sum(Declared::elements);
        }

        public long frozenElements() {
            return sum(group -> group.trainable ? 0 : group.elements());
        }

        /** Elements of the matrices that are trained, adapters included. */
        public long trainableMatrixElements() {
            return sum(group -> group.matrix() ? group.trained() : 0);
        }

        public long frozenMatrixElements() {
            return sum(group -> group.matrix() && !group.trainable ? group.elements() : 0);
        }

        /** Bytes of what is frozen, alignment aside, with the matrices in this storage. */
        public long frozenBytes(DType storage) {
            return sum(
                    group -> group.trainable ? 0 : group.elements() * (group.matrix() ? storage : DType.F32).bytes());
        }

        private long sum(ToLongFunction<Declared> elements) {
            return groups.stream().mapToLong(elements).sum();
        }
    }

    private final Context context;
    private final Tensor values;
    private final Tensor gradients;
    private long used; // elements of the two that are taken
    private final Map<String, Tensor> frozen = new LinkedHashMap<>(); // by the first name of the group
    private final Map<String, Parameter> named = new LinkedHashMap<>();
    private final Map<String, Parameter> fused = new LinkedHashMap<>();

    /**
     * Allocates zeros.
     *
     * @param storage of frozen matrices; what is trained is float32
     */
    public Parameters(Context context, Layout layout, DType storage) {
        this.context = context;
        long trained = layout.trainableElements();
        values = trained == 0 ? null : context.zeros(DType.F32, trained);
        gradients = trained == 0 ? null : context.zeros(DType.F32, trained);
        for (Layout.Declared group : layout.groups) {
            TensorGroup tensors = group.tensors;
            String name = String.join("+", tensors.names());
            long[] shape = tensors.kind() == Kind.VECTOR
                    ? new long[] {group.rows()}
                    : new long[] {group.rows(), tensors.columns()};
            Parameter whole;
            if (group.trainable) {
                whole = trained(name, shape);
            } else {
                Tensor value = context.zeros(group.matrix() ? storage : DType.F32, shape);
                frozen.put(tensors.names().getFirst(), value);
                whole = new Parameter(name, value, null, group.lora == null ? null : adapter(name, shape, group.lora));
            }
            fused.put(tensors.names().getFirst(), whole);
            split(tensors, whole);
        }
    }

    private LowRank adapter(String name, long[] shape, Lora lora) {
        return new LowRank(
                trained(name + ".lora_A", lora.rank(), shape[1]),
                trained(name + ".lora_B", shape[0], lora.rank()),
                lora.scale());
    }

    /** The next place of the flat buffers. */
    private Parameter trained(String name, long... shape) {
        long begin = used;
        long end = begin + Arrays.stream(shape).reduce(1, Math::multiplyExact);
        used = align(end);
        return new Parameter(
                name,
                values.rows(begin, end).reshape(shape),
                gradients.rows(begin, end).reshape(shape),
                null);
    }

    private void split(TensorGroup tensors, Parameter whole) {
        long begin = 0;
        for (int i = 0; i < tensors.names().size(); i++) {
            String name = tensors.names().get(i);
            long end = begin + tensors.rows().get(i);
            if (named.put(name, whole.rows(begin, end).named(name)) != null) {
                throw new IllegalArgumentException("parameter " + name + " is declared twice");
            }
            begin = end;
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

    /** The group that starts with the named tensor, as one; null where there is none. */
    public Parameter fused(String firstName) {
        return fused.get(firstName);
    }

    /** Every parameter by its own name, in the order of declaration. */
    public Collection<Parameter> all() {
        return Collections.unmodifiableCollection(named.values());
    }

    /** The adapters, in the order of declaration. */
    public List<LowRank> adapters() {
        return fused.values().stream()
                .map(Parameter::adapter)
                .filter(Objects::nonNull)
                .toList();
    }

    /**
     * Shows a parameter's values, float32, with what its adapter adds to them.
     *
     * @param reader is given a tensor that is valid during the call
     */
    public void read(Parameter parameter, Consumer<Tensor> reader) {
        Tensor value = parameter.value();
        if (value.dtype() == DType.F32 && parameter.adapter() == null) {
            reader.accept(value);
            return;
        }
        try (Tensor sum = context.zeros(DType.F32, value.shape())) {
            context.ops().convert(sum, value);
            if (parameter.adapter() != null) {
                parameter.adapter().addTo(context, sum);
            }
            reader.accept(sum);
        }
    }

    /** Frees frozen matrices and tables whose names start with {@code prefix}; from here on their tensors are refused. */
    public void release(String prefix) {
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
