// Device memory and page-locked memory of the host. Each allocation has pages of its own, ends at their end (but for the
// alignment), and a page that is never accessible follows. No address is used twice. Nobody can reach device memory until work
// on the device touches it, and that only until the work is done.
#include <cuda_runtime.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>

#include "cuda_emulator/engine.h"

namespace hllm::cuda::emulator {
namespace {

constexpr uint16_t POISON = 0xffc1;
constexpr size_t PAGE = 4096, ALIGNMENT = 256, RESERVED = size_t{1} << 40;

enum class Kind { Device, Pinned };

// Counted at the calls of its stream; live between the moments at which the stream gets there. Pinned memory is live at once.
struct Allocation {
    char *pages, *begin, *end;  // `bytes` from begin on, in pages up to end
    size_t bytes;
    Kind kind;
    bool live = false, open = false, given_back = false;

    bool holds(const void* p, size_t n) const { return p >= begin && static_cast<const char*>(p) + n <= begin + bytes; }
    void protect(int access) const { mprotect(pages, end - pages, access); }
};

auto& allocations = *new std::map<const char*, Allocation>;  // by their pages
char *reserved = nullptr, *unused = nullptr;
size_t in_use = 0;
const Allocation* latest = nullptr;  // the live allocation found last

size_t limit() { return setting("HLLM_EMULATOR_MEMORY", uint64_t{4} << 30); }

size_t rounded(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// The allocation in whose pages, or the page behind, p lies; null if there is none.
Allocation* find(const void* p) {
    const auto after = allocations.upper_bound(static_cast<const char*>(p));
    if (after == allocations.begin()) return nullptr;
    Allocation& a = std::prev(after)->second;
    return p < a.end + PAGE ? &a : nullptr;
}

Allocation* find_live(const void* p) {
    Allocation* a = find(p);
    return a && a->live && a->kind == Kind::Device ? a : nullptr;
}

bool is_pinned(const void* p, size_t bytes) {
    const Allocation* a = find(p);
    return a && a->kind == Kind::Pinned && a->holds(p, bytes);
}

bool on_device(const void* p) { return reserved && p >= reserved && p < reserved + RESERVED && !is_pinned(p, 0); }

void check_surroundings(const Allocation& a) {
    const auto poisoned = [](const char* begin, const char* end) {
        while (begin < end && std::memcmp(begin, &POISON, sizeof(POISON)) == 0) begin += sizeof(POISON);
        return begin >= end;
    };
    if (!poisoned(std::max(a.pages, a.begin - ALIGNMENT), a.begin) ||
        !poisoned(a.begin + rounded(a.bytes, sizeof(POISON)), a.end))
        report(format("a kernel wrote just before or behind an allocation of %zu bytes", a.bytes));
}

cudaError_t reserve(void** pointer, size_t bytes, Kind kind) {
    const size_t counted = kind == Kind::Device ? bytes : 0;
    if (in_use + counted > limit()) return refuse(cudaErrorMemoryAllocation, "out of memory");
    if (!reserved) {
        void* p = mmap(nullptr, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return refuse(cudaErrorMemoryAllocation, "no address space for the emulated device");
        reserved = unused = static_cast<char*>(p);
    }
    char* end = unused + rounded(bytes, PAGE);
    *pointer = end - rounded(bytes, ALIGNMENT);
    allocations[unused] = {unused, static_cast<char*>(*pointer), end, bytes, kind};
    unused = end + PAGE;
    in_use += counted;
    return cudaSuccess;
}

void begin_life(const void* pointer) {
    Allocation* a = find(pointer);
    if (!a) return;  // the free came before, and was reported
    a->live = true;
    a->protect(PROT_READ | PROT_WRITE);
    poison(a->pages, a->end - a->pages);
    if (a->kind == Kind::Device) a->protect(PROT_NONE);
}

cudaError_t give_back(const void* pointer, Kind kind) {
    Allocation* a = find(pointer);
    if (!a || a->begin != pointer || a->given_back || a->kind != kind)
        return refuse(cudaErrorInvalidValue, "free of " + describe(pointer));
    a->given_back = true;
    if (kind == Kind::Device) in_use -= a->bytes;
    return cudaSuccess;
}

void end_life(const void* pointer) {
    const Allocation& a = *find(pointer);
    if (a.kind == Kind::Device) require_live("free", pointer, a.bytes);
    if (a.live) check_surroundings(a);
    mmap(a.pages, a.end - a.pages, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    allocations.erase(a.pages);
    latest = nullptr;
}

}  // namespace

void poison(void* p, size_t bytes) { std::fill_n(static_cast<uint16_t*>(p), bytes / sizeof(POISON), POISON); }

bool live(const void* p, size_t bytes) {
    if (!latest || !latest->holds(p, bytes)) latest = find_live(p);
    return latest && latest->holds(p, bytes);
}

std::string describe(const void* p) {
    if (!on_device(p)) return format("%p is not device memory", p);
    const Allocation* a = find_live(p);
    return a ? format("%p is byte %td of an allocation of %zu bytes", p, static_cast<const char*>(p) - a->begin, a->bytes)
             : format("%p lies in no live allocation: freed, or not yet allocated in stream order", p);
}

bool open_memory(const void* p) {
    Allocation* a = find_live(p);
    if (!a || a->open || p >= a->end) return false;
    a->open = true;
    a->protect(PROT_READ | PROT_WRITE);
    return true;
}

void require_live(const char* what, const void* p, size_t bytes) {
    if (live(p, bytes))
        open_memory(p);
    else
        report(format("%s of %zu bytes: %s", what, bytes, describe(p).c_str()));
}

void close_memory() {
    for (auto& [pages, a] : allocations) {
        if (!a.open) continue;
        check_surroundings(a);
        a.open = false;
        a.protect(PROT_NONE);
    }
}

void forget_memory() {
    while (!allocations.empty()) end_life(allocations.begin()->second.begin);
    in_use = 0;
}

}  // namespace hllm::cuda::emulator

using namespace hllm::cuda::emulator;

cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t stream) {
    *pointer = nullptr;
    return answer(stream, __func__, [=] {
        const cudaError_t error = bytes ? reserve(pointer, bytes, Kind::Device) : cudaSuccess;
        return *pointer ? enqueue(stream, [p = *pointer] { begin_life(p); }) : error;
    });
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
    return answer(stream, __func__, [=] {
        const cudaError_t error = pointer ? give_back(pointer, Kind::Device) : cudaSuccess;
        return pointer && error == cudaSuccess ? enqueue(stream, [=] { end_life(pointer); }) : error;
    });
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
    return answer([=] {
        const cudaError_t error = reserve(pointer, bytes, Kind::Pinned);
        if (error == cudaSuccess) begin_life(*pointer);
        return error;
    });
}

cudaError_t cudaFreeHost(void* pointer) {
    return answer([=] {
        const cudaError_t error = give_back(pointer, Kind::Pinned);
        if (error == cudaSuccess) end_life(pointer);
        return error;
    });
}

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
    return answer([=] {
        *total = limit();
        *available = *total - std::min(*total, in_use);
        return cudaSuccess;
    });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    const bool to_host = kind == cudaMemcpyDeviceToHost;
    const void *host = to_host ? to : from, *device = to_host ? from : to;
    return answer([=] {
        if (bytes == 0) return cudaSuccess;
        if (on_device(host) || !on_device(device))
            return refuse(cudaErrorInvalidValue, "a copy's kind contradicts its addresses");
        // Host memory that is not page-locked is read before the call returns, and written before it returns.
        const bool pinned = is_pinned(host, bytes);
        std::vector<char> staged;
        if (!pinned && !to_host) staged.assign(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
        const auto copy = [=, staged = std::move(staged)] {
            require_live("copy", device, bytes);
            if (pinned && !is_pinned(host, bytes)) report("copy: the host's memory was freed before");
            if (!broken()) std::memcpy(to, staged.empty() ? from : staged.data(), bytes);
        };
        if (pinned) return enqueue(stream, copy);
        const cudaError_t error =
            answer(stream, "a copy of memory that is not page-locked", [&] { return enqueue(stream, copy); });
        return error == cudaSuccess && to_host ? cudaStreamSynchronize(stream) : error;
    });
}

cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t stream) {
    return bytes == 0 ? cudaSuccess : enqueue(stream, [=] {
        require_live("fill", to, bytes);
        if (!broken()) std::memset(to, byte, bytes);
    });
}
