// The emulator's side of native/cuda/device.cuh (which includes this file): the same functions, run by the threads of an
// emulated block. See README.md.
#pragma once
#include <cmath>
#include <cstring>
#include <vector>

namespace hllm::cuda {
namespace emulator {

// Where in the kernels' source a function was called: the default argument is evaluated at the caller.
struct Site {
    const char* file;
    int line;
    static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
    bool operator==(const Site& other) const { return line == other.line && file == other.file; }
};

// The thread that runs now, and its launch.
struct Position {
    int thread, threads;
    int block[3], grid[3];
};
extern Position now;

// Records the report, and ends the kernel.
[[noreturn]] __attribute__((format(printf, 2, 3))) void violation(Site site, const char* format, ...);

// A collective: every lane of a warp brings operands, then `execute` runs once with those of all 32.
enum class Collective { Shuffle, Ballot, WarpBarrier, Ldmatrix, Mma };
void collective(Collective kind, Site site, void* operands, void (*execute)(void* const* lanes));
void block_barrier(Site site);

// Shared memory; offsets in bytes.
template <int BYTES>
void shared_load(void* to, int offset, Site site);
template <int BYTES>
void shared_store(int offset, const void* from, Site site);
void copy_async(int offset, const void* global, bool valid, Site site);
void copy_async_commit();
void copy_async_wait(int pending);
void ldmatrix(uint32_t (&r)[4], int offset, bool transposed, Site site);
void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site);

// 16 bytes at `global` are aligned and lie in live device memory, or else a violation.
void check_global16(const void* global, Site site);

// Calls `run` in every thread of the grid once the stream comes to it.
struct Launch {
    const char* name;  // mangled
    Grid grid;
    int threads, shared_bytes;
    std::vector<unsigned char> parameters;
    void (*run)(const void* parameters);
};
cudaError_t launch(cudaStream_t stream, const Launch& what, int max_threads);

template <class T>
T shuffle(T value, int (*source)(int lane, int argument), int argument, Site site) {
    static_assert(sizeof(T) == 4);
    struct Operands {
        T value, result;
        int argument;
        int (*source)(int, int);
    } mine{value, value, argument, source};
    collective(Collective::Shuffle, site, &mine, [](void* const* lanes) {
        for (int l = 0; l < 32; l++) {
            auto* to = static_cast<Operands*>(lanes[l]);
            to->result = static_cast<const Operands*>(lanes[to->source(l, to->argument)])->value;
        }
    });
    return mine.result;
}

}  // namespace emulator

template <class K>
void launch(cudaStream_t stream, Grid grid, int threads, int shared_bytes, const K& kernel) {
    static_assert(std::is_trivially_copyable_v<K> && sizeof(K) <= 4096, "kernel parameters are copied, at most 4 KB");
    const auto* bytes = reinterpret_cast<const unsigned char*>(&kernel);
    const emulator::Launch what{typeid(K).name(), grid, threads, shared_bytes, {bytes, bytes + sizeof(K)}, [](const void* p) {
                                    (*static_cast<const K*>(p))();
                                }};
    check(emulator::launch(stream, what, max_threads<K>), what.name);
}

inline int thread() { return emulator::now.thread; }
inline int threads() { return emulator::now.threads; }
inline int lane() { return emulator::now.thread % 32; }
inline int warp() { return emulator::now.thread / 32; }
inline int block_x() { return emulator::now.block[0]; }
inline int block_y() { return emulator::now.block[1]; }
inline int block_z() { return emulator::now.block[2]; }
inline int grid_x() { return emulator::now.grid[0]; }
inline int grid_y() { return emulator::now.grid[1]; }
inline int grid_z() { return emulator::now.grid[2]; }

using emulator::Site;

inline void block_barrier(Site site = Site::here()) { emulator::block_barrier(site); }
inline void warp_barrier(Site site = Site::here()) {
    emulator::collective(emulator::Collective::WarpBarrier, site, nullptr, nullptr);
}

template <class T>
T shuffle(T value, int source_lane, Site site = Site::here()) {
    return emulator::shuffle(
        value, [](int, int source) { return source & 31; }, source_lane, site);
}
template <class T>
T shuffle_xor(T value, int mask, Site site = Site::here()) {
    return emulator::shuffle(
        value, [](int lane, int mask) { return (lane ^ mask) & 31; }, mask, site);
}
inline unsigned ballot(bool predicate, Site site = Site::here()) {
    unsigned bits = predicate;
    emulator::collective(emulator::Collective::Ballot, site, &bits, [](void* const* lanes) {
        unsigned all = 0;
        for (int l = 0; l < 32; l++) all |= *static_cast<const unsigned*>(lanes[l]) << l;
        for (int l = 0; l < 32; l++) *static_cast<unsigned*>(lanes[l]) = all;
    });
    return bits;
}

// The threads of the emulator take turns, so plain arithmetic is atomic.
inline int atomic_add(int* global, int value) {
    const int before = *global;
    *global = static_cast<int>(static_cast<unsigned>(before) + static_cast<unsigned>(value));
    return before;
}
inline int atomic_max(int* global, int value) {
    const int before = *global;
    *global = before < value ? value : before;
    return before;
}

inline float to_float(bf16 v) { return __builtin_bit_cast(float, static_cast<uint32_t>(v.bits) << 16); }
inline bf16 to_bf16(float v) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, v);
    if (v != v) return {0x7fff};  // as cvt.rn.bf16
    return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline uint32_t pack_bf16(float low, float high) { return to_bf16(low).bits | static_cast<uint32_t>(to_bf16(high).bits) << 16; }
inline float fast_exp2(float v) { return exp2f(v); }
inline float rsqrtf(float v) { return 1 / sqrtf(v); }

inline uint4 load16(const void* global, Site site = Site::here()) {
    emulator::check_global16(global, site);
    return *static_cast<const uint4*>(global);
}
inline void store16(void* global, uint4 value, Site site = Site::here()) {
    emulator::check_global16(global, site);
    *static_cast<uint4*>(global) = value;
}

template <class T>
struct Shared {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
    int offset;  // in bytes: kernels cannot reach the memory but through these functions
    T load(int i, Site site = Site::here()) const {
        T value;
        emulator::shared_load<sizeof(T)>(&value, byte(i), site);
        return value;
    }
    void store(int i, T value, Site site = Site::here()) const { emulator::shared_store<sizeof(T)>(byte(i), &value, site); }
    Shared at(int elements) const { return {byte(elements)}; }
    uint4 load16(int i, Site site = Site::here()) const {
        uint4 value;
        emulator::shared_load<16>(&value, byte(i), site);
        return value;
    }
    void store16(int i, uint4 value, Site site = Site::here()) const { emulator::shared_store<16>(byte(i), &value, site); }
    int byte(int i) const { return offset + i * static_cast<int>(sizeof(T)); }
};

template <class T>
Shared<T> shared(int byte_offset) {
    return {byte_offset};
}

template <class T>
void cp_async16(Shared<T> to, int i, const T* global, bool valid, Site site = Site::here()) {
    emulator::copy_async(to.byte(i), global, valid, site);
}
inline void cp_async_commit() { emulator::copy_async_commit(); }
template <int N>
void cp_async_wait() {
    emulator::copy_async_wait(N);
}

inline void ldmatrix_x4(uint32_t (&r)[4], Shared<bf16> row, int element, Site site = Site::here()) {
    emulator::ldmatrix(r, row.byte(element), false, site);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], Shared<bf16> row, int element, Site site = Site::here()) {
    emulator::ldmatrix(r, row.byte(element), true, site);
}
inline void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::here()) {
    emulator::mma(d, a, b, site);
}

}  // namespace hllm::cuda
