// Sums of rows in a fixed order, the same as on the CPU: the gradients of embedding and gather, mean pooling and its gradient.
// The rows that go to one place are first listed by a stable sort; no float is added atomically.
#include "cuda/backend.h"
#include "cuda/pack.cuh"
#include "cuda/sort.cuh"

namespace hllm::cuda {
namespace {

// sum += scale * in[row] for the rows and scales of lanes 0 to n - 1, in that order; a warp does it for N columns per lane.
// Where there are many, several rows are on their way at a time.
template <int N>
HLLM_DEVICE void add_rows(Pack<N>& sum, const float* in, int64_t stride, int row, float scale, int n) {
    constexpr int AHEAD = 6;
    const auto fetch = [&](int j) { return load<N>(in + shuffle(row, j) * stride); };
    const auto add = [&](const Pack<N>& v, int j) {
        const float s = shuffle(scale, j);
        for (int k = 0; k < N; k++) sum[k] = fmaf(s, v[k], sum[k]);
    };
    int j = 0;
    for (; j + AHEAD <= n; j += AHEAD) {
        Pack<N> v[AHEAD];
        HLLM_UNROLL
        for (int a = 0; a < AHEAD; a++) v[a] = fetch(j + a);
        HLLM_UNROLL
        for (int a = 0; a < AHEAD; a++) add(v[a], j + a);
    }
    for (; j < n; j++) add(fetch(j), j);
}

// The sums below give a warp one row (block_x) and 32 N columns (block_y). A lane beyond the last column reads the first.
template <int N>
HLLM_DEVICE int64_t warp_column(int64_t D) {
    const int64_t column = (int64_t{block_y()} * 32 + lane()) * N;
    return column < D ? column : 0;
}
template <int N>
HLLM_DEVICE bool has_column(int64_t D) {
    return (int64_t{block_y()} * 32 + lane()) * N < D;
}
template <int N>
Grid warp_grid(Context& context, int64_t rows, int64_t D) {
    return {blocks_for(context, 32 * rows), static_cast<int>((D + 32 * N - 1) / (32 * N))};
}

template <int N>
struct SegmentMean {
    float* out;
    const float* in;
    const int *offsets, *rows;
    int64_t out_stride, in_stride, D;
    int segments, members, in_rows;
    IndexCheck check_offsets, check_rows;

    HLLM_KERNEL void operator()() const {
        const float* from = in + warp_column<N>(D);
        for (auto s = static_cast<int>(first_item() / 32); s < segments; s += static_cast<int>(item_step() / 32)) {
            const int first = offsets[s], last = offsets[s + 1];
            if (!check_offsets.ok(s, first, 0, members + 1) || !check_offsets.ok(s + 1, last, first + 1, members + 1)) continue;
            Pack<N> sum{};
            bool good = true;
            for (int j = first; j < last && good; j += 32) {
                const bool member = j + lane() < last;
                const int row = member ? rows[j + lane()] : 0;
                good = ballot(member && !check_rows.ok(j + lane(), row, 0, in_rows)) == 0;
                if (good) add_rows(sum, from, in_stride, row, 1, last - j < 32 ? last - j : 32);
            }
            for (int k = 0; k < N; k++) sum[k] /= static_cast<float>(last - first);
            if (good && has_column<N>(D)) store(out + s * out_stride + warp_column<N>(D), sum);
        }
    }
};

// Pairs (row of the output, row of the input) for SumLists. The special row counts as row `table_rows`, behind the table;
// one more means nowhere.
struct RowPairs {
    static constexpr int MAX_THREADS = BLOCK;
    Pairs pairs;
    const int* ids;
    int64_t count;
    int table_rows;
    bool has_table, has_special, negative_allowed;
    IndexCheck check;

    HLLM_KERNEL void operator()() const {
        for (int64_t t = first_item(); t < count; t += item_step()) {
            const int id = ids[t], nowhere = table_rows + 1;
            pairs.values[t] = static_cast<int>(t);
            if (id < 0 && negative_allowed)
                pairs.keys[t] = has_special ? table_rows : nowhere;
            else
                pairs.keys[t] = has_table && check.ok(static_cast<int>(t), id, 0, table_rows) ? id : nowhere;
        }
    }
};

// The same for the gradient of the mean: (member row, segment), and shares[segment] = 1 / its length.
struct SegmentPairs {
    static constexpr int MAX_THREADS = BLOCK;
    Pairs pairs;
    float* shares;
    const int *offsets, *rows;
    int segments, members, table_rows;
    IndexCheck check_offsets, check_rows;

    HLLM_DEVICE bool valid(int s) const { return 0 <= offsets[s] && offsets[s] < offsets[s + 1] && offsets[s + 1] <= members; }
    HLLM_KERNEL void operator()() const {
        for (auto s = static_cast<int>(first_item()); s < segments; s += static_cast<int>(item_step())) {
            const int first = offsets[s], last = offsets[s + 1];
            if (check_offsets.ok(s, first, 0, members + 1) && check_offsets.ok(s + 1, last, first + 1, members + 1))
                shares[s] = 1.f / static_cast<float>(last - first);
        }
        for (int64_t j = first_item(); j < members; j += item_step()) {
            int s = 0, end = segments;  // the last segment that begins at or before j
            while (end - s > 1) {
                const int middle = s + (end - s) / 2;
                if (offsets[middle] <= j)
                    s = middle;
                else
                    end = middle;
            }
            const bool member = valid(s) && offsets[s] <= j && j < offsets[s + 1];
            pairs.keys[j] = member && check_rows.ok(static_cast<int>(j), rows[j], 0, table_rows) ? rows[j] : table_rows + 1;
            pairs.values[j] = s;
        }
    }
};

// table[key] += in[value], or shares[value] * in[value], over sorted pairs, each key's values in order. The warp at the first
// pair of a key sums them all.
template <int N>
struct SumLists {
    float *table, *special;
    const float* in;
    Pairs pairs;
    const float* shares;
    int64_t table_stride, in_stride, D;
    int count, table_rows;

    HLLM_KERNEL void operator()() const {
        const int64_t column = warp_column<N>(D);
        for (auto first = static_cast<int>(first_item() / 32); first < count; first += static_cast<int>(item_step() / 32)) {
            const int key = pairs.keys[first];
            if (key > table_rows || (first > 0 && pairs.keys[first - 1] == key)) continue;
            float* out = (key < table_rows ? table + key * table_stride : special) + column;
            auto sum = load<N>(out);
            for (int at = first + lane(), n = 32; n == 32; at += 32) {
                const bool same = at < count && pairs.keys[at] == key;
                const int value = same ? pairs.values[at] : 0;
                const float scale = same && shares ? shares[value] : 1;
                n = count_bits(ballot(same));
                add_rows(sum, in + column, in_stride, value, scale, n);
            }
            if (has_column<N>(D)) store(out, sum);
        }
    }
};

// Sorts the pairs and sums.
void sum_lists(Context& context, const View& table, const View& special, const View& in, Pairs pairs, int64_t count,
               const float* shares) {
    const int table_rows = table ? static_cast<int>(table.shape[0]) : 0;
    const int64_t D = in.shape[1];
    pairs = sort(context, pairs, static_cast<int>(count), table_rows + 1);
    by_width<float>(D % PACK<float> == 0 && aligned(table, special, in), [&](auto width) {
        constexpr int N = decltype(width)::value;
        launch(stream_of(context), warp_grid<N>(context, count, D), BLOCK, 0,
               SumLists<N>{table.f32(), special.f32(), in.f32(), pairs, shares, table.stride[0], in.stride[0], D,
                           static_cast<int>(count), table_rows});
    });
}

// table[ids[t]] += in[t], or special where ids[t] < 0; a table or special row that is not there is left out.
void scatter(Context& context, const View& table, const View& special, const View& in, const View& ids, bool negative_allowed,
             const char* what) {
    const int64_t count = in.shape[0];
    if (in.elements() == 0 || (!table && !special)) return;
    const Pairs pairs{context.scratch.take<int>(count), context.scratch.take<int>(count)};
    launch_items(context, count,
                 RowPairs{pairs, ids.i32(), count, table ? static_cast<int>(table.shape[0]) : 0, static_cast<bool>(table),
                          static_cast<bool>(special), negative_allowed, index_check(context, what)});
    sum_lists(context, table, special, in, pairs, count, nullptr);
}

}  // namespace

void CudaBackend::embedding_backward(Context& context, const View& dtable, const View& dspecial, const View& dout,
                                     const View& ids) {
    scatter(context, dtable, dspecial, dout, ids, true, "embedding_backward: ids");
}

void CudaBackend::scatter_add_rows(Context& context, const View& out, const View& in, const View& index) {
    scatter(context, out, View{}, in, index, false, "scatter_add_rows: index");
}

void CudaBackend::segment_mean_forward(Context& context, const View& out, const View& in, const View& offsets,
                                       const View& rows) {
    const int64_t D = out.shape[1];
    if (out.elements() == 0) return;
    by_width<float>(D % PACK<float> == 0 && aligned(out, in), [&](auto width) {
        constexpr int N = decltype(width)::value;
        launch(stream_of(context), warp_grid<N>(context, out.shape[0], D), BLOCK, 0,
               SegmentMean<N>{out.f32(), in.f32(), offsets.i32(), rows.i32(), out.stride[0], in.stride[0], D,
                              static_cast<int>(out.shape[0]), static_cast<int>(rows.shape[0]), static_cast<int>(in.shape[0]),
                              index_check(context, "segment_mean_forward: offsets"),
                              index_check(context, "segment_mean_forward: rows")});
    });
}

void CudaBackend::segment_mean_backward(Context& context, const View& din, const View& dout, const View& offsets,
                                        const View& rows) {
    const int64_t segments = dout.shape[0], members = rows.shape[0];
    fill(context, din, 0);
    if (dout.elements() == 0) return;
    const Pairs pairs{context.scratch.take<int>(members), context.scratch.take<int>(members)};
    float* shares = context.scratch.take<float>(segments);
    launch_items(context, std::max(segments, members),
                 SegmentPairs{pairs, shares, offsets.i32(), rows.i32(), static_cast<int>(segments), static_cast<int>(members),
                              static_cast<int>(din.shape[0]), index_check(context, "segment_mean_backward: offsets"),
                              index_check(context, "segment_mean_backward: rows")});
    if (members > 0) sum_lists(context, din, View{}, dout, pairs, members, shares);
}

}  // namespace hllm::cuda
