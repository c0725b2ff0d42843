// Products over a matrix w that was packed into panels of columns, which the register tile reads straight through: weights
// once for all calls, other matrices block by block for one product. Few rows read the same panels, at memory speed.
//
// A panel holds P columns of w^T, k after k: [K][P] float32, or [K/2][P][2] bf16 (pairs of k, as the bf16 dot product wants
// them), with zeros beyond N and K. A tile is ROWS x P sums in registers, each over all k in order: the bits of an element
// depend neither on the rows beside it nor on the team.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/packed.cpp"
#include "cpu/simd-inl.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cpu/packed.h"
#include "cpu/team.h"

#ifndef HLLM_PACKED_TILE
#define HLLM_PACKED_TILE
namespace hllm {
// One tile: y rows of ldy, x rows of ldx (floats, or pairs of bf16 as one uint32), the first `columns` columns of a panel.
struct Tile {
    float* y;
    int64_t ldy;
    const void* x;
    int64_t ldx;
    const void* panel;
    const void* next;  // what tiles after this one will read: fetched to the second-level cache,
    int64_t fetch;     // a line for every so many bytes that a lane of the panel goes on
    int64_t K, columns;
    bool accumulate;
};
using TileKernel = void (*)(const Tile&);
constexpr int MAX_ROWS = 12;
using TileKernels = std::array<TileKernel, MAX_ROWS + 1>;  // by rows
}  // namespace hllm
#endif

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

// Registers: 2 vectors a row, 2 of the panel, 1 of x.
#if HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM
constexpr int TILE_ROWS = 12;
#else
constexpr int TILE_ROWS = 6;
#endif

int64_t panel_columns() { return 2 * static_cast<int64_t>(hn::Lanes(F32())); }

HWY_INLINE void store_row(float* y, const Tile& t, V32 low, V32 high) {
    const F32 d;
    const int64_t N = static_cast<int64_t>(hn::Lanes(d));
    if (t.columns == 2 * N) {
        if (t.accumulate) {
            low = hn::Add(low, hn::LoadU(d, y));
            high = hn::Add(high, hn::LoadU(d, y + N));
        }
        hn::StoreU(low, d, y);
        hn::StoreU(high, d, y + N);
        return;
    }
    HWY_ALIGN float out[HWY_MAX_BYTES / 2];
    hn::Store(low, d, out);
    hn::Store(high, d, out + N);
    for (int64_t n = 0; n < t.columns; n++) y[n] = t.accumulate ? y[n] + out[n] : out[n];
}

// The sums of a tile, and the rows of x in threes: a pointer for each row would not leave enough registers.
template <int ROWS>
struct Sums {
    V32 low[ROWS], high[ROWS];
    const float* x[(ROWS + 2) / 3];
    const int64_t ldx;

    HWY_INLINE explicit Sums(const Tile& t) : ldx(t.ldx) {
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            low[r] = high[r] = hn::Zero(F32());
            x[r / 3] = static_cast<const float*>(t.x) + r / 3 * 3 * ldx;
        }
    }

    // x of this k times two vectors of the panel; on to the next k.
    HWY_INLINE void add(V32 a, V32 b) {
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            const V32 v = hn::Set(F32(), x[r / 3][r % 3 * ldx]);
            low[r] = hn::MulAdd(v, a, low[r]);
            high[r] = hn::MulAdd(v, b, high[r]);
        }
#pragma GCC unroll 4
        for (const float*& rows : x) rows++;
    }

    HWY_INLINE void store(const Tile& t) const {
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) store_row(t.y + r * t.ldy, t, low[r], high[r]);
    }
};

template <int ROWS>
void tile_f32(const Tile& t) {
    const F32 d;
    const size_t N = hn::Lanes(d);
    const auto* panel = static_cast<const float*>(t.panel);
    const auto* next = static_cast<const std::byte*>(t.next);
    Sums<ROWS> sums(t);
#pragma GCC unroll 2
    for (int64_t k = 0; k < t.K; k++, panel += 2 * N, next += t.fetch) {
        __builtin_prefetch(next, 0, 2);
        sums.add(hn::Load(d, panel), hn::Load(d, panel + N));
    }
    sums.store(t);
}

// bf16 panels under float32 x: a 32-bit lane holds two k of one column, each widened in a register.
template <int ROWS>
void tile_bf16(const Tile& t) {
    const F32 d;
    const hn::RebindToUnsigned<F32> du;
    const size_t N = hn::Lanes(d);
    const auto* panel = static_cast<const uint32_t*>(t.panel);
    const auto* next = static_cast<const std::byte*>(t.next);
    const auto upper = hn::Set(du, 0xffff0000u);
    Sums<ROWS> sums(t);
    for (int64_t k = 0; k < t.K; k += 2, panel += 2 * N, next += t.fetch) {
        __builtin_prefetch(next, 0, 2);
        const auto a = hn::Load(du, panel), b = hn::Load(du, panel + N);
        sums.add(hn::BitCast(d, hn::ShiftLeft<16>(a)), hn::BitCast(d, hn::ShiftLeft<16>(b)));
        if (k + 1 == t.K) break;
        sums.add(hn::BitCast(d, hn::And(a, upper)), hn::BitCast(d, hn::And(b, upper)));
    }
    sums.store(t);
}

template <int... R>
TileKernels f32_table(std::integer_sequence<int, R...>) {
    return {nullptr, &tile_f32<R + 1>...};
}
template <int... R>
TileKernels bf16_table(std::integer_sequence<int, R...>) {
    return {nullptr, &tile_bf16<R + 1>...};
}
TileKernels f32_kernels() { return f32_table(std::make_integer_sequence<int, TILE_ROWS>()); }
TileKernels bf16_kernels() { return bf16_table(std::make_integer_sequence<int, TILE_ROWS>()); }
int64_t kernel_rows() { return TILE_ROWS; }

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512bf16")
namespace hllm {
namespace {

// Both in bf16, summed in float32 by the processor's own dot product of pairs.
template <int ROWS>
void tile_pairs(const Tile& t) {
    const auto* x = static_cast<const uint32_t*>(t.x);
    const auto* panel = static_cast<const uint32_t*>(t.panel);
    const auto* next = static_cast<const std::byte*>(t.next);
    __m512 low[ROWS], high[ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) low[r] = high[r] = _mm512_setzero_ps();
    for (int64_t k = 0; k < t.K; k += 2, panel += 32, next += t.fetch) {
        __builtin_prefetch(next, 0, 2);
        const auto a = reinterpret_cast<__m512bh>(_mm512_load_si512(panel));
        const auto b = reinterpret_cast<__m512bh>(_mm512_load_si512(panel + 16));
#pragma GCC unroll 12
        for (int r = 0; r < ROWS; r++) {
            const auto v = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(x[r * t.ldx + k / 2])));
            low[r] = _mm512_dpbf16_ps(low[r], v, a);
            high[r] = _mm512_dpbf16_ps(high[r], v, b);
        }
    }
    const auto count = static_cast<unsigned>(t.columns);
    const __mmask16 first = static_cast<__mmask16>(count >= 16 ? 0xffff : (1u << count) - 1),
                    second = static_cast<__mmask16>(count >= 32  ? 0xffff
                                                    : count > 16 ? (1u << (count - 16)) - 1
                                                                 : 0);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; r++) {
        float* y = t.y + r * t.ldy;
        if (t.accumulate) {
            low[r] = _mm512_add_ps(low[r], _mm512_maskz_loadu_ps(first, y));
            high[r] = _mm512_add_ps(high[r], _mm512_maskz_loadu_ps(second, y + 16));
        }
        _mm512_mask_storeu_ps(y, first, low[r]);
        _mm512_mask_storeu_ps(y + 16, second, high[r]);
    }
}

template <int... R>
TileKernels pairs_table(std::integer_sequence<int, R...>) {
    return {nullptr, &tile_pairs<R + 1>...};
}

// Rounds n floats to bf16 (nearest even), zero-padded to `padded`.
void round_row(uint16_t* out, const float* in, int64_t n, int64_t padded) {
    for (int64_t i = 0; i < padded; i += 16) {
        const auto left = static_cast<unsigned>(std::clamp<int64_t>(n - i, 0, 16));
        const __mmask16 mask = static_cast<__mmask16>((1u << left) - 1);
        const auto rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, in + i)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), rounded);
    }
}

}  // namespace
}  // namespace hllm
#pragma GCC pop_options
#endif

namespace hllm {
namespace {

// A block of x stays in the second-level cache while panels pass.
constexpr int64_t BLOCK_ROWS = 96, BLOCK_K = 1024;
constexpr int64_t BLOCK_COLUMNS = 4096;  // of a matrix that is packed for one product alone
constexpr int64_t PIECES = 16;           // for each thread, so that none waits long for the last
constexpr int64_t CONFLICTING = 4096;    // bytes from row to row, or a multiple: all rows of a tile fall into one cache set
constexpr int64_t CACHE_LINE = 16;       // floats

// The kernels that this process runs with, and the shape that they want.
struct Provider {
    int64_t columns = HLLM_DISPATCH(panel_columns)();
    int64_t rows = HLLM_DISPATCH(kernel_rows)();
    TileKernels f32 = HLLM_DISPATCH(f32_kernels)(), bf16 = HLLM_DISPATCH(bf16_kernels)();
    bool pairs = false;  // x is rounded to bf16 for bf16 panels
    Provider() {
#if defined(__x86_64__)
        if (simd() == Simd::AVX512_BF16) {
            pairs = true;
            bf16 = pairs_table(std::make_integer_sequence<int, MAX_ROWS>());
        }
#endif
    }
};

const Provider& provider() {
    static const Provider chosen;
    return chosen;
}

// Bytes of a panel: a lane of 32 bits for each column and float32 or pair of bf16.
int64_t panel_bytes(const View& w) {
    const int64_t k = w.dtype == HLLM_BF16 ? (w.shape[1] + 1) / 2 : w.shape[1];
    return k * provider().columns * 4;
}

template <class T>
void pack_panel(void* to, const View& w, int64_t begin, const float* factors) {
    constexpr int64_t PER_LANE = 4 / int64_t{sizeof(T)}, STRIP = 32;  // k of one row at a time, so that lines stay near
    const int64_t columns = provider().columns, N = std::min(columns, w.shape[0] - begin), K = w.shape[1];
    auto* panel = static_cast<T*>(to);
    std::memset(panel, 0, static_cast<size_t>(panel_bytes(w)));
    for (int64_t strip = 0; strip < K; strip += STRIP)
        for (int64_t n = 0; n < N; n++) {
            const T* row = static_cast<const T*>(w.data) + (begin + n) * w.stride[0];
            for (int64_t k = strip; k < std::min(K, strip + STRIP); k++) {
                T& lane = panel[(k / PER_LANE * columns + n) * PER_LANE + k % PER_LANE];
                lane = row[k];
                if constexpr (std::is_same_v<T, float>)
                    if (factors) lane *= factors[begin + n];
            }
        }
}

// A float32 panel, of a w whose columns lie side by side.
template <class T>
void pack_columns(void* to, const View& w, int64_t begin) {
    const int64_t columns = provider().columns, N = std::min(columns, w.shape[0] - begin), K = w.shape[1];
    auto* panel = static_cast<float*>(to);
    for (int64_t k = 0; k < K; k++, panel += columns) {
        const T* from = static_cast<const T*>(w.data) + begin + k * w.stride[1];
        std::transform(from, from + N, panel, [](T value) { return HWY_NAMESPACE::widen(value); });
        std::fill(panel + N, panel + columns, 0.f);
    }
}

// Rows of x whose elements are not side by side, as rows whose elements are.
void copy_columns(float* to, int64_t ld, const View& x, int64_t row, int64_t rows) {
    for (int64_t k = 0; k < x.shape[1]; k++) {
        const float* from = x.f32() + row * x.stride[0] + k * x.stride[1];
        for (int64_t r = 0; r < rows; r++) to[r * ld + k] = from[r * x.stride[0]];
    }
}

void copy_row(uint32_t* to, const float* from, int64_t n, [[maybe_unused]] bool pairs) {
#if defined(__x86_64__)
    if (pairs) return round_row(reinterpret_cast<uint16_t*>(to), from, n, (n + 15) / 16 * 16);
#endif
    std::memcpy(to, from, static_cast<size_t>(n) * 4);
}

int64_t panels_of(const View& w) { return (w.shape[0] + provider().columns - 1) / provider().columns; }

// How tiles read x: as it lies, or from a copy of a block of rows for each thread.
struct Reading {
    bool pairs, strided, copied;
    int64_t ldx, bytes;  // from row to row, in floats or pairs of bf16; of all copies
    Reading(const View& x, const View& w)
        : pairs(provider().pairs && w.dtype == HLLM_BF16),
          strided(x.stride[1] != 1),
          copied(pairs || strided || (x.shape[0] > provider().rows && x.stride[0] * 4 % CONFLICTING == 0)),
          ldx(!copied ? x.stride[0] : (pairs ? (x.shape[1] + 15) / 16 * 8 : x.shape[1]) + CACHE_LINE / 2),
          bytes(copied ? team().size() * std::min(x.shape[0], BLOCK_ROWS) * ldx * 4 : 0) {}
};

// body(panel, its first column) for all panels of w.
template <class Body>
void each_panel(void* panels, const View& w, const Body& body) {
    team().run(panels_of(w),
               [&](int64_t p, int) { body(static_cast<std::byte*>(panels) + p * panel_bytes(w), p * provider().columns); });
}

View part_of(View v, int64_t row, int64_t rows, int64_t column, int64_t columns) {
    v.data = static_cast<std::byte*>(v.data) + (row * v.stride[0] + column * v.stride[1]) * bytes_of(v.dtype);
    v.shape[0] = rows, v.shape[1] = columns;
    return v;
}

// Even parts of K, each of BLOCK_K at most and a whole number of lanes.
int64_t k_step(int64_t K) {
    const int64_t parts = std::max<int64_t>(1, (K + BLOCK_K - 1) / BLOCK_K);
    return std::max<int64_t>(2, ((K + parts - 1) / parts + 1) / 2 * 2);
}

// The room for the panels of the largest block that is packed for one product, in float32.
int64_t room_of_panels(View w) {
    w.dtype = HLLM_F32;
    const View block = part_of(w, 0, std::min(w.shape[0], BLOCK_COLUMNS), 0, std::min(w.shape[1], BLOCK_K));
    return (packed_bytes(block) + 63) / 64 * 64;
}

}  // namespace

int64_t packed_bytes(const View& w) {
    // Sixteen registers are too few to widen in: there the GEMM library is faster on bf16.
    if (w.dtype == HLLM_BF16 && provider().rows < MAX_ROWS) return 0;
    return std::max<int64_t>(1, panels_of(w) * panel_bytes(w));
}

void pack(void* panels, const View& w, const float* factors) {
    const auto pack_one = w.dtype == HLLM_BF16 ? &pack_panel<uint16_t> : &pack_panel<float>;
    each_panel(panels, w, [&](void* panel, int64_t begin) { pack_one(panel, w, begin, factors); });
}

int64_t packed_room(const View& x, const View& w) { return Reading(x, w).bytes; }

void packed_forward(void* room, const View& y, const View& x, const View& w, const void* panels, bool accumulate) {
    const Provider& use = provider();
    const int64_t T = x.shape[0], N = w.shape[0], K = w.shape[1];
    const Reading reading(x, w);
    const int64_t ldx = reading.ldx;
    const TileKernels& kernels = w.dtype == HLLM_BF16 ? use.bf16 : use.f32;
    const int64_t per_lane = w.dtype == HLLM_BF16 ? 2 : 1;  // k in a lane of 32 bits of a panel
    const int64_t blocks = (T + BLOCK_ROWS - 1) / BLOCK_ROWS, all = panels_of(w);
    const int64_t lane_bytes = use.columns * 4;
    const int64_t step = k_step(K);
    // Pieces of rows x columns: blocks of rows, and of columns where those are too few to share out evenly.
    const int64_t wanted = (PIECES * team().size() + blocks - 1) / std::max<int64_t>(1, blocks);
    const int64_t cuts = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, all / 4)), group = (all + cuts - 1) / cuts;
    team().run(blocks * cuts, [&](int64_t piece, int worker) {
        const int64_t row = piece / cuts * BLOCK_ROWS, rows = std::min(BLOCK_ROWS, T - row);
        const auto* in = reinterpret_cast<const uint32_t*>(x.row(row));
        if (reading.copied) {
            uint32_t* mine = static_cast<uint32_t*>(room) + worker * std::min(T, BLOCK_ROWS) * ldx;
            if (reading.strided)
                copy_columns(reinterpret_cast<float*>(mine), ldx, x, row, rows);
            else
                for (int64_t r = 0; r < rows; r++) copy_row(mine + r * ldx, x.row(row + r), K, reading.pairs);
            in = mine;
        }
        const int64_t tiles = (rows + use.rows - 1) / use.rows;
        const int64_t first = piece % cuts * group, last = std::min(all, first + group) - 1;
        // Rows of x that no piece has read yet are fetched while the first panel meets those in front of them.
        const bool new_rows = blocks > 1 && first == 0 && !reading.copied && x.stride[0] == step;
        for (int64_t k = 0; k == 0 || k < K; k += step)
            for (int64_t p = first; p <= last; p++) {
                const int64_t n = p * use.columns, lane = k / per_lane, part = std::min(step, K - k);
                const auto* panel = static_cast<const std::byte*>(panels) + p * panel_bytes(w) + lane * lane_bytes;
                const int64_t lanes = (part + per_lane - 1) / per_lane;
                for (int64_t r = 0; r < rows; r += use.rows) {
                    const int64_t count = std::min(use.rows, rows - r);
                    // Together, the tiles of a panel fetch the next.
                    int64_t fetch = std::clamp<int64_t>(lane_bytes / tiles, 16, 64);
                    const int64_t ahead = r / use.rows * lanes * fetch;
                    const void* next = panel + (p < last && ahead < lanes * lane_bytes ? panel_bytes(w) + ahead : 0);
                    // The next tile of the block, or the first of the block that most likely comes to this thread.
                    const int64_t after = row + (r + use.rows < rows ? r + use.rows : team().size() * BLOCK_ROWS);
                    if (new_rows && p == 0 && after < T) {
                        next = x.row(after);
                        fetch = std::min<int64_t>(64, use.rows * per_lane * 4);
                    }
                    for (int64_t i = 0; i < count; i++)  // to be there when the tile's sums are done
                        for (int64_t line = 0; line < use.columns; line += CACHE_LINE)
                            __builtin_prefetch(y.row(row + r + i) + n + line, 1, 2);
                    kernels[static_cast<size_t>(count)]({y.row(row + r) + n, y.stride[0],
                                                         in + r * ldx + (reading.pairs ? lane : k), ldx, panel, next, fetch,
                                                         part, std::min(use.columns, N - n), accumulate || k > 0});
                }
            }
    });
}

bool product_wins(const View& y) {
    constexpr int64_t ROWS = 65;  // from here on packing for one product is worth its time, where registers are many
    return y.shape[0] >= ROWS && provider().rows == MAX_ROWS;
}

int64_t product_room(const View& x, const View& w) {
    return room_of_panels(w) + packed_room(part_of(x, 0, x.shape[0], 0, std::min(x.shape[1], BLOCK_K)), w);
}

void product(void* room, const View& y, const View& x, const View& w, bool accumulate) {
    const int64_t N = w.shape[0], K = w.shape[1], step = k_step(K);
    void* rest = static_cast<std::byte*>(room) + room_of_panels(w);
    for (int64_t n = 0; n < N; n += BLOCK_COLUMNS)
        for (int64_t k = 0; k == 0 || k < K; k += step) {
            const int64_t depth = std::min(step, K - k);
            const View block = part_of(w, n, std::min(BLOCK_COLUMNS, N - n), k, depth);
            View packed = block, out = y;
            packed.dtype = HLLM_F32;
            out.data = y.f32() + n;
            if (w.stride[1] == 1 && w.dtype == HLLM_F32)
                pack(room, block);
            else
                each_panel(room, packed, [&](void* panel, int64_t begin) {
                    w.dtype == HLLM_F32 ? pack_columns<float>(panel, block, begin)
                                        : pack_columns<uint16_t>(panel, block, begin);
                });
            packed_forward(rest, out, part_of(x, 0, x.shape[0], k, depth), packed, room, accumulate || k > 0);
        }
}

}  // namespace hllm
#endif
