// How the memory-bound kernels touch memory: 16 bytes at a time where every row is aligned, one element at a time where one
// is not; and the sums of a block, always added in the same order.
#pragma once
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "cuda/runtime.h"

namespace hllm::cuda {

// N consecutive elements in a thread's registers: 16 bytes of one of the types that a kernel reads, or 1.
template <int N>
struct Pack {
    float v[N];
    HLLM_DEVICE float& operator[](int i) { return v[i]; }
    HLLM_DEVICE float operator[](int i) const { return v[i]; }
};

template <int N, class T>
HLLM_DEVICE Pack<N> load(const T* from) {
    Pack<N> p;
    if constexpr (N == 1) {
        p[0] = load_f32(from);
    } else if constexpr (std::is_same_v<T, float>) {
        HLLM_UNROLL
        for (int i = 0; i < N; i += 4) {
            const uint4 words = load16(from + i);
            memcpy(&p.v[i], &words, sizeof words);
        }
    } else {
        HLLM_UNROLL
        for (int i = 0; i < N; i += 8) {
            const uint4 words = load16(from + i);
            const uint32_t pairs[] = {words.x, words.y, words.z, words.w};
            HLLM_UNROLL
            for (int k = 0; k < 4; k++) {
                p[i + 2 * k] = to_float(bf16{static_cast<uint16_t>(pairs[k])});
                p[i + 2 * k + 1] = to_float(bf16{static_cast<uint16_t>(pairs[k] >> 16)});
            }
        }
    }
    return p;
}

template <int N, class T>
HLLM_DEVICE void store(T* to, const Pack<N>& p) {
    if constexpr (N == 1) {
        store_f32(to, p[0]);
    } else if constexpr (std::is_same_v<T, float>) {
        HLLM_UNROLL
        for (int i = 0; i < N; i += 4) {
            uint4 words;
            memcpy(&words, &p.v[i], sizeof words);
            store16(to + i, words);
        }
    } else {
        HLLM_UNROLL
        for (int i = 0; i < N; i += 8)
            store16(to + i, uint4{pack_bf16(p[i], p[i + 1]), pack_bf16(p[i + 2], p[i + 3]), pack_bf16(p[i + 4], p[i + 5]),
                                  pack_bf16(p[i + 6], p[i + 7])});
    }
}

// Work shared out among all threads of the grid: for (item = first_item(); item < items; item += item_step()).
HLLM_DEVICE int64_t first_item() { return int64_t{block_x()} * threads() + thread(); }
HLLM_DEVICE int64_t item_step() { return int64_t{grid_x()} * threads(); }

template <int N>
using Width = std::integral_constant<int, N>;

// body(width, i) for the packs [i, i + width) of n elements; what is left at the end goes one by one.
template <int N, class Body>
HLLM_DEVICE void for_each_pack(int64_t n, Body&& body) {
    const int64_t packs = n / N;
    for (int64_t i = first_item(); i < packs; i += item_step()) body(Width<N>{}, i * N);
    for (int64_t i = packs * N + first_item(); i < n; i += item_step()) body(Width<1>{}, i);
}

// body(row, i) for the packs [i, i + N) of all rows; N divides columns.
template <int N, class Body>
HLLM_DEVICE void for_each_row_pack(int64_t rows, int64_t columns, Body&& body) {
    const int64_t packs = columns / N;
    for (int64_t item = first_item(); item < rows * packs; item += item_step()) body(item / packs, item % packs * N);
}

HLLM_DEVICE float warp_sum(float value) {
    HLLM_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}

// In every thread; `scratch` holds one value per warp.
HLLM_DEVICE float block_sum(float value, Shared<float> scratch) {
    value = warp_sum(value);
    block_barrier();  // the scratch may still be read from the last time
    if (lane() == 0) scratch.store(warp(), value);
    block_barrier();
    float sum = 0;
    for (int w = 0; w < threads() / 32; w++) sum += scratch.load(w);
    return sum;
}

// In thread 0; `scratch` holds one value per thread, a power of two of them.
HLLM_DEVICE double block_sum(double value, Shared<double> scratch) {
    scratch.store(thread(), value);
    block_barrier();
    for (int half = threads() / 2; half > 0; half /= 2) {
        if (thread() < half) scratch.store(thread(), scratch.load(thread()) + scratch.load(thread() + half));
        block_barrier();
    }
    return scratch.load(0);
}

// Adds up what the blocks of a kernel have left in partial, in a fixed order. One block.
struct SumShares {
    float* out;
    const double* partial;
    int n;
    bool root;  // out = sqrt(sum)

    HLLM_KERNEL void operator()() const {
        double sum = 0;
        for (int i = thread(); i < n; i += threads()) sum += partial[i];
        sum = block_sum(sum, shared<double>(0));
        if (thread() == 0) *out = static_cast<float>(root ? sqrt(sum) : sum);
    }
};

// out += the rows of partial. A block takes 32 columns; its warps share the rows, and are added up in order.
struct SumPartials {
    float* out;
    const float* partial;
    int rows;
    int64_t D;

    HLLM_KERNEL void operator()() const {
        const int64_t column = int64_t{block_x()} * 32 + lane();
        const auto sums = shared<float>(0);
        float sum = 0;
        if (column < D)
            for (int r = warp(); r < rows; r += threads() / 32) sum += partial[r * D + column];
        sums.store(thread(), sum);
        block_barrier();
        if (warp() > 0 || column >= D) return;
        sum = out[column];
        for (int w = 0; w < threads() / 32; w++) sum += sums.load(w * 32 + lane());
        out[column] = sum;
    }
};

// ---- Host ---------------------------------------------------------------------------------------------------------

constexpr int BLOCK = 256;  // threads

// Blocks for so many items: enough waves to be even, then each thread takes several.
inline int blocks_for(Context& context, int64_t items) {
    return static_cast<int>(std::clamp<int64_t>((items + BLOCK - 1) / BLOCK, 1, int64_t{64} * sm_count(context)));
}

// A thread for each item, or for several.
template <class Kernel>
void launch_items(Context& context, int64_t items, const Kernel& kernel) {
    if (items > 0) launch(stream_of(context), {blocks_for(context, items)}, BLOCK, 0, kernel);
}

// A block for each row of so many packs, with shared memory for block_sum(float).
template <class Kernel>
void launch_rows(Context& context, int64_t rows, int64_t packs, const Kernel& kernel) {
    int threads = 32;
    while (threads < packs && threads < BLOCK) threads *= 2;
    if (rows > 0) launch(stream_of(context), {static_cast<int>(rows)}, threads, BLOCK / 32 * 4, kernel);
}

// Blocks that share the rows of a gradient: a number that does not depend on the device, so that the sums do not either; 4
// blocks per SM of an H100.
constexpr int64_t ROW_SHARES = 512;

// out [D] += the rows of partial [rows, D].
inline void add_partials(Context& context, float* out, const float* partial, int64_t rows, int64_t D) {
    const int threads = 32 * static_cast<int>(std::min<int64_t>(rows, 32));
    launch(stream_of(context), {static_cast<int>((D + 31) / 32)}, threads, threads * 4,
           SumPartials{out, partial, static_cast<int>(rows), D});
}

// Whether every row of the views starts on 16 bytes.
template <class... Views>
bool aligned(const Views&... views) {
    const auto one = [](const View& view) {
        const int64_t size = bytes_of(view.dtype);
        bool good = reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
        for (int i = 0; i + 1 < view.rank; i++) good &= view.shape[i] <= 1 || view.stride[i] * size % 16 == 0;
        return good;
    };
    return (one(views) && ...);
}

// Elements of T in 16 bytes.
template <class T>
constexpr int PACK = 16 / int{sizeof(T)};

// body(width): PACK<T> or 1.
template <class T, class Body>
void by_width(bool packed, Body&& body) {
    if (packed)
        body(Width<PACK<T>>{});
    else
        body(Width<1>{});
}

// body(bf16 or float), the latter for anything else of four bytes.
template <class Body>
void by_type(const View& view, Body&& body) {
    if (view.dtype == HLLM_BF16)
        body(bf16{});
    else
        body(float{});
}

}  // namespace hllm::cuda
