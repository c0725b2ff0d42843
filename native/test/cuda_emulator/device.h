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
};

// The thread that runs now, and its launch.
struct Position {
    int thread, threads, block_x, block_y, grid_x;
};
extern Position now;

// Where a thread waits for others: at the end, at the block's barrier, or at a collective of its warp, which runs once, on the
// operands of all 32 lanes.
enum class Stop { Exit, BlockBarrier, WarpBarrier, Shuffle, Ballot, Ldmatrix, LdmatrixTransposed, Mma };
struct Operands {
    uint32_t in[6], out[4];  // mma: a, b
    float sum[4];            // mma: d
};
void stop(Stop where, Site site, Operands* operands = nullptr);

// Checks and records an access to shared memory, by cp.async or at once; where it is.
enum class Use { Read, Write, Copy };
void* shared_memory(Use use, int offset, int bytes, Site site);

void copy_async(int offset, const void* global, bool valid, Site site);
void copy_async_wait(int pending);

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
inline int block_x() { return emulator::now.block_x; }
inline int block_y() { return emulator::now.block_y; }
inline int grid_x() { return emulator::now.grid_x; }

using emulator::Site;
using emulator::Stop;

inline void block_barrier(Site site = Site::here()) { emulator::stop(Stop::BlockBarrier, site); }
inline void warp_barrier(Site site = Site::here()) { emulator::stop(Stop::WarpBarrier, site); }

template <class T>
T shuffle(T value, int source_lane, Site site = Site::here()) {
    emulator::Operands mine{{__builtin_bit_cast(uint32_t, value), source_lane & 31u}, {}, {}};
    emulator::stop(Stop::Shuffle, site, &mine);
    return __builtin_bit_cast(T, mine.out[0]);
}
template <class T>
T shuffle_xor(T value, int mask, Site site = Site::here()) {
    return shuffle(value, lane() ^ mask, site);
}
inline unsigned ballot(bool predicate, Site site = Site::here()) {
    emulator::Operands mine{{predicate}, {}, {}};
    emulator::stop(Stop::Ballot, site, &mine);
    return mine.out[0];
}

// Threads take turns here, so plain arithmetic is atomic.
inline int atomic_add(int* global, int value) {
    const int before = *global;
    *global = static_cast<int>(static_cast<unsigned>(before) + static_cast<unsigned>(value));
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
    int byte(int i) const { return offset + i * static_cast<int>(sizeof(T)); }
    T load(int i, Site site = Site::here()) const {
        T value;
        std::memcpy(&value, emulator::shared_memory(emulator::Use::Read, byte(i), sizeof(T), site), sizeof(T));
        return value;
    }
    void store(int i, T value, Site site = Site::here()) const {
        std::memcpy(emulator::shared_memory(emulator::Use::Write, byte(i), sizeof(T), site), &value, sizeof(T));
    }
    Shared at(int elements) const { return {byte(elements)}; }
    uint4 load16(int i, Site site = Site::here()) const { return Shared<uint4>{byte(i)}.load(0, site); }
    void store16(int i, uint4 value, Site site = Site::here()) const { Shared<uint4>{byte(i)}.store(0, value, site); }
};

template <class T>
Shared<T> shared(int byte_offset) {
    return {byte_offset};
}

template <class T>
void cp_async16(Shared<T> to, int i, const T* global, bool valid, Site site = Site::here()) {
    emulator::copy_async(to.byte(i), global, valid, site);
}
void cp_async_commit();
template <int N>
void cp_async_wait() {
    emulator::copy_async_wait(N);
}

inline void ldmatrix_x4(uint32_t (&r)[4], Shared<bf16> row, int element, Site site = Site::here(), Stop kind = Stop::Ldmatrix) {
    const uint4 words = row.load16(element, site);
    emulator::Operands mine{{words.x, words.y, words.z, words.w}, {}, {}};
    emulator::stop(kind, site, &mine);
    std::memcpy(r, mine.out, sizeof(r));
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], Shared<bf16> row, int element, Site site = Site::here()) {
    ldmatrix_x4(r, row, element, site, Stop::LdmatrixTransposed);
}
inline void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::here()) {
    emulator::Operands mine{{a[0], a[1], a[2], a[3], b[0], b[1]}, {}, {d[0], d[1], d[2], d[3]}};
    emulator::stop(Stop::Mma, site, &mine);
    std::memcpy(d, mine.sum, sizeof(d));
}

}  // namespace hllm::cuda
