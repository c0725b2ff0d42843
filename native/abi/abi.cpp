// The C ABI: one entry point per function of hllm.h. Each resolves handles, checks every argument, and calls the device.
#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <new>
#include <string>

#include "abi/backend.h"
#include "abi/handles.h"
#include "abi/plugin.h"
#include "cpu/cpu.h"

namespace hllm {
namespace {

// Never destroyed: what a program leaves open at its end must not run into a plugin that is already gone.
template <class T, class Opaque>
HandleTable<T, Opaque>& table(const char* kind) {
    return *new HandleTable<T, Opaque>(kind);
}
auto& contexts = table<Context, hllm_context>("context");
auto& buffers = table<Buffer, hllm_buffer>("buffer");
auto& weights = table<Weight, hllm_weight>("weight");
auto& plans = table<Plan, hllm_plan>("plan");
auto& events = table<Event, hllm_event>("event");
auto& graphs = table<Graph, hllm_graph>("graph");

thread_local std::string error_message;

// Calls share it; resizing the team waits for them, as their scratch is cut by its size.
std::shared_mutex team_in_use;

// The barrier: no exception leaves the library.
template <class F>
int32_t guarded(F&& body) noexcept {
    try {
        body();
        return HLLM_OK;
    } catch (const Error& error) {
        error_message = error.what();
        return error.status;
    } catch (const std::bad_alloc&) {
        error_message = "out of host memory";
        return HLLM_OUT_OF_MEMORY;
    } catch (const std::exception& error) {
        error_message = error.what();
        return HLLM_INTERNAL;
    } catch (...) {
        error_message = "unknown exception";
        return HLLM_INTERNAL;
    }
}

constexpr int64_t ANY = -1;
constexpr int32_t ACTIVATION = -1;  // as a dtype: f32, or bf16 where the device takes it

std::string text_of(const int64_t* shape, int rank) {
    std::string text = "[";
    for (int i = 0; i < rank; i++) {
        if (i > 0) text += ",";
        text += shape[i] == ANY ? "*" : std::to_string(shape[i]);
    }
    return text + "]";
}

const char* name_of(int32_t dtype) {
    return dtype == HLLM_F32 ? "f32" : dtype == HLLM_BF16 ? "bf16" : dtype == HLLM_I32 ? "i32" : "an unknown dtype";
}

// One call on a context: exclusive use of it, and the buffers of the call kept alive to its end.
class Call {
   public:
    Call(const char* op, hllm_context* handle) : op_(op), team_(team_in_use), context_(contexts.get(op, handle)) {
        std::thread::id nobody{};
        if (!context_->user.compare_exchange_strong(nobody, std::this_thread::get_id()))
            fail(HLLM_INVALID_ARGUMENT, "%s: the context is in use by another thread; give each thread its own", op);
        try {
            context_->scratch.reset();
        } catch (...) {
            context_->user.store(std::thread::id{});
            throw;
        }
        backend().enter(op);
    }
    Call(const Call&) = delete;
    ~Call() {
        backend().leave();
        context_->user.store(std::thread::id{});
    }

    Context& context() { return *context_; }
    Backend& backend() { return *context_->backend; }

    View in(const char* name, const hllm_tensor* tensor, int32_t dtype, std::initializer_list<int64_t> shape) {
        return resolve(name, tensor, false, dtype, shape);
    }
    View out(const char* name, const hllm_tensor* tensor, int32_t dtype, std::initializer_list<int64_t> shape) {
        return resolve(name, tensor, true, dtype, shape);
    }
    View optional_in(const char* name, const hllm_tensor* tensor, int32_t dtype, std::initializer_list<int64_t> shape) {
        return tensor ? in(name, tensor, dtype, shape) : View{};
    }
    View optional_out(const char* name, const hllm_tensor* tensor, int32_t dtype, std::initializer_list<int64_t> shape) {
        return tensor ? out(name, tensor, dtype, shape) : View{};
    }
    std::shared_ptr<Weight> weight(hllm_weight* handle) { return on_device("weight", weights.get(op_, handle)); }
    std::shared_ptr<Plan> plan(hllm_plan* handle) { return on_device("plan", plans.get(op_, handle)); }
    std::shared_ptr<Buffer> buffer(hllm_buffer* handle) { return on_device("buffer", buffers.get(op_, handle)); }
    std::shared_ptr<Event> event(hllm_event* handle) { return on_device("event", events.get(op_, handle)); }
    std::shared_ptr<Graph> graph(hllm_graph* handle) { return on_device("graph", graphs.get(op_, handle)); }

    View resolve(const char* name, const hllm_tensor* tensor, bool output, int32_t dtype,
                 std::initializer_list<int64_t> shape) {
        View view = resolve(name, tensor, output);
        if (dtype == ACTIVATION && view.dtype == HLLM_BF16 && !backend().bf16_activations())
            fail(HLLM_UNSUPPORTED, "%s: %s is bf16, device %s computes in f32 only", op_, name, backend().name());
        if (dtype == ACTIVATION ? view.dtype == HLLM_I32 : view.dtype != dtype)
            fail(HLLM_INVALID_ARGUMENT, "%s: %s is %s, expected %s", op_, name, name_of(view.dtype),
                 dtype == ACTIVATION ? "f32 or bf16" : name_of(dtype));
        bool equal = view.rank == static_cast<int32_t>(shape.size());
        for (int i = 0; equal && i < view.rank; i++) equal = shape.begin()[i] == ANY || shape.begin()[i] == view.shape[i];
        if (!equal)
            fail(HLLM_INVALID_ARGUMENT, "%s: %s has shape %s, expected %s", op_, name, text_of(view.shape, view.rank).c_str(),
                 text_of(shape.begin(), static_cast<int>(shape.size())).c_str());
        return view;
    }
    // Any dtype and shape; bounds are checked.
    View resolve(const char* name, const hllm_tensor* tensor, bool output) {
        if (!tensor) fail(HLLM_INVALID_ARGUMENT, "%s: %s is NULL", op_, name);
        if (tensor->struct_size < sizeof(hllm_tensor))
            fail(HLLM_INVALID_ARGUMENT, "%s: %s has struct_size %u, expected %zu", op_, name, tensor->struct_size,
                 sizeof(hllm_tensor));
        if (tensor->rank < 1 || tensor->rank > 4)
            fail(HLLM_INVALID_ARGUMENT, "%s: %s has rank %d, expected 1 to 4", op_, name, tensor->rank);
        if (tensor->dtype < HLLM_F32 || tensor->dtype > HLLM_I32)
            fail(HLLM_INVALID_ARGUMENT, "%s: %s has unknown dtype %d", op_, name, tensor->dtype);
        std::shared_ptr<Buffer> memory;
        try {
            memory = buffers.get(name, tensor->buffer);
        } catch (const Error& error) {
            fail(error.status, "%s: %s", op_, error.what());
        }
        on_device(name, memory);
        const int64_t size = bytes_of(tensor->dtype);
        int64_t last = 0;
        bool bad = tensor->offset < 0 || tensor->offset % size != 0, empty = false;
        View view;
        view.dtype = tensor->dtype;
        view.rank = tensor->rank;
        for (int i = 0; i < tensor->rank; i++) {
            int64_t step = 0;
            view.shape[i] = tensor->shape[i];
            view.stride[i] = tensor->stride[i];
            bad |= tensor->shape[i] < 0 || tensor->stride[i] < 0;
            empty |= tensor->shape[i] == 0;
            if (tensor->shape[i] > 0)
                bad |= __builtin_mul_overflow(tensor->shape[i] - 1, tensor->stride[i], &step) ||
                       __builtin_add_overflow(last, step, &last);
        }
        if (!bad && !empty)
            bad |= __builtin_add_overflow(last, int64_t{1}, &last) || __builtin_mul_overflow(last, size, &last) ||
                   __builtin_add_overflow(last, tensor->offset, &last) || last > memory->bytes;
        if (bad)
            fail(HLLM_INVALID_ARGUMENT, "%s: %s %s at byte %lld does not lie in its buffer of %lld bytes", op_, name,
                 text_of(tensor->shape, tensor->rank).c_str(), static_cast<long long>(tensor->offset),
                 static_cast<long long>(memory->bytes));
        if (view.shape[view.rank - 1] > 1 && view.stride[view.rank - 1] != 1)
            fail(HLLM_INVALID_ARGUMENT, "%s: %s has innermost stride %lld, expected 1", op_, name,
                 static_cast<long long>(view.stride[view.rank - 1]));
        if (output && memory->wrapped)
            fail(HLLM_INVALID_ARGUMENT, "%s: %s is an output, but its buffer wraps read-only host memory", op_, name);
        for (int i = 0; output && !empty && i < view.rank; i++)
            if (view.shape[i] > 1 && view.stride[i] == 0)
                fail(HLLM_INVALID_ARGUMENT, "%s: %s is an output, but its rows overlap (stride 0)", op_, name);
        view.data = static_cast<std::byte*>(memory->data) + (empty ? 0 : tensor->offset);
        if (pinned_ == MAX_PINS) fail(HLLM_INTERNAL, "%s: too many tensors", op_);
        pins_[pinned_++] = std::move(memory);
        return view;
    }
    std::shared_ptr<Buffer> last_buffer() { return pins_[pinned_ - 1]; }

   private:
    template <class T>
    std::shared_ptr<T> on_device(const char* what, std::shared_ptr<T> object) {
        if (object->backend != context_->backend)
            fail(HLLM_INVALID_ARGUMENT, "%s: %s is on device %s, the context on %s", op_, what, object->backend->name(),
                 context_->backend->name());
        if (context_->capture) context_->capture->kept.insert(object);
        return object;
    }

    static constexpr int MAX_PINS = 12;
    const char* op_;
    std::shared_lock<std::shared_mutex> team_;
    std::shared_ptr<Context> context_;
    std::shared_ptr<Buffer> pins_[MAX_PINS];
    int pinned_ = 0;
};

template <class Args>
void check_args(const char* op, const Args* args) {
    if (!args) fail(HLLM_INVALID_ARGUMENT, "%s: args is NULL", op);
    if (args->struct_size < sizeof(Args))
        fail(HLLM_INVALID_ARGUMENT, "%s: args has struct_size %u, expected %zu", op, args->struct_size, sizeof(Args));
}

Backend* backend_for(const char* device) {
    if (!device) fail(HLLM_INVALID_ARGUMENT, "device is NULL");
    if (std::strcmp(device, "cpu") == 0) return cpu_backend();
    if (std::strcmp(device, "cuda") == 0 || std::strcmp(device, "cuda-emulated") == 0) return plugin_backend(device);
    fail(HLLM_UNSUPPORTED, "there is no device '%s'; expected cpu, cuda or cuda-emulated", device);
}

// op(a) is [m,k] and op(b) is [k,n].
void check_product(const char* op, const View& c, const View& a, const View& b, bool transpose_a, bool transpose_b) {
    int64_t m = a.shape[transpose_a], k = a.shape[!transpose_a], k2 = b.shape[transpose_b], n = b.shape[!transpose_b];
    if (k != k2 || c.shape[0] != m || c.shape[1] != n)
        fail(HLLM_INVALID_ARGUMENT, "%s: %s = %s%s x %s%s does not fit", op, text_of(c.shape, 2).c_str(),
             text_of(a.shape, 2).c_str(), transpose_a ? "^T" : "", text_of(b.shape, 2).c_str(), transpose_b ? "^T" : "");
}

// A bf16 activation is multiplied with bf16 weights: nothing is widened behind the caller's back.
void check_weight(const char* op, const char* name, const View& activation, const Weight& weight) {
    if (activation.dtype == HLLM_BF16 && weight.values.dtype != HLLM_BF16)
        fail(HLLM_INVALID_ARGUMENT, "%s: %s is bf16, but the weight is stored as f32; create it with bf16 storage", op, name);
}

// The operations that hllm_supports knows: with bf16 on every device, with bf16 activations where the device takes them, in
// f32.
// clang-format off
constexpr const char* BF16_EVERYWHERE[] = {"convert", "scatter_rows"};
constexpr const char* BF16_ACTIVATIONS[] = {
    "matmul", "linear_forward", "linear_backward_input", "linear_backward_weight", "gather_rows", "rmsnorm_forward",
    "rmsnorm_backward", "layernorm_forward", "layernorm_backward", "bias_forward", "bias_backward", "gelu_forward",
    "gelu_backward", "rope", "rope_scatter", "swiglu_forward", "swiglu_backward", "attention_forward", "attention_backward", "infonce",
    "topk", "rank"};
constexpr const char* F32_ONLY[] = {
    "fill", "embedding_forward", "embedding_backward", "scatter_add_rows", "segment_mean_forward", "segment_mean_backward",
    "normalize_rows", "mul", "bce", "norm", "clamp", "adamw"};
// clang-format on

template <size_t N>
bool contains(const char* const (&names)[N], const char* name) {
    return std::any_of(names, names + N, [&](const char* each) { return std::strcmp(each, name) == 0; });
}

}  // namespace
}  // namespace hllm

using namespace hllm;

uint32_t hllm_abi_version(void) { return HLLM_ABI_MAJOR * 65536u + HLLM_ABI_MINOR; }

const char* hllm_error_message(void) { return error_message.c_str(); }

const char* hllm_build_info(void) {
    static const std::string text = cpu_build_info();
    return text.c_str();
}

int32_t hllm_threads_set(int32_t count) {
    return guarded([&] {
        if (count < 0 || count > 1024) fail(HLLM_INVALID_ARGUMENT, "threads_set: count is %d, expected 0 to 1024", count);
        std::unique_lock lock(team_in_use);
        team().resize(count);
    });
}

int32_t hllm_threads_get(void) { return team().size(); }

int32_t hllm_live_bytes(const char* device, int64_t* bytes) {
    return guarded([&] {
        if (!bytes) fail(HLLM_INVALID_ARGUMENT, "live_bytes: bytes is NULL");
        *bytes = backend_for(device)->live_bytes;
    });
}

int32_t hllm_memory_available(const char* device, int64_t* bytes) {
    return guarded([&] {
        if (!bytes) fail(HLLM_INVALID_ARGUMENT, "memory_available: bytes is NULL");
        *bytes = backend_for(device)->memory_available();
    });
}

int32_t hllm_memory_limit_set(const char* device, int64_t bytes) {
    return guarded([&] {
        if (bytes < 0) fail(HLLM_INVALID_ARGUMENT, "memory_limit_set: %lld bytes", static_cast<long long>(bytes));
        backend_for(device)->limit_bytes = bytes == 0 ? INT64_MAX : bytes;
    });
}

int32_t hllm_device_info(const char* device, const char** text) {
    return guarded([&] {
        if (!text) fail(HLLM_INVALID_ARGUMENT, "device_info: text is NULL");
        thread_local std::string kept;
        kept = backend_for(device)->info();
        *text = kept.c_str();
    });
}

int32_t hllm_supports(const char* device, const char* operation, int32_t dtype, int32_t head_width) {
    return guarded([&] {
        const Backend& backend = *backend_for(device);
        if (!operation) fail(HLLM_INVALID_ARGUMENT, "supports: operation is NULL");
        const bool everywhere = contains(BF16_EVERYWHERE, operation), activations = contains(BF16_ACTIVATIONS, operation);
        if (!everywhere && !activations && !contains(F32_ONLY, operation))
            fail(HLLM_INVALID_ARGUMENT, "supports: there is no operation '%s'", operation);
        if (dtype != HLLM_F32 && dtype != HLLM_BF16)
            fail(HLLM_INVALID_ARGUMENT, "supports: dtype is %s, expected f32 or bf16", name_of(dtype));
        if (dtype == HLLM_BF16 && !everywhere && !(activations && backend.bf16_activations()))
            fail(HLLM_UNSUPPORTED, "%s: device %s computes it in f32 only", operation, backend.name());
        if (std::strncmp(operation, "attention", 9) == 0 && head_width > backend.max_head_width())
            fail(HLLM_UNSUPPORTED, "%s: head width %d, device %s goes up to %lld", operation, head_width, backend.name(),
                 static_cast<long long>(backend.max_head_width()));
    });
}

int32_t hllm_context_create(const char* device, hllm_context** context) {
    return guarded([&] {
        if (!context) fail(HLLM_INVALID_ARGUMENT, "context_create: context is NULL");
        *context = contexts.add(std::make_shared<Context>(backend_for(device)));
    });
}

int32_t hllm_context_destroy(hllm_context* context) {
    return guarded([&] {
        if (!context) return;
        {
            Call call("context_destroy", context);
            call.context().capture.reset();
            try {
                call.backend().synchronize(call.context());
            } catch (const Error&) {  // a late fault that nobody asked about
            }
        }
        contexts.remove("context_destroy", context);
    });
}

int32_t hllm_context_synchronize(hllm_context* context) {
    return guarded([&] {
        Call call("context_synchronize", context);
        call.backend().synchronize(call.context());
    });
}

int32_t hllm_event_create(hllm_context* context, hllm_event** event) {
    return guarded([&] {
        Call call("event_create", context);
        if (!event) fail(HLLM_INVALID_ARGUMENT, "event_create: event is NULL");
        *event = events.add(call.backend().make_event());
    });
}

int32_t hllm_event_destroy(hllm_event* event) {
    return guarded([&] { events.remove("event_destroy", event); });
}

int32_t hllm_event_record(hllm_context* context, hllm_event* event) {
    return guarded([&] {
        Call call("event_record", context);
        auto e = call.event(event);
        e->record(call.context());
        e->recorded = true;
    });
}

static void check_recorded(const char* op, const Event& event) {
    if (!event.recorded) fail(HLLM_INVALID_ARGUMENT, "%s: the event has not been recorded", op);
}

int32_t hllm_event_wait(hllm_context* context, hllm_event* event) {
    return guarded([&] {
        Call call("event_wait", context);
        auto e = call.event(event);
        check_recorded("event_wait", *e);
        e->wait(call.context());
    });
}

int32_t hllm_event_synchronize(hllm_event* event) {
    return guarded([&] {
        auto e = events.get("event_synchronize", event);
        check_recorded("event_synchronize", *e);
        e->synchronize();
    });
}

int32_t hllm_event_elapsed(hllm_event* begin, hllm_event* end, double* seconds) {
    return guarded([&] {
        if (!seconds) fail(HLLM_INVALID_ARGUMENT, "event_elapsed: seconds is NULL");
        auto first = events.get("event_elapsed", begin), last = events.get("event_elapsed", end);
        if (first->backend != last->backend)
            fail(HLLM_INVALID_ARGUMENT, "event_elapsed: one event is on device %s, the other on %s", first->backend->name(),
                 last->backend->name());
        check_recorded("event_elapsed", *first);
        check_recorded("event_elapsed", *last);
        last->synchronize();
        *seconds = first->seconds_until(*last);
    });
}

int32_t hllm_graph_begin_capture(hllm_context* context) {
    return guarded([&] {
        Call call("graph_begin_capture", context);
        if (call.context().capture) fail(HLLM_INVALID_ARGUMENT, "graph_begin_capture: the context is capturing already");
        call.context().scratch.clear();  // the graph gets scratch of its own
        call.context().capture = call.backend().begin_capture(call.context());
    });
}

int32_t hllm_graph_end_capture(hllm_context* context, hllm_graph** graph) {
    return guarded([&] {
        Call call("graph_end_capture", context);
        if (!graph) fail(HLLM_INVALID_ARGUMENT, "graph_end_capture: graph is NULL");
        if (!call.context().capture) fail(HLLM_INVALID_ARGUMENT, "graph_end_capture: the context is not capturing");
        auto captured = std::move(call.context().capture);
        call.context().scratch.clear();
        captured->end();
        *graph = graphs.add(std::move(captured));
    });
}

int32_t hllm_graph_launch(hllm_context* context, hllm_graph* graph) {
    return guarded([&] {
        Call call("graph_launch", context);
        auto g = call.graph(graph);
        if (g->home != call.context().device)
            fail(HLLM_INVALID_ARGUMENT, "graph_launch: the graph was captured on another context");
        g->launch();
    });
}

int32_t hllm_graph_destroy(hllm_graph* graph) {
    return guarded([&] { graphs.remove("graph_destroy", graph); });
}

int32_t hllm_buffer_create(hllm_context* context, int64_t bytes, hllm_buffer** buffer) {
    return guarded([&] {
        Call call("buffer_create", context);
        if (!buffer) fail(HLLM_INVALID_ARGUMENT, "buffer_create: buffer is NULL");
        if (bytes <= 0)
            fail(HLLM_INVALID_ARGUMENT, "buffer_create: %lld bytes, expected more than 0", static_cast<long long>(bytes));
        *buffer = buffers.add(std::make_shared<Buffer>(call.context(), bytes));
    });
}

int32_t hllm_buffer_wrap_host(hllm_context* context, const void* host, int64_t bytes, hllm_buffer** buffer) {
    return guarded([&] {
        Call call("buffer_wrap_host", context);
        if (!buffer || !host || bytes <= 0) fail(HLLM_INVALID_ARGUMENT, "buffer_wrap_host: NULL or no bytes");
        if (&call.backend() != cpu_backend())
            fail(HLLM_UNSUPPORTED, "buffer_wrap_host: device %s cannot read host memory", call.backend().name());
        *buffer = buffers.add(std::make_shared<Buffer>(&call.backend(), host, bytes));
    });
}

int32_t hllm_buffer_destroy(hllm_buffer* buffer) {
    return guarded([&] { buffers.remove("buffer_destroy", buffer); });
}

static void* range_of(const char* op, const Buffer& buffer, const void* host, int64_t offset, int64_t bytes) {
    if (!host || offset < 0 || bytes < 0 || offset > buffer.bytes || bytes > buffer.bytes - offset)
        fail(HLLM_INVALID_ARGUMENT, "%s: [%lld, +%lld) does not lie in the buffer of %lld bytes, or host is NULL", op,
             static_cast<long long>(offset), static_cast<long long>(bytes), static_cast<long long>(buffer.bytes));
    return static_cast<std::byte*>(buffer.data) + offset;
}

int32_t hllm_buffer_write(hllm_context* context, hllm_buffer* buffer, int64_t offset, const void* host, int64_t bytes) {
    return guarded([&] {
        Call call("buffer_write", context);
        auto memory = call.buffer(buffer);
        if (memory->wrapped) fail(HLLM_INVALID_ARGUMENT, "buffer_write: the buffer wraps read-only host memory");
        call.backend().write(call.context(), range_of("buffer_write", *memory, host, offset, bytes), host, bytes);
    });
}

int32_t hllm_buffer_read(hllm_context* context, void* host, hllm_buffer* buffer, int64_t offset, int64_t bytes) {
    return guarded([&] {
        Call call("buffer_read", context);
        auto memory = call.buffer(buffer);
        call.backend().read(call.context(), host, range_of("buffer_read", *memory, host, offset, bytes), bytes);
    });
}

int32_t hllm_fill(hllm_context* context, const hllm_tensor* out, float value) {
    return guarded([&] {
        Call call("fill", context);
        View view = call.resolve("out", out, true);
        if (view.dtype == HLLM_BF16) fail(HLLM_INVALID_ARGUMENT, "fill: out is bf16, expected f32 or i32");
        if (view.dtype == HLLM_I32 && !(value >= -0x1p31f && value < 0x1p31f))
            fail(HLLM_INVALID_ARGUMENT, "fill: out is i32, which cannot hold %g", value);
        call.backend().fill(call.context(), view, value);
    });
}

int32_t hllm_convert(hllm_context* context, const hllm_tensor* out, const hllm_tensor* in) {
    return guarded([&] {
        Call call("convert", context);
        View to = call.resolve("out", out, true), from = call.resolve("in", in, false);
        if (to.rank != from.rank || !std::equal(to.shape, to.shape + to.rank, from.shape))
            fail(HLLM_INVALID_ARGUMENT, "convert: out has shape %s, in %s", text_of(to.shape, to.rank).c_str(),
                 text_of(from.shape, from.rank).c_str());
        if ((to.dtype == HLLM_I32) != (from.dtype == HLLM_I32))
            fail(HLLM_INVALID_ARGUMENT, "convert: no conversion from %s to %s", name_of(from.dtype), name_of(to.dtype));
        call.backend().convert(call.context(), to, from);
    });
}

int32_t hllm_matmul(hllm_context* context, const hllm_tensor* c, const hllm_tensor* a, const hllm_tensor* b,
                    int32_t transpose_a, int32_t transpose_b, int32_t accumulate) {
    return guarded([&] {
        Call call("matmul", context);
        View vc = call.out("c", c, ACTIVATION, {ANY, ANY}), va = call.in("a", a, ACTIVATION, {ANY, ANY}),
             vb = call.in("b", b, va.dtype, {ANY, ANY});
        check_product("matmul", vc, va, vb, transpose_a != 0, transpose_b != 0);
        call.backend().matmul(call.context(), vc, va, vb, transpose_a != 0, transpose_b != 0, accumulate != 0);
    });
}

int32_t hllm_weight_create(hllm_context* context, const hllm_tensor* source, int32_t storage, hllm_weight** weight) {
    return guarded([&] {
        Call call("weight_create", context);
        if (!weight) fail(HLLM_INVALID_ARGUMENT, "weight_create: weight is NULL");
        View view = call.resolve("source", source, false);
        if (view.rank != 2 || view.dtype == HLLM_I32)
            fail(HLLM_INVALID_ARGUMENT, "weight_create: source is %s of rank %d, expected f32 or bf16 of rank 2",
                 name_of(view.dtype), view.rank);
        if (storage != HLLM_F32 && storage != HLLM_BF16)
            fail(HLLM_INVALID_ARGUMENT, "weight_create: storage %d, expected f32 or bf16", storage);
        if (view.dtype == HLLM_BF16 && storage == HLLM_F32)
            fail(HLLM_INVALID_ARGUMENT, "weight_create: a bf16 source is stored as bf16");
        auto made = std::make_shared<Weight>(
            Weight{&call.backend(), call.last_buffer(), call.last_buffer(), view, nullptr, view, nullptr});
        if (view.dtype != storage) {
            made->own = std::make_shared<Buffer>(call.context(), std::max<int64_t>(1, view.elements()) * 2);
            made->values.data = made->own->data;
            made->values.dtype = storage;
            made->values.stride[0] = view.shape[1];
            call.backend().convert(call.context(), made->values, made->source);
        }
        *weight = weights.add(std::move(made));
    });
}

// Holds the source's memory during a call that reads it.
static std::shared_ptr<Buffer> source_of(const char* op, const Weight& weight) {
    auto memory = weight.source_memory.lock();
    if (!memory) fail(HLLM_INVALID_ARGUMENT, "%s: the weight's source was destroyed after the weight was packed", op);
    return memory;
}

int32_t hllm_weight_destroy(hllm_weight* weight) {
    return guarded([&] { weights.remove("weight_destroy", weight); });
}

int32_t hllm_weight_refresh(hllm_context* context, hllm_weight* weight) {
    return guarded([&] {
        Call call("weight_refresh", context);
        auto w = call.weight(weight);
        const auto source = source_of("weight_refresh", *w);
        if (w->own) call.backend().convert(call.context(), w->values, w->source);
        if (w->packed) call.backend().pack(call.context(), *w);
    });
}

int32_t hllm_weight_pack(hllm_context* context, hllm_weight* weight) {
    return guarded([&] {
        Call call("weight_pack", context);
        auto w = call.weight(weight);
        const auto source = source_of("weight_pack", *w);
        const int64_t bytes = call.backend().packed_bytes(*w);
        if (bytes == 0) return;
        if (!w->packed) w->packed = std::make_shared<Buffer>(call.context(), bytes);
        call.backend().pack(call.context(), *w);
        w->source_buffer.reset();
    });
}

int32_t hllm_linear_forward(hllm_context* context, const hllm_tensor* y, const hllm_tensor* x, hllm_weight* weight,
                            int32_t accumulate) {
    return guarded([&] {
        Call call("linear_forward", context);
        auto w = call.weight(weight);
        View vy = call.out("y", y, ACTIVATION, {ANY, ANY}), vx = call.in("x", x, ACTIVATION, {ANY, ANY});
        check_product("linear_forward", vy, vx, w->values, false, true);
        check_weight("linear_forward", "x", vx, *w);
        call.backend().linear_forward(call.context(), vy, vx, *w, accumulate != 0);
    });
}

int32_t hllm_linear_backward_input(hllm_context* context, const hllm_tensor* dx, const hllm_tensor* dy, hllm_weight* weight,
                                   int32_t accumulate) {
    return guarded([&] {
        Call call("linear_backward_input", context);
        auto w = call.weight(weight);
        const auto source = w->own ? nullptr : source_of("linear_backward_input", *w);
        View vdx = call.out("dx", dx, ACTIVATION, {ANY, ANY}), vdy = call.in("dy", dy, ACTIVATION, {ANY, ANY});
        check_product("linear_backward_input", vdx, vdy, w->values, false, false);
        check_weight("linear_backward_input", "dy", vdy, *w);
        call.backend().linear_backward_input(call.context(), vdx, vdy, *w, accumulate != 0);
    });
}

int32_t hllm_linear_backward_weight(hllm_context* context, const hllm_tensor* dweight, const hllm_tensor* dy,
                                    const hllm_tensor* x) {
    return guarded([&] {
        Call call("linear_backward_weight", context);
        View vdw = call.out("dweight", dweight, HLLM_F32, {ANY, ANY}), vdy = call.in("dy", dy, ACTIVATION, {ANY, ANY}),
             vx = call.in("x", x, vdy.dtype, {ANY, ANY});
        check_product("linear_backward_weight", vdw, vdy, vx, true, false);
        call.backend().matmul(call.context(), vdw, vdy, vx, true, false, true);
    });
}

int32_t hllm_embedding_forward(hllm_context* context, const hllm_tensor* out, const hllm_tensor* ids, const hllm_tensor* table,
                               const hllm_tensor* special) {
    return guarded([&] {
        Call call("embedding_forward", context);
        View vo = call.out("out", out, HLLM_F32, {ANY, ANY});
        View vi = call.in("ids", ids, HLLM_I32, {vo.shape[0]});
        View vt = call.in("table", table, table && table->dtype == HLLM_BF16 ? HLLM_BF16 : HLLM_F32, {ANY, vo.shape[1]});
        View vs = call.optional_in("special", special, HLLM_F32, {vo.shape[1]});
        call.backend().embedding_forward(call.context(), vo, vi, vt, vs);
    });
}

int32_t hllm_embedding_backward(hllm_context* context, const hllm_tensor* dtable, const hllm_tensor* dspecial,
                                const hllm_tensor* dout, const hllm_tensor* ids) {
    return guarded([&] {
        Call call("embedding_backward", context);
        View vd = call.in("dout", dout, HLLM_F32, {ANY, ANY});
        View vi = call.in("ids", ids, HLLM_I32, {vd.shape[0]});
        View vt = call.optional_out("dtable", dtable, HLLM_F32, {ANY, vd.shape[1]});
        View vs = call.optional_out("dspecial", dspecial, HLLM_F32, {vd.shape[1]});
        call.backend().embedding_backward(call.context(), vt, vs, vd, vi);
    });
}

int32_t hllm_gather_rows(hllm_context* context, const hllm_tensor* out, const hllm_tensor* in, const hllm_tensor* index) {
    return guarded([&] {
        Call call("gather_rows", context);
        View vo = call.out("out", out, ACTIVATION, {ANY, ANY});
        View vi = call.in("in", in, vo.dtype, {ANY, vo.shape[1]});
        View vx = call.in("index", index, HLLM_I32, {vo.shape[0]});
        call.backend().gather_rows(call.context(), vo, vi, vx);
    });
}

int32_t hllm_scatter_rows(hllm_context* context, const hllm_tensor* out, const hllm_tensor* in, const hllm_tensor* index) {
    return guarded([&] {
        Call call("scatter_rows", context);
        View vi = call.resolve("in", in, false), vo = call.resolve("out", out, true);
        if (vi.dtype == HLLM_I32 || vo.dtype == HLLM_I32 || vi.rank != 2 || vo.rank != 2 || vi.shape[1] != vo.shape[1])
            fail(HLLM_INVALID_ARGUMENT, "scatter_rows: out is %s %s and in is %s %s, expected f32 or bf16 [*,D] of one D",
                 name_of(vo.dtype), text_of(vo.shape, vo.rank).c_str(), name_of(vi.dtype), text_of(vi.shape, vi.rank).c_str());
        View vx = call.in("index", index, HLLM_I32, {vi.shape[0]});
        call.backend().scatter_rows(call.context(), vo, vi, vx);
    });
}

int32_t hllm_scatter_add_rows(hllm_context* context, const hllm_tensor* out, const hllm_tensor* in, const hllm_tensor* index) {
    return guarded([&] {
        Call call("scatter_add_rows", context);
        View vi = call.in("in", in, HLLM_F32, {ANY, ANY});
        View vo = call.out("out", out, HLLM_F32, {ANY, vi.shape[1]});
        View vx = call.in("index", index, HLLM_I32, {vi.shape[0]});
        call.backend().scatter_add_rows(call.context(), vo, vi, vx);
    });
}

int32_t hllm_segment_mean_forward(hllm_context* context, const hllm_tensor* out, const hllm_tensor* in,
                                  const hllm_tensor* offsets, const hllm_tensor* rows) {
    return guarded([&] {
        Call call("segment_mean_forward", context);
        View vo = call.out("out", out, HLLM_F32, {ANY, ANY});
        View vi = call.in("in", in, HLLM_F32, {ANY, vo.shape[1]});
        View vf = call.in("offsets", offsets, HLLM_I32, {vo.shape[0] + 1});
        View vr = call.in("rows", rows, HLLM_I32, {ANY});
        call.backend().segment_mean_forward(call.context(), vo, vi, vf, vr);
    });
}

int32_t hllm_segment_mean_backward(hllm_context* context, const hllm_tensor* din, const hllm_tensor* dout,
                                   const hllm_tensor* offsets, const hllm_tensor* rows) {
    return guarded([&] {
        Call call("segment_mean_backward", context);
        View vd = call.in("dout", dout, HLLM_F32, {ANY, ANY});
        View vi = call.out("din", din, HLLM_F32, {ANY, vd.shape[1]});
        View vf = call.in("offsets", offsets, HLLM_I32, {vd.shape[0] + 1});
        View vr = call.in("rows", rows, HLLM_I32, {ANY});
        call.backend().segment_mean_backward(call.context(), vi, vd, vf, vr);
    });
}

int32_t hllm_normalize_rows(hllm_context* context, const hllm_tensor* out, const hllm_tensor* in) {
    return guarded([&] {
        Call call("normalize_rows", context);
        View vo = call.out("out", out, HLLM_F32, {ANY, ANY});
        View vi = call.in("in", in, HLLM_F32, {vo.shape[0], vo.shape[1]});
        call.backend().normalize_rows(call.context(), vo, vi);
    });
}

int32_t hllm_mul(hllm_context* context, const hllm_tensor* out, const hllm_tensor* a, const hllm_tensor* b,
                 int32_t accumulate) {
    return guarded([&] {
        Call call("mul", context);
        View vo = call.out("out", out, HLLM_F32, {ANY, ANY});
        View va = call.in("a", a, HLLM_F32, {vo.shape[0], vo.shape[1]});
        View vb = call.in("b", b, HLLM_F32, {vo.shape[0], vo.shape[1]});
        call.backend().mul(call.context(), vo, va, vb, accumulate != 0);
    });
}

int32_t hllm_rmsnorm_forward(hllm_context* context, const hllm_tensor* y, const hllm_tensor* saved_rstd, const hllm_tensor* x,
                             const hllm_tensor* weight, float eps) {
    return guarded([&] {
        Call call("rmsnorm_forward", context);
        View vx = call.in("x", x, HLLM_F32, {ANY, ANY});
        View vy = call.out("y", y, ACTIVATION, {vx.shape[0], vx.shape[1]});
        View vr = call.optional_out("saved_rstd", saved_rstd, HLLM_F32, {vx.shape[0]});
        View vw = call.in("weight", weight, HLLM_F32, {vx.shape[1]});
        call.backend().rmsnorm_forward(call.context(), vy, vr, vx, vw, eps);
    });
}

int32_t hllm_rmsnorm_backward(hllm_context* context, const hllm_tensor* dx, const hllm_tensor* dweight, const hllm_tensor* dy,
                              const hllm_tensor* saved_rstd, const hllm_tensor* x, const hllm_tensor* weight,
                              int32_t accumulate) {
    return guarded([&] {
        Call call("rmsnorm_backward", context);
        View vx = call.in("x", x, HLLM_F32, {ANY, ANY});
        int64_t T = vx.shape[0], D = vx.shape[1];
        View vdx = call.out("dx", dx, HLLM_F32, {T, D});
        View vdw = call.optional_out("dweight", dweight, HLLM_F32, {D});
        View vdy = call.in("dy", dy, ACTIVATION, {T, D});
        View vr = call.in("saved_rstd", saved_rstd, HLLM_F32, {T});
        View vw = call.in("weight", weight, HLLM_F32, {D});
        call.backend().rmsnorm_backward(call.context(), vdx, vdw, vdy, vr, vx, vw, accumulate != 0);
    });
}

int32_t hllm_layernorm_forward(hllm_context* context, const hllm_tensor* y, const hllm_tensor* saved, const hllm_tensor* x,
                               const hllm_tensor* weight, const hllm_tensor* bias, float eps) {
    return guarded([&] {
        Call call("layernorm_forward", context);
        View vx = call.in("x", x, HLLM_F32, {ANY, ANY});
        View vy = call.out("y", y, ACTIVATION, {vx.shape[0], vx.shape[1]});
        View vs = call.optional_out("saved", saved, HLLM_F32, {vx.shape[0], 2});
        View vw = call.in("weight", weight, HLLM_F32, {vx.shape[1]}), vb = call.in("bias", bias, HLLM_F32, {vx.shape[1]});
        call.backend().layernorm_forward(call.context(), vy, vs, vx, vw, vb, eps);
    });
}

int32_t hllm_layernorm_backward(hllm_context* context, const hllm_tensor* dx, const hllm_tensor* dweight, const hllm_tensor* dy,
                                const hllm_tensor* saved, const hllm_tensor* x, const hllm_tensor* weight, int32_t accumulate) {
    return guarded([&] {
        Call call("layernorm_backward", context);
        View vx = call.in("x", x, HLLM_F32, {ANY, ANY});
        int64_t T = vx.shape[0], D = vx.shape[1];
        View vdx = call.out("dx", dx, HLLM_F32, {T, D});
        View vdw = call.optional_out("dweight", dweight, HLLM_F32, {D});
        View vdy = call.in("dy", dy, ACTIVATION, {T, D});
        View vs = call.in("saved", saved, HLLM_F32, {T, 2});
        View vw = call.in("weight", weight, HLLM_F32, {D});
        call.backend().layernorm_backward(call.context(), vdx, vdw, vdy, vs, vx, vw, accumulate != 0);
    });
}

int32_t hllm_bias_forward(hllm_context* context, const hllm_tensor* y, const hllm_tensor* bias) {
    return guarded([&] {
        Call call("bias_forward", context);
        View vy = call.out("y", y, ACTIVATION, {ANY, ANY});
        call.backend().bias_forward(call.context(), vy, call.in("bias", bias, HLLM_F32, {vy.shape[1]}));
    });
}

int32_t hllm_bias_backward(hllm_context* context, const hllm_tensor* dbias, const hllm_tensor* dy) {
    return guarded([&] {
        Call call("bias_backward", context);
        View vdy = call.in("dy", dy, ACTIVATION, {ANY, ANY});
        call.backend().bias_backward(call.context(), call.out("dbias", dbias, HLLM_F32, {vdy.shape[1]}), vdy);
    });
}

int32_t hllm_gelu_forward(hllm_context* context, const hllm_tensor* y, const hllm_tensor* x) {
    return guarded([&] {
        Call call("gelu_forward", context);
        View vy = call.out("y", y, ACTIVATION, {ANY, ANY});
        call.backend().gelu_forward(call.context(), vy, call.in("x", x, vy.dtype, {vy.shape[0], vy.shape[1]}));
    });
}

int32_t hllm_gelu_backward(hllm_context* context, const hllm_tensor* dx, const hllm_tensor* dy, const hllm_tensor* x) {
    return guarded([&] {
        Call call("gelu_backward", context);
        View vdx = call.out("dx", dx, ACTIVATION, {ANY, ANY});
        View vdy = call.in("dy", dy, vdx.dtype, {vdx.shape[0], vdx.shape[1]});
        View vx = call.in("x", x, vdx.dtype, {vdx.shape[0], vdx.shape[1]});
        call.backend().gelu_backward(call.context(), vdx, vdy, vx);
    });
}

int32_t hllm_rope(hllm_context* context, const hllm_tensor* x, const hllm_tensor* positions, const hllm_tensor* table,
                  int32_t inverse) {
    return guarded([&] {
        Call call("rope", context);
        View vx = call.out("x", x, ACTIVATION, {ANY, ANY, ANY});
        if (vx.shape[2] % 2) fail(HLLM_INVALID_ARGUMENT, "rope: head width %lld is odd", static_cast<long long>(vx.shape[2]));
        View vp = call.in("positions", positions, HLLM_I32, {vx.shape[0]});
        View vt = call.in("table", table, HLLM_F32, {ANY, vx.shape[2]});
        call.backend().rope(call.context(), vx, vp, vt, inverse != 0);
    });
}

int32_t hllm_rope_scatter(hllm_context* context, const hllm_rope_scatter_args* args) {
    return guarded([&] {
        Call call("rope_scatter", context);
        check_args("rope_scatter", args);
        RopeScatter a;
        a.k = call.in("k", args->k, ACTIVATION, {ANY, ANY, ANY});
        const int64_t T = a.k.shape[0], heads = a.k.shape[1], Dh = a.k.shape[2];
        if (Dh % 2) fail(HLLM_INVALID_ARGUMENT, "rope_scatter: head width %lld of k is odd", static_cast<long long>(Dh));
        a.v = call.in("v", args->v, a.k.dtype, {T, heads, Dh});
        a.q = call.optional_out("q", args->q, a.k.dtype, {T, ANY, Dh});
        const int32_t stored = args->keys && args->keys->dtype == HLLM_BF16 ? HLLM_BF16 : HLLM_F32;
        a.keys = call.out("keys", args->keys, stored, {ANY, heads, Dh});
        a.values = call.out("values", args->values, stored, {a.keys.shape[0], heads, Dh});
        a.positions = call.in("positions", args->positions, HLLM_I32, {T});
        a.table = call.in("table", args->table, HLLM_F32, {ANY, Dh});
        a.index = call.in("index", args->index, HLLM_I32, {T});
        call.backend().rope_scatter(call.context(), a);
    });
}

int32_t hllm_swiglu_forward(hllm_context* context, const hllm_tensor* y, const hllm_tensor* gate_up) {
    return guarded([&] {
        Call call("swiglu_forward", context);
        View vy = call.out("y", y, ACTIVATION, {ANY, ANY});
        View vg = call.in("gate_up", gate_up, vy.dtype, {vy.shape[0], 2 * vy.shape[1]});
        call.backend().swiglu_forward(call.context(), vy, vg);
    });
}

int32_t hllm_swiglu_backward(hllm_context* context, const hllm_tensor* dgate_up, const hllm_tensor* dy,
                             const hllm_tensor* gate_up) {
    return guarded([&] {
        Call call("swiglu_backward", context);
        View vd = call.in("dy", dy, ACTIVATION, {ANY, ANY});
        View vdg = call.out("dgate_up", dgate_up, vd.dtype, {vd.shape[0], 2 * vd.shape[1]});
        View vg = call.in("gate_up", gate_up, vd.dtype, {vd.shape[0], 2 * vd.shape[1]});
        call.backend().swiglu_backward(call.context(), vdg, vd, vg);
    });
}

int32_t hllm_plan_create(hllm_context* context, const hllm_plan_args* args, hllm_plan** plan) {
    return guarded([&] {
        Call call("plan_create", context);
        check_args("plan_create", args);
        if (!plan) fail(HLLM_INVALID_ARGUMENT, "plan_create: plan is NULL");
        auto made = make_plan("plan_create", *args);
        made->backend = &call.backend();
        made->backend->live_bytes += made->bytes();
        call.backend().prepare(call.context(), *made);
        *plan = plans.add(std::move(made));
    });
}

int32_t hllm_plan_update(hllm_context* context, hllm_plan* plan, const hllm_plan_args* args) {
    return guarded([&] {
        Call call("plan_update", context);
        auto p = call.plan(plan);
        check_args("plan_update", args);
        auto fresh = make_plan("plan_update", *args);
        if (args->query_rows != p->query_rows || args->key_rows != p->key_rows || fresh->causal != p->causal)
            fail(HLLM_INVALID_ARGUMENT, "plan_update: %d query rows, %d key rows, causal %d; created with %d, %d, %d",
                 args->query_rows, args->key_rows, fresh->causal, p->query_rows, p->key_rows, p->causal);
        if (args->segments > p->segment_capacity || args->spans > p->span_capacity)
            fail(HLLM_INVALID_ARGUMENT, "plan_update: %d segments and %d spans, created for %d and %d", args->segments,
                 args->spans, p->segment_capacity, p->span_capacity);
        fresh->device = p->device;  // a device that has no room for it refuses before anything is changed
        call.backend().prepare(call.context(), *fresh);
        p->replace(std::move(*fresh));
    });
}

int32_t hllm_plan_destroy(hllm_plan* plan) {
    return guarded([&] { plans.remove("plan_destroy", plan); });
}

namespace {

struct AttentionViews {
    View q, k, v;
};

AttentionViews attention_inputs(Call& call, const char* op, const Plan& plan, const hllm_tensor* q, const hllm_tensor* k,
                                const hllm_tensor* v, bool cached) {
    AttentionViews a;
    a.q = call.in("q", q, ACTIVATION, {plan.query_rows, ANY, ANY});
    const int32_t dtype = cached && k && k->dtype == HLLM_BF16 ? HLLM_BF16 : a.q.dtype;
    a.k = call.in("k", k, dtype, {plan.key_rows, ANY, a.q.shape[2]});
    a.v = call.in("v", v, dtype, {plan.key_rows, a.k.shape[1], a.q.shape[2]});
    if (a.q.shape[2] > call.backend().max_head_width())
        fail(HLLM_UNSUPPORTED, "%s: head width %lld, device %s goes up to %lld", op, static_cast<long long>(a.q.shape[2]),
             call.backend().name(), static_cast<long long>(call.backend().max_head_width()));
    if (a.k.shape[1] == 0 || a.q.shape[1] % a.k.shape[1])
        fail(HLLM_INVALID_ARGUMENT, "%s: %lld query heads are not a multiple of %lld key heads", op,
             static_cast<long long>(a.q.shape[1]), static_cast<long long>(a.k.shape[1]));
    return a;
}

}  // namespace

int32_t hllm_attention_forward(hllm_context* context, const hllm_tensor* out, const hllm_tensor* saved_lse,
                               const hllm_tensor* q, const hllm_tensor* k, const hllm_tensor* v, hllm_plan* plan, float scale) {
    return guarded([&] {
        Call call("attention_forward", context);
        auto p = call.plan(plan);
        auto a = attention_inputs(call, "attention_forward", *p, q, k, v, !call.backend().bf16_activations());
        View vo = call.out("out", out, a.q.dtype, {a.q.shape[0], a.q.shape[1], a.q.shape[2]});
        View vl = call.optional_out("saved_lse", saved_lse, HLLM_F32, {a.q.shape[1], a.q.shape[0]});
        call.backend().attention_forward(call.context(), vo, vl, a.q, a.k, a.v, *p, scale);
    });
}

int32_t hllm_attention_backward(hllm_context* context, const hllm_attention_backward_args* args) {
    return guarded([&] {
        Call call("attention_backward", context);
        check_args("attention_backward", args);
        auto p = call.plan(args->plan);
        auto a = attention_inputs(call, "attention_backward", *p, args->q, args->k, args->v, false);
        int64_t Tq = a.q.shape[0], H = a.q.shape[1], Dh = a.q.shape[2], Tk = a.k.shape[0], Hkv = a.k.shape[1];
        const int32_t dtype = a.q.dtype;
        View dq = call.out("dq", args->dq, dtype, {Tq, H, Dh}), dk = call.out("dk", args->dk, dtype, {Tk, Hkv, Dh}),
             dv = call.out("dv", args->dv, dtype, {Tk, Hkv, Dh});
        View out = call.in("saved_out", args->saved_out, dtype, {Tq, H, Dh});
        View lse = call.in("saved_lse", args->saved_lse, HLLM_F32, {H, Tq});
        View dout = call.in("dout", args->dout, dtype, {Tq, H, Dh});
        call.backend().attention_backward(call.context(), dq, dk, dv, out, lse, dout, a.q, a.k, a.v, *p, args->scale);
    });
}

int32_t hllm_infonce(hllm_context* context, const hllm_infonce_args* args) {
    return guarded([&] {
        Call call("infonce", context);
        check_args("infonce", args);
        InfoNce a{};
        a.threshold = args->threshold;
        a.positions = args->positions;
        a.u = call.in("u", args->u, ACTIVATION, {ANY, ANY});
        int64_t T = a.u.shape[0], D = a.u.shape[1];
        a.p = call.in("p", args->p, a.u.dtype, {T, D});
        a.n = call.in("n", args->n, a.u.dtype, {ANY, D});
        int64_t M = a.n.shape[0];
        a.metrics = call.out("metrics", args->metrics, HLLM_F32, {HLLM_INFONCE_METRICS});
        a.logit_scale = call.in("logit_scale", args->logit_scale, HLLM_F32, {1});
        if (!args->target_ids != !args->negative_ids)
            fail(HLLM_INVALID_ARGUMENT, "infonce: target_ids and negative_ids go together");
        a.target_ids = call.optional_in("target_ids", args->target_ids, HLLM_I32, {T});
        a.negative_ids = call.optional_in("negative_ids", args->negative_ids, HLLM_I32, {M});
        if (args->du) {
            a.du = call.out("du", args->du, HLLM_F32, {T, D});
            a.dp = call.out("dp", args->dp, HLLM_F32, {T, D});
            a.dn = call.out("dn", args->dn, HLLM_F32, {M, D});
            a.dlogit_scale = call.optional_out("dlogit_scale", args->dlogit_scale, HLLM_F32, {1});
            if (args->positions <= 0)
                fail(HLLM_INVALID_ARGUMENT, "infonce: positions is %lld, expected more than 0",
                     static_cast<long long>(args->positions));
        } else if (args->dp || args->dn || args->dlogit_scale) {
            fail(HLLM_INVALID_ARGUMENT, "infonce: du is NULL but another gradient is not; give all or none");
        }
        call.backend().infonce(call.context(), a);
    });
}

int32_t hllm_bce(hllm_context* context, const hllm_tensor* loss, const hllm_tensor* dlogits, const hllm_tensor* logits,
                 const hllm_tensor* labels, int64_t positions) {
    return guarded([&] {
        Call call("bce", context);
        View vl = call.out("loss", loss, HLLM_F32, {1}), vz = call.in("logits", logits, HLLM_F32, {ANY});
        View vd = call.optional_out("dlogits", dlogits, HLLM_F32, {vz.shape[0]});
        View vy = call.in("labels", labels, HLLM_F32, {vz.shape[0]});
        if (positions <= 0)
            fail(HLLM_INVALID_ARGUMENT, "bce: positions is %lld, expected more than 0", static_cast<long long>(positions));
        call.backend().bce(call.context(), vl, vd, vz, vy, positions);
    });
}

int32_t hllm_norm(hllm_context* context, const hllm_tensor* out, const hllm_tensor* in) {
    return guarded([&] {
        Call call("norm", context);
        View vo = call.out("out", out, HLLM_F32, {1}), vi = call.in("in", in, HLLM_F32, {ANY});
        call.backend().norm(call.context(), vo, vi);
    });
}

int32_t hllm_clamp(hllm_context* context, const hllm_tensor* in, float low, float high) {
    return guarded([&] {
        Call call("clamp", context);
        View vi = call.out("in", in, HLLM_F32, {ANY});
        if (!(low <= high)) fail(HLLM_INVALID_ARGUMENT, "clamp: low %g is above high %g", low, high);
        call.backend().clamp(call.context(), vi, low, high);
    });
}

int32_t hllm_adamw(hllm_context* context, const hllm_adamw_args* args) {
    return guarded([&] {
        Call call("adamw", context);
        check_args("adamw", args);
        AdamW a{args->lr, args->beta1, args->beta2, args->eps, args->weight_decay, args->gradient_scale, args->step,
                {},       {},          {},          {}};
        if (a.step < 1) fail(HLLM_INVALID_ARGUMENT, "adamw: step is %lld, the first is 1", static_cast<long long>(a.step));
        a.parameters = call.out("parameters", args->parameters, HLLM_F32, {ANY});
        a.gradients = call.in("gradients", args->gradients, HLLM_F32, {a.parameters.shape[0]});
        a.moment1 = call.out("moment1", args->moment1, HLLM_F32, {a.parameters.shape[0]});
        a.moment2 = call.out("moment2", args->moment2, HLLM_F32, {a.parameters.shape[0]});
        call.backend().adamw(call.context(), a);
    });
}

namespace {

struct Exclusion {
    View offsets, rows;
};

Exclusion exclusion(Call& call, const char* op, int64_t B, const hllm_tensor* offsets, const hllm_tensor* rows) {
    if (!offsets != !rows) fail(HLLM_INVALID_ARGUMENT, "%s: excluded_offsets and excluded_rows go together", op);
    return {call.optional_in("excluded_offsets", offsets, HLLM_I32, {B + 1}),
            call.optional_in("excluded_rows", rows, HLLM_I32, {ANY})};
}

}  // namespace

int32_t hllm_topk(hllm_context* context, const hllm_tensor* scores, const hllm_tensor* rows, const hllm_tensor* queries,
                  const hllm_tensor* table, const hllm_tensor* excluded_offsets, const hllm_tensor* excluded_rows) {
    return guarded([&] {
        Call call("topk", context);
        View q = call.in("queries", queries, ACTIVATION, {ANY, ANY}), t = call.in("table", table, q.dtype, {ANY, q.shape[1]});
        View s = call.out("scores", scores, HLLM_F32, {q.shape[0], ANY});
        View r = call.out("rows", rows, HLLM_I32, {q.shape[0], s.shape[1]});
        auto e = exclusion(call, "topk", q.shape[0], excluded_offsets, excluded_rows);
        call.backend().topk(call.context(), s, r, q, t, e.offsets, e.rows);
    });
}

int32_t hllm_rank(hllm_context* context, const hllm_tensor* ranks, const hllm_tensor* queries, const hllm_tensor* table,
                  const hllm_tensor* targets, const hllm_tensor* excluded_offsets, const hllm_tensor* excluded_rows) {
    return guarded([&] {
        Call call("rank", context);
        View q = call.in("queries", queries, ACTIVATION, {ANY, ANY}), t = call.in("table", table, q.dtype, {ANY, q.shape[1]});
        View r = call.out("ranks", ranks, HLLM_I32, {q.shape[0]}), g = call.in("targets", targets, HLLM_I32, {q.shape[0]});
        auto e = exclusion(call, "rank", q.shape[0], excluded_offsets, excluded_rows);
        call.backend().rank(call.context(), r, q, t, g, e.offsets, e.rows);
    });
}
