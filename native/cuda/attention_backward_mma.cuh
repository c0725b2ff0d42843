// Attention by plan, backward, on the tensor cores: bf16 with head widths of 64 and 128.
//
// Seven products: both kernels compute q k^T and dout v^T. With five, the block of a key tile would also add up dq, as one
// partial sum for each key tile that a query sees, since another order each time would be another result. For a row and
// query head of a causal sequence of n tokens, with key tiles of 64 and few key heads, that is
//                     FLOP         bytes
//   seven products    7 n Dh       12 Dh: q and dout twice, out and dq
//   five              5 n Dh       8 Dh, and 8 Dh for each of (n / 64 + 1) / 2 partial sums in f32, written and read
// At 256 tokens that is 28 Dh bytes for 12, and a buffer of n / 128 times dq in f32. An H100 does up to 300 FLOP in the time
// of a byte; seven products want 0.58 n of them, so that up to 256 tokens and beyond the bytes set the pace and five
// products would be slower. What they would save at thousands of tokens is the FlashAttention library's part. Only
// sequences within one key tile would win, which have no partial sums: bytes by a third.
#pragma once
#include "cuda/attention.cuh"

namespace hllm::cuda {

// ---- dq and delta: 64 rows, 16 to a warp; a query tile has two halves ----

template <int Dh>
struct AttentionBackwardQueriesMma {
    static constexpr int MAX_THREADS = MMA_THREADS, ROWS = MMA_ROWS / 2, WARP_ROWS = 16;
    static constexpr int SHARED_BYTES = 2 * ROWS * Dh * 2 + KeyStream<Dh>::BYTES;
    HeadRows<bf16> dq;
    RowValues delta;
    HeadRows<const bf16> out;
    RowValues lse;
    HeadRows<const bf16> dout, q, k, v;
    TilesView tiles;
    int key_heads, group;
    float scale;

    HLLM_KERNEL void operator()() const {
        const int head = block_x() % key_heads, half = block_x() / key_heads % 2, index = block_x() / key_heads / 2;
        if (index >= tiles.counts[0]) return;
        const Tile tile = tiles.tiles[index];
        if (tile.queries * group <= half * ROWS) return;
        const int row = half * ROWS + warp() * WARP_ROWS + lane();
        Row own;
        if (lane() < WARP_ROWS)
            own = find_row(tiles.chunks, {tile.chunk, tile.chunk + tile.chunks, 0}, row / group, head * group + row % group);
        const int own_rows = warp() * WARP_ROWS * Dh;
        const Shared<bf16> rows = shared<bf16>(0).at(own_rows), douts = rows.at(ROWS * Dh);
        load_own_rows<Dh, WARP_ROWS>(rows, q, own);
        load_own_rows<Dh, WARP_ROWS>(douts, dout, own);

        // Two lanes to a row.
        float sum = 0;
        const int at = lane() / 2, at_query = shuffle(own.query, at), at_head = shuffle(own.head, at);
        if (at_query >= 0)
            for (int e = lane() % 2 * (Dh / 2); e < (lane() % 2 + 1) * (Dh / 2); e += 8)
                sum += dot8(load16(out.at(at_query, at_head) + e), load16(dout.at(at_query, at_head) + e));
        sum += shuffle_xor(sum, 1);
        if (at_query >= 0 && lane() % 2 == 0) *delta.at(at_query, at_head) = sum;
        const float own_lse = own.query < 0 ? 0 : *lse.at(own.query, own.head) * LOG2_E;
        float row_lse[2], row_delta[2];
        HLLM_UNROLL
        for (int h = 0; h < 2; h++) {
            row_lse[h] = shuffle(own_lse, 8 * h + lane() / 4);
            row_delta[h] = shuffle(sum, 2 * (8 * h + lane() / 4));
        }

        float sums[Dh / 8][4] = {};
        const KeyStream<Dh> stream{k, v, tiles.runs, tile, head, 2 * ROWS * Dh * 2};
        stream.run([&](int i) {
            const WarpSight sight = WarpSight::of(tiles.glimpses, own, i * MMA_KEYS);
            if (sight.steps != 0) add(rows, douts, stream.keys(i), stream.values(i), sight, row_lse, row_delta, sums);
        });
        cp_async_wait<0>();  // of q and dout, when there are no keys
        warp_barrier();
        put_rows<Dh>(shared<uint32_t>(0).at(own_rows / 2), sums, scale, scale);
        store_own_rows<Dh, WARP_ROWS>(dq, rows, own);
    }

    HLLM_DEVICE static float dot8(uint4 a, uint4 b) {
        return dot2(a.x, b.x) + dot2(a.y, b.y) + dot2(a.z, b.z) + dot2(a.w, b.w);
    }
    HLLM_DEVICE static float dot2(uint32_t a, uint32_t b) {
        auto low = [](uint32_t pair) { return to_float(bf16{static_cast<uint16_t>(pair)}); };
        return low(a) * low(b) + low(a >> 16) * low(b >> 16);
    }

    // Adds the columns of a stage to dq / scale of the warp's rows.
    HLLM_DEVICE void add(Shared<bf16> rows, Shared<bf16> douts, Shared<bf16> keys, Shared<bf16> values, const WarpSight& sight,
                         const float (&row_lse)[2], const float (&row_delta)[2], float (&sums)[Dh / 8][4]) const {
        float p[MMA_KEYS / 8][4] = {}, ds[MMA_KEYS / 8][4] = {};
        HLLM_UNROLL
        for (int e = 0; e < Dh / 16; e++) {
            uint32_t a[4], da[4];
            load_a<Dh>(a, rows, 0, e);
            load_a<Dh>(da, douts, 0, e);
            HLLM_UNROLL
            for (int n = 0; n < MMA_KEYS / 16; n++) {
                if (!(sight.steps >> n & 1)) continue;
                uint32_t b[2][2];
                load_b<Dh>(b, keys, n * 16, e);
                mma_16816(p[2 * n], a, b[0]);
                mma_16816(p[2 * n + 1], a, b[1]);
                load_b<Dh>(b, values, n * 16, e);
                mma_16816(ds[2 * n], da, b[0]);
                mma_16816(ds[2 * n + 1], da, b[1]);
            }
        }
        HLLM_UNROLL
        for (int h = 0; h < 2; h++) {
            const auto bits = bits_of(sight, 8 * h + lane() / 4) >> lane() % 4 * 2;
            HLLM_UNROLL
            for (int n = 0; n < MMA_KEYS / 8; n++) {
                HLLM_UNROLL
                for (int j = 2 * h; j < 2 * h + 2; j++) {
                    const bool seen = sight.all || (bits >> (8 * n + j % 2) & 1);
                    ds[n][j] = seen ? fast_exp2(p[n][j] * (scale * LOG2_E) - row_lse[h]) * (ds[n][j] - row_delta[h]) : 0;
                }
            }
        }
        HLLM_UNROLL
        for (int n = 0; n < MMA_KEYS / 16; n++) {
            if (!(sight.steps >> n & 1)) continue;
            uint32_t a[4];
            round_to_a(a, ds[2 * n], ds[2 * n + 1]);
            HLLM_UNROLL
            for (int e = 0; e < Dh / 16; e++) {
                uint32_t b[2][2];
                load_b_trans<Dh>(b, keys, n * 16, e);
                mma_16816(sums[2 * e], a, b[0]);
                mma_16816(sums[2 * e + 1], a, b[1]);
            }
        }
    }
};

// ---- dk and dv: 64 keys, 16 to a warp; rows come by 64 in two stages ----

template <int Dh>
struct AttentionBackwardKeysMma {
    static constexpr int MAX_THREADS = MMA_THREADS, ROWS = 64, WARP_KEYS = 16;
    static constexpr int PART = 32;  // rows whose scores a warp holds at a time: what the registers allow
    static constexpr int TILE_BYTES = 64 * Dh * 2, INFO_BYTES = 6 * ROWS * 4, STAGE = 2 * TILE_BYTES + INFO_BYTES;
    static constexpr int SHARED_BYTES = 2 * TILE_BYTES + 2 * STAGE;
    KeyGradients<bf16> to;
    RowValues delta, lse;
    HeadRows<const bf16> dout, q, k, v;
    TilesView tiles;
    int key_heads, group;
    float scale;

    // Rows of a stage: q and dout, and what is known of each.
    struct Stage {
        int base;
        HLLM_DEVICE Shared<bf16> q() const { return shared<bf16>(base); }
        HLLM_DEVICE Shared<bf16> dout() const { return shared<bf16>(base + TILE_BYTES); }
        template <class T>
        HLLM_DEVICE Shared<T> info(int i) const {
            return shared<T>(base + 2 * TILE_BYTES + i * ROWS * 4);
        }
        HLLM_DEVICE Shared<int> queries() const { return info<int>(0); }
        HLLM_DEVICE Shared<int> heads() const { return info<int>(1); }
        HLLM_DEVICE Shared<unsigned> bits() const { return info<unsigned>(2); }  // of keys 0 .. 31, then of 32 .. 63
        HLLM_DEVICE Shared<float> lse() const { return info<float>(4); }
        HLLM_DEVICE Shared<float> delta() const { return info<float>(5); }
    };
    HLLM_DEVICE static Stage stage(int i) { return {2 * TILE_BYTES + i % 2 * STAGE}; }

    HLLM_KERNEL void operator()() const {
        const int head = block_x() % key_heads, index = block_x() / key_heads;
        if (index >= tiles.counts[0]) return;
        const Tile tile = tiles.tiles[index];
        const int first_key = tiles.runs[tile.run].row, own_key = warp() * WARP_KEYS + lane();
        Row own;
        if (lane() < WARP_KEYS && own_key < tile.columns) own.query = first_key + own_key, own.head = head;
        const int own_rows = warp() * WARP_KEYS * Dh;
        const Shared<bf16> keys = shared<bf16>(0).at(own_rows), values = keys.at(64 * Dh);
        load_own_rows<Dh, WARP_KEYS>(keys, k, own);
        load_own_rows<Dh, WARP_KEYS>(values, v, own);

        const int queries = ROWS / group, count = (tile.queries + queries - 1) / queries;
        QueryCursor cursor{tile.chunk, tile.chunk + tile.chunks, 0};
        find(stage(0), cursor, queries, head);
        block_barrier();
        load(stage(0), count > 0);
        float dk[Dh / 8][4] = {}, dv[Dh / 8][4] = {};
        for (int i = 0; i < count; i++) {
            block_barrier();  // everyone is done with the stage that is filled now
            cursor.advance(tiles.chunks, queries);
            find(stage(i + 1), cursor, queries, head);
            block_barrier();
            load(stage(i + 1), i + 1 < count);
            cp_async_wait<1>();
            block_barrier();
            add(keys, values, stage(i), dk, dv);
        }
        cp_async_wait<0>();  // of k and v, when there are no rows
        warp_barrier();
        if (tile.partial < 0) {
            put_rows<Dh>(shared<uint32_t>(0).at(own_rows / 2), dk, scale, scale);
            put_rows<Dh>(shared<uint32_t>(TILE_BYTES).at(own_rows / 2), dv, 1, 1);
            store_own_rows<Dh, WARP_KEYS>(to.dk, keys, own);
            store_own_rows<Dh, WARP_KEYS>(to.dv, values, own);
        } else {
            HLLM_UNROLL
            for (int j = 0; j < 4; j++) {
                const int key = warp() * WARP_KEYS + lane() / 4 + j / 2 * 8;
                if (key >= tile.columns) continue;
                float* sums = to.partial(tile.partial, 64, key, key_heads, head, Dh) + lane() % 4 * 2 + j % 2;
                HLLM_UNROLL
                for (int n = 0; n < Dh / 8; n++) {
                    sums[n * 8] = dk[n][j] * scale;
                    sums[Dh + n * 8] = dv[n][j];
                }
            }
        }
    }

    // Looks up the rows behind the cursor; after a barrier they can be loaded.
    HLLM_DEVICE void find(const Stage& s, const QueryCursor& cursor, int queries, int head) const {
        const int r = thread();
        if (r >= ROWS) return;
        Row row;
        if (r / group < queries) row = find_row(tiles.chunks, cursor, r / group, head * group + r % group);
        const uint64_t bits = visible(tiles.glimpses, row, 0);
        s.queries().store(r, row.query);
        s.heads().store(r, row.head);
        s.bits().store(r, static_cast<unsigned>(bits));
        s.bits().store(ROWS + r, static_cast<unsigned>(bits >> 32));
        s.lse().store(r, row.query < 0 ? 0 : *lse.at(row.query, row.head) * LOG2_E);
        s.delta().store(r, row.query < 0 ? 0 : *delta.at(row.query, row.head));
    }
    HLLM_DEVICE void load(const Stage& s, bool there) const {
        if (there) {
            for (int i = thread(); i < ROWS * Dh / 8; i += MMA_THREADS) {
                const int r = i / (Dh / 8), piece = i % (Dh / 8), query = s.queries().load(r), head = s.heads().load(r),
                          place = swizzled<Dh>(r, piece);
                cp_async16(s.q(), place, query < 0 ? q.data : q.at(query, head) + piece * 8, query >= 0);
                cp_async16(s.dout(), place, query < 0 ? dout.data : dout.at(query, head) + piece * 8, query >= 0);
            }
        }
        cp_async_commit();
    }

    // Adds the rows of a stage to dk / scale and dv of the warp's keys.
    HLLM_DEVICE void add(Shared<bf16> keys, Shared<bf16> values, const Stage& s, float (&dk)[Dh / 8][4],
                         float (&dv)[Dh / 8][4]) const {
        // A row's bits of the warp's keys.
        const Shared<unsigned> bits = s.bits().at(warp() / 2 * ROWS);
        const int shift = warp() % 2 * 16;
        for (int part = 0; part < ROWS / PART; part++) {
            const int first = part * PART;
            const unsigned seen = ballot((bits.load(first + lane()) >> shift & 0xffffu) != 0);
            if (seen == 0) continue;
            float p[PART / 8][4] = {}, ds[PART / 8][4] = {};  // [key, row]
            HLLM_UNROLL
            for (int e = 0; e < Dh / 16; e++) {
                uint32_t a[4], va[4];
                load_a<Dh>(a, keys, 0, e);
                load_a<Dh>(va, values, 0, e);
                HLLM_UNROLL
                for (int n = 0; n < PART / 16; n++) {
                    if (!(seen >> 16 * n & 0xffffu)) continue;
                    uint32_t b[2][2];
                    load_b<Dh>(b, s.q(), first + n * 16, e);
                    mma_16816(p[2 * n], a, b[0]);
                    mma_16816(p[2 * n + 1], a, b[1]);
                    load_b<Dh>(b, s.dout(), first + n * 16, e);
                    mma_16816(ds[2 * n], va, b[0]);
                    mma_16816(ds[2 * n + 1], va, b[1]);
                }
            }
            HLLM_UNROLL
            for (int n = 0; n < PART / 8; n++) {
                HLLM_UNROLL
                for (int j = 0; j < 2; j++) {
                    const int row = first + n * 8 + lane() % 4 * 2 + j;
                    const unsigned row_bits = bits.load(row) >> shift >> lane() / 4;
                    const float row_lse = s.lse().load(row), row_delta = s.delta().load(row);
                    HLLM_UNROLL
                    for (int h = 0; h < 2; h++) {
                        float &pp = p[n][2 * h + j], &dd = ds[n][2 * h + j];
                        pp = row_bits >> 8 * h & 1 ? fast_exp2(pp * (scale * LOG2_E) - row_lse) : 0;
                        dd = pp == 0 ? 0 : pp * (dd - row_delta);
                    }
                }
            }
            HLLM_UNROLL
            for (int n = 0; n < PART / 16; n++) {
                if (!(seen >> 16 * n & 0xffffu)) continue;
                uint32_t a[4], da[4];
                round_to_a(a, p[2 * n], p[2 * n + 1]);
                round_to_a(da, ds[2 * n], ds[2 * n + 1]);
                HLLM_UNROLL
                for (int e = 0; e < Dh / 16; e++) {
                    uint32_t b[2][2];
                    load_b_trans<Dh>(b, s.dout(), first + n * 16, e);
                    mma_16816(dv[2 * e], a, b[0]);
                    mma_16816(dv[2 * e + 1], a, b[1]);
                    load_b_trans<Dh>(b, s.q(), first + n * 16, e);
                    mma_16816(dk[2 * e], da, b[0]);
                    mma_16816(dk[2 * e + 1], da, b[1]);
                }
            }
        }
    }
};

}  // namespace hllm::cuda
