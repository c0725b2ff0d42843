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

Buffer::~Buffer() {
    if (!wrapped) {
        backend->release(data, bytes);
        backend->live_bytes -= bytes;
    }
}

static std::unique_ptr<Buffer> make_chunk(Backend* backend, int64_t bytes) {
    void* data = backend->allocate(bytes);
    backend->live_bytes += bytes;
    return std::make_unique<Buffer>(backend, data, bytes, false);
}

void Scratch::reset() {
    // Several chunks mean that the last call outgrew the first: next time one chunk serves it.
    if (chunks_.size() > 1) {
        int64_t total = 0;
        for (auto& chunk : chunks_) total += chunk->bytes;
        chunks_.clear();
        chunks_.push_back(make_chunk(backend_, total));
    }
    used_ = 0;
}

void* Scratch::take_bytes(int64_t bytes) {
    bytes = (std::max<int64_t>(bytes, 1) + 63) / 64 * 64;
    if (chunks_.empty() || used_ + bytes > chunks_.back()->bytes) {
        chunks_.push_back(make_chunk(backend_, std::max<int64_t>(bytes, 1 << 20)));
        used_ = 0;
    }
    void* data = static_cast<std::byte*>(chunks_.back()->data) + used_;
    used_ += bytes;
    return data;
}

int64_t Plan::bytes() const {
    return static_cast<int64_t>(segments.size() * sizeof(Segment) + spans.size() * sizeof(Span) +
                                pieces.size() * sizeof(Piece) + readers.size() * sizeof(Reader));
}

Plan::~Plan() {
    if (backend) backend->live_bytes -= bytes();
}

void check_indices(const char* op, const char* what, const View& index, int64_t low, int64_t high) {
    for (int64_t i = 0; i < index.shape[0]; i++)
        if (index.i32()[i] < low || index.i32()[i] >= high)
            fail(HLLM_INVALID_ARGUMENT, "%s: %s[%lld] is %d, expected %lld to %lld", op, what, static_cast<long long>(i),
                 index.i32()[i], static_cast<long long>(low), static_cast<long long>(high) - 1);
}

}  // namespace hllm
