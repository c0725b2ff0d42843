// What a context owns on the device.
#pragma once
#include <atomic>

#include "cuda/runtime.h"

namespace hllm::cuda {

struct Gemm;

// Buffers share it with their context: they go back on the stream that they came from, which lives as long.
struct Queue {
    explicit Queue(Backend& backend) : backend(backend) {}
    ~Queue();
    void open();
    Queue(const Queue&) = delete;

    Backend& backend;
    cudaStream_t stream = nullptr;
    cudaStream_t aside = nullptr;  // memory comes and goes here while `stream` captures
    std::atomic<bool> capturing{false};
    int sms = 0;

    // Pinned memory that copies pass through, in two halves: the host fills one while the other is on its way.
    static constexpr int64_t HALF = 4 << 20;
    std::byte* staging = nullptr;
    int64_t staged = 0;             // bytes of the ring in use
    cudaEvent_t half_free[2] = {};  // recorded when the host has left a half

    IndexRecord* bad_index = nullptr;       // in device memory
    IndexRecord* bad_index_seen = nullptr;  // pinned

    static constexpr int64_t WORKSPACE = 32 << 20;  // of cuBLASLt
    void* workspace = nullptr;
    std::shared_ptr<Gemm> gemm;  // gemm_of()
};

Queue& queue_of(Context& context);

}  // namespace hllm::cuda
