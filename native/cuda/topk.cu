// Full ranking: the best rows of a table for each query, and the rank of one row, by inner product. Blocks of queries meet
// tiles of the table in one GEMM each, or few queries in a pass that only reads the table; tile[query][row] holds the scores,
// and a block of threads per query goes through them. Every tile has the same shape, the last one overlaps the one before: a
// GEMM sums all elements of one shape alike, so equal rows get equal scores wherever they lie, and as targets.
#include <limits>

#include "cuda/backend.h"
#include "cuda/pack.cuh"

namespace hllm::cuda {
namespace {

constexpr int64_t TILE_BYTES = 32 << 20;  // of scores, and of gathered rows
constexpr int64_t QUERIES = 1024;         // of a block
constexpr int64_t ROW_STEP = 128;         // table rows of a tile: a multiple of it, for the GEMM
constexpr int64_t FEW = 8;                // queries for which reading the table is the cost: the columns of an mma
constexpr int64_t MAX_K = 4096;
constexpr int SCAN = 8;  // scores per thread and step
constexpr int SCAN_THREADS = 512;
constexpr int LISTED_THREADS = 64;  // for a query's excluded rows
constexpr float EXCLUDED = -std::numeric_limits<float>::infinity();

// tile[q][r] = query q . row r for at most 8 queries. A warp multiplies 16 rows, straight from global memory: the order of
// the elements along D does not matter as long as rows and queries agree, so that each lane loads 16 bytes at a time.
struct FewScores {
    static constexpr int WARPS = 8, MAX_THREADS = WARPS * 32, STEPS = 4, WIDTH = STEPS * 32;  // elements per round
    static constexpr int PADDING = 32;  // between queries in shared memory: two of them fill all banks
    float* tile;
    const bf16 *rows, *queries;
    int64_t tile_stride, rows_stride, queries_stride;
    int row_count, query_count, D, stride;

    // Of the queries in shared memory.
    static int64_t stride_for(int64_t D) { return (D + WIDTH - 1) / WIDTH * WIDTH + PADDING; }
    static int64_t shared_bytes(int64_t D) { return FEW * stride_for(D) * 2; }

    HLLM_KERNEL void operator()() const {
        const int g = lane() / 4, t = lane() % 4;
        const auto held = shared<bf16>(0);
        for (int i = thread() * 8; i < FEW * stride; i += threads() * 8) {
            const int q = i / stride, d = i % stride;
            held.store16(i, q < query_count && d < D ? load16(queries + q * queries_stride + d) : uint4{0, 0, 0, 0});
        }
        block_barrier();
        const int groups = (row_count + 15) / 16;
        for (int group = block_x() * WARPS + warp(); group < groups; group += grid_x() * WARPS) {
            const int low = group * 16 + g, high = low + 8;
            const bf16 *low_row = rows + low * rows_stride, *high_row = rows + high * rows_stride;
            float sums[4] = {};
            for (int begin = 0; begin < D; begin += WIDTH) {
                uint4 a[STEPS], b[STEPS];
                HLLM_UNROLL
                for (int s = 0; s < STEPS; s++) {
                    const int d = begin + s * 32 + t * 8;
                    a[s] = low < row_count && d < D ? load16(low_row + d) : uint4{0, 0, 0, 0};
                    b[s] = high < row_count && d < D ? load16(high_row + d) : uint4{0, 0, 0, 0};
                }
                HLLM_UNROLL
                for (int s = 0; s < STEPS; s++) {
                    const uint4 q = held.load16(g * stride + begin + s * 32 + t * 8);
                    mma_16816(sums, {a[s].x, b[s].x, a[s].y, b[s].y}, {q.x, q.y});
                    mma_16816(sums, {a[s].z, b[s].z, a[s].w, b[s].w}, {q.z, q.w});
                }
            }
            for (int i = 0; i < 4; i++) {
                const int row = i < 2 ? low : high, query = 2 * t + i % 2;
                if (row < row_count && query < query_count) tile[query * tile_stride + row] = sums[i];
            }
        }
    }
};

// Excluded rows score -inf. A block per query, here and below.
struct Exclude {
    float* tile;
    const int32_t *offsets, *rows;
    int64_t tile_stride;
    int first_query, begin, count, listed, table_rows;
    IndexCheck check_offsets, check_rows;

    HLLM_KERNEL void operator()() const {
        const int query = first_query + block_x(), from = offsets[query], to = offsets[query + 1];
        if (!check_offsets.ok(query, from, 0, listed + 1) || !check_offsets.ok(query + 1, to, from, listed + 1)) return;
        for (int j = from + thread(); j < to; j += threads()) {
            const int row = rows[j];
            if (check_rows.ok(j, row, 0, table_rows) && row >= begin && row < begin + count)
                tile[block_x() * tile_stride + row - begin] = EXCLUDED;
        }
    }
};

// Takes elements [from, count) of the tile, rows begin + from and on, into the sorted lists of the queries. What beats the
// K-th best so far is collected behind the list in shared memory, and sorted in when that is full, and at the end. Rows come
// in ascending order, so one that only equals the K-th best is too late.
struct Select {
    static constexpr int MAX_THREADS = SCAN_THREADS;
    float* scores;
    int32_t* rows;
    const float* tile;
    int64_t scores_stride, rows_stride, tile_stride;
    int K, capacity, begin, from, count;
    bool first;

    static int capacity_for(int64_t K, int threads) {
        int capacity = 1;
        while (capacity < K + threads * SCAN) capacity *= 2;
        return capacity;
    }
    static int shared_bytes(int capacity) { return capacity * 8 + 2 * SCAN_THREADS / 32 * 4; }

    // Sorts the first `held` of the collection: higher scores first, then lower rows.
    HLLM_DEVICE void sort(Shared<float> found, Shared<int> found_rows, int held) const {
        int size = 1;
        while (size < held) size *= 2;
        for (int i = held + thread(); i < size; i += threads()) {
            found.store(i, EXCLUDED);
            found_rows.store(i, -1);
        }
        for (int run = 2; run <= size; run *= 2)
            for (int distance = run / 2; distance > 0; distance /= 2) {
                block_barrier();
                for (int i = thread(); i < size / 2; i += threads()) {
                    const int a = 2 * i - (i & (distance - 1)), b = a + distance;
                    const float score_a = found.load(a), score_b = found.load(b);
                    const int row_a = found_rows.load(a), row_b = found_rows.load(b);
                    const bool in_order = score_a > score_b || (score_a == score_b && row_a <= row_b);
                    if (in_order == ((a & run) == 0)) continue;
                    found.store(a, score_b);
                    found.store(b, score_a);
                    found_rows.store(a, row_b);
                    found_rows.store(b, row_a);
                }
            }
        block_barrier();
    }

    HLLM_DEVICE Pack<SCAN> scores_at(int i) const {
        Pack<SCAN> found;
        if (i < count) found = load<SCAN>(tile + block_x() * tile_stride + i);
        for (int k = 0; k < SCAN; k++)
            if (i + k < from || i + k >= count) found[k] = EXCLUDED;
        return found;
    }

    HLLM_KERNEL void operator()() const {
        float* list = scores + block_x() * scores_stride;
        int32_t* list_rows = rows + block_x() * rows_stride;
        const auto found = shared<float>(0);
        const auto found_rows = shared<int>(capacity * 4), totals = shared<int>(capacity * 8);
        for (int i = thread(); i < K; i += threads()) {
            found.store(i, first ? EXCLUDED : list[i]);
            found_rows.store(i, first ? -1 : list_rows[i]);
        }
        block_barrier();
        const int step = threads() * SCAN, mine = thread() * SCAN, warps = threads() / 32;
        float least = found.load(K - 1);
        int held = K, at = from / step * step;
        Pack<SCAN> next = scores_at(at + mine);
        for (int round = 0; at < count; at += step, round ^= 1) {
            const Pack<SCAN> now = next;
            next = scores_at(at + step + mine);
            const float bar = least;
            int better = 0;
            for (int k = 0; k < SCAN; k++) better += now[k] > bar;
            int place = better;  // summed over the lanes up to this one, then over the warps before: where to put them
            if (ballot(better > 0))
                for (int distance = 1; distance < 32; distance *= 2) {
                    const int before = shuffle(place, lane() - distance);
                    if (lane() >= distance) place += before;
                }
            const auto sums = totals.at(round * warps);  // the other half may still be read
            if (lane() == 31) sums.store(warp(), place);
            block_barrier();
            place -= better;
            int total = 0;
            for (int w = 0; w < warps; w++) {
                const int sum = sums.load(w);
                place += w < warp() ? sum : 0;
                total += sum;
            }
            if (total == 0) continue;
            if (held + total > capacity) {
                sort(found, found_rows, held);
                held = K;
                least = found.load(K - 1);
            }
            for (int k = 0; k < SCAN; k++)
                if (now[k] > bar) {
                    found.store(held + place, now[k]);
                    found_rows.store(held + place, begin + at + mine + k);
                    place++;
                }
            held += total;
        }
        if (held == K && !first) return;
        sort(found, found_rows, held);
        for (int i = thread(); i < K; i += threads()) {
            list[i] = found.load(i);
            list_rows[i] = found_rows.load(i);
        }
    }
};

template <class T>
struct GatherTargets {
    static constexpr int MAX_THREADS = BLOCK;
    T* out;
    const T* table;
    const int32_t* targets;
    int64_t stride, D;
    int first_query, table_rows;
    IndexCheck check;

    HLLM_KERNEL void operator()() const {
        const int query = first_query + block_x(), target = targets[query];
        if (!check.ok(query, target, 0, table_rows)) return;
        for (int64_t i = thread(); i < D; i += threads()) out[block_x() * stride + i] = table[target * stride + i];
    }
};

// ranks = 1; the targets' scores are the diagonal of a tile.
struct BeginRanks {
    static constexpr int MAX_THREADS = BLOCK;
    int32_t* ranks;
    float* target_scores;
    const float* tile;
    int64_t tile_stride;
    int queries;

    HLLM_KERNEL void operator()() const {
        for (int64_t q = first_item(); q < queries; q += item_step()) {
            ranks[q] = 1;
            target_scores[q] = tile[q * tile_stride + q];
        }
    }
};

// ranks += elements [from, count) of the tile that score higher than the target. A NaN counts as higher: a broken model must
// not look good.
struct CountHigher {
    static constexpr int MAX_THREADS = BLOCK;
    int32_t* ranks;
    const float *tile, *target_scores;
    int64_t tile_stride;
    int from, count;

    HLLM_KERNEL void operator()() const {
        const float target = target_scores[block_x()];
        int higher = 0;
        for (int i = from / SCAN * SCAN + thread() * SCAN; i < count; i += threads() * SCAN) {
            const auto found = load<SCAN>(tile + block_x() * tile_stride + i);
            for (int k = 0; k < SCAN; k++) higher += i + k >= from && i + k < count && !(found[k] <= target);
        }
        // Exact: a tile has fewer than 2^24 rows.
        const float sum = block_sum(static_cast<float>(higher), shared<float>(0));
        if (thread() == 0) ranks[block_x()] += static_cast<int>(sum);
    }
};

// A target that is itself excluded ranks behind all rows.
struct DropExcluded {
    static constexpr int MAX_THREADS = BLOCK;
    int32_t* ranks;
    const int32_t *targets, *offsets, *rows;
    int listed, table_rows;

    HLLM_KERNEL void operator()() const {
        const int query = block_x(), from = offsets[query], to = offsets[query + 1];
        if (from < 0 || to > listed) return;  // has been reported
        for (int j = from + thread(); j < to; j += threads())
            if (rows[j] == targets[query]) ranks[query] = table_rows + 1;
    }
};

struct Ranking {
    Context& context;
    View queries, table, excluded_offsets, excluded_rows;
    IndexCheck check_offsets, check_rows;
    int64_t block, tile_rows, tile_stride;
    float* tile;

    Ranking(Context& context, const View& queries, const View& table, const View& offsets, const View& rows, int64_t most_rows,
            const char* offsets_name, const char* rows_name)
        : context(context),
          queries(queries),
          table(table),
          excluded_offsets(offsets),
          excluded_rows(rows),
          check_offsets(index_check(context, offsets_name)),
          check_rows(index_check(context, rows_name)) {
        block = std::min(QUERIES, queries.shape[0]);
        // As few tiles as there can be, of one shape; several are cut evenly, in whole steps.
        const int64_t N = table.shape[0], fitting = std::min(TILE_BYTES / 4 / block, most_rows);
        const int64_t room = N <= fitting ? N : std::max(fitting / ROW_STEP, int64_t{1}) * ROW_STEP;
        const int64_t tiles = N == 0 ? 1 : (N + room - 1) / room, even = (N + tiles - 1) / tiles;
        tile_rows = std::min(N, (even + ROW_STEP - 1) / ROW_STEP * ROW_STEP);
        tile_stride = (tile_rows + ROW_STEP - 1) / ROW_STEP * ROW_STEP;
        tile = context.scratch.take<float>(block * tile_stride);
    }

    static View rows_of(View view, int64_t first, int64_t rows) {
        view.data = static_cast<char*>(view.data) + first * view.stride[0] * bytes_of(view.dtype);
        view.shape[0] = rows;
        return view;
    }

    // tile = inner products of a block of queries with so many rows.
    void score(const View& rows, int64_t first_query, int64_t count) const {
        const View mine = rows_of(queries, first_query, count);
        const int64_t D = table.shape[1];
        if (count <= FEW && queries.dtype == HLLM_BF16 && D % 8 == 0 && aligned(mine, rows) &&
            FewScores::shared_bytes(D) <= MAX_SHARED_BYTES) {
            const int64_t blocks = (rows.shape[0] + 16 * FewScores::WARPS - 1) / (16 * FewScores::WARPS);
            launch(stream_of(context), {static_cast<int>(std::min<int64_t>(blocks, 3 * sm_count(context)))},
                   FewScores::MAX_THREADS, static_cast<int>(FewScores::shared_bytes(D)),
                   FewScores{tile, static_cast<const bf16*>(rows.data), static_cast<const bf16*>(mine.data), tile_stride,
                             rows.stride[0], mine.stride[0], static_cast<int>(rows.shape[0]), static_cast<int>(count),
                             static_cast<int>(D), static_cast<int>(FewScores::stride_for(D))});
            return;
        }
        View out{tile, HLLM_F32, 2};
        out.shape[0] = count, out.shape[1] = rows.shape[0];
        out.stride[0] = tile_stride, out.stride[1] = 1;
        context.backend->matmul(context, out, mine, rows, false, true, false);
    }

    // Calls body(first table row of the tile, first element to look at) for each tile of scores of a block of queries.
    template <class Body>
    void scan(int64_t first_query, int64_t count, const Body& body) const {
        const int64_t N = table.shape[0];
        for (int64_t row = 0; row < N; row += tile_rows) {
            const int64_t begin = std::min(row, N - tile_rows);
            score(rows_of(table, begin, tile_rows), first_query, count);
            if (excluded_offsets)
                launch_rows(context, count, LISTED_THREADS,
                            Exclude{tile, excluded_offsets.i32(), excluded_rows.i32(), tile_stride,
                                    static_cast<int>(first_query), static_cast<int>(begin), static_cast<int>(tile_rows),
                                    static_cast<int>(excluded_rows.shape[0]), static_cast<int>(N), check_offsets, check_rows});
            body(static_cast<int>(begin), static_cast<int>(row - begin));
        }
    }
};

}  // namespace

void CudaBackend::topk(Context& context, const View& scores, const View& rows, const View& queries, const View& table,
                       const View& excluded_offsets, const View& excluded_rows) {
    const int64_t B = queries.shape[0], K = scores.shape[1];
    if (K > MAX_K)
        fail(HLLM_UNSUPPORTED, "topk: K is %lld, expected at most %lld on %s", static_cast<long long>(K),
             static_cast<long long>(MAX_K), name());
    if (B == 0 || K == 0) return;
    if (table.shape[0] == 0) {
        fill(context, scores, EXCLUDED);
        fill(context, rows, -1);
        return;
    }
    const Ranking ranking(context, queries, table, excluded_offsets, excluded_rows, table.shape[0], "topk: excluded_offsets",
                          "topk: excluded_rows");
    const int count = static_cast<int>(ranking.tile_rows);
    const int threads = std::clamp((count + 32 * SCAN - 1) / (32 * SCAN) * 32, 32, SCAN_THREADS);
    const int capacity = Select::capacity_for(K, threads);
    for (int64_t first = 0; first < B; first += QUERIES) {
        const int64_t block = std::min(QUERIES, B - first);
        ranking.scan(first, block, [&](int begin, int from) {
            launch(
                stream_of(context), {static_cast<int>(block)}, threads, Select::shared_bytes(capacity),
                Select{scores.row(first), rows.i32() + first * rows.stride[0], ranking.tile, scores.stride[0], rows.stride[0],
                       ranking.tile_stride, static_cast<int>(K), capacity, begin, from, count, begin + from == 0});
        });
    }
}

void CudaBackend::rank(Context& context, const View& ranks, const View& queries, const View& table, const View& targets,
                       const View& excluded_offsets, const View& excluded_rows) {
    const int64_t B = queries.shape[0], N = table.shape[0], D = table.shape[1];
    if (B == 0) return;
    const IndexCheck check_targets = index_check(context, "rank: targets");
    const Ranking ranking(context, queries, table, excluded_offsets, excluded_rows,
                          TILE_BYTES / std::max<int64_t>(1, table.stride[0] * bytes_of(table.dtype)), "rank: excluded_offsets",
                          "rank: excluded_rows");
    // Targets lie as the rows of the table do, alignment included: whatever scores both takes the same way for both.
    View gathered = Ranking::rows_of(table, 0, ranking.tile_rows);
    gathered.data = context.scratch.take<char>(16 + ranking.tile_rows * table.stride[0] * bytes_of(table.dtype)) +
                    reinterpret_cast<uintptr_t>(table.data) % 16;
    float* target_scores = context.scratch.take<float>(ranking.block);
    for (int64_t first = 0; first < B; first += QUERIES) {
        const int64_t block = std::min(QUERIES, B - first);
        for (int64_t part = 0; part < block; part += ranking.tile_rows) {
            const int64_t count = std::min(ranking.tile_rows, block - part);
            by_type(table, [&](auto type) {
                using T = decltype(type);
                launch_rows(
                    context, count, D,
                    GatherTargets<T>{static_cast<T*>(gathered.data), static_cast<const T*>(table.data), targets.i32(),
                                     table.stride[0], D, static_cast<int>(first + part), static_cast<int>(N), check_targets});
            });
            ranking.score(gathered, first, block);
            launch_items(context, count,
                         BeginRanks{ranks.i32() + first + part, target_scores + part, ranking.tile + part * ranking.tile_stride,
                                    ranking.tile_stride, static_cast<int>(count)});
        }
        ranking.scan(first, block, [&](int, int from) {
            launch_rows(context, block, ranking.tile_rows / SCAN,
                        CountHigher{ranks.i32() + first, ranking.tile, target_scores, ranking.tile_stride, from,
                                    static_cast<int>(ranking.tile_rows)});
        });
    }
    if (excluded_offsets)
        launch_rows(context, B, LISTED_THREADS,
                    DropExcluded{ranks.i32(), targets.i32(), excluded_offsets.i32(), excluded_rows.i32(),
                                 static_cast<int>(excluded_rows.shape[0]), static_cast<int>(N)});
}

}  // namespace hllm::cuda
