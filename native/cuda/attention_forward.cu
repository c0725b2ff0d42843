// Attention by plan, forward: out = softmax(scale q k^T) v and its log-sum-exp.
//
// A block has a query tile and a key head, and goes through the tile's columns with a running maximum and sum (online
// softmax). bf16 with head widths of 64 and 128 runs on the tensor cores; everything else in f32, with smaller tiles.
#include "cuda/attention.cuh"
#include "cuda/backend.h"
#include "cuda/flash_attention.h"

namespace hllm::cuda {
namespace {

// ---- On the tensor cores: 128 rows, 32 to a warp ----

template <int Dh>
struct AttentionForwardMma {
    static constexpr int MAX_THREADS = MMA_THREADS, ROWS = MMA_ROWS, WARP_ROWS = 32;
    static constexpr int KEYS = 32;  // columns whose scores a warp holds at a time: what the registers allow
    static constexpr int SHARED_BYTES = ROWS * Dh * 2 + KeyStream<Dh>::BYTES;
    HeadRows<bf16> out;
    RowValues lse;  // data may be null
    HeadRows<const bf16> q, k, v;
    TilesView tiles;
    int key_heads, group;
    float scale;  // times log2(e)

    HLLM_KERNEL void operator()() const {
        if (block_x() / key_heads >= tiles.counts[0]) return;
        const Tile tile = tiles.tiles[block_x() / key_heads];
        const int head = block_x() % key_heads;
        const Row own = find_row(tiles.chunks, {tile.chunk, tile.chunk + tile.chunks, 0}, thread() / group,
                                 head * group + thread() % group);
        const int own_rows = warp() * WARP_ROWS * Dh;
        const Shared<bf16> rows = shared<bf16>(0).at(own_rows);
        load_own_rows<Dh, WARP_ROWS>(rows, q, own);

        float sums[2][Dh / 8][4] = {}, maximum[2][2], total[2][2] = {};
        for (auto& m : maximum) m[0] = m[1] = -INFINITY;
        const KeyStream<Dh> stream{k, v, tiles.runs, tile, head, ROWS * Dh * 2};
        stream.run([&](int i) {
            const WarpSight sight = WarpSight::of(tiles.glimpses, own, i * MMA_KEYS);
            for (int part = 0; part < MMA_KEYS / KEYS; part++) {
                const int steps = sight.steps >> part * (KEYS / 16) & ((1 << KEYS / 16) - 1);
                if (steps != 0) add(rows, stream.keys(i), stream.values(i), sight, part, steps, sums, maximum, total);
            }
        });

        cp_async_wait<0>();  // of q, when there are no keys
        warp_barrier();
        HLLM_UNROLL
        for (int m = 0; m < 2; m++) {
            float factor[2];
            HLLM_UNROLL
            for (int h = 0; h < 2; h++) {
                float& sum = total[m][h];
                sum += shuffle_xor(sum, 1);
                sum += shuffle_xor(sum, 2);
                factor[h] = sum > 0 ? 1 / sum : 0;
                const int source = 16 * m + 8 * h + lane() / 4, query = shuffle(own.query, source),
                          query_head = shuffle(own.head, source);
                if (lse.data && query >= 0 && lane() % 4 == 0)
                    *lse.at(query, query_head) = sum > 0 ? maximum[m][h] / LOG2_E + logf(sum) : 0;
            }
            put_rows<Dh>(shared<uint32_t>(0).at((own_rows + m * 16 * Dh) / 2), sums[m], factor[0], factor[1]);
        }
        store_own_rows<Dh, WARP_ROWS>(out, rows, own);
    }

    // Adds KEYS columns of a stage to the warp's rows.
    HLLM_DEVICE void add(Shared<bf16> rows, Shared<bf16> keys, Shared<bf16> values, const WarpSight& sight, int part, int steps,
                         float (&sums)[2][Dh / 8][4], float (&maximum)[2][2], float (&total)[2][2]) const {
        float scores[2][KEYS / 8][4] = {};
        HLLM_UNROLL
        for (int e = 0; e < Dh / 16; e++) {
            uint32_t a[2][4];
            load_a<Dh>(a[0], rows, 0, e);
            load_a<Dh>(a[1], rows, 16, e);
            HLLM_UNROLL
            for (int n = 0; n < KEYS / 16; n++) {
                if (!(steps >> n & 1)) continue;
                uint32_t b[2][2];
                load_b<Dh>(b, keys, part * KEYS + n * 16, e);
                HLLM_UNROLL
                for (int m = 0; m < 2; m++) {
                    mma_16816(scores[m][2 * n], a[m], b[0]);
                    mma_16816(scores[m][2 * n + 1], a[m], b[1]);
                }
            }
        }
        HLLM_UNROLL
        for (int m = 0; m < 2; m++) HLLM_UNROLL
        for (int h = 0; h < 2; h++) {
            // The lane's columns of row 8 h + lane / 4: 2 (lane % 4) and + 1 of every eight.
            const auto bits = bits_of(sight, 16 * m + 8 * h + lane() / 4) >> (part * KEYS + lane() % 4 * 2);
            float high = -INFINITY;
            HLLM_UNROLL
            for (int n = 0; n < KEYS / 8; n++) HLLM_UNROLL
            for (int j = 0; j < 2; j++) {
                float& score = scores[m][n][2 * h + j];
                score = sight.all || (bits >> (8 * n + j) & 1) ? score * scale : -INFINITY;
                high = fmaxf(high, score);
            }
            high = fmaxf(high, shuffle_xor(high, 1));
            high = fmaxf(high, shuffle_xor(high, 2));
            high = fmaxf(high, maximum[m][h]);
            const float shift = high == -INFINITY ? 0 : high, factor = fast_exp2(maximum[m][h] - shift);
            maximum[m][h] = high;
            float sum = 0;
            HLLM_UNROLL
            for (int n = 0; n < KEYS / 8; n++) HLLM_UNROLL
            for (int j = 0; j < 2; j++) {
                float& score = scores[m][n][2 * h + j];
                score = fast_exp2(score - shift);
                sum += score;
            }
            total[m][h] = total[m][h] * factor + sum;
            HLLM_UNROLL
            for (int n = 0; n < Dh / 8; n++) {
                sums[m][n][2 * h] *= factor;
                sums[m][n][2 * h + 1] *= factor;
            }
        }
        HLLM_UNROLL
        for (int n = 0; n < KEYS / 16; n++) {
            if (!(steps >> n & 1)) continue;
            uint32_t a[2][4];
            round_to_a(a[0], scores[0][2 * n], scores[0][2 * n + 1]);
            round_to_a(a[1], scores[1][2 * n], scores[1][2 * n + 1]);
            HLLM_UNROLL
            for (int e = 0; e < Dh / 16; e++) {
                uint32_t b[2][2];
                load_b_trans<Dh>(b, values, part * KEYS + n * 16, e);
                HLLM_UNROLL
                for (int m = 0; m < 2; m++) {
                    mma_16816(sums[m][2 * e], a[m], b[0]);
                    mma_16816(sums[m][2 * e + 1], a[m], b[1]);
                }
            }
        }
    }
};

// ---- In f32, any width ----

template <class T>
struct AttentionForward {
    static constexpr int MAX_THREADS = TILE_THREADS;
    HeadRows<T> out;
    RowValues lse;  // data may be null
    HeadRows<const T> q, k, v;
    TilesView tiles;
    HeadSplit split;
    int Dh;
    float scale;

    static int shared_bytes(int Dh) { return (3 * TILE * (Dh + 1) + TILE * TILE + 8 * TILE) * 4; }

    HLLM_KERNEL void operator()() const {
        const auto [index, key_head, part] = split.place();
        if (index >= tiles.counts[0]) return;
        const Tile tile = tiles.tiles[index];
        const int W = Dh + 1;
        const auto rows = shared<float>(0), sums = rows.at(TILE * W), keys = sums.at(TILE * W), scores = keys.at(TILE * W),
                   maximum = scores.at(TILE * TILE), total = maximum.at(TILE), factor = total.at(TILE);
        const auto bits = shared<int>((3 * TILE * W + TILE * TILE + 3 * TILE) * 4), queries = bits.at(TILE),
                   heads = queries.at(TILE), key_rows = heads.at(TILE), key_heads = key_rows.at(TILE);

        Row own;  // of the first TILE threads
        if (thread() < TILE) {
            own = split.row(tiles.chunks, {tile.chunk, tile.chunk + tile.chunks, 0}, thread(), key_head, part);
            queries.store(thread(), own.query);
            heads.store(thread(), own.head);
            key_heads.store(thread(), key_head);
            maximum.store(thread(), -INFINITY);
            total.store(thread(), 0);
        }
        block_barrier();
        gather(rows, q, queries, heads, Dh);
        for (int i = thread(); i < TILE * W; i += threads()) sums.store(i, 0);
        for (int first = 0; first < tile.columns; first += TILE) {
            block_barrier();
            if (thread() < TILE) {
                key_rows.store(thread(), key_row(tiles.runs, tile, first + thread()));
                bits.store(thread(), static_cast<int>(visible(tiles.glimpses, own, first) & 0xffff));
            }
            block_barrier();
            gather(keys, k, key_rows, key_heads, Dh);
            block_barrier();
            for (int i = thread(); i < TILE * TILE; i += threads()) {
                const int r = i / TILE, c = i % TILE;
                const bool seen = bits.load(r) >> c & 1;
                scores.store(i, seen ? scale * dot(rows.at(r * W), keys.at(c * W), Dh) : -INFINITY);
            }
            block_barrier();
            gather(keys, v, key_rows, key_heads, Dh);  // values, from here on
            if (thread() < TILE && bits.load(thread()) != 0)
                factor.store(thread(), softmax(scores.at(thread() * TILE), maximum.at(thread()), total.at(thread())));
            block_barrier();
            for (int i = thread(); i < TILE * Dh; i += threads()) {
                const int r = i / Dh, e = i % Dh;
                if (bits.load(r) == 0) continue;
                float sum = sums.load(r * W + e) * factor.load(r);
                for (int c = 0; c < TILE; c++)
                    if (bits.load(r) >> c & 1) sum = fmaf(scores.load(r * TILE + c), keys.load(c * W + e), sum);
                sums.store(r * W + e, sum);
            }
        }
        block_barrier();
        for (int i = thread(); i < TILE * Dh; i += threads()) {
            const int r = i / Dh, e = i % Dh, query = queries.load(r);
            if (query < 0) continue;
            store_f32(out.at(query, heads.load(r)) + e, total.load(r) > 0 ? sums.load(r * W + e) / total.load(r) : 0);
        }
        if (lse.data && own.query >= 0)
            *lse.at(own.query, own.head) = total.load(thread()) > 0 ? maximum.load(thread()) + logf(total.load(thread())) : 0;
    }

    // A row's scores become exp(score - maximum); returns the factor that brings what was summed up before to the new maximum.
    HLLM_DEVICE float softmax(Shared<float> scores, Shared<float> maximum, Shared<float> total) const {
        const float before = maximum.load(0);
        float high = before, sum = 0;
        for (int c = 0; c < TILE; c++) high = fmaxf(high, scores.load(c));
        for (int c = 0; c < TILE; c++) {
            const float p = expf(scores.load(c) - high);
            scores.store(c, p);
            sum += p;
        }
        const float factor = expf(before - high);
        maximum.store(0, high);
        total.store(0, total.load(0) * factor + sum);
        return factor;
    }
};

template <class T>
void forward(Context& context, const View& out, const View& lse, const View& q, const View& k, const View& v, const Plan& plan,
             float scale) {
    const auto split = HeadSplit::of(q, k);
    const auto Dh = static_cast<int>(q.shape[2]);
    const auto tiles = device_plan(plan).query_tiles(context, plan, split.queries, false);
    const AttentionForward<T> kernel{head_rows<T>(out),
                                     row_values(lse),
                                     head_rows<const T>(q),
                                     head_rows<const T>(k),
                                     head_rows<const T>(v),
                                     tiles.view,
                                     split,
                                     Dh,
                                     scale};
    launch_tiles(context, tiles.tiles, split.blocks(), kernel.shared_bytes(Dh), kernel);
}

template <int Dh>
void forward_mma(Context& context, const View& out, const View& lse, const View& q, const View& k, const View& v,
                 const Plan& plan, float scale) {
    const auto key_heads = static_cast<int>(k.shape[1]), group = static_cast<int>(q.shape[1]) / key_heads;
    const auto tiles = device_plan(plan).query_tiles(context, plan, MMA_ROWS / group, true);
    // After the tiles, which a captured call then finds prepared.
    if (flash_forward(context, out, lse, q, k, v, plan, scale)) return;
    const AttentionForwardMma<Dh> kernel{head_rows<bf16>(out),
                                         row_values(lse),
                                         head_rows<const bf16>(q),
                                         head_rows<const bf16>(k),
                                         head_rows<const bf16>(v),
                                         tiles.view,
                                         key_heads,
                                         group,
                                         scale * LOG2_E};
    launch_tiles(context, tiles.tiles, key_heads, kernel.SHARED_BYTES, kernel);
}

}  // namespace

int64_t CudaBackend::max_head_width() const { return MAX_WIDTH; }

void CudaBackend::attention_forward(Context& context, const View& out, const View& saved_lse, const View& q, const View& k,
                                    const View& v, const Plan& plan, float scale) {
    if (q.shape[1] == 0) return;
    auto run = &forward<float>;
    if (fits_mma(q.shape[1] / k.shape[1], {&out, &q, &k, &v}))
        run = q.shape[2] == 64 ? &forward_mma<64> : &forward_mma<128>;
    else if (q.dtype == HLLM_BF16)
        run = &forward<bf16>;
    run(context, out, saved_lse, q, k, v, plan, scale);
}

}  // namespace hllm::cuda
