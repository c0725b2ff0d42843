#include "cpu/backend.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cpu/cpu.h"
#include "cpu/gemm.h"
#include "cpu/simd.h"

namespace hllm {

namespace {
constexpr int64_t LARGE = 4 << 20;  // bytes, from where on memory is asked for in large pages
}

void* Cpu::allocate(Context&, int64_t bytes) {
    // calloc gives zero pages that cost nothing until touched; the address is aligned up, the original kept in front.
    auto* raw = bytes > INT64_MAX - 128 ? nullptr : static_cast<std::byte*>(std::calloc(1, static_cast<size_t>(bytes) + 128));
    if (!raw)
        fail(HLLM_OUT_OF_MEMORY, "out of memory: %lld bytes asked for, %lld in use on cpu", static_cast<long long>(bytes),
             static_cast<long long>(live_bytes));
    auto* data = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(raw) + 64 + 63) / 64 * 64);
    std::memcpy(data - sizeof(void*), &raw, sizeof(void*));
    // Large pages let a pass over memory prefetch beyond 4 KB. Advice: where the system does not give them, nothing is lost.
    constexpr uintptr_t PAGE = 4096;
    if (const uintptr_t begin = reinterpret_cast<uintptr_t>(raw) / PAGE * PAGE; bytes >= LARGE)
        madvise(reinterpret_cast<void*>(begin), reinterpret_cast<uintptr_t>(data) + static_cast<size_t>(bytes) - begin,
                MADV_HUGEPAGE);
    return data;
}

void Cpu::release(void* data, void*) {
    void* raw;
    std::memcpy(&raw, static_cast<std::byte*>(data) - sizeof(void*), sizeof(void*));
    std::free(raw);
}

void Cpu::write(Context&, void* to, const void* host, int64_t bytes) { std::memcpy(to, host, bytes); }

void Cpu::read(Context&, void* host, const void* from, int64_t bytes) { std::memcpy(host, from, bytes); }

namespace {

// Operations are complete on return: an event is a time.
struct CpuEvent final : Event {
    using Event::Event;
    void record(Context&) override { time = std::chrono::steady_clock::now(); }
    void wait(Context&) override {}
    void synchronize() override {}
    double seconds_until(Event& end) override {
        return std::chrono::duration<double>(static_cast<CpuEvent&>(end).time - time).count();
    }
    std::chrono::steady_clock::time_point time;
};

}  // namespace

std::shared_ptr<Event> Cpu::make_event() { return std::make_shared<CpuEvent>(this); }

std::shared_ptr<Graph> Cpu::begin_capture(Context&) {
    fail(HLLM_UNSUPPORTED, "graph_begin_capture: device cpu runs every call at once and captures none");
}

std::string Cpu::info() const {
    return cpu_build_info() + ", " + std::to_string(team().size()) + " threads, " +
           std::to_string(sysconf(_SC_PHYS_PAGES) / 1024 * sysconf(_SC_PAGE_SIZE) / 1024) + " MiB of memory";
}

namespace {

// The number behind a word in one of the kernel's files, or without a word at its beginning; -1 where there is none.
int64_t number_in(const char* path, const char* word) {
    FILE* file = std::fopen(path, "r");
    if (!file) return -1;
    long long number = -1;
    char line[256], first[64];
    if (!word && std::fscanf(file, "%lld", &number) != 1) number = -1;
    while (word && number < 0 && std::fgets(line, sizeof line, file))
        if (std::sscanf(line, "%63s %lld", first, &number) != 2 || std::strcmp(first, word) != 0) number = -1;
    std::fclose(file);
    return number;
}

// What a control group leaves; the pages of files that count in its use can be taken back.
int64_t left_of(const char* limit, const char* use, const char* stat, const char* active, const char* inactive) {
    const int64_t most = number_in(limit, nullptr), used = number_in(use, nullptr);
    if (most < 0 || used < 0) return INT64_MAX;
    const int64_t files = std::max<int64_t>(0, number_in(stat, active)) + std::max<int64_t>(0, number_in(stat, inactive));
    return std::max<int64_t>(0, most - std::max<int64_t>(0, used - files));
}

}  // namespace

int64_t Cpu::memory_available() const {
    int64_t bytes = 1024 * number_in("/proc/meminfo", "MemAvailable:");
    if (bytes < 0) bytes = int64_t{sysconf(_SC_AVPHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
    return std::min({bytes,
                     left_of("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat",
                             "active_file", "inactive_file"),
                     left_of("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
                             "/sys/fs/cgroup/memory/memory.stat", "total_active_file", "total_inactive_file")});
}

Backend* cpu_backend() {
    static Cpu* instance = new Cpu;  // buffers may be destroyed after static destructors ran
    return instance;
}

std::string cpu_build_info() {
#if defined(__aarch64__)
    const char* isa = "NEON";
#else
    const char* isa = simd() == Simd::AVX512_BF16 ? "AVX-512 with bf16"
                      : simd() == Simd::AVX512    ? "AVX-512"
                      : simd() == Simd::AVX2      ? "AVX2"
                                                  : "baseline";
#endif
    return std::string("hllm ") + HLLM_VERSION + ", cpu " + isa + ", " + gemm_info();
}

}  // namespace hllm
