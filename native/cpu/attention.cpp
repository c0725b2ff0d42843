// Attention by plan: out = softmax(scale q k^T) v, by segments that each see a list of key spans.
//
// All arithmetic is small dense products on tiles that fit the first caches. The rows of a tile are (query, query head)
// pairs that share a key head, so that keys and values are read once for the whole group; its columns are keys, gathered
// from the spans. Long key ranges go by tiles with a running maximum and sum (online softmax). Who writes what:
//   out, lse, dq   a block of queries of one segment, for one key head
//   dk, dv         a tile of a piece of the plan, for one key head: it goes through the segments that read the piece, in
//                  order. Many readers are cut into groups, whose partial sums are added up in order.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention.cpp"
#include "cpu/simd-inl.h"

#include <cmath>
#include <limits>

#include "hwy/cache_control.h"

#include "cpu/backend.h"

#ifndef HLLM_CPU_ATTENTION  // what follows is shared by the instruction sets
#define HLLM_CPU_ATTENTION
namespace hllm {
namespace {

constexpr int64_t KEYS = 64;     // of a tile
constexpr int64_t ROWS = 96;     // of a tile, if the group of query heads is not larger
constexpr int64_t PADDING = 16;  // rows of a tile are padded to whole vectors of any instruction set

struct Attention {
    View q, k, v;
    const Plan& plan;
    float scale;
    const Plan::Reverse* reverse = nullptr;  // of the plan, in the backward pass

    int64_t width() const { return q.shape[2]; }
    int64_t group() const { return q.shape[1] / k.shape[1]; }
    int64_t queries() const { return std::max<int64_t>(1, ROWS / group()); }  // of a tile
    // Keys that query i of a segment sees.
    int64_t seen(const Plan::Segment& segment, int64_t i) const {
        return plan.causal ? segment.keys - segment.queries + 1 + i : segment.keys;
    }
    // The first query of a segment that sees the key at `position`.
    int64_t first_query(const Plan::Segment& segment, int64_t position) const {
        return plan.causal ? std::max<int64_t>(0, position - (segment.keys - segment.queries)) : 0;
    }
};

// Queries [query, query + queries) of a segment.
struct Block {
    int32_t segment, query, queries;
};

// Keys [key, key + keys) of a piece and a range of the segments that read it; partial: where its sums go in scratch, in
// rows, or -1 if there is no other group of readers, so that they are dk and dv.
struct Share {
    int32_t piece, key, keys, reader, readers;
    int64_t partial;
};

// One worker's scratch: row-major matrices.
struct Tile {
    int64_t stride;            // of [..., Dh] matrices
    float *rows, *out_rows;    // [rows, Dh]: scaled queries; out of the rows or its gradient
    float *scores, *dscores;   // [rows, KEYS]
    float *sums, *sums2;       // [rows or KEYS, Dh] accumulators
    float *keys, *values;      // [KEYS, Dh]
    float *keys_t, *values_t;  // [Dh, KEYS]
    float *maximum, *total;    // [rows] of the online softmax; in the backward pass lse and delta
    int64_t* visible;          // [rows] keys of the tile that the row sees

    // Takes the memory from `base`, or only counts it when base is nullptr; returns the floats used.
    int64_t lay_out(float* base, const Attention& a) {
        const int64_t rows_held = std::max(ROWS, a.group());
        stride = (a.width() + PADDING - 1) / PADDING * PADDING;
        int64_t used = 0;
        auto take = [&](int64_t count) {
            float* here = base ? base + used : nullptr;
            used += (count + PADDING - 1) / PADDING * PADDING;
            return here;
        };
        rows = take(rows_held * stride), out_rows = take(rows_held * stride);
        scores = take(rows_held * KEYS), dscores = take(rows_held * KEYS);
        sums = take(std::max(rows_held, KEYS) * stride), sums2 = take(KEYS * stride);
        keys = take(KEYS * stride), values = take(KEYS * stride);
        keys_t = take(KEYS * a.width()), values_t = take(KEYS * a.width());
        maximum = take(rows_held), total = take(rows_held);
        visible = reinterpret_cast<int64_t*>(take(rows_held * 2));
        return used;
    }
};

}  // namespace
}  // namespace hllm
#endif

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

// ---- Products of tiles ----

// The largest register tile, in rows and vectors: 24 or 12 accumulators.
constexpr int TILE_R = 6, TILE_C = HWY_TARGET == HWY_AVX3 || HWY_ARCH_ARM_A64 ? 4 : 2;

template <int R, int C>
HWY_INLINE void product_block(size_t k, const float* a, size_t rsa, size_t csa, const float* b, size_t ldb, float* c,
                              size_t ldc, bool accumulate) {
    const F32 d;
    const size_t N = hn::Lanes(d);
    V32 s[R][C];
    HWY_UNROLL(8)
    for (int r = 0; r < R; r++) {
        HWY_UNROLL(8)
        for (int j = 0; j < C; j++) s[r][j] = accumulate ? hn::LoadU(d, c + r * ldc + j * N) : hn::Zero(d);
    }
    for (size_t i = 0; i < k; i++) {
        V32 row[C];
        HWY_UNROLL(8)
        for (int j = 0; j < C; j++) row[j] = hn::LoadU(d, b + i * ldb + j * N);
        HWY_UNROLL(8)
        for (int r = 0; r < R; r++) {
            const V32 factor = hn::Set(d, a[r * rsa + i * csa]);
            HWY_UNROLL(8)
            for (int j = 0; j < C; j++) s[r][j] = hn::MulAdd(factor, row[j], s[r][j]);
        }
    }
    HWY_UNROLL(8)
    for (int r = 0; r < R; r++) {
        HWY_UNROLL(8)
        for (int j = 0; j < C; j++) hn::StoreU(s[r][j], d, c + r * ldc + j * N);
    }
}

template <int R>
HWY_INLINE void product_rows(size_t n, size_t k, const float* a, size_t rsa, size_t csa, const float* b, size_t ldb, float* c,
                             size_t ldc, bool accumulate) {
    const size_t N = hn::Lanes(F32());
    size_t vectors = (n + N - 1) / N;
    for (; vectors >= TILE_C; vectors -= TILE_C, b += TILE_C * N, c += TILE_C * N)
        product_block<R, TILE_C>(k, a, rsa, csa, b, ldb, c, ldc, accumulate);
    if (TILE_C > 3 && vectors == 3) product_block<R, 3>(k, a, rsa, csa, b, ldb, c, ldc, accumulate);
    if (TILE_C > 2 && vectors == 2) product_block<R, 2>(k, a, rsa, csa, b, ldb, c, ldc, accumulate);
    if (vectors == 1) product_block<R, 1>(k, a, rsa, csa, b, ldb, c, ldc, accumulate);
}

// c[m,n] = a[m,k] b[k,n], or +=; a with strides of rows and columns. Columns of b and c up to a whole vector are read and
// written. An element is one running sum over k, whatever m and n are.
void product(size_t m, size_t n, size_t k, const float* a, size_t rsa, size_t csa, const float* b, size_t ldb, float* c,
             size_t ldc, bool accumulate) {
    for (; m >= TILE_R; m -= TILE_R, a += TILE_R * rsa, c += TILE_R * ldc)
        product_rows<TILE_R>(n, k, a, rsa, csa, b, ldb, c, ldc, accumulate);
    switch (m) {
        case 5:
            return product_rows<5>(n, k, a, rsa, csa, b, ldb, c, ldc, accumulate);
        case 4:
            return product_rows<4>(n, k, a, rsa, csa, b, ldb, c, ldc, accumulate);
        case 3:
            return product_rows<3>(n, k, a, rsa, csa, b, ldb, c, ldc, accumulate);
        case 2:
            return product_rows<2>(n, k, a, rsa, csa, b, ldb, c, ldc, accumulate);
        case 1:
            return product_rows<1>(n, k, a, rsa, csa, b, ldb, c, ldc, accumulate);
    }
}

// ---- Gathering ----

HWY_INLINE void copy(float* out, const float* in, size_t n) {
    map(out, in, n, [](V32 v) { return v; });
}
HWY_INLINE void copy_scaled(float* out, const float* in, float scale, size_t n) {
    const V32 s = hn::Set(F32(), scale);
    map(out, in, n, [&](V32 v) { return hn::Mul(v, s); });
}

// Short segments are bound by memory, and rows cut by heads confuse the hardware's own prefetching: while one tile is
// computed, the rows of the next are asked for.
HWY_INLINE void prefetch(const Attention& a, const View& x, int64_t begin, int64_t count, int64_t head) {
    for (int64_t t = begin; t < std::min(begin + count, x.shape[0]); t++)
        for (int64_t i = 0; i < a.group() * a.width(); i += 16) hwy::Prefetch(x.row(t) + head * a.group() * x.stride[1] + i);
}
// What most likely comes after `count` query rows for `head`: the same rows for the next key head, or the rows behind them.
HWY_INLINE void prefetch_next(const Attention& a, const View& x, int64_t begin, int64_t count, int64_t head) {
    if (head + 1 < a.k.shape[1])
        prefetch(a, x, begin, count, head + 1);
    else
        prefetch(a, x, begin + count, count, 0);
}

// The addresses of `count` keys of a segment from logical position `position` on, as row numbers.
void find_keys(const Plan& plan, const Plan::Segment& segment, int64_t position, int64_t count, int32_t* rows) {
    const auto first = plan.spans.begin() + segment.span;
    auto behind = [](int64_t p, const Plan::Span& span) { return p < span.position; };
    auto span = std::upper_bound(first, first + segment.spans, position, behind) - 1;
    for (int64_t i = 0; i < count; span++)
        for (int64_t at = position + i - span->position; at < span->length && i < count; at++)
            rows[i++] = static_cast<int32_t>(span->begin + at);
}

// Row of a head in an f32 or bf16 (uint16_t) matrix of keys or values.
template <class T>
HWY_INLINE const T* head_row(const View& in, int64_t row, int64_t head) {
    return static_cast<const T*>(in.data) + row * in.stride[0] + head * in.stride[1];
}

// out[count, Dh] = rows of one head, widened.
void gather(float* out, size_t stride, const View& in, int64_t head, const int32_t* rows, size_t count) {
    const size_t Dh = in.shape[2], N = hn::Lanes(F32());
    for (size_t i = 0; i < count; i++) {
        float* to = out + i * stride;
        if (in.dtype == HLLM_F32) {
            copy(to, head_row<float>(in, rows[i], head), Dh);
            continue;
        }
        const auto* from = head_row<uint16_t>(in, rows[i], head);
        size_t e = 0;
        for (; e + N <= Dh; e += N) hn::StoreU(load_weight(from + e), F32(), to + e);
        for (; e < Dh; e++) to[e] = widen(from[e]);
    }
}

#if HWY_TARGET != HWY_SCALAR
HWY_INLINE auto load4(const float* from) { return hn::LoadU(hn::FixedTag<float, 4>(), from); }
HWY_INLINE auto load4(const uint16_t* from) {
    const hn::FixedTag<uint32_t, 4> du;
    return hn::BitCast(hn::FixedTag<float, 4>(),
                       hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(hn::FixedTag<uint16_t, 4>(), from))));
}
#endif

template <class T>
HWY_INLINE void gather_transposed_of(float* out, const View& in, int64_t head, const int32_t* rows, size_t count) {
    const size_t Dh = in.shape[2];
    for (size_t i = 0; i < count; i += 4) {
        const T* from[4];
        for (size_t j = 0; j < 4; j++) from[j] = head_row<T>(in, rows[std::min(i + j, count - 1)], head);
        float* to = out + i;
        size_t e = 0;
#if HWY_TARGET != HWY_SCALAR
        const hn::FixedTag<float, 4> d;
        const hn::RepartitionToWide<decltype(d)> wide;
        for (; e + 4 <= Dh; e += 4) {
            const auto a = load4(from[0] + e), b = load4(from[1] + e), c = load4(from[2] + e), f = load4(from[3] + e);
            // a0 b0 a1 b1, c0 f0 c1 f1, then pairs of them
            const auto ab = hn::BitCast(wide, hn::InterleaveLower(d, a, b)),
                       AB = hn::BitCast(wide, hn::InterleaveUpper(d, a, b)),
                       cf = hn::BitCast(wide, hn::InterleaveLower(d, c, f)),
                       CF = hn::BitCast(wide, hn::InterleaveUpper(d, c, f));
            hn::StoreU(hn::BitCast(d, hn::InterleaveLower(wide, ab, cf)), d, to + (e + 0) * KEYS);
            hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(wide, ab, cf)), d, to + (e + 1) * KEYS);
            hn::StoreU(hn::BitCast(d, hn::InterleaveLower(wide, AB, CF)), d, to + (e + 2) * KEYS);
            hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(wide, AB, CF)), d, to + (e + 3) * KEYS);
        }
#endif
        for (; e < Dh; e++)
            for (size_t j = 0; j < 4; j++) to[e * KEYS + j] = widen(from[j][e]);
    }
}

// out[Dh, KEYS] = the transpose; columns up to the next multiple of 4 repeat the last row.
void gather_transposed(float* out, const View& in, int64_t head, const int32_t* rows, size_t count) {
    if (in.dtype == HLLM_F32)
        gather_transposed_of<float>(out, in, head, rows, count);
    else
        gather_transposed_of<uint16_t>(out, in, head, rows, count);
}

// ---- Forward ----

// One row of the online softmax: scores become exp(score - maximum), 0 beyond the visible keys; what was summed up before
// is brought to the new maximum.
HWY_INLINE void softmax_row(float* scores, size_t keys, size_t visible, float& maximum, float& total, float* sums, size_t Dh) {
    const F32 d;
    const size_t N = hn::Lanes(d);
    const V32 lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
    V32 high = lowest;
    for (size_t i = 0; i < visible; i += N)
        high = hn::Max(high, hn::IfThenElse(hn::FirstN(d, visible - i), hn::LoadU(d, scores + i), lowest));
    const float before = maximum;
    maximum = std::max(before, hn::GetLane(hn::MaxOfLanes(d, high)));
    const V32 shift = hn::Set(d, maximum);
    V32 added = hn::Zero(d);
    for (size_t i = 0; i < keys; i += N) {
        V32 p = hn::Zero(d);
        if (i < visible)
            p = hn::IfThenElseZero(hn::FirstN(d, visible - i), hn::Exp(d, hn::Sub(hn::LoadU(d, scores + i), shift)));
        added = hn::Add(added, p);
        hn::StoreU(p, d, scores + i);
    }
    if (total > 0 && maximum > before) {
        const float factor = std::exp(before - maximum);
        total *= factor;
        copy_scaled(sums, sums, factor, Dh);
    }
    total += sum(added);
}

void attention_forward_block(const Attention& a, const View& out, const View& saved_lse, const Block& block, int64_t head,
                             const Tile& t) {
    const Plan::Segment& segment = a.plan.segments[block.segment];
    const int64_t Dh = a.width(), G = a.group(), rows = block.queries * G;
    for (int64_t r = 0; r < rows; r++) {
        const float* in = a.q.row(segment.query + block.query + r / G) + (head * G + r % G) * a.q.stride[1];
        copy_scaled(t.rows + r * t.stride, in, a.scale, Dh);
        t.maximum[r] = -std::numeric_limits<float>::infinity();
        t.total[r] = 0;
    }
    prefetch_next(a, a.q, segment.query + block.query, block.queries, head);
    const int64_t end = a.seen(segment, block.query + block.queries - 1);
    int32_t key_rows[KEYS];
    for (int64_t key = 0; key < end; key += KEYS) {
        const int64_t keys = std::min(KEYS, end - key);
        // Queries in front of the first one that sees the tile have nothing to do here.
        const int64_t first = std::max<int64_t>(0, a.first_query(segment, key) - block.query) * G;
        find_keys(a.plan, segment, key, keys, key_rows);
        gather_transposed(t.keys_t, a.k, head, key_rows, keys);
        gather(t.values, t.stride, a.v, head, key_rows, keys);
        float *scores = t.scores + first * KEYS, *sums = t.sums + first * t.stride;
        product(rows - first, keys, Dh, t.rows + first * t.stride, t.stride, 1, t.keys_t, KEYS, scores, KEYS, false);
        for (int64_t r = first; r < rows; r++)
            softmax_row(t.scores + r * KEYS, keys, std::min(keys, a.seen(segment, block.query + r / G) - key), t.maximum[r],
                        t.total[r], t.sums + r * t.stride, Dh);
        product(rows - first, Dh, keys, scores, KEYS, 1, t.values, t.stride, sums, t.stride, key > 0);
    }
    const int64_t query = segment.query + block.query;
    for (int64_t r = 0; r < rows; r++)
        copy_scaled(out.row(query + r / G) + (head * G + r % G) * out.stride[1], t.sums + r * t.stride, 1 / t.total[r], Dh);
    if (!saved_lse) return;
    map(t.total, t.maximum, t.total, rows, [](V32 high, V32 total) { return hn::Add(high, hn::Log(F32(), total)); });
    for (int64_t r = 0; r < rows; r++) saved_lse.row(head * G + r % G)[query + r / G] = t.total[r];
}

// ---- Backward: P = exp(scores - lse), dP = dout v^T, dS = P (dP - delta), delta = sum of dout * out ----

// Puts a (query, head) into row r of the tile.
HWY_INLINE void backward_row(const Attention& a, const View& dout, const View& saved_lse, const float* delta, int64_t query,
                             int64_t h, int64_t r, const Tile& t) {
    copy_scaled(t.rows + r * t.stride, a.q.row(query) + h * a.q.stride[1], a.scale, a.width());
    copy(t.out_rows + r * t.stride, dout.row(query) + h * dout.stride[1], a.width());
    t.maximum[r] = saved_lse.row(h)[query];
    t.total[r] = delta[query * a.q.shape[1] + h];
}

// scores = P and dscores = dS of rows [first, rows) of the tile and its keys.
void backward_scores(const Attention& a, int64_t first, int64_t rows, int64_t keys, const Tile& t) {
    const F32 d;
    const int64_t N = hn::Lanes(d);
    const float *q = t.rows + first * t.stride, *dout = t.out_rows + first * t.stride;
    product(rows - first, keys, a.width(), q, t.stride, 1, t.keys_t, KEYS, t.scores + first * KEYS, KEYS, false);
    product(rows - first, keys, a.width(), dout, t.stride, 1, t.values_t, KEYS, t.dscores + first * KEYS, KEYS, false);
    for (int64_t r = first; r < rows; r++) {
        float *s = t.scores + r * KEYS, *ds = t.dscores + r * KEYS;
        const V32 lse = hn::Set(d, t.maximum[r]), delta = hn::Set(d, t.total[r]);
        for (int64_t i = 0; i < keys; i += N) {
            const auto seen = hn::FirstN(d, std::max<int64_t>(0, t.visible[r] - i));
            const V32 p = hn::IfThenElseZero(seen, hn::Exp(d, hn::Sub(hn::LoadU(d, s + i), lse)));
            hn::StoreU(p, d, s + i);
            hn::StoreU(hn::IfThenElseZero(seen, hn::Mul(p, hn::Sub(hn::LoadU(d, ds + i), delta))), d, ds + i);
        }
    }
}

// dq = scale dS k. Also computes delta [Tq, H] of its rows, which dk and dv need later.
void attention_backward_block(const Attention& a, const View& dq, const View& dout, const View& saved_out,
                              const View& saved_lse, float* delta, const Block& block, int64_t head, const Tile& t) {
    const Plan::Segment& segment = a.plan.segments[block.segment];
    const int64_t Dh = a.width(), G = a.group(), rows = block.queries * G, query = segment.query + block.query;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t row = query + r / G, h = head * G + r % G;
        delta[row * a.q.shape[1] + h] =
            dot(dout.row(row) + h * dout.stride[1], saved_out.row(row) + h * saved_out.stride[1], Dh);
        backward_row(a, dout, saved_lse, delta, row, h, r, t);
    }
    for (const View* x : {&a.q, &dout, &saved_out}) prefetch_next(a, *x, query, block.queries, head);
    const int64_t end = a.seen(segment, block.query + block.queries - 1);
    int32_t key_rows[KEYS];
    for (int64_t key = 0; key < end; key += KEYS) {
        const int64_t keys = std::min(KEYS, end - key);
        const int64_t first = std::max<int64_t>(0, a.first_query(segment, key) - block.query) * G;
        for (int64_t r = first; r < rows; r++) t.visible[r] = std::min(keys, a.seen(segment, block.query + r / G) - key);
        find_keys(a.plan, segment, key, keys, key_rows);
        gather_transposed(t.keys_t, a.k, head, key_rows, keys);
        gather_transposed(t.values_t, a.v, head, key_rows, keys);
        gather(t.keys, t.stride, a.k, head, key_rows, keys);
        backward_scores(a, first, rows, keys, t);
        product(rows - first, Dh, keys, t.dscores + first * KEYS, KEYS, 1, t.keys, t.stride, t.sums + first * t.stride,
                t.stride, key > 0);
    }
    for (int64_t r = 0; r < rows; r++)
        copy_scaled(dq.row(query + r / G) + (head * G + r % G) * dq.stride[1], t.sums + r * t.stride, a.scale, Dh);
}

// dv = P^T dout and dk = scale dS^T q, row by row to dk + i * dk_stride and dv + i * dv_stride.
void attention_backward_share(const Attention& a, float* dk, int64_t dk_stride, float* dv, int64_t dv_stride, const View& dout,
                              const View& saved_lse, const float* delta, const Share& share, int64_t head, const Tile& t) {
    const int64_t Dh = a.width(), G = a.group(), keys = share.keys;
    int32_t key_rows[KEYS];
    for (int64_t i = 0; i < keys; i++) key_rows[i] = static_cast<int32_t>(a.reverse->pieces[share.piece].begin + share.key + i);
    gather_transposed(t.keys_t, a.k, head, key_rows, keys);
    gather_transposed(t.values_t, a.v, head, key_rows, keys);
    std::fill_n(t.sums, keys * t.stride, 0.f);
    std::fill_n(t.sums2, keys * t.stride, 0.f);
    int64_t rows = 0;
    auto add_rows = [&] {
        backward_scores(a, 0, rows, keys, t);
        product(keys, Dh, rows, t.dscores, 1, KEYS, t.rows, t.stride, t.sums, t.stride, true);
        product(keys, Dh, rows, t.scores, 1, KEYS, t.out_rows, t.stride, t.sums2, t.stride, true);
        rows = 0;
    };
    for (int32_t j = share.reader; j < share.reader + share.readers; j++) {
        const Plan::Segment& segment = a.plan.segments[a.reverse->readers[j].segment];
        const int64_t position = a.reverse->readers[j].position + share.key;
        for (int64_t i = a.first_query(segment, position); i < segment.queries; i++) {
            if (rows + G > a.queries() * G) {
                for (const View* x : {&a.q, &dout}) prefetch(a, *x, segment.query + i, a.queries(), head);
                add_rows();
            }
            for (int64_t g = 0; g < G; g++, rows++) {
                backward_row(a, dout, saved_lse, delta, segment.query + i, head * G + g, rows, t);
                t.visible[rows] = std::min(keys, a.seen(segment, i) - position);
            }
        }
    }
    const Plan::Segment& last = a.plan.segments[a.reverse->readers[share.reader + share.readers - 1].segment];
    for (const View* x : {&a.q, &dout}) prefetch_next(a, *x, last.query, last.queries, head);
    add_rows();
    for (int64_t i = 0; i < keys; i++) {
        copy(dk + i * dk_stride, t.sums + i * t.stride, Dh);
        copy(dv + i * dv_stride, t.sums2 + i * t.stride, Dh);
    }
}

// out = the sum of `count` rows at a distance of `step`.
void attention_add_partials(float* out, const float* partial, int64_t step, int64_t count, int64_t n) {
    copy(out, partial, n);
    for (int64_t i = 1; i < count; i++) axpy(out, 1, partial + i * step, n);
}

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hllm {
namespace {

constexpr int64_t RUN_COST = 1 << 20;      // multiply-adds of a product that are worth a work item
constexpr int64_t GROUP_ROWS = 32 * ROWS;  // of the readers of a piece; more are summed up in several groups

// A list of work, each item once per key head, cut into runs of about equal cost. It depends on the plan and the shapes alone.
template <class Work>
struct Schedule {
    Work* work;
    int64_t heads;
    int64_t* starts;  // run i covers starts[i] .. starts[i + 1] of the pairs (work, head), heads innermost
    int64_t count = 0, runs = 0;

    // each(visit) calls visit(work, cost) for the whole list, in order; it is called twice.
    template <class Each>
    Schedule(Scratch& scratch, int64_t heads, const Each& each) : heads(heads) {
        each([&](const Work&, int64_t) { count++; });
        work = scratch.take<Work>(count);
        starts = scratch.take<int64_t>(count * heads + 1);
        int64_t at = 0, left = 0;  // of the cost of the current run
        each([&](const Work& item, int64_t cost) {
            for (int64_t head = 0; head < heads; head++, left -= std::max<int64_t>(cost, 1))
                if (left <= 0) {
                    starts[runs++] = at * heads + head;
                    left = RUN_COST;
                }
            work[at++] = item;
        });
        starts[runs] = count * heads;
    }
    // body(work, head, worker) for all pairs.
    template <class Body>
    void run(const Body& body) const {
        team().run(runs, [&](int64_t index, int worker) {
            for (int64_t i = starts[index]; i < starts[index + 1]; i++) body(work[i / heads], i % heads, worker);
        });
    }
};

// Gathering and transposing a tile costs about as much as this many rows of it.
constexpr int64_t GATHER_ROWS = 8;

Schedule<Block> schedule_blocks(Scratch& scratch, const Attention& a) {
    return {scratch, a.k.shape[1], [&](auto&& visit) {
                for (size_t s = 0; s < a.plan.segments.size(); s++) {
                    const Plan::Segment& segment = a.plan.segments[s];
                    for (int64_t i = 0; i < segment.queries; i += a.queries()) {
                        const int64_t n = std::min<int64_t>(a.queries(), segment.queries - i);
                        visit(Block{static_cast<int32_t>(s), static_cast<int32_t>(i), static_cast<int32_t>(n)},
                              (n * a.group() + GATHER_ROWS) * a.seen(segment, i + n - 1) * a.width());
                    }
                }
            }};
}

// visit(share, cost) for all tiles of all pieces and all groups of readers; `partial_rows` is counted up.
template <class Visit>
void each_share(const Attention& a, int64_t& partial_rows, const Visit& visit) {
    partial_rows = 0;
    for (size_t p = 0; p < a.reverse->pieces.size(); p++) {
        const Plan::Piece& piece = a.reverse->pieces[p];
        for (int32_t key = 0; key < piece.length; key += KEYS) {
            const int32_t keys = std::min<int32_t>(KEYS, piece.length - key), end = piece.reader + piece.readers;
            for (int32_t j = piece.reader, first = j; j < end; first = j) {
                int64_t rows = 0;
                for (; j < end && rows < GROUP_ROWS; j++) {
                    const Plan::Segment& segment = a.plan.segments[a.reverse->readers[j].segment];
                    rows += (segment.queries - a.first_query(segment, a.reverse->readers[j].position + key)) * a.group();
                }
                const bool alone = first == piece.reader && j == end;
                visit(Share{static_cast<int32_t>(p), key, keys, first, j - first, alone ? -1 : partial_rows},
                      (rows + GATHER_ROWS) * std::max<int64_t>(keys, PADDING) * a.width());
                if (!alone) partial_rows += keys;
            }
        }
    }
}

// Query rows in no segment, key rows in no piece: runs [begin, end) of rows between those covered.
void zero_rows(const View& out, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
        for (int64_t h = 0; h < out.shape[1]; h++) std::fill_n(out.row(t) + h * out.stride[1], out.shape[2], 0.f);
}
template <class Body>
void each_unused_query(const Plan& plan, const Body& body) {
    int64_t next = 0;
    for (const Plan::Segment& segment : plan.segments) {
        body(next, segment.query);
        next = segment.query + segment.queries;
    }
    body(next, plan.query_rows);
}
template <class Body>
void each_unused_key(const Attention& a, const Body& body) {
    int64_t next = 0;
    for (const Plan::Piece& piece : a.reverse->pieces) {
        body(next, piece.begin);
        next = piece.begin + piece.length;
    }
    body(next, a.plan.key_rows);
}

// Every worker's tile.
struct Tiles {
    float* base;
    int64_t floats;
    const Attention& attention;
    Tiles(Scratch& scratch, const Attention& a) : floats(Tile().lay_out(nullptr, a)), attention(a) {
        base = scratch.take<float>(team().size() * floats);
    }
    Tile of(int worker) const {
        Tile tile;
        tile.lay_out(base + worker * floats, attention);
        return tile;
    }
};

}  // namespace

void Cpu::attention_forward(Context& context, const View& out, const View& saved_lse, const View& q, const View& k,
                            const View& v, const Plan& plan, float scale) {
    const Attention a{q, k, v, plan, scale};
    each_unused_query(plan, [&](int64_t begin, int64_t end) {
        zero_rows(out, begin, end);
        for (int64_t h = 0; saved_lse && h < q.shape[1]; h++) std::fill_n(saved_lse.row(h) + begin, end - begin, 0.f);
    });
    if (q.shape[1] == 0) return;
    const auto blocks = schedule_blocks(context.scratch, a);
    const Tiles tiles(context.scratch, a);
    blocks.run([&](const Block& block, int64_t head, int worker) {
        HLLM_DISPATCH(attention_forward_block)(a, out, saved_lse, block, head, tiles.of(worker));
    });
}

void Cpu::attention_backward(Context& context, const View& dq, const View& dk, const View& dv, const View& saved_out,
                             const View& saved_lse, const View& dout, const View& q, const View& k, const View& v,
                             const Plan& plan, float scale) {
    const Attention a{q, k, v, plan, scale, &plan.reverse()};
    const int64_t heads = k.shape[1], Dh = q.shape[2];
    each_unused_query(plan, [&](int64_t begin, int64_t end) { zero_rows(dq, begin, end); });
    each_unused_key(a, [&](int64_t begin, int64_t end) {
        zero_rows(dk, begin, end);
        zero_rows(dv, begin, end);
    });
    if (q.shape[1] == 0) {
        zero_rows(dk, 0, plan.key_rows);
        zero_rows(dv, 0, plan.key_rows);
        return;
    }
    const auto blocks = schedule_blocks(context.scratch, a);
    int64_t partial_rows;
    const Schedule<Share> shares(context.scratch, heads, [&](auto&& visit) { each_share(a, partial_rows, visit); });
    const Tiles tiles(context.scratch, a);
    float* delta = context.scratch.take<float>(plan.query_rows * q.shape[1]);
    float* partial = context.scratch.take<float>(partial_rows * heads * 2 * Dh);  // [row][head][dk or dv][Dh]

    blocks.run([&](const Block& block, int64_t head, int worker) {
        HLLM_DISPATCH(attention_backward_block)(a, dq, dout, saved_out, saved_lse, delta, block, head, tiles.of(worker));
    });
    const int64_t step = heads * 2 * Dh;
    const auto backward_share = HLLM_DISPATCH(attention_backward_share);
    shares.run([&](const Share& share, int64_t head, int worker) {
        const int64_t row = a.reverse->pieces[share.piece].begin + share.key;
        float *to_dk = dk.row(row) + head * dk.stride[1], *to_dv = dv.row(row) + head * dv.stride[1];
        int64_t dk_stride = dk.stride[0], dv_stride = dv.stride[0];
        if (share.partial >= 0) {
            to_dk = partial + share.partial * step + head * 2 * Dh;
            to_dv = to_dk + Dh;
            dk_stride = dv_stride = step;
        }
        backward_share(a, to_dk, dk_stride, to_dv, dv_stride, dout, saved_lse, delta, share, head, tiles.of(worker));
    });
    // The groups of one tile follow one another.
    const auto add_partials = HLLM_DISPATCH(attention_add_partials);
    for (int64_t i = 0, next; i < shares.count; i = next) {
        const Share& first = shares.work[i];
        for (next = i + 1; next < shares.count && shares.work[next].piece == first.piece && shares.work[next].key == first.key;)
            next++;
        if (first.partial < 0) continue;
        team().run(first.keys * heads, [&](int64_t index, int) {
            const int64_t key = index / heads, head = index % heads,
                          row = a.reverse->pieces[first.piece].begin + first.key + key;
            const float* sums = partial + (first.partial + key) * step + head * 2 * Dh;
            add_partials(dk.row(row) + head * dk.stride[1], sums, first.keys * step, next - i, Dh);
            add_partials(dv.row(row) + head * dv.stride[1], sums + Dh, first.keys * step, next - i, Dh);
        });
    }
}

}  // namespace hllm
#endif
