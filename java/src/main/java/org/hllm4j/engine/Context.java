package org.hllm4j.engine;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.util.Locale;
import org.hllm4j.HllmException;
import org.hllm4j.bindings.Hllm;
import org.hllm4j.bindings.hllm_plan_args;

/**
 * A stream of work on one device, and the maker of everything that lives there. Every operation of a context, its
 * tensors and its workspaces runs on one thread at a time; see the package description. What a context made is closed
 * by whoever asked for it, ideally before the context; a buffer that outlives its context still can be closed.
 */
public final class Context implements AutoCloseable {
    private static volatile long assumed;

    private final String device;
    private final DType activations;
    private final MemorySegment handle;
    private final Transfer transfer = new Transfer(this);
    private final Descriptors descriptors = new Descriptors();
    private final Ops ops = new Ops(this);
    private boolean open = true;

    private Context(String device, DType activations, MemorySegment handle) {
        this.device = device;
        this.activations = activations;
        this.handle = handle;
    }

    /** Opens a context that computes in the type that suits the device: bf16 on a GPU, f32 on the CPU. */
    public static Context open(String device) {
        return open(device, defaultType(device));
    }

    /** What suits a device best for matrices, and a GPU for activations: bf16 on a GPU, f32 on the CPU. */
    public static DType defaultType(String device) {
        return device.startsWith("cuda") ? DType.BF16 : DType.F32;
    }

    /** Type of the activations where matrices have this one: the same on a GPU, and f32 always on the CPU. */
    public static DType activations(String device, DType matrices) {
        return device.startsWith("cuda") ? matrices : DType.F32;
    }

    /**
     * Opens a context.
     *
     * @param device {@code "cpu"}; {@code "cuda"}, the first GPU that the driver shows; or {@code "cuda-emulated"}, which runs
     *     the GPU's kernels slowly on the CPU, for tests
     * @param activations type of what layers hand to one another, see {@link #activations}: F32, or BF16 on a GPU
     * @throws NativeException with status UNSUPPORTED for a device that this build cannot serve
     * @throws HllmException if the native library cannot be loaded
     */
    public static Context open(String device, DType activations) {
        NativeLibrary.load();
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(Hllm.C_POINTER);
            MemorySegment name = arena.allocateFrom(device);
            if (activations != DType.F32) {
                NativeException.check(
                        Hllm.hllm_supports(name, arena.allocateFrom("linear_forward"), activations.code(), 0),
                        "hllm_supports");
            }
            NativeException.check(Hllm.hllm_context_create(name, out), "hllm_context_create");
            return new Context(device, activations, out.get(Hllm.C_POINTER, 0));
        }
    }

    /**
     * Sizes the team of compute threads of the whole process; 0: as many as the process may use. Results do not change.
     */
    public static void threads(int count) {
        NativeLibrary.load();
        NativeException.check(Hllm.hllm_threads_set(count), "hllm_threads_set");
    }

    /** Size of the team of compute threads. */
    public static int threads() {
        NativeLibrary.load();
        return Hllm.hllm_threads_get();
    }

    /** One line for manifests: version, instruction set and GEMM library of the native library. */
    public static String buildInfo() {
        NativeLibrary.load();
        return Hllm.hllm_build_info().getString(0);
    }

    /**
     * One line for people: processor or card, its memory, driver and library versions, who computes attention.
     *
     * @throws NativeException with status UNSUPPORTED, and why, for a device that cannot be had
     */
    public static String deviceInfo(String device) {
        NativeLibrary.load();
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(Hllm.C_POINTER);
            NativeException.check(Hllm.hllm_device_info(arena.allocateFrom(device), out), "hllm_device_info");
            return out.get(Hllm.C_POINTER, 0).getString(0);
        }
    }

    /** Whether {@link #deviceInfo} and {@link #open} would find the device. */
    public static boolean available(String device) {
        try {
            deviceInfo(device);
            return true;
        } catch (NativeException e) {
            return false;
        }
    }

    /** Refuses what would take the {@link #liveBytes} of a device above {@code bytes}; 0: no limit. */
    public static void memoryLimit(String device, long bytes) {
        NativeLibrary.load();
        try (Arena arena = Arena.ofConfined()) {
            NativeException.check(
                    Hllm.hllm_memory_limit_set(arena.allocateFrom(device), bytes), "hllm_memory_limit_set");
        }
    }

    /** Bytes that buffers, weights, plans and scratch of all contexts of {@code device} hold now. */
    public static long liveBytes(String device) {
        NativeLibrary.load();
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(Hllm.C_LONG);
            NativeException.check(Hllm.hllm_live_bytes(arena.allocateFrom(device), out), "hllm_live_bytes");
            return out.get(Hllm.C_LONG, 0);
        }
    }

    /**
     * Bytes that a device can still give this process: of a GPU its free memory, on the CPU what the system calls available,
     * or what the control group leaves where that is less; or what {@link #assumeAvailable} says instead.
     */
    public static long availableBytes(String device) {
        if (assumed > 0) {
            return assumed;
        }
        NativeLibrary.load();
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(Hllm.C_LONG);
            NativeException.check(Hllm.hllm_memory_available(arena.allocateFrom(device), out), "hllm_memory_available");
            return out.get(Hllm.C_LONG, 0);
        }
    }

    /** What {@link #availableBytes} answers from now on, in this process; 0: what there is. */
    public static void assumeAvailable(long bytes) {
        assumed = bytes;
    }

    /** What results depend on bit for bit, beside the program and its inputs: for manifests. */
    public String environment() {
        return device.equals("cpu")
                ? buildInfo()
                : buildInfo() + "; " + deviceInfo(device).replaceFirst(" \\(\\d+ free\\)", "") + ", "
                        + activations.name().toLowerCase(Locale.ROOT);
    }

    public String device() {
        return device;
    }

    /**
     * Type of what the layers of a model hand to one another on this device. With bf16 the residual stream, sums, gradients
     * of parameters and the vectors that leave a model are float32 all the same.
     */
    public DType activations() {
        return activations;
    }

    /** A new tensor of zeros, rank 1 to 4; the caller closes it. */
    public Tensor zeros(DType dtype, long... shape) {
        long bytes = Tensor.bytes(dtype, shape);
        return Tensor.owner(this, dtype, shape, createBuffer(Math.max(bytes, 1)), null);
    }

    /** A new f32 tensor with these values in row-major order; the caller closes it. */
    public Tensor of(float[] values, long... shape) {
        if (Tensor.elements(shape) != values.length) {
            throw new HllmException(values.length + " values do not fill a tensor of shape " + Tensor.text(shape));
        }
        Tensor tensor = zeros(DType.F32, shape);
        tensor.write(values);
        return tensor;
    }

    /** A new i32 tensor of rank 1 with these values, which may be none; the caller closes it. */
    public Tensor of(int[] values) {
        Tensor tensor = zeros(DType.I32, values.length);
        tensor.write(values);
        return tensor;
    }

    /**
     * A read-only tensor over the remaining bytes of a direct buffer (a mapped file, in the byte order of the machine),
     * without a copy. The buffer stays reachable until the caller closes the tensor; as an output it is refused.
     */
    public Tensor wrap(ByteBuffer directBuffer, DType dtype, long... shape) {
        long bytes = Tensor.bytes(dtype, shape);
        if (!directBuffer.isDirect() || directBuffer.remaining() != bytes || bytes == 0) {
            throw new HllmException("cannot wrap " + directBuffer + " as " + dtype + Tensor.text(shape)
                    + ": a direct buffer with exactly " + bytes + " (more than 0) remaining bytes is expected");
        }
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(Hllm.C_POINTER);
            NativeException.check(
                    Hllm.hllm_buffer_wrap_host(handle, MemorySegment.ofBuffer(directBuffer), bytes, out),
                    "hllm_buffer_wrap_host");
            return Tensor.owner(this, dtype, shape, out.get(Hllm.C_POINTER, 0), directBuffer);
        }
    }

    /**
     * A weight matrix [N, K] for the linear operations; the caller closes it.
     *
     * @param source f32 or bf16 [N, K]; it must stay open as long as the weight, or until {@link Weight#pack}
     * @param storage F32: a view of the f32 source; BF16: a view of a bf16 source, or an own rounded copy of an f32 one
     */
    public Weight weight(Tensor source, DType storage) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(Hllm.C_POINTER);
            NativeException.check(
                    Hllm.hllm_weight_create(handle, Ops.descriptor(source), storage.code(), out), "hllm_weight_create");
            return new Weight(this, source, storage, out.get(Hllm.C_POINTER, 0));
        }
    }

    /** Prepares attention over the segments of {@code spec}, once per batch; the caller closes the plan. */
    public Plan plan(PlanSpec spec) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(Hllm.C_POINTER);
            NativeException.check(Hllm.hllm_plan_create(handle, planArgs(arena, spec), out), "hllm_plan_create");
            return new Plan(this, spec, out.get(Hllm.C_POINTER, 0));
        }
    }

    /** {@code spec} as the native library reads it, during one call. */
    static MemorySegment planArgs(Arena arena, PlanSpec spec) {
        MemorySegment args = hllm_plan_args.allocate(arena);
        hllm_plan_args.struct_size(args, (int) args.byteSize());
        hllm_plan_args.causal(args, spec.causal() ? 1 : 0);
        hllm_plan_args.query_rows(args, spec.queryRows());
        hllm_plan_args.key_rows(args, spec.keyRows());
        hllm_plan_args.segments(args, spec.segmentBegin().length);
        hllm_plan_args.spans(args, spec.spanBegin().length);
        hllm_plan_args.segment_begin(args, arena.allocateFrom(Hllm.C_INT, spec.segmentBegin()));
        hllm_plan_args.segment_length(args, arena.allocateFrom(Hllm.C_INT, spec.segmentLength()));
        hllm_plan_args.span_offsets(args, arena.allocateFrom(Hllm.C_INT, spec.spanOffsets()));
        hllm_plan_args.span_begin(args, arena.allocateFrom(Hllm.C_INT, spec.spanBegin()));
        hllm_plan_args.span_length(args, arena.allocateFrom(Hllm.C_INT, spec.spanLength()));
        return args;
    }

    /** A new event, not yet recorded; the caller closes it. */
    public Event event() {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(Hllm.C_POINTER);
            NativeException.check(Hllm.hllm_event_create(handle, out), "hllm_event_create");
            return new Event(out.get(Hllm.C_POINTER, 0));
        }
    }

    /**
     * Keeps the operations that {@code work} calls on this context as a graph, instead of running them; the caller closes it.
     * The work may neither write nor read tensors, nor make plans.
     *
     * @throws NativeException with status UNSUPPORTED on the CPU
     */
    public Graph capture(Runnable work) {
        NativeException.check(Hllm.hllm_graph_begin_capture(handle), "hllm_graph_begin_capture");
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(Hllm.C_POINTER);
            try {
                work.run();
            } catch (RuntimeException | Error e) {
                if (Hllm.hllm_graph_end_capture(handle, out) == Hllm.HLLM_OK()) { // in any case it no longer captures
                    Hllm.hllm_graph_destroy(out.get(Hllm.C_POINTER, 0));
                }
                throw e;
            }
            NativeException.check(Hllm.hllm_graph_end_capture(handle, out), "hllm_graph_end_capture");
            return new Graph(this, out.get(Hllm.C_POINTER, 0));
        }
    }

    /** A new allocator of activations; the caller closes it. */
    public Workspace workspace() {
        return new Workspace(this);
    }

    /** The operations of this context. */
    public Ops ops() {
        return ops;
    }

    /** Waits for all enqueued work and reports late faults; on the CPU there is never any. */
    public void synchronize() {
        NativeException.check(Hllm.hllm_context_synchronize(handle), "hllm_context_synchronize");
    }

    /** Ends the context; a second call does nothing. Tensors, weights and plans stay alive until they are closed. */
    @Override
    public void close() {
        if (open) {
            NativeException.check(Hllm.hllm_context_destroy(handle), "hllm_context_destroy");
            open = false;
        }
    }

    /** A zero-filled native buffer, to be destroyed with {@link #destroyBuffer}. */
    MemorySegment createBuffer(long bytes) {
        try (Arena arena = Arena.ofConfined()) {
            MemorySegment out = arena.allocate(Hllm.C_POINTER);
            NativeException.check(Hllm.hllm_buffer_create(handle, bytes, out), "hllm_buffer_create");
            return out.get(Hllm.C_POINTER, 0);
        }
    }

    static void destroyBuffer(MemorySegment buffer) {
        NativeException.check(Hllm.hllm_buffer_destroy(buffer), "hllm_buffer_destroy");
    }

    MemorySegment handle() {
        return handle;
    }

    Descriptors descriptors() {
        return descriptors;
    }

    Transfer transfer() {
        return transfer;
    }
}
