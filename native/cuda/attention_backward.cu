// Attention by plan, backward. With P the probabilities, recomputed from lse, and delta = sum(dout * out) of a row:
//   dS = P * (dout v^T - delta),  dq = scale dS k,  dk = scale dS^T q,  dv = P^T dout.
// dq and delta go by query tiles, dk and dv by key tiles: whoever sums is one block, in a fixed order.
#include "cuda/attention_backward_mma.cuh"
#include "cuda/backend.h"
#include "cuda/flash_attention.h"

namespace hllm::cuda {
namespace {

constexpr int KEY_TILE_ROWS = 8192;  // of a key tile; more are cut into several, whose partial sums are added up

// ---- In f32, any width ----

template <class T>
struct AttentionBackwardQueries {
    static constexpr int MAX_THREADS = TILE_THREADS;
    HeadRows<T> dq;
    RowValues delta;
    HeadRows<const T> out;
    RowValues lse;
    HeadRows<const T> dout, q, k, v;
    TilesView tiles;
    HeadSplit split;
    int Dh;
    float scale;

    static int shared_bytes(int Dh) { return (5 * TILE * (Dh + 1) + TILE * TILE + 7 * TILE) * 4; }

    HLLM_KERNEL void operator()() const {
        const auto [index, key_head, part] = split.place();
        if (index >= tiles.counts[0]) return;
        const Tile tile = tiles.tiles[index];
        const int W = Dh + 1;
        const auto rows = shared<float>(0), douts = rows.at(TILE * W), sums = douts.at(TILE * W), keys = sums.at(TILE * W),
                   values = keys.at(TILE * W), ds = values.at(TILE * W), row_lse = ds.at(TILE * TILE),
                   row_delta = row_lse.at(TILE);
        const auto bits = shared<int>((5 * TILE * W + TILE * TILE + 2 * TILE) * 4), queries = bits.at(TILE),
                   heads = queries.at(TILE), key_rows = heads.at(TILE), key_heads = key_rows.at(TILE);

        Row own;  // of the first TILE threads
        if (thread() < TILE) {
            own = split.row(tiles.chunks, {tile.chunk, tile.chunk + tile.chunks, 0}, thread(), key_head, part);
            queries.store(thread(), own.query);
            heads.store(thread(), own.head);
            key_heads.store(thread(), key_head);
            if (own.query >= 0) {
                float sum = 0;
                for (int e = 0; e < Dh; e++)
                    sum = fmaf(load_f32(dout.at(own.query, own.head) + e), load_f32(out.at(own.query, own.head) + e), sum);
                *delta.at(own.query, own.head) = sum;
                row_delta.store(thread(), sum);
                row_lse.store(thread(), *lse.at(own.query, own.head));
            }
        }
        block_barrier();
        gather(rows, q, queries, heads, Dh);
        gather(douts, dout, queries, heads, Dh);
        for (int i = thread(); i < TILE * W; i += threads()) sums.store(i, 0);
        for (int first = 0; first < tile.columns; first += TILE) {
            block_barrier();
            if (thread() < TILE) {
                key_rows.store(thread(), key_row(tiles.runs, tile, first + thread()));
                bits.store(thread(), static_cast<int>(visible(tiles.glimpses, own, first) & 0xffff));
            }
            block_barrier();
            gather(keys, k, key_rows, key_heads, Dh);
            gather(values, v, key_rows, key_heads, Dh);
            block_barrier();
            for (int i = thread(); i < TILE * TILE; i += threads()) {
                const int r = i / TILE, c = i % TILE;
                if (!(bits.load(r) >> c & 1)) continue;
                const float p = expf(scale * dot(rows.at(r * W), keys.at(c * W), Dh) - row_lse.load(r));
                ds.store(i, p * (dot(douts.at(r * W), values.at(c * W), Dh) - row_delta.load(r)));
            }
            block_barrier();
            for (int i = thread(); i < TILE * Dh; i += threads()) {
                const int r = i / Dh, e = i % Dh;
                float sum = sums.load(r * W + e);
                for (int c = 0; c < TILE; c++)
                    if (bits.load(r) >> c & 1) sum = fmaf(ds.load(r * TILE + c), keys.load(c * W + e), sum);
                sums.store(r * W + e, sum);
            }
        }
        block_barrier();
        for (int i = thread(); i < TILE * Dh; i += threads()) {
            const int r = i / Dh, e = i % Dh, query = queries.load(r);
            if (query >= 0) store_f32(dq.at(query, heads.load(r)) + e, scale * sums.load(r * W + e));
        }
    }
};

template <class T>
struct AttentionBackwardKeys {
    static constexpr int MAX_THREADS = TILE_THREADS;
    KeyGradients<T> to;
    RowValues delta, lse;
    HeadRows<const T> dout, q, k, v;
    TilesView tiles;
    HeadSplit split;
    int Dh;
    float scale;

    static int shared_bytes(int Dh) { return (6 * TILE * (Dh + 1) + 2 * TILE * TILE + 7 * TILE) * 4; }

    HLLM_KERNEL void operator()() const {
        const int key_head = block_x() % split.key_heads, index = block_x() / split.key_heads, W = Dh + 1;
        if (index >= tiles.counts[0]) return;
        const Tile tile = tiles.tiles[index];
        const auto keys = shared<float>(0), values = keys.at(TILE * W), dk = values.at(TILE * W), dv = dk.at(TILE * W),
                   rows = dv.at(TILE * W), douts = rows.at(TILE * W), p = douts.at(TILE * W), ds = p.at(TILE * TILE),
                   row_lse = ds.at(TILE * TILE), row_delta = row_lse.at(TILE);
        const auto bits = shared<int>((6 * TILE * W + 2 * TILE * TILE + 2 * TILE) * 4), queries = bits.at(TILE),
                   heads = queries.at(TILE), key_rows = heads.at(TILE), key_heads = key_rows.at(TILE);
        if (thread() < TILE) {
            key_rows.store(thread(), key_row(tiles.runs, tile, thread()));
            key_heads.store(thread(), key_head);
        }
        block_barrier();
        gather(keys, k, key_rows, key_heads, Dh);
        gather(values, v, key_rows, key_heads, Dh);
        for (int i = thread(); i < TILE * W; i += threads()) {
            dk.store(i, 0);
            dv.store(i, 0);
        }
        QueryCursor cursor{tile.chunk, tile.chunk + tile.chunks, 0};
        for (; cursor.chunk < cursor.end; cursor.advance(tiles.chunks, split.queries)) {
            for (int part = 0; part < split.parts; part++) {
                block_barrier();
                if (thread() < TILE) {
                    const Row row = split.row(tiles.chunks, cursor, thread(), key_head, part);
                    queries.store(thread(), row.query);
                    heads.store(thread(), row.head);
                    bits.store(thread(), static_cast<int>(visible(tiles.glimpses, row, 0) & 0xffff));
                    row_lse.store(thread(), row.query < 0 ? 0 : *lse.at(row.query, row.head));
                    row_delta.store(thread(), row.query < 0 ? 0 : *delta.at(row.query, row.head));
                }
                block_barrier();
                gather(rows, q, queries, heads, Dh);
                gather(douts, dout, queries, heads, Dh);
                block_barrier();
                for (int i = thread(); i < TILE * TILE; i += threads()) {
                    const int r = i / TILE, c = i % TILE;
                    if (!(bits.load(r) >> c & 1)) continue;
                    p.store(i, expf(scale * dot(rows.at(r * W), keys.at(c * W), Dh) - row_lse.load(r)));
                    ds.store(i, p.load(i) * (dot(douts.at(r * W), values.at(c * W), Dh) - row_delta.load(r)));
                }
                block_barrier();
                for (int i = thread(); i < TILE * Dh; i += threads()) {
                    const int c = i / Dh, e = i % Dh;
                    float sum_k = dk.load(c * W + e), sum_v = dv.load(c * W + e);
                    for (int r = 0; r < TILE; r++) {
                        if (!(bits.load(r) >> c & 1)) continue;
                        sum_k = fmaf(ds.load(r * TILE + c), rows.load(r * W + e), sum_k);
                        sum_v = fmaf(p.load(r * TILE + c), douts.load(r * W + e), sum_v);
                    }
                    dk.store(c * W + e, sum_k);
                    dv.store(c * W + e, sum_v);
                }
            }
        }
        block_barrier();
        for (int i = thread(); i < TILE * Dh; i += threads()) {
            const int c = i / Dh, e = i % Dh, key = key_rows.load(c);
            if (key < 0) continue;
            const float sum_k = scale * dk.load(c * W + e), sum_v = dv.load(c * W + e);
            if (tile.partial < 0) {
                store_f32(to.dk.at(key, key_head) + e, sum_k);
                store_f32(to.dv.at(key, key_head) + e, sum_v);
            } else {
                float* sums = to.partial(tile.partial, TILE, c, split.key_heads, key_head, Dh);
                sums[e] = sum_k;
                sums[Dh + e] = sum_v;
            }
        }
    }
};

// ---- dk and dv of keys with several tiles ----

template <class T>
struct AddKeyPartials {
    static constexpr int MAX_THREADS = 256;
    KeyGradients<T> to;
    TilesView tiles;
    int keys, key_heads, Dh;  // of a tile

    HLLM_KERNEL void operator()() const {
        const int head = block_x() % key_heads, index = block_x() / key_heads;
        if (index >= tiles.counts[1]) return;
        const PartialSums sums = tiles.sums[index];
        for (int i = thread(); i < sums.rows * 2 * Dh; i += threads()) {
            const int key = i / (2 * Dh), e = i % (2 * Dh);
            float sum = 0;
            for (int j = 0; j < sums.partials; j++) sum += to.partial(sums.partial + j, keys, key, key_heads, head, Dh)[e];
            const HeadRows<T>& out = e < Dh ? to.dk : to.dv;
            store_f32(out.at(sums.row + key, head) + e % Dh, sum);
        }
    }
};

struct Backward {
    Context& context;
    const View &dq, &dk, &dv, &out, &lse, &dout, &q, &k, &v;
    const Plan& plan;
    float scale;

    int key_heads() const { return static_cast<int>(k.shape[1]); }
    int group() const { return static_cast<int>(q.shape[1]) / key_heads(); }
    int Dh() const { return static_cast<int>(q.shape[2]); }
    RowValues delta() const { return {context.scratch.take<float>(q.shape[0] * q.shape[1]), q.shape[0]}; }
    template <class T>
    KeyGradients<T> gradients(const DeviceTiles& tiles, int keys) const {
        return {head_rows<T>(dk), head_rows<T>(dv),
                context.scratch.take<float>(tiles.partials * keys * key_heads() * 2 * Dh())};
    }
    template <class T>
    void add_partials(const DeviceTiles& tiles, const KeyGradients<T>& to, int keys) const {
        launch_tiles(context, tiles.sums, key_heads(), 0, AddKeyPartials<T>{to, tiles.view, keys, key_heads(), Dh()});
    }

    template <class T>
    void run() const {
        const auto split = HeadSplit::of(q, k);
        auto& tiled = device_plan(plan);
        const auto queries = tiled.query_tiles(context, plan, split.queries, false),
                   keys = tiled.key_tiles(context, plan, TILE, std::max(1, KEY_TILE_ROWS / group()));
        const RowValues d = delta(), l = row_values(lse);
        const auto to = gradients<T>(keys, TILE);
        const auto vdout = head_rows<const T>(dout), vq = head_rows<const T>(q), vk = head_rows<const T>(k),
                   vv = head_rows<const T>(v);
        const AttentionBackwardQueries<T> by_queries{
            head_rows<T>(dq), d, head_rows<const T>(out), l, vdout, vq, vk, vv, queries.view, split, Dh(), scale};
        launch_tiles(context, queries.tiles, split.blocks(), by_queries.shared_bytes(Dh()), by_queries);
        const AttentionBackwardKeys<T> by_keys{to, d, l, vdout, vq, vk, vv, keys.view, split, Dh(), scale};
        launch_tiles(context, keys.tiles, split.key_heads, by_keys.shared_bytes(Dh()), by_keys);
        add_partials(keys, to, TILE);
    }

    template <int WIDTH>
    void run_mma() const {
        auto& tiled = device_plan(plan);
        const auto queries = tiled.query_tiles(context, plan, MMA_ROWS / group(), true),
                   keys = tiled.key_tiles(context, plan, MMA_KEYS, std::max(1, KEY_TILE_ROWS / group()));
        // After the tiles, which a captured call then finds prepared.
        if (flash_backward(context, dq, dk, dv, out, lse, dout, q, k, v, plan, scale)) return;
        const RowValues d = delta(), l = row_values(lse);
        const auto to = gradients<bf16>(keys, MMA_KEYS);
        const auto vdout = head_rows<const bf16>(dout), vq = head_rows<const bf16>(q), vk = head_rows<const bf16>(k),
                   vv = head_rows<const bf16>(v);
        const AttentionBackwardQueriesMma<WIDTH> by_queries{head_rows<bf16>(dq),
                                                            d,
                                                            head_rows<const bf16>(out),
                                                            l,
                                                            vdout,
                                                            vq,
                                                            vk,
                                                            vv,
                                                            queries.view,
                                                            key_heads(),
                                                            group(),
                                                            scale};
        launch_tiles(context, queries.tiles, 2 * key_heads(), by_queries.SHARED_BYTES, by_queries);
        const AttentionBackwardKeysMma<WIDTH> by_keys{to, d, l, vdout, vq, vk, vv, keys.view, key_heads(), group(), scale};
        launch_tiles(context, keys.tiles, key_heads(), by_keys.SHARED_BYTES, by_keys);
        add_partials(keys, to, MMA_KEYS);
    }
};

}  // namespace

void CudaBackend::attention_backward(Context& context, const View& dq, const View& dk, const View& dv, const View& saved_out,
                                     const View& saved_lse, const View& dout, const View& q, const View& k, const View& v,
                                     const Plan& plan, float scale) {
    if (q.shape[1] == 0) {
        fill(context, dk, 0);
        fill(context, dv, 0);
        return;
    }
    const Backward backward{context, dq, dk, dv, saved_out, saved_lse, dout, q, k, v, plan, scale};
    if (!fits_mma(q.shape[1] / k.shape[1], {&dq, &dk, &dv, &saved_out, &dout, &q, &k, &v}))
        q.dtype == HLLM_BF16 ? backward.run<bf16>() : backward.run<float>();
    else if (q.shape[2] == 64)
        backward.run_mma<64>();
    else
        backward.run_mma<128>();
}

}  // namespace hllm::cuda
