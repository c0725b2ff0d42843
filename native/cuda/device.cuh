// Everything that kernels may use of a GPU; no other file has <<<>>>, inline assembly or threadIdx. The implementation here
// is for nvcc; any other compiler gets the same functions from the emulator (native/test/cuda_emulator), which runs kernels
// on the CPU and reports what a GPU would let pass in silence, such as a missing barrier.
//
// A kernel is a struct with its parameters as members and `HLLM_KERNEL void operator()() const`. Blocks have one dimension
// and a multiple of 32 threads, at most MAX_THREADS where the struct declares it (`static constexpr int`: the compiler then
// gives each thread 65536 / MAX_THREADS registers), else 1024. Warps are always full: every lane reaches every shuffle,
// ballot, ldmatrix, mma and barrier.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>
#include <typeinfo>

namespace hllm::cuda {

// Throws unless the status is cudaSuccess; `what` names the operation. Defined with the backend.
void check(cudaError_t status, const char* what);

struct bf16 {
    uint16_t bits;
};

struct Grid {
    int x = 1, y = 1;  // blocks; y at most 65535
};

// The most shared memory that a block may have on every card from sm_80 to sm_90.
constexpr int MAX_SHARED_BYTES = 99 * 1024;

template <class Kernel, class = void>
constexpr int max_threads = 1024;
template <class Kernel>
constexpr int max_threads<Kernel, std::void_t<decltype(Kernel::MAX_THREADS)>> = Kernel::MAX_THREADS;

}  // namespace hllm::cuda

#ifdef __CUDACC__
#define HLLM_KERNEL __device__
#define HLLM_DEVICE __device__ __forceinline__
#define HLLM_UNROLL _Pragma("unroll")

namespace hllm::cuda {

template <class Kernel>
__global__ void __launch_bounds__(max_threads<Kernel>) run(const __grid_constant__ Kernel kernel) {
    kernel();
}

template <class Kernel>
void launch(cudaStream_t stream, Grid grid, int threads, int shared_bytes, const Kernel& kernel) {
    const char* name = typeid(Kernel).name();
    // The most that any launch takes: another thread may be about to launch the same kernel with more than this one.
    if (shared_bytes > 48 * 1024)
        check(cudaFuncSetAttribute(run<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, MAX_SHARED_BYTES), name);
    run<Kernel><<<dim3(grid.x, grid.y), threads, shared_bytes, stream>>>(kernel);
    check(cudaGetLastError(), name);
}

HLLM_DEVICE int thread() { return threadIdx.x; }
HLLM_DEVICE int threads() { return blockDim.x; }
HLLM_DEVICE int lane() { return threadIdx.x % 32; }
HLLM_DEVICE int warp() { return threadIdx.x / 32; }
HLLM_DEVICE int block_x() { return blockIdx.x; }
HLLM_DEVICE int block_y() { return blockIdx.y; }
HLLM_DEVICE int grid_x() { return gridDim.x; }

HLLM_DEVICE void block_barrier() { __syncthreads(); }
// Orders the shared and global accesses of a warp's lanes; a shuffle does not.
HLLM_DEVICE void warp_barrier() { __syncwarp(); }

// float, int or unsigned.
template <class T>
HLLM_DEVICE T shuffle(T value, int source_lane) {
    return __shfl_sync(0xffffffffu, value, source_lane);
}
template <class T>
HLLM_DEVICE T shuffle_xor(T value, int mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
}
HLLM_DEVICE unsigned ballot(bool predicate) { return __ballot_sync(0xffffffffu, predicate); }

// Returns the value before. Only integers, whose sum does not depend on the order.
HLLM_DEVICE int atomic_add(int* global, int value) { return atomicAdd(global, value); }

HLLM_DEVICE float to_float(bf16 v) { return __uint_as_float(static_cast<uint32_t>(v.bits) << 16); }
// Rounds to nearest even.
HLLM_DEVICE bf16 to_bf16(float v) {
    bf16 out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(v));
    return out;
}
HLLM_DEVICE uint32_t pack_bf16(float low, float high) {
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}
HLLM_DEVICE float fast_exp2(float v) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(v));
    return out;
}

// 16-byte aligned global memory. Not the read-only path (ld.global.nc): a kernel may read what it has written.
HLLM_DEVICE uint4 load16(const void* global) { return *static_cast<const uint4*>(global); }
// A plain store may be split by nvcc into four of 4 bytes; this one is not.
HLLM_DEVICE void store16(void* global, uint4 value) { __stwb(static_cast<uint4*>(global), value); }

// A view of the block's shared memory; indices in elements. Every access to shared memory goes through it.
template <class T>
struct Shared {
    T* data;
    HLLM_DEVICE T load(int i) const { return data[i]; }
    HLLM_DEVICE void store(int i, T value) const { data[i] = value; }
    HLLM_DEVICE Shared at(int offset) const { return {data + offset}; }
    // Element i lies on a multiple of 16 bytes.
    HLLM_DEVICE uint4 load16(int i) const { return *reinterpret_cast<const uint4*>(data + i); }
    HLLM_DEVICE void store16(int i, uint4 value) const { *reinterpret_cast<uint4*>(data + i) = value; }
    HLLM_DEVICE uint32_t address(int i) const { return static_cast<uint32_t>(__cvta_generic_to_shared(data + i)); }
};

template <class T>
HLLM_DEVICE Shared<T> shared(int byte_offset) {
    extern __shared__ __align__(128) unsigned char hllm_shared[];
    return {reinterpret_cast<T*>(hllm_shared + byte_offset)};
}

// Copies 16 bytes to element i without waiting; zeros when not valid, and `global` is then not read.
template <class T>
HLLM_DEVICE void cp_async16(Shared<T> to, int i, const T* global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to.address(i)), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}
HLLM_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most N of this thread's groups are on their way. What other threads copied is there after a barrier.
template <int N>
HLLM_DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four 8 x 8 matrices; lane l gives the row l % 8 of matrix l / 8, eight elements from `element` on (16-byte aligned).
// r[j] holds the elements 2 * (lane % 4) and + 1 of row lane / 4 of matrix j (trans: of its column lane / 4).
HLLM_DEVICE void ldmatrix_x4(uint32_t (&r)[4], Shared<bf16> row, int element) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row.address(element))
                 : "memory");
}
HLLM_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], Shared<bf16> row, int element) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row.address(element))
                 : "memory");
}

// d += a b for a [16,16], b [16,8], d [16,8]. With g = lane / 4, t = lane % 4, pairs of neighbours along K in one register:
// a = (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8); b = rows 2t and 2t + 8 of column g;
// d = (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
HLLM_DEVICE void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace hllm::cuda
#else
#define HLLM_KERNEL
#define HLLM_DEVICE inline
#define HLLM_UNROLL
#include "cuda_emulator/device.h"
#endif

namespace hllm::cuda {

HLLM_DEVICE float load_f32(const float* p) { return *p; }
HLLM_DEVICE float load_f32(const bf16* p) { return to_float(*p); }
HLLM_DEVICE void store_f32(float* p, float value) { *p = value; }
HLLM_DEVICE void store_f32(bf16* p, float value) { *p = to_bf16(value); }

}  // namespace hllm::cuda
