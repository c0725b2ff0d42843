// The emulated CUDA runtime: errors, streams and events, graphs, launches. Queued work runs on the thread that waits for it.
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "cuda_emulator/engine.h"

using namespace hllm::cuda::emulator;

struct Progress {
    uint64_t recorded = 0, reached = 0;  // by the host, by the device
    std::chrono::steady_clock::time_point time;
};

struct CUevent_st {
    std::shared_ptr<Progress> progress = std::make_shared<Progress>();
};

struct CUgraph_st {
    std::vector<std::function<void()>> nodes;
};

struct Work {
    std::function<void()> run;          // or, instead:
    std::shared_ptr<Progress> awaited;  // to reach this
    uint64_t turn;
    bool ready() const { return !awaited || awaited->reached >= turn; }
};

struct CUstream_st {
    std::deque<Work> queue;
    std::unique_ptr<CUgraph_st> capture;
    bool spoilt = false;
};

namespace hllm::cuda::emulator {
namespace {

// None of the device's state is ever destroyed: a process may exit while a thread of it runs a kernel.
std::recursive_mutex mutex;
cudaError_t sticky = cudaSuccess, last = cudaSuccess;
auto& texts = *new std::map<cudaError_t, std::string>;  // why an error was answered last
uint64_t state = 0;
auto& streams = *new std::vector<cudaStream_t>;

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

}  // namespace

cudaError_t answer(const std::function<cudaError_t()>& call) {
    const std::lock_guard<std::recursive_mutex> guard(mutex);
    return broken() ? sticky : call();
}

cudaError_t answer(cudaStream_t stream, const char* uncaptured, const std::function<cudaError_t()>& call) {
    return answer([&] {
        if (std::find(streams.begin(), streams.end(), stream) == streams.end())
            return refuse(cudaErrorInvalidResourceHandle, "unknown stream");
        if (!uncaptured || !stream->capture) return call();
        stream->spoilt = true;
        return refuse(cudaErrorStreamCaptureUnsupported, format("%s while a stream captures a graph", uncaptured));
    });
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
    return answer(stream, nullptr, [&] {
        if (stream->capture)
            stream->capture->nodes.push_back(std::move(work));
        else
            stream->queue.push_back({std::move(work), nullptr, 0});
        return cudaSuccess;
    });
}

std::string format(const char* text, ...) {
    va_list arguments;
    va_start(arguments, text);
    char* made = nullptr;
    if (vasprintf(&made, text, arguments) < 0) std::abort();
    va_end(arguments);
    const std::string out = made;
    std::free(made);
    return out;
}

uint64_t setting(const char* name, uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

uint64_t draw(uint64_t n) {  // splitmix64
    if (state == 0) state = setting("HLLM_EMULATOR_SEED", 1) * 0xd1342543de82ef95u;
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) % n;
}

bool broken() { return sticky != cudaSuccess; }

void report(const std::string& text) {
    if (broken()) return;
    sticky = cudaErrorAssert;
    texts[sticky] = text;
}

cudaError_t refuse(cudaError_t error, const std::string& why) {
    texts[error] = why;
    return last = error;
}

cudaError_t launch(cudaStream_t stream, const Launch& what, int max_threads) {
    return answer([&] {
        std::string why;
        if (what.threads < 1 || what.threads > max_threads) why = format("%d threads, at most %d", what.threads, max_threads);
        if (what.threads % 32 != 0) why = format("%d threads, not a multiple of 32", what.threads);
        if (what.shared_bytes < 0 || what.shared_bytes > MAX_SHARED_BYTES)
            why = format("%d bytes of shared memory, at most %d", what.shared_bytes, MAX_SHARED_BYTES);
        if (what.grid.x < 1 || what.grid.y < 1 || what.grid.y > 65535)
            why = format("a grid of %d x %d", what.grid.x, what.grid.y);
        if (!why.empty()) return refuse(cudaErrorInvalidConfiguration, why);
        return enqueue(stream, [what] { execute(what); });
    });
}

}  // namespace hllm::cuda::emulator

// ---- Errors and the device --------------------------------------------------------------------------------------------

const char* cudaGetErrorString(cudaError_t error) {
    const std::lock_guard<std::recursive_mutex> guard(mutex);
    return texts[error].c_str();
}

cudaError_t cudaGetLastError() {
    return answer([] { return std::exchange(last, cudaSuccess); });
}

cudaError_t cudaDeviceReset() {
    const std::lock_guard<std::recursive_mutex> guard(mutex);
    for (cudaStream_t s : streams) *s = {};
    forget_memory();
    sticky = last = cudaSuccess;
    state = 0;
    return cudaSuccess;
}

// ---- Streams and events -----------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    return answer([=] {
        streams.push_back(*stream = new CUstream_st);
        return cudaSuccess;
    });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    return answer(stream, nullptr, [=] {
        const cudaError_t error = finish(stream);
        streams.erase(std::find(streams.begin(), streams.end(), stream));
        delete stream;
        return error;
    });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return answer(stream, __func__, [=] { return finish(stream); });
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
    return answer(stream, __func__, [=] {
        return enqueue(stream, [progress = event->progress, turn = ++event->progress->recorded] {
            progress->reached = turn;
            progress->time = std::chrono::steady_clock::now();
        });
    });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    return answer(stream, __func__, [=] {
        stream->queue.push_back({nullptr, event->progress, event->progress->recorded});
        return cudaSuccess;
    });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return answer([=] { return run_until([&p = *event->progress] { return p.reached >= p.recorded; }); });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
    return answer([=] {
        for (const cudaEvent_t event : {start, end}) {
            const Progress& p = *event->progress;
            if (p.recorded == 0 || p.reached < p.recorded)
                return refuse(cudaErrorNotReady, "an event not recorded or not reached");
        }
        *milliseconds = std::chrono::duration<float, std::milli>(end->progress->time - start->progress->time).count();
        return cudaSuccess;
    });
}

// ---- Graphs -----------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    return answer(stream, nullptr, [=] {
        if (stream->capture) return refuse(cudaErrorIllegalState, "the stream captures already");
        stream->capture = std::make_unique<CUgraph_st>();
        stream->spoilt = false;
        return cudaSuccess;
    });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    *graph = nullptr;
    return answer(stream, nullptr, [=] {
        if (!stream->capture) return refuse(cudaErrorIllegalState, "the stream captures nothing");
        std::unique_ptr<CUgraph_st> captured = std::move(stream->capture);
        if (stream->spoilt)
            return refuse(cudaErrorStreamCaptureInvalidated, "spoilt by " + texts[cudaErrorStreamCaptureUnsupported]);
        *graph = captured.release();
        return cudaSuccess;
    });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    *executable = new CUgraph_st(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    return answer(stream, __func__, [=] {
        return enqueue(stream, [nodes = executable->nodes] {
            for (const auto& node : nodes)
                if (!broken()) node();
        });
    });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
