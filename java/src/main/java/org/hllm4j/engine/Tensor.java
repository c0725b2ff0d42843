package org.hllm4j.engine;

import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.hllm4j.HllmException;

/**
 * A typed, strided window of rank 1 to 4 onto a buffer on the device. The elements of the last dimension lie side by
 * side.
 *
 * <p>A tensor from {@link Context#zeros}, {@link Context#of} or {@link Context#wrap} owns its buffer and is closed by
 * its user. Views ({@link #rows}, {@link #columns}, {@link #reshape}) and tensors of a {@link Workspace} own nothing;
 * their close does nothing. After the owner's close, the native library refuses the tensor and all its views.
 */
public final class Tensor implements AutoCloseable {
    private static final int MAX_RANK = 4;

    /**
     * Host memory under wrapped buffers. It must not be unmapped while the native library knows its address, even if
     * the program loses the tensor without closing it.
     */
    private static final Set<Tensor> WRAPPED = ConcurrentHashMap.newKeySet();

    private final Context context;
    private final DType dtype;
    private final long[] shape;
    private final long[] stride;
    private final MemorySegment buffer;
    private final long offset;
    private final MemorySegment descriptor;
    private final ByteBuffer wrapped;
    private boolean owner;

    private Tensor(
            Context context,
            DType dtype,
            long[] shape,
            long[] stride,
            MemorySegment buffer,
            long offset,
            boolean owner,
            ByteBuffer wrapped) {
        this.context = context;
        this.dtype = dtype;
        this.shape = shape;
        this.stride = stride;
        this.buffer = buffer;
        this.offset = offset;
        this.owner = owner;
        this.wrapped = wrapped;
        this.descriptor = context.descriptors().next(buffer, dtype, offset, shape, stride);
    }

    /** A contiguous tensor that destroys {@code buffer} on close; {@code wrapped} (or null) is the memory under it. */
    static Tensor owner(Context context, DType dtype, long[] shape, MemorySegment buffer, ByteBuffer wrapped) {
        Tensor tensor = new Tensor(context, dtype, shape.clone(), contiguous(shape), buffer, 0, true, wrapped);
        if (wrapped != null) {
            WRAPPED.add(tensor);
        }
        return tensor;
    }

    /** A contiguous tensor from byte {@code offset} of a buffer that somebody else destroys. */
    static Tensor view(Context context, DType dtype, long[] shape, MemorySegment buffer, long offset) {
        return new Tensor(context, dtype, shape.clone(), contiguous(shape), buffer, offset, false, null);
    }

    public DType dtype() {
        return dtype;
    }

    /** Number of dimensions, 1 to 4. */
    public int rank() {
        return shape.length;
    }

    /** Size of dimension {@code dim}, from 0. */
    public long size(int dim) {
        return shape[Objects.checkIndex(dim, shape.length)];
    }

    /** A copy of the sizes of all dimensions. */
    public long[] shape() {
        return shape.clone();
    }

    /** Number of elements: the product of the sizes. */
    public long elements() {
        return elements(shape);
    }

    // ---- Views ------------------------------------------------------------------------------------------------------

    /** View of [begin, end) along the first dimension. */
    public Tensor rows(long begin, long end) {
        return slice(0, begin, end);
    }

    /** View of [begin, end) along the last dimension. */
    public Tensor columns(long begin, long end) {
        return slice(shape.length - 1, begin, end);
    }

    /**
     * View of the same elements under another shape. A contiguous tensor takes any shape of as many elements; one whose
     * rows lie apart keeps its first dimension, and its rows (if contiguous in themselves) are split or joined:
     * [T, H * Dh] becomes [T, H, Dh] and back.
     */
    public Tensor reshape(long... newShape) {
        if (elements(newShape) != elements()) {
            throw new HllmException(
                    "cannot reshape " + this + " to " + text(newShape) + ": another number of elements");
        }
        long[] newStride = contiguous(newShape);
        if (!isContiguous()) {
            if (newShape.length == 1 || newShape[0] != shape[0] || contiguousFrom() > 1) {
                throw new HllmException("cannot reshape " + this + " with strides " + Arrays.toString(stride) + " to "
                        + text(newShape)
                        + ": its rows do not lie side by side. Only [T, ...] with the same T is possible,"
                        + " and only if each row is contiguous; copy it first (Ops.convert)");
            }
            newStride[0] = stride[0];
        }
        return new Tensor(context, dtype, newShape.clone(), newStride, buffer, offset, false, null);
    }

    /** View of this one row [1, D] as {@code rows} equal ones, to be read only. */
    public Tensor repeat(long rows) {
        if (shape.length != 2 || shape[0] != 1 || rows < 0) {
            throw new HllmException("cannot repeat " + this + " " + rows + " times: one row [1, D] is expected");
        }
        return new Tensor(
                context, dtype, new long[] {rows, shape[1]}, new long[] {0, stride[1]}, buffer, offset, false, null);
    }

    private Tensor slice(int dim, long begin, long end) {
        if (begin < 0 || begin > end || end > shape[dim]) {
            throw new HllmException("[" + begin + ", " + end + ") is not a range of dimension " + dim + " of " + this);
        }
        long[] newShape = shape.clone();
        newShape[dim] = end - begin;
        long newOffset = offset + begin * stride[dim] * dtype.bytes();
        return new Tensor(context, dtype, newShape, stride, buffer, newOffset, false, null);
    }

    // ---- Values -----------------------------------------------------------------------------------------------------

    /** Writes {@code values[from, from + count)} at element {@code firstElement} of this contiguous f32 tensor. */
    public void write(long firstElement, float[] values, int from, int count) {
        Objects.checkFromIndexSize(from, count, values.length);
        context.transfer().write(buffer, position(DType.F32, firstElement, count), values, from, count);
    }

    /** Writes all elements of this contiguous f32 tensor, in row-major order. */
    public void write(float[] all) {
        checkFills(all.length);
        write(0, all, 0, all.length);
    }

    /**
     * Writes the remaining values of a heap or direct buffer, whose position stays, at element {@code firstElement} of
     * this contiguous f32 tensor. A direct buffer in the byte order of the machine is copied once, any other one twice.
     */
    public void write(long firstElement, FloatBuffer values) {
        context.transfer().write(buffer, position(DType.F32, firstElement, values.remaining()), values);
    }

    /**
     * Writes elements as a file holds them, at element {@code firstElement} of this contiguous tensor of the same type.
     *
     * @param elements the remaining bytes of a direct buffer, in the byte order of the machine; its position stays
     */
    public void write(long firstElement, ByteBuffer elements) {
        long count = elements.remaining() / dtype.bytes();
        context.transfer().write(buffer, position(dtype, firstElement, count), elements);
    }

    /** Writes all elements of this contiguous i32 tensor. */
    public void write(int[] all) {
        checkFills(all.length);
        context.transfer().write(buffer, position(DType.I32, 0, all.length), all);
    }

    /** Reads {@code count} elements of this contiguous f32 tensor from {@code firstElement} on into {@code out}. */
    public void read(long firstElement, float[] out, int from, int count) {
        Objects.checkFromIndexSize(from, count, out.length);
        context.transfer().read(buffer, position(DType.F32, firstElement, count), out, from, count);
    }

    /**
     * Fills the remaining places of a heap or direct buffer, whose position stays; see
     * {@link #write(long, FloatBuffer)}.
     */
    public void read(long firstElement, FloatBuffer out) {
        context.transfer().read(buffer, position(DType.F32, firstElement, out.remaining()), out);
    }

    /** All values of this f32 tensor in row-major order; strided views are gathered. */
    public float[] toFloats() {
        checkDType(DType.F32);
        float[] values = new float[arrayLength()];
        int first = contiguousFrom();
        int run = 1; // elements that lie side by side
        for (int d = first; d < shape.length; d++) {
            run *= (int) shape[d];
        }
        for (int done = 0; done < values.length; done += run) {
            long element = 0;
            int row = done / run;
            for (int d = first - 1; d >= 0; d--) {
                element += row % shape[d] * stride[d];
                row /= (int) shape[d];
            }
            context.transfer().read(buffer, offset + element * dtype.bytes(), values, done, run);
        }
        return values;
    }

    /** All values of this contiguous i32 tensor in row-major order. */
    public int[] toInts() {
        int[] values = new int[arrayLength()];
        context.transfer().read(buffer, position(DType.I32, 0, values.length), values);
        return values;
    }

    /** The value of an f32 tensor of one element. */
    public float scalar() {
        if (elements() != 1) {
            throw new HllmException(this + " is not a scalar: one element is expected");
        }
        return toFloats()[0];
    }

    /** Frees the buffer if this tensor owns it; a second call does nothing. */
    @Override
    public void close() {
        if (owner) {
            Context.destroyBuffer(buffer);
            owner = false;
            WRAPPED.remove(this);
        }
    }

    /** Type and shape, for example {@code F32[3, 4]}. */
    @Override
    public String toString() {
        return dtype + text(shape);
    }

    // ---- Layout -----------------------------------------------------------------------------------------------------

    /** The {@code hllm_tensor} of this window, unchanged for the life of this object. */
    MemorySegment descriptor() {
        return descriptor;
    }

    static String text(long[] shape) {
        return Arrays.toString(shape);
    }

    /** Product of the sizes, after a check of the shape. */
    static long elements(long[] shape) {
        if (shape.length < 1 || shape.length > MAX_RANK) {
            throw new HllmException("shape " + text(shape) + ": 1 to " + MAX_RANK + " dimensions are expected");
        }
        long elements = 1;
        for (long size : shape) {
            if (size < 0 || Math.multiplyHigh(elements, size) != 0 || elements * size < 0) {
                throw new HllmException("shape " + text(shape) + ": a size is negative, or their product overflows");
            }
            elements *= size;
        }
        return elements;
    }

    static long bytes(DType dtype, long[] shape) {
        long elements = elements(shape);
        if (elements > Long.MAX_VALUE / 8) {
            throw new HllmException("shape " + text(shape) + ": no memory is large enough");
        }
        return elements * dtype.bytes();
    }

    private static long[] contiguous(long[] shape) {
        long[] stride = new long[shape.length];
        long next = 1;
        for (int d = shape.length - 1; d >= 0; d--) {
            stride[d] = next;
            next *= shape[d];
        }
        return stride;
    }

    /** The first of the trailing dimensions whose elements lie side by side: 0 where all do. */
    private int contiguousFrom() {
        long next = 1;
        int first = shape.length;
        for (int d = shape.length - 1; d >= 0 && (stride[d] == next || shape[d] == 1); d--) {
            next *= shape[d];
            first = d;
        }
        return first;
    }

    private boolean isContiguous() {
        return contiguousFrom() == 0 || elements() == 0;
    }

    /** Byte offset in the buffer of element {@code first} of this contiguous tensor, after all checks of a transfer. */
    private long position(DType expected, long first, long count) {
        checkDType(expected);
        if (!isContiguous()) {
            throw new HllmException(this + " with strides " + Arrays.toString(stride)
                    + " is not contiguous: read it with toFloats, or copy it first (Ops.convert)");
        }
        if (first < 0 || first > elements() - count) {
            throw new HllmException("elements [" + first + ", " + (first + count) + ") are outside " + this);
        }
        return offset + first * dtype.bytes();
    }

    private void checkDType(DType expected) {
        if (dtype != expected) {
            throw new HllmException(this + " holds " + dtype + ", not " + expected
                    + (dtype == DType.BF16 ? ": convert it first (Ops.convert)" : ""));
        }
    }

    private void checkFills(int length) {
        if (length != elements()) {
            throw new HllmException(length + " values do not fill " + this);
        }
    }

    private int arrayLength() {
        long elements = elements();
        if (elements > Integer.MAX_VALUE - 8) {
            throw new HllmException(this + " is too large for one array: read it in parts");
        }
        return (int) elements;
    }
}
