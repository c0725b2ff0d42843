// Contexts, memory, copies, events and graphs.
#include "cuda/backend.h"

#include <algorithm>
#include <cstring>

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define HLLM_NVTX 1
#endif

#include "abi/plugin.h"
#include "cuda/flash_attention.h"
#include "cuda/gemm.h"
#include "cuda/queue.h"

namespace hllm::cuda {

void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // where the fault does not stick, the next call must not see it
    fail(status == cudaErrorMemoryAllocation ? HLLM_OUT_OF_MEMORY : HLLM_DEVICE_ERROR, "%s: %s (%s)", what,
         cudaGetErrorString(status), cudaGetErrorName(status));
}

Queue& queue_of(Context& context) { return *static_cast<Queue*>(context.device.get()); }

cudaStream_t stream_of(Context& context) { return queue_of(context).stream; }

int sm_count(Context& context) { return queue_of(context).sms; }

IndexCheck index_check(Context& context, const char* what) { return {queue_of(context).bad_index, what}; }

static cudaDeviceProp properties() {
    cudaDeviceProp card;
    check(cudaGetDeviceProperties(&card, 0), "device");
    return card;
}

void Queue::open() {
    sms = properties().multiProcessorCount;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "context_create");
    check(cudaStreamCreateWithFlags(&aside, cudaStreamNonBlocking), "context_create");
    check(cudaMallocHost(reinterpret_cast<void**>(&staging), 2 * HALF), "context_create");
    check(cudaMallocHost(reinterpret_cast<void**>(&bad_index_seen), sizeof(IndexRecord)), "context_create");
    for (auto& event : half_free) check(cudaEventCreate(&event), "context_create");
    check(cudaMallocAsync(reinterpret_cast<void**>(&bad_index), sizeof(IndexRecord), stream), "context_create");
    check(cudaMemsetAsync(bad_index, 0, sizeof(IndexRecord), stream), "context_create");
    check(cudaMallocAsync(&workspace, WORKSPACE, stream), "context_create");
    backend.live_bytes += WORKSPACE;
}

// Also of one that did not open to the end.
Queue::~Queue() {
    if (stream) cudaStreamSynchronize(stream);
    gemm.reset();
    if (workspace) {
        cudaFreeAsync(workspace, stream);
        backend.live_bytes -= WORKSPACE;
    }
    if (bad_index) cudaFreeAsync(bad_index, stream);
    for (auto event : half_free)
        if (event) cudaEventDestroy(event);
    if (bad_index_seen) cudaFreeHost(bad_index_seen);
    if (staging) cudaFreeHost(staging);
    if (aside) cudaStreamDestroy(aside);
    if (stream) cudaStreamDestroy(stream);
}

CudaBackend::CudaBackend() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0)
        fail(HLLM_UNSUPPORTED, "device '%s': no GPU can be used: %s", name(),
             status == cudaSuccess ? "none is visible" : cudaGetErrorString(status));
    const cudaDeviceProp card = properties();
    if (card.major < 8)
        fail(HLLM_UNSUPPORTED, "device '%s': %s has compute capability %d.%d, expected 8.0 or more", name(), card.name,
             card.major, card.minor);
    // What is given back stays with the process until memory runs out: the driver is not asked again for every buffer.
    cudaMemPool_t pool;
    uint64_t keep = UINT64_MAX;
    check(cudaDeviceGetDefaultMemPool(&pool, 0), "device");
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep), "device");
}

const char* CudaBackend::name() const {
#ifdef __CUDACC__
    return "cuda";
#else
    return "cuda-emulated";
#endif
}

struct CardMemory {
    size_t free, total;
};

static CardMemory card_memory() {
    CardMemory memory{};
    check(cudaMemGetInfo(&memory.free, &memory.total), "memory_available");
    // The pool keeps what was given back, and the driver counts that as used.
    cudaMemPool_t pool;
    uint64_t reserved = 0, used = 0;
    check(cudaDeviceGetDefaultMemPool(&pool, 0), "memory_available");
    check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved), "memory_available");
    check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used), "memory_available");
    memory.free += reserved - used;
    return memory;
}

std::string CudaBackend::info() const {
    const cudaDeviceProp card = properties();
    const CardMemory memory = card_memory();
    int driver = 0, runtime = 0;
    check(cudaDriverGetVersion(&driver), "device_info");
    check(cudaRuntimeGetVersion(&runtime), "device_info");
    auto version = [](int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); };
    return std::string(card.name) + ", sm_" + std::to_string(card.major) + std::to_string(card.minor) + ", " +
           std::to_string(card.multiProcessorCount) + " SMs, " + std::to_string(memory.total >> 20) + " MiB of memory (" +
           std::to_string(memory.free >> 20) + " free), driver for CUDA " + version(driver) + ", CUDA " + version(runtime) +
           ", " + gemm_info() + ", " + attention_provider();
}

int64_t CudaBackend::memory_available() const { return static_cast<int64_t>(card_memory().free); }

std::shared_ptr<void> CudaBackend::open(Context&) {
    auto queue = std::make_shared<Queue>(*this);
    queue->open();
    return queue;
}

#ifdef HLLM_NVTX
void CudaBackend::enter(const char* op) { nvtxRangePushA(op); }
void CudaBackend::leave() { nvtxRangePop(); }
#else
void CudaBackend::enter(const char*) {}
void CudaBackend::leave() {}
#endif

void* CudaBackend::allocate(Context& context, int64_t bytes) {
    Queue& queue = queue_of(context);
    const cudaStream_t from = queue.capturing ? queue.aside : queue.stream;
    void* data = nullptr;
    cudaError_t status = cudaMallocAsync(&data, bytes, from);
    auto too_much = [&] { return status == cudaErrorMemoryAllocation || status == cudaErrorInvalidValue; };
    if (too_much()) {
        // Once more with what the pool keeps, cut into other sizes, and what is about to come back.
        cudaGetLastError();
        check(cudaStreamSynchronize(from), "allocation");
        cudaMemPool_t pool;
        check(cudaDeviceGetDefaultMemPool(&pool, 0), "allocation");
        check(cudaMemPoolTrimTo(pool, 0), "allocation");
        status = cudaMallocAsync(&data, bytes, from);
    }
    if (too_much()) {
        cudaGetLastError();
        const CardMemory memory = card_memory();
        fail(HLLM_OUT_OF_MEMORY, "out of memory: %lld bytes asked for, %lld in use on %s, %zu of %zu free on the card",
             static_cast<long long>(bytes), static_cast<long long>(live_bytes - bytes), name(), memory.free, memory.total);
    }
    check(status, "allocation");
    status = queue.capturing ? cudaStreamSynchronize(queue.aside) : cudaSuccess;
    if (status == cudaSuccess) status = cudaMemsetAsync(data, 0, bytes, queue.stream);
    if (status != cudaSuccess) {
        cudaFreeAsync(data, from);
        check(status, "allocation");
    }
    return data;
}

void CudaBackend::release(void* data, void* home) {
    const Queue& queue = *static_cast<Queue*>(home);
    cudaFreeAsync(data, queue.capturing ? queue.aside : queue.stream);
}

static void refuse_while_capturing(const Queue& queue, const char* what) {
    if (queue.capturing) fail(HLLM_INVALID_ARGUMENT, "%s is not possible while the context captures a graph", what);
}

void CudaBackend::synchronize(Context& context) {
    Queue& queue = queue_of(context);
    refuse_while_capturing(queue, "waiting for the device");
    check(cudaMemcpyAsync(queue.bad_index_seen, queue.bad_index, sizeof(IndexRecord), cudaMemcpyDeviceToHost, queue.stream),
          "synchronize");
    check(cudaStreamSynchronize(queue.stream), "synchronize");
    queue.staged = 0;
    const IndexRecord& bad = *queue.bad_index_seen;
    if (bad.count == 0) return;
    check(cudaMemsetAsync(queue.bad_index, 0, sizeof(IndexRecord), queue.stream), "synchronize");
    fail(HLLM_INVALID_ARGUMENT, "%s[%d] is %d, expected %d to %d", bad.what, bad.position, bad.value, bad.low, bad.high - 1);
}

void CudaBackend::write(Context& context, void* to, const void* host, int64_t bytes) {
    Queue& queue = queue_of(context);
    refuse_while_capturing(queue, "writing from the host");
    for (int64_t at = 0; at < bytes;) {
        const int64_t half = queue.staged / Queue::HALF;
        const int64_t n = std::min(bytes - at, (half + 1) * Queue::HALF - queue.staged);
        if (queue.staged == half * Queue::HALF) check(cudaEventSynchronize(queue.half_free[half]), "buffer_write");
        std::memcpy(queue.staging + queue.staged, static_cast<const std::byte*>(host) + at, n);
        check(cudaMemcpyAsync(static_cast<std::byte*>(to) + at, queue.staging + queue.staged, n, cudaMemcpyHostToDevice,
                              queue.stream),
              "buffer_write");
        at += n;
        queue.staged += n;
        if (queue.staged == (half + 1) * Queue::HALF) {
            check(cudaEventRecord(queue.half_free[half], queue.stream), "buffer_write");
            queue.staged %= 2 * Queue::HALF;
        }
    }
}

void CudaBackend::read(Context& context, void* host, const void* from, int64_t bytes) {
    Queue& queue = queue_of(context);
    refuse_while_capturing(queue, "reading to the host");
    for (int64_t at = 0; at < bytes; at += 2 * Queue::HALF) {
        const int64_t n = std::min(bytes - at, 2 * Queue::HALF);
        check(cudaMemcpyAsync(queue.staging, static_cast<const std::byte*>(from) + at, n, cudaMemcpyDeviceToHost, queue.stream),
              "buffer_read");
        synchronize(context);
        std::memcpy(static_cast<std::byte*>(host) + at, queue.staging, n);
    }
}

namespace {

struct CudaEvent final : Event {
    explicit CudaEvent(Backend* backend) : Event(backend) { check(cudaEventCreate(&event), "event_create"); }
    ~CudaEvent() override { cudaEventDestroy(event); }
    void record(Context& context) override {
        refuse_while_capturing(queue_of(context), "recording an event");
        check(cudaEventRecord(event, stream_of(context)), "event_record");
    }
    void wait(Context& context) override {
        refuse_while_capturing(queue_of(context), "waiting for an event");
        check(cudaStreamWaitEvent(stream_of(context), event, 0), "event_wait");
    }
    void synchronize() override { check(cudaEventSynchronize(event), "event_synchronize"); }
    double seconds_until(Event& end) override {
        float milliseconds = 0;
        check(cudaEventElapsedTime(&milliseconds, event, static_cast<CudaEvent&>(end).event), "event_elapsed");
        return milliseconds / 1e3;
    }
    cudaEvent_t event = nullptr;
};

struct CudaGraph final : Graph {
    explicit CudaGraph(Context& context) : Graph(context), queue(queue_of(context)) {
        // Relaxed: allocation goes on meanwhile, on the other stream; from before the capture until after it, as buffers may be
        // destroyed by any thread.
        queue.capturing = true;
        const cudaError_t status = cudaStreamBeginCapture(queue.stream, cudaStreamCaptureModeRelaxed);
        if (status != cudaSuccess) queue.capturing = false;
        check(status, "graph_begin_capture");
    }
    ~CudaGraph() override {
        if (executable)
            cudaGraphExecDestroy(executable);
        else if (cudaGraph_t graph = nullptr; queue.capturing && take(graph) == cudaSuccess)
            cudaGraphDestroy(graph);
    }
    void end() override {
        cudaGraph_t graph = nullptr;
        check(take(graph), "graph_end_capture");
        const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
        cudaGraphDestroy(graph);
        check(status, "graph_end_capture");
    }
    void launch() override {
        refuse_while_capturing(queue, "launching a graph");
        check(cudaGraphLaunch(executable, queue.stream), "graph_launch");
    }

    cudaError_t take(cudaGraph_t& graph) {
        const cudaError_t status = cudaStreamEndCapture(queue.stream, &graph);
        queue.capturing = false;
        return status;
    }
    Queue& queue;  // of `home`
    cudaGraphExec_t executable = nullptr;
};

Backend* create() {
    static auto* instance = new CudaBackend;  // buffers may be destroyed after static destructors ran
    return instance;
}

}  // namespace

std::shared_ptr<Event> CudaBackend::make_event() { return std::make_shared<CudaEvent>(this); }

std::shared_ptr<Graph> CudaBackend::begin_capture(Context& context) {
    synchronize(context);
    gemm_of(queue_of(context));  // a library is not set up in the midst of a capture
    return std::make_shared<CudaGraph>(context);
}

}  // namespace hllm::cuda

extern "C" __attribute__((visibility("default"))) int32_t hllm_plugin(hllm::Plugin* plugin) {
    if (plugin->struct_size != sizeof(hllm::Plugin)) return HLLM_UNSUPPORTED;
    hllm::prepare_exceptions();
    std::strncpy(plugin->build, HLLM_BUILD_ID, sizeof plugin->build - 1);
    plugin->create = hllm::cuda::create;
    return HLLM_OK;
}
