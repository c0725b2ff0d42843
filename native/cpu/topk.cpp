// Full ranking: the best rows of a table for each query, and the rank of one row, by inner product. A block of queries is
// packed and meets tiles of the table, which is read as it lies; the scores lie with the queries side by side: one vector
// compares one table row's scores with as many queries. Few queries meet it in a pass that only reads the table; there the
// rows lie side by side.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/topk.cpp"
#include "cpu/simd-inl.h"

#include <cstring>
#include <limits>

#include "hwy/cache_control.h"

#include "cpu/backend.h"
#include "cpu/packed.h"

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

// Puts a row into the sorted list of a query, behind equal scores, whose rows are lower. Returns the K-th best.
HWY_INLINE float insert(const View& scores, const View& rows, int64_t query, float score, int64_t row) {
    const int64_t K = scores.shape[1];
    float* list = scores.row(query);
    int32_t* list_rows = rows.i32() + query * rows.stride[0];
    const int64_t at = std::upper_bound(list, list + K, score, std::greater<float>()) - list;
    std::copy_backward(list + at, list + K - 1, list + K);
    std::copy_backward(list_rows + at, list_rows + K - 1, list_rows + K);
    list[at] = score;
    list_rows[at] = static_cast<int32_t>(row);
    return list[K - 1];
}

// Inserts rows [begin, begin + count) into the sorted lists of queries [query, query + queries), queries <= 16.
// tile[r * stride + i] is the score of row begin + r for query `query` + i.
void topk_insert(const View& scores, const View& rows, const float* tile, int64_t stride, int64_t begin, int64_t count,
                 int64_t query, int64_t queries) {
    const F32 d;
    const int64_t N = hn::Lanes(d), K = scores.shape[1];
    constexpr int64_t AHEAD = 16;
    HWY_ALIGN float last[16], lanes[16];  // the K-th best of each query; lanes without a query take nothing
    for (int64_t i = 0; i < 16; i++)
        last[i] = i < queries ? scores.row(query + i)[K - 1] : std::numeric_limits<float>::infinity();
    for (int64_t r = 0; r < count; r++) {
        hwy::Prefetch(tile + (r + AHEAD) * stride);  // a line in each row, which other threads may have written
        for (int64_t v = 0; v < queries; v += N) {
            const V32 found = hn::LoadU(d, tile + r * stride + v);
            if (hn::AllFalse(d, hn::Gt(found, hn::Load(d, last + v)))) continue;
            hn::Store(found, d, lanes + v);
            for (int64_t i = v; i < std::min(v + N, queries); i++)
                if (lanes[i] > last[i]) last[i] = insert(scores, rows, query + i, lanes[i], begin + r);
        }
    }
}

// The same for one query whose scores lie side by side.
void topk_insert_few(const View& scores, const View& rows, const float* tile, int64_t begin, int64_t count, int64_t query) {
    const F32 d;
    const int64_t N = hn::Lanes(d);
    float last = scores.row(query)[scores.shape[1] - 1];
    for (int64_t r = 0; r < count; r += N) {
        const int64_t lanes = std::min(N, count - r);
        if (lanes == N && hn::AllFalse(d, hn::Gt(hn::LoadU(d, tile + r), hn::Set(d, last)))) continue;
        for (int64_t i = r; i < r + lanes; i++)
            if (tile[i] > last) last = insert(scores, rows, query, tile[i], begin + i);
    }
}

// ranks[i] += rows of the tile that score higher than targets[i], i < queries <= 16. A NaN counts as higher: a broken model
// must not look good.
void rank_count(int32_t* ranks, const float* targets, const float* tile, int64_t stride, int64_t count, int64_t queries) {
    const F32 d;
    const hn::RebindToSigned<F32> di;
    const int64_t N = hn::Lanes(d);
    HWY_ALIGN int32_t counts[16];
    for (int64_t v = 0; v < queries; v += N) {
        const V32 target = hn::LoadU(d, targets + v);
        auto higher = hn::Zero(di);
        for (int64_t r = 0; r < count; r++) {
            const auto is_higher = hn::Not(hn::Le(hn::LoadU(d, tile + r * stride + v), target));
            higher = hn::Sub(higher, hn::BitCast(di, hn::VecFromMask(d, is_higher)));  // a true lane is -1
        }
        hn::Store(higher, di, counts + v);
    }
    for (int64_t i = 0; i < queries; i++) ranks[i] += counts[i];
}

// The same for one query whose scores lie side by side.
void rank_count_few(int32_t* rank, float target, const float* tile, int64_t count) {
    const F32 d;
    const int64_t N = hn::Lanes(d);
    int64_t r = 0, higher = 0;
    for (; r + N <= count; r += N)
        higher += static_cast<int64_t>(hn::CountTrue(d, hn::Not(hn::Le(hn::LoadU(d, tile + r), hn::Set(d, target)))));
    for (; r < count; r++) higher += !(tile[r] <= target);
    *rank += static_cast<int32_t>(higher);
}

// out[q * stride + r] = query q . row begin + r, for Q queries.
template <int Q>
HWY_INLINE void few_scores_of(float* out, int64_t stride, const View& table, int64_t begin, int64_t end, const View& queries) {
    const float* x[Q];
    for (int q = 0; q < Q; q++) x[q] = queries.row(q);
    for (int64_t r = 0; r < end - begin; r++) {
        float sums[Q];
        dots<Q>(sums, x, table.row(begin + r), table.shape[1]);
        for (int q = 0; q < Q; q++) out[q * stride + r] = sums[q];
    }
}

void few_scores(float* out, int64_t stride, const View& table, int64_t begin, int64_t end, const View& queries) {
    const int64_t count = queries.shape[0];
    if (count == 1) few_scores_of<1>(out, stride, table, begin, end, queries);
    if (count == 2) few_scores_of<2>(out, stride, table, begin, end, queries);
    if (count == 3) few_scores_of<3>(out, stride, table, begin, end, queries);
    if (count == 4) few_scores_of<4>(out, stride, table, begin, end, queries);
}

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hllm {
namespace {

constexpr int64_t QUERIES = 256;      // of a block
constexpr int64_t TABLE_ROWS = 2048;  // of a tile
constexpr int64_t GROUP = 16;         // queries of a work item that scans a tile
constexpr int64_t FEW = 4;            // queries for which reading the table is the cost
constexpr int64_t FEW_ROWS = 64;      // table rows of a work item then
constexpr float EXCLUDED = -std::numeric_limits<float>::infinity();

int64_t padded(int64_t queries) { return (queries + GROUP - 1) / GROUP * GROUP; }

struct Ranking {
    const char* op;
    Context& context;
    View queries, table, excluded_offsets, excluded_rows;
    int64_t first = 0;  // of the queries at hand
    View block;         // these
    void* panels;       // and packed, if they are more than FEW
    void* room;         // to multiply them in
    float* tile;        // [TABLE_ROWS, padded QUERIES] scores, or [FEW, TABLE_ROWS]

    Ranking(const char* op, Context& context, const View& queries, const View& table, const View& offsets, const View& rows)
        : op(op), context(context), queries(queries), table(table), excluded_offsets(offsets), excluded_rows(rows) {
        if (offsets) check_exclusion();
        block = rows_of(queries, 0, std::min(QUERIES, queries.shape[0]));
        panels = context.scratch.take<std::byte>(packed_bytes(block));
        const int64_t most = std::max(QUERIES, std::min(TABLE_ROWS, table.shape[0]));  // of the table, or the block's targets
        room = context.scratch.take<std::byte>(packed_room(rows_of(table, 0, most), block));
        tile = context.scratch.take<float>(most * padded(block.shape[0]));
    }

    static View rows_of(const View& matrix, int64_t first, int64_t count) {
        View rows = matrix;
        rows.data = matrix.row(first);
        rows.shape[0] = count;
        return rows;
    }

    void take(int64_t from) {
        first = from;
        block = rows_of(queries, first, std::min(QUERIES, queries.shape[0] - first));
        if (block.shape[0] > FEW) pack(panels, block);
    }

    void check_exclusion() const {
        const int32_t* offsets = excluded_offsets.i32();
        for (int64_t b = 0; b < queries.shape[0]; b++)
            if (offsets[b] < 0 || offsets[b + 1] < offsets[b] || offsets[b + 1] > excluded_rows.shape[0])
                fail(HLLM_INVALID_ARGUMENT, "%s: excluded_offsets of query %lld are %d and %d, expected ascending up to %lld",
                     op, static_cast<long long>(b), offsets[b], offsets[b + 1], static_cast<long long>(excluded_rows.shape[0]));
        check_indices(op, "excluded_rows", excluded_rows, 0, table.shape[0]);
    }

    // body(row) for each excluded row of a query.
    template <class Body>
    void each_excluded(int64_t query, const Body& body) const {
        if (!excluded_offsets) return;
        for (int32_t j = excluded_offsets.i32()[query]; j < excluded_offsets.i32()[query + 1]; j++)
            body(excluded_rows.i32()[j]);
    }

    // tile = [block, end - begin] inner products of table rows with few queries.
    void few(int64_t begin, int64_t end) const {
        team().ranges(end - begin, FEW_ROWS, [&](int64_t from, int64_t to, int) {
            HLLM_DISPATCH(few_scores)
            (tile + from, end - begin, table, begin + from, begin + to, block);
        });
    }

    // tile = [rows, block] inner products of rows with more than FEW queries; each has the same bits among any others.
    void scores(const View& rows) const {
        View found;
        found.data = tile;
        found.stride[0] = padded(block.shape[0]);
        packed_forward(room, found, rows, block, panels, false);
    }

    // The score of row targets[i] for query i of the block; `gathered` has room for the block.
    void target_scores(float* out, const int32_t* targets, View gathered) const {
        if (block.shape[0] <= FEW) {
            for (int64_t i = 0; i < block.shape[0]; i++) {
                few(targets[i], targets[i] + 1);
                out[i] = tile[i];
            }
            return;
        }
        gathered.shape[0] = block.shape[0];
        for (int64_t i = 0; i < block.shape[0]; i++) std::copy_n(table.row(targets[i]), table.shape[1], gathered.row(i));
        scores(gathered);
        for (int64_t i = 0; i < block.shape[0]; i++) out[i] = tile[i * padded(block.shape[0]) + i];
    }

    // Scores the block against the whole table and calls body(scores, first row, rows, first of its queries, queries) for
    // each tile and group of queries, in the order of rows for each query; excluded rows score -inf. The groups of a block
    // of few queries are single ones.
    template <class Body>
    void scan(const Body& body) const {
        const int64_t N = table.shape[0], count = block.shape[0];
        const bool is_few = count <= FEW;
        for (int64_t begin = 0; begin < N; begin += TABLE_ROWS) {
            const int64_t end = std::min(N, begin + TABLE_ROWS), rows = end - begin;
            if (is_few)
                few(begin, end);
            else
                scores(rows_of(table, begin, rows));
            const int64_t row_stride = is_few ? 1 : padded(count), query_stride = is_few ? rows : 1;
            team().ranges(count, is_few ? 1 : GROUP, [&](int64_t from, int64_t to, int) {
                for (int64_t i = from; i < to; i++)
                    each_excluded(first + i, [&](int64_t row) {
                        if (row >= begin && row < end) tile[(row - begin) * row_stride + i * query_stride] = EXCLUDED;
                    });
                body(tile + from * query_stride, begin, rows, first + from, to - from);
            });
        }
    }
};

}  // namespace

void Cpu::topk(Context& context, const View& scores, const View& rows, const View& queries, const View& table,
               const View& excluded_offsets, const View& excluded_rows) {
    Ranking ranking("topk", context, queries, table, excluded_offsets, excluded_rows);
    const int64_t B = queries.shape[0], K = scores.shape[1];
    for (int64_t b = 0; b < B; b++) {
        std::fill_n(scores.row(b), K, EXCLUDED);
        std::fill_n(rows.i32() + b * rows.stride[0], K, -1);
    }
    if (K == 0) return;
    for (int64_t first = 0; first < B; first += QUERIES) {
        ranking.take(first);
        const int64_t block = ranking.block.shape[0];
        ranking.scan([&](const float* tile, int64_t begin, int64_t count, int64_t query, int64_t group) {
            if (block <= FEW)
                HLLM_DISPATCH(topk_insert_few)(scores, rows, tile, begin, count, query);
            else
                HLLM_DISPATCH(topk_insert)(scores, rows, tile, padded(block), begin, count, query, group);
        });
    }
}

void Cpu::rank(Context& context, const View& ranks, const View& queries, const View& table, const View& targets,
               const View& excluded_offsets, const View& excluded_rows) {
    const int64_t B = queries.shape[0], N = table.shape[0];
    check_indices("rank", "targets", targets, 0, N);
    Ranking ranking("rank", context, queries, table, excluded_offsets, excluded_rows);
    const int64_t most = ranking.block.shape[0];
    float* target_scores = context.scratch.take<float>(padded(most));
    View gathered = table;
    gathered.data = context.scratch.take<float>(most * table.stride[0]);
    for (int64_t first = 0; first < B; first += QUERIES) {
        ranking.take(first);
        const int64_t block = ranking.block.shape[0];
        ranking.target_scores(target_scores, targets.i32() + first, gathered);
        std::fill_n(ranks.i32() + first, block, 1);
        ranking.scan([&](const float* tile, int64_t, int64_t count, int64_t query, int64_t group) {
            if (block <= FEW)
                HLLM_DISPATCH(rank_count_few)(ranks.i32() + query, target_scores[query - first], tile, count);
            else
                HLLM_DISPATCH(rank_count)
            (ranks.i32() + query, target_scores + (query - first), tile, padded(block), count, group);
        });
        for (int64_t b = first; b < first + block; b++)
            ranking.each_excluded(b, [&](int64_t row) {
                if (row == targets.i32()[b]) ranks.i32()[b] = static_cast<int32_t>(N + 1);
            });
    }
}

}  // namespace hllm
#endif
