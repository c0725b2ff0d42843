// Device memory: each allocation has pages of its own, ends at their end (but for the alignment), and a page that is never
// accessible follows. No address is used twice. Nobody can reach an allocation until work on the device touches it, and that
// only until the work is done.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "cuda_emulator/engine.h"

namespace hllm::cuda::emulator {
namespace {

constexpr size_t PAGE = 4096, ALIGNMENT = 256, RESERVED = size_t{1} << 40;

struct Allocation {
    size_t bytes;
    char *pages, *end;
    bool live = false, given_back = false;

    void protect(int access) const { mprotect(pages, static_cast<size_t>(end - pages), access); }
};

using Allocations = std::map<const char*, Allocation>;
auto &allocations = lasting<Allocations>(), &pinned = lasting<Allocations>();
char *reserved = nullptr, *unused = nullptr;
size_t in_use = 0;
auto& opened = lasting<std::vector<const char*>>();         // the allocations that work has touched
const char *latest_begin = nullptr, *latest_end = nullptr;  // the live allocation found last

size_t rounded(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// The entry that begins last before or at p, or the end.
auto find(const Allocations& in, const void* p) {
    const auto after = in.upper_bound(static_cast<const char*>(p));
    return after == in.begin() ? in.end() : std::prev(after);
}

bool poisoned(const char* begin, const char* end) {
    for (; begin < end; begin += sizeof(POISON))
        if (std::memcmp(begin, &POISON, sizeof(POISON)) != 0) return false;
    return true;
}

void check_surroundings(const char* address, const Allocation& a) {
    if (!poisoned(std::max<const char*>(a.pages, address - ALIGNMENT), address) ||
        !poisoned(address + rounded(a.bytes, sizeof(POISON)), a.end))
        report("a kernel wrote just before or behind an allocation of " + std::to_string(a.bytes) + " bytes");
}

constexpr size_t POISONED = size_t{1} << 24;

// Pages full of POISON that become real memory when they are touched.
void map_poison(const Allocation& a) {
    static const int file = [] {
        const int made = memfd_create("poison", 0);
        std::vector<uint16_t> words(POISONED / sizeof(POISON), POISON);
        if (made < 0 || write(made, words.data(), POISONED) != ssize_t{POISONED}) std::abort();
        return made;
    }();
    for (char* at = a.pages; at < a.end; at += POISONED)
        mmap(at, std::min<size_t>(POISONED, a.end - at), PROT_NONE, MAP_PRIVATE | MAP_FIXED, file, 0);
}

void discard(Allocations::iterator found) {
    const Allocation& a = found->second;
    mmap(a.pages, static_cast<size_t>(a.end - a.pages), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
         0);
    allocations.erase(found);
    latest_begin = latest_end = nullptr;
}

}  // namespace

void poison(void* p, size_t bytes) {
    auto* at = static_cast<unsigned char*>(p);
    for (size_t i = 0; i + 1 < bytes; i += 2) std::memcpy(at + i, &POISON, 2);
}

uint64_t memory_limit() { return setting("HLLM_EMULATOR_MEMORY", uint64_t{4} << 30); }
uint64_t memory_in_use() { return in_use; }

cudaError_t reserve(void** pointer, size_t bytes) {
    *pointer = nullptr;
    if (bytes == 0) return cudaSuccess;
    if (in_use + bytes > memory_limit()) return refuse(cudaErrorMemoryAllocation, "out of memory");
    if (!reserved) {
        void* p = mmap(nullptr, RESERVED, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) return refuse(cudaErrorMemoryAllocation, "no address space for the emulated device");
        reserved = unused = static_cast<char*>(p);
    }
    char* end = unused + rounded(bytes, PAGE);
    char* begin = end - rounded(bytes, ALIGNMENT);
    allocations[begin] = {bytes, unused, end};
    unused = end + PAGE;
    in_use += bytes;
    *pointer = begin;
    return cudaSuccess;
}

void begin_life(void* pointer) {
    const auto found = allocations.find(static_cast<char*>(pointer));
    if (found == allocations.end()) return;  // the free came before, and was reported
    found->second.live = true;
    map_poison(found->second);
}

cudaError_t give_back(void* pointer) {
    const auto found = allocations.find(static_cast<char*>(pointer));
    if (found == allocations.end() || found->second.given_back)
        return refuse(cudaErrorInvalidValue, "free of " + describe(pointer));
    found->second.given_back = true;
    in_use -= found->second.bytes;
    return cudaSuccess;
}

void end_life(void* pointer) {
    const auto found = allocations.find(static_cast<char*>(pointer));
    require_live("free", pointer, found->second.bytes);
    if (found->second.live) check_surroundings(found->first, found->second);
    discard(found);
}

void forget_memory() {
    while (!allocations.empty()) discard(allocations.begin());
    in_use = 0;
}

bool open_memory(const void* p) {
    const auto found = find(allocations, p);
    if (found == allocations.end() || !found->second.live || p < found->second.pages || p >= found->second.end) return false;
    if (std::find(opened.begin(), opened.end(), found->first) != opened.end()) return false;
    found->second.protect(PROT_READ | PROT_WRITE);
    opened.push_back(found->first);
    return true;
}

void close_memory() {
    for (const char* address : opened) {
        const auto found = allocations.find(address);
        if (found == allocations.end()) continue;
        check_surroundings(address, found->second);
        found->second.protect(PROT_NONE);
    }
    opened.clear();
}

bool on_device(const void* p) { return reserved && p >= reserved && p < reserved + RESERVED; }

bool live(const void* p, size_t bytes) {
    const auto* begin = static_cast<const char*>(p);
    if (!(latest_begin <= begin && begin < latest_end)) {
        const auto found = find(allocations, p);
        if (found == allocations.end() || !found->second.live) return false;
        latest_begin = found->first;
        latest_end = found->first + found->second.bytes;
    }
    return begin + bytes <= latest_end;
}

std::string describe(const void* p) {
    char text[32];
    std::snprintf(text, sizeof(text), "%p ", p);
    if (!on_device(p)) return std::string(text) + "is not device memory";
    const auto found = find(allocations, p);
    const auto* at = static_cast<const char*>(p);
    if (found != allocations.end() && found->second.live && at < found->second.end + PAGE)
        return std::string(text) + "is byte " + std::to_string(at - found->first) + " of an allocation of " +
               std::to_string(found->second.bytes) + " bytes";
    return std::string(text) + "lies in no live allocation: freed, or not yet allocated in stream order";
}

void require_live(const char* what, const void* p, size_t bytes) {
    if (live(p, bytes))
        open_memory(p);
    else
        report(std::string(what) + " of " + std::to_string(bytes) + " bytes: " + describe(p));
}

cudaError_t allocate_pinned(void** pointer, size_t bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return refuse(cudaErrorMemoryAllocation, "out of memory");
    poison(p, bytes);
    auto* begin = static_cast<char*>(p);
    pinned[begin] = {bytes, begin, begin + bytes};
    *pointer = p;
    return cudaSuccess;
}

cudaError_t free_pinned(void* pointer) {
    const auto found = pinned.find(static_cast<char*>(pointer));
    if (found == pinned.end()) return refuse(cudaErrorInvalidValue, "not from cudaMallocHost");
    munmap(pointer, found->second.bytes);
    pinned.erase(found);
    return cudaSuccess;
}

bool is_pinned(const void* p, size_t bytes) {
    const auto found = find(pinned, p);
    return found != pinned.end() && static_cast<const char*>(p) + bytes <= found->second.end;
}

}  // namespace hllm::cuda::emulator
