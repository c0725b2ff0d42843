// Buffers, scratch and plans: ownership and accounting, the same on every device.
#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "abi/backend.h"

namespace hllm {

void fail(hllm_status status, const char* format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    throw Error(status, text);
}

Buffer::Buffer(Context& context, int64_t bytes) : backend(context.backend), data(nullptr), bytes(bytes), home(context.device) {
    const int64_t limit = backend->limit_bytes;
    int64_t live = backend->live_bytes;
    do {
        if (bytes > limit - live)
            fail(HLLM_OUT_OF_MEMORY, "out of memory: %lld bytes asked for, %lld in use on %s, limit %lld",
                 static_cast<long long>(bytes), static_cast<long long>(live), backend->name(), static_cast<long long>(limit));
    } while (!backend->live_bytes.compare_exchange_weak(live, live + bytes));
    try {
        data = backend->allocate(context, bytes);
    } catch (...) {
        backend->live_bytes -= bytes;
        throw;
    }
}

Buffer::Buffer(Backend* backend, const void* host, int64_t bytes)
    : backend(backend), data(const_cast<void*>(host)), bytes(bytes), wrapped(true) {}

Buffer::~Buffer() {
    if (!wrapped) {
        backend->release(data, home.get());
        backend->live_bytes -= bytes;
    }
}

Context::Context(Backend* backend) : backend(backend), scratch(*this) { device = backend->open(*this); }

Graph::Graph(Context& context) : backend(context.backend), home(context.device) {}

void Scratch::add_chunk(int64_t bytes) {
    chunks_.push_back(std::make_shared<Buffer>(context_, bytes));
    if (context_.capture) context_.capture->kept.insert(chunks_.back());
    used_ = 0;
}

void Scratch::reset() {
    // Several chunks mean that the last call outgrew the first: next time one chunk serves it.
    if (chunks_.size() > 1) {
        int64_t total = 0;
        for (auto& chunk : chunks_) total += chunk->bytes;
        chunks_.clear();
        add_chunk(total);
    }
    used_ = 0;
}

void* Scratch::take_bytes(int64_t bytes) {
    // The alignment that vector loads, and those of a GPU's copy engine, like best.
    bytes = (std::max<int64_t>(bytes, 1) + 255) / 256 * 256;
    if (chunks_.empty() || used_ + bytes > chunks_.back()->bytes) add_chunk(std::max<int64_t>(bytes, 1 << 20));
    void* data = static_cast<std::byte*>(chunks_.back()->data) + used_;
    used_ += bytes;
    return data;
}

void check_indices(const char* op, const char* what, const View& index, int64_t low, int64_t high) {
    for (int64_t i = 0; i < index.shape[0]; i++)
        if (index.i32()[i] < low || index.i32()[i] >= high)
            fail(HLLM_INVALID_ARGUMENT, "%s: %s[%lld] is %d, expected %lld to %lld", op, what, static_cast<long long>(i),
                 index.i32()[i], static_cast<long long>(low), static_cast<long long>(high) - 1);
}

}  // namespace hllm
