// The emulated CUDA runtime: errors, streams and events, graphs, launches. Queued work runs on the thread that waits for it.
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include "cuda_emulator/engine.h"

namespace hllm::cuda::emulator {
namespace {

std::recursive_mutex mutex;  // the emulated device serves one caller at a time
cudaError_t sticky = cudaSuccess, last = cudaSuccess, refused = cudaSuccess;
auto &violation_text = lasting<std::string>(), &refusal_text = lasting<std::string>();  // of `sticky` and `refused`

#define HLLM_EMULATOR_CALL                                    \
    const std::lock_guard<std::recursive_mutex> guard(mutex); \
    if (sticky != cudaSuccess) return sticky

uint64_t first_state() { return setting("HLLM_EMULATOR_SEED", 1) * 0xd1342543de82ef95u; }
uint64_t state = first_state();

using Clock = std::chrono::steady_clock;

struct Progress {
    uint64_t recorded = 0, reached = 0;  // by the host, by the device
    Clock::time_point time;
};

struct Work {
    std::function<void()> run;          // or, instead:
    std::shared_ptr<Progress> awaited;  // to reach this
    uint64_t turn;
    bool ready() const { return !awaited || awaited->reached >= turn; }
};

auto& streams = lasting<std::vector<cudaStream_t>>();

}  // namespace
}  // namespace hllm::cuda::emulator

using namespace hllm::cuda::emulator;

struct CUevent_st {
    std::shared_ptr<Progress> progress = std::make_shared<Progress>();
};

struct CUgraph_st {
    std::vector<std::function<void()>> nodes;
};

struct CUstream_st {
    std::deque<Work> queue;
    std::unique_ptr<CUgraph_st> capture;
    bool spoilt = false;
};

namespace hllm::cuda::emulator {
namespace {

bool known(cudaStream_t stream) {
    if (std::find(streams.begin(), streams.end(), stream) != streams.end()) return true;
    refuse(cudaErrorInvalidResourceHandle, "unknown stream");
    return false;
}

#define HLLM_EMULATOR_STREAM_CALL(stream) \
    HLLM_EMULATOR_CALL;                   \
    if (!known(stream)) return cudaErrorInvalidResourceHandle

// Runs queued work until `done`, or a violation. Streams take turns by lot: events alone set their order.
template <class Done>
cudaError_t run_until(Done done) {
    while (!broken() && !done()) {
        std::vector<cudaStream_t> ready;
        for (cudaStream_t s : streams)
            if (!s->queue.empty() && s->queue.front().ready()) ready.push_back(s);
        if (ready.empty()) {
            report("deadlock: a stream waits for an event that is never reached");
            break;
        }
        cudaStream_t s = ready[draw(ready.size())];
        const Work work = std::move(s->queue.front());
        s->queue.pop_front();
        if (work.run) work.run();
    }
    close_memory();
    if (broken())
        for (cudaStream_t s : streams) s->queue.clear();
    return sticky;
}

cudaError_t finish(cudaStream_t stream) {
    return run_until([=] { return stream->queue.empty(); });
}

cudaError_t spoil_capture(cudaStream_t stream, const char* call) {
    stream->spoilt = true;
    return refuse(cudaErrorStreamCaptureUnsupported, std::string(call) + " while a stream captures a graph");
}

}  // namespace

uint64_t setting(const char* name, uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

uint64_t draw(uint64_t n) {  // splitmix64
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) % n;
}

bool broken() { return sticky != cudaSuccess; }

void report(const std::string& text) {
    if (broken()) return;
    sticky = cudaErrorAssert;
    violation_text = text;
}

cudaError_t refuse(cudaError_t error, const std::string& why) {
    last = refused = error;
    refusal_text = why;
    return error;
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
    HLLM_EMULATOR_STREAM_CALL(stream);
    if (stream->capture)
        stream->capture->nodes.push_back(std::move(work));
    else
        stream->queue.push_back({std::move(work), nullptr, 0});
    return cudaSuccess;
}

cudaError_t launch(cudaStream_t stream, const Launch& what, int max_threads) {
    HLLM_EMULATOR_CALL;
    const auto text = [](int n) { return std::to_string(n); };
    const int most = std::min(max_threads, 1024);
    const Grid& grid = what.grid;
    std::string why;
    if (what.threads < 1 || what.threads > most) why = text(what.threads) + " threads, at most " + text(most);
    if (what.threads % 32 != 0) why = text(what.threads) + " threads, not a multiple of 32";
    if (what.shared_bytes < 0 || what.shared_bytes > MAX_SHARED_BYTES)
        why = text(what.shared_bytes) + " bytes of shared memory, at most " + text(MAX_SHARED_BYTES);
    if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535)
        why = "a grid of " + text(grid.x) + " x " + text(grid.y) + " x " + text(grid.z);
    if (!why.empty()) return refuse(cudaErrorInvalidConfiguration, why);
    return enqueue(stream, [what] { execute(what); });
}

}  // namespace hllm::cuda::emulator

// ---- Errors and the device --------------------------------------------------------------------------------------------

const char* cudaGetErrorName(cudaError_t error) {
    thread_local std::string text;
    text = "cudaError_t " + std::to_string(error);
    return text.c_str();
}

const char* cudaGetErrorString(cudaError_t error) {
    if (error == sticky && broken()) return violation_text.c_str();
    return error == refused && refused != cudaSuccess ? refusal_text.c_str() : cudaGetErrorName(error);
}

cudaError_t cudaGetLastError() {
    HLLM_EMULATOR_CALL;
    return std::exchange(last, cudaSuccess);
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    *properties = {"CUDA emulator", 8, 0, 3};
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }

cudaError_t cudaDeviceReset() {
    const std::lock_guard<std::recursive_mutex> guard(mutex);
    for (cudaStream_t s : streams) *s = {};
    forget_memory();
    sticky = last = refused = cudaSuccess;
    state = first_state();
    return cudaSuccess;
}

// ---- Streams and events -----------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    HLLM_EMULATOR_CALL;
    streams.push_back(*stream = new CUstream_st);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    HLLM_EMULATOR_STREAM_CALL(stream);
    const cudaError_t error = finish(stream);
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
    return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    HLLM_EMULATOR_STREAM_CALL(stream);
    return stream->capture ? spoil_capture(stream, "cudaStreamSynchronize") : finish(stream);
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
    *event = new CUevent_st;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    HLLM_EMULATOR_STREAM_CALL(stream);
    if (stream->capture) return spoil_capture(stream, "cudaEventRecord");
    return enqueue(stream, [progress = event->progress, turn = ++event->progress->recorded] {
        progress->reached = turn;
        progress->time = Clock::now();
    });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    HLLM_EMULATOR_STREAM_CALL(stream);
    if (stream->capture) return spoil_capture(stream, "cudaStreamWaitEvent");
    stream->queue.push_back({nullptr, event->progress, event->progress->recorded});
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    HLLM_EMULATOR_CALL;
    return run_until([progress = event->progress] { return progress->reached >= progress->recorded; });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
    HLLM_EMULATOR_CALL;
    for (const cudaEvent_t event : {start, end}) {
        const Progress& p = *event->progress;
        if (p.recorded == 0) return refuse(cudaErrorInvalidResourceHandle, "an event without a time");
        if (p.reached < p.recorded) return refuse(cudaErrorNotReady, "an event that is not reached yet");
    }
    *milliseconds = std::chrono::duration<float, std::milli>(end->progress->time - start->progress->time).count();
    return cudaSuccess;
}

// ---- Memory -----------------------------------------------------------------------------------------------------------

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
    HLLM_EMULATOR_STREAM_CALL(stream);
    if (stream->capture) return spoil_capture(stream, "cudaMallocAsync");
    if (const cudaError_t error = reserve(pointer, bytes)) return error;
    return *pointer ? enqueue(stream, [p = *pointer] { begin_life(p); }) : cudaSuccess;
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
    HLLM_EMULATOR_STREAM_CALL(stream);
    if (!pointer) return cudaSuccess;
    if (stream->capture) return spoil_capture(stream, "cudaFreeAsync");
    if (const cudaError_t error = give_back(pointer)) return error;
    return enqueue(stream, [=] { end_life(pointer); });
}

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
    HLLM_EMULATOR_CALL;
    *total = memory_limit();
    *available = *total - std::min<size_t>(*total, memory_in_use());
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
    HLLM_EMULATOR_CALL;
    return allocate_pinned(pointer, bytes);
}

cudaError_t cudaFreeHost(void* pointer) {
    HLLM_EMULATOR_CALL;
    return free_pinned(pointer);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    HLLM_EMULATOR_STREAM_CALL(stream);
    const bool to_host = kind == cudaMemcpyDeviceToHost, from_host = kind == cudaMemcpyHostToDevice;
    if (bytes == 0) return cudaSuccess;
    if (on_device(to) == to_host || on_device(from) == from_host)
        return refuse(cudaErrorInvalidValue, "a copy's kind contradicts its addresses");
    // Host memory that is not page-locked is read before the call returns, and written before it returns.
    const void* host = to_host ? to : from_host ? from : nullptr;
    const bool pageable = host && !is_pinned(host, bytes);
    if (pageable && stream->capture) return spoil_capture(stream, "cudaMemcpyAsync of memory that is not page-locked");
    std::vector<char> staged;
    if (pageable && from_host) staged.assign(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    const cudaError_t error = enqueue(stream, [=, staged = std::move(staged)] {
        if (!to_host) require_live("copy", to, bytes);
        if (!from_host) require_live("copy", from, bytes);
        if (host && !pageable && !is_pinned(host, bytes)) report("copy: the host's memory was freed before");
        if (!broken()) std::memcpy(to, staged.empty() ? from : staged.data(), bytes);
    });
    return error == cudaSuccess && pageable && to_host ? finish(stream) : error;
}

cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t stream) {
    return bytes == 0 ? cudaSuccess : enqueue(stream, [=] {
        require_live("fill", to, bytes);
        if (!broken()) std::memset(to, byte, bytes);
    });
}

// Freed memory is never kept: the pool has nothing to set and nothing to give back.
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) {
    *pool = nullptr;
    return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }

// ---- Graphs -----------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    HLLM_EMULATOR_STREAM_CALL(stream);
    if (stream->capture) return refuse(cudaErrorIllegalState, "the stream captures already");
    stream->capture = std::make_unique<CUgraph_st>();
    stream->spoilt = false;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    HLLM_EMULATOR_STREAM_CALL(stream);
    *graph = nullptr;
    if (!stream->capture) return refuse(cudaErrorIllegalState, "the stream captures nothing");
    const std::unique_ptr<CUgraph_st> captured = std::move(stream->capture);
    if (stream->spoilt) return refuse(cudaErrorStreamCaptureInvalidated, "the capture was spoilt by " + refusal_text);
    *graph = new CUgraph_st(*captured);
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    *executable = new CUgraph_st(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    return enqueue(stream, [nodes = executable->nodes] {
        for (const auto& node : nodes)
            if (!broken()) node();
    });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return cudaGraphDestroy(executable); }
