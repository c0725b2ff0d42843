#include "cpu/backend.h"

#include <cstdlib>
#include <cstring>

#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/simd.h"

namespace hllm {

void* Cpu::allocate(int64_t bytes) {
    // calloc gives zero pages that cost nothing until touched; the address is aligned up, the original kept in front.
    auto* raw = bytes > INT64_MAX - 128 ? nullptr : static_cast<std::byte*>(std::calloc(1, static_cast<size_t>(bytes) + 128));
    if (!raw)
        fail(HLLM_OUT_OF_MEMORY, "out of memory: %lld bytes asked for, %lld in use on cpu", static_cast<long long>(bytes),
             static_cast<long long>(live_bytes));
    auto* data = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(raw) + 64 + 63) / 64 * 64);
    std::memcpy(data - sizeof(void*), &raw, sizeof(void*));
    return data;
}

void Cpu::release(void* data, int64_t) {
    void* raw;
    std::memcpy(&raw, static_cast<std::byte*>(data) - sizeof(void*), sizeof(void*));
    std::free(raw);
}

void Cpu::write(Context&, void* to, const void* host, int64_t bytes) { std::memcpy(to, host, bytes); }

void Cpu::read(Context&, void* host, const void* from, int64_t bytes) { std::memcpy(host, from, bytes); }

Backend* cpu_backend() {
    static Cpu* instance = new Cpu;  // buffers may be destroyed after static destructors ran
    return instance;
}

std::string cpu_build_info() {
#if defined(__aarch64__)
    const char* isa = "NEON";
#else
    const char* isa = simd() == Simd::AVX512 ? "AVX-512" : simd() == Simd::AVX2 ? "AVX2" : "baseline";
#endif
    return std::string("hllm ") + HLLM_VERSION + ", cpu " + isa + ", " + gemm_info();
}

}  // namespace hllm
