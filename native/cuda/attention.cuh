// What the attention kernels share: finding the rows of a tile and what they see, and the tensor-core path's way of moving
// tiles between global memory, shared memory and registers.
//
// The rows of a tile are (query, head) pairs that share a key head: row r is query r / heads of the tile, head r % heads of
// the group. A tile of shared memory holds rows of Dh bf16 elements in pieces of 16 bytes; piece p of row r lies at place
// p ^ (r % 8) of its row, so that eight rows' pieces meet in no bank.
#pragma once
#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "cuda/attention_plan.h"

namespace hllm::cuda {

constexpr float LOG2_E = 1.44269504088896341f;

// [rows, heads, Dh]; strides in elements.
template <class T>
struct HeadRows {
    T* data;
    int64_t row_stride, head_stride;
    HLLM_DEVICE T* at(int row, int head) const { return data + row * row_stride + head * head_stride; }
};
template <class T>
HeadRows<T> head_rows(const View& view) {
    return {static_cast<T*>(view.data), view.stride[0], view.stride[1]};
}
// saved_lse, and delta: [heads, rows].
struct RowValues {
    float* data;
    int64_t head_stride;
    HLLM_DEVICE float* at(int row, int head) const { return data + head * head_stride + row; }
};

inline RowValues row_values(const View& view) { return {static_cast<float*>(view.data), view.stride[0]}; }

// Where a key tile's dk and dv go: to the gradients, or to [partial][keys][key head][dk or dv][Dh].
template <class T>
struct KeyGradients {
    HeadRows<T> dk, dv;
    float* partials;
    HLLM_DEVICE float* partial(int partial, int keys, int key, int key_heads, int head, int Dh) const {
        return partials + ((static_cast<int64_t>(partial) * keys + key) * key_heads + head) * 2 * Dh;
    }
};

// ---- Rows and what they see ----

struct Row {
    int query = -1;  // -1: there is no such row
    int head = 0;    // of all query heads
    int seen = 0, glimpse = 0, glimpses = 0;
};

// Walks over the queries of a tile.
struct QueryCursor {
    int chunk, end, offset;
    HLLM_DEVICE void advance(const Chunk* chunks, int queries) {
        offset += queries;
        while (chunk < end && offset >= chunks[chunk].queries) offset -= chunks[chunk++].queries;
    }
};

// The row `queries` queries behind the cursor, for a head.
HLLM_DEVICE Row find_row(const Chunk* chunks, QueryCursor cursor, int queries, int head) {
    cursor.advance(chunks, queries);
    Row row;
    if (cursor.chunk < cursor.end) {
        const Chunk chunk = chunks[cursor.chunk];
        row = {chunk.query + cursor.offset, head, chunk.seen + cursor.offset * chunk.step, chunk.glimpse, chunk.glimpses};
    }
    return row;
}

// Bit i: the row sees column first + i, for 64 columns.
HLLM_DEVICE uint64_t visible(const Glimpse* glimpses, const Row& row, int first) {
    uint64_t bits = 0;
    for (int i = row.glimpse; i < row.glimpse + row.glimpses; i++) {
        const Glimpse g = glimpses[i];
        const int length = g.length < row.seen - g.position ? g.length : row.seen - g.position;
        const int low = g.column > first ? g.column - first : 0;
        const int high = g.column + length - first < 64 ? g.column + length - first : 64;
        if (low < high) bits |= ~uint64_t{0} >> (64 - (high - low)) << low;
    }
    return bits;
}

// The key row of a column, -1 behind the last one.
HLLM_DEVICE int key_row(const Run* runs, const Tile& tile, int column) {
    if (column >= tile.columns) return -1;
    int low = tile.run, high = tile.run + tile.runs;  // the run is in [low, high)
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (runs[middle].column <= column ? low : high) = middle;
    }
    return runs[low].row + column - runs[low].column;
}

// ---- The path for any width, in f32 ----

constexpr int TILE = 16;  // rows and columns
constexpr int TILE_THREADS = 128;

// How blocks share the heads: a tile's rows are at most TILE heads of a group; larger groups are cut in parts.
struct HeadSplit {
    int key_heads, group;
    int heads, parts;  // of a group in a part; of a group
    int queries;       // of a tile
    static HeadSplit of(const View& q, const View& k) {
        const auto key_heads = static_cast<int>(k.shape[1]), group = static_cast<int>(q.shape[1]) / key_heads,
                   heads = std::min(group, TILE);
        return {key_heads, group, heads, (group + TILE - 1) / TILE, TILE / heads};
    }
    int blocks() const { return key_heads * parts; }  // for each tile

    // What a block of such a launch works on.
    struct Place {
        int tile, key_head, part;
    };
    HLLM_DEVICE Place place() const {
        return {block_x() / parts / key_heads, block_x() / parts % key_heads, block_x() % parts};
    }

    // Row r of the TILE rows behind the cursor.
    HLLM_DEVICE Row row(const Chunk* chunks, const QueryCursor& cursor, int r, int key_head, int part) const {
        const int query = r / heads, head = part * TILE + r % heads;
        return query < queries && head < group ? find_row(chunks, cursor, query, key_head * group + head) : Row{};
    }
};

// to[TILE, Dh + 1] = rows of a head; 0 where the row is -1.
template <class T>
HLLM_DEVICE void gather(Shared<float> to, const HeadRows<const T>& from, Shared<int> rows, Shared<int> heads, int Dh) {
    for (int i = thread(); i < TILE * Dh; i += TILE_THREADS) {
        const int r = i / Dh, e = i % Dh, row = rows.load(r);
        to.store(r * (Dh + 1) + e, row < 0 ? 0 : load_f32(from.at(row, heads.load(r)) + e));
    }
}

// The product of two rows.
HLLM_DEVICE float dot(Shared<float> a, Shared<float> b, int Dh) {
    float sum = 0;
    for (int e = 0; e < Dh; e++) sum = fmaf(a.load(e), b.load(e), sum);
    return sum;
}

// ---- The tensor-core path ----

constexpr int MMA_KEYS = 64;      // columns at a time
constexpr int MMA_ROWS = 128;     // of a query tile
constexpr int MMA_THREADS = 128;  // four warps

// Element `piece` * 8 of a row, in a tile.
template <int Dh>
HLLM_DEVICE int swizzled(int row, int piece) {
    return row * Dh + (piece ^ (row % 8)) * 8;
}

// A warp's own ROWS rows of a tile: lane i knows the query and the head of row i.
template <int Dh, int ROWS>
HLLM_DEVICE void load_own_rows(Shared<bf16> to, const HeadRows<const bf16>& from, const Row& own) {
    HLLM_UNROLL
    for (int j = 0; j < ROWS * Dh / 8 / 32; j++) {
        const int i = j * 32 + lane(), row = i / (Dh / 8), piece = i % (Dh / 8), query = shuffle(own.query, row),
                  head = shuffle(own.head, row);
        cp_async16(to, swizzled<Dh>(row, piece), query < 0 ? from.data : from.at(query, head) + piece * 8, query >= 0);
    }
}
template <int Dh, int ROWS>
HLLM_DEVICE void store_own_rows(const HeadRows<bf16>& to, Shared<bf16> from, const Row& own) {
    warp_barrier();
    HLLM_UNROLL
    for (int j = 0; j < ROWS * Dh / 8 / 32; j++) {
        const int i = j * 32 + lane(), row = i / (Dh / 8), piece = i % (Dh / 8), query = shuffle(own.query, row),
                  head = shuffle(own.head, row);
        if (query >= 0) store16(to.at(query, head) + piece * 8, from.load16(swizzled<Dh>(row, piece)));
    }
}

// Rows lane / 4 and lane / 4 + 8 of 16, as mma leaves them, times their factors to 16 rows of a tile.
template <int Dh>
HLLM_DEVICE void put_rows(Shared<uint32_t> to, const float (&sums)[Dh / 8][4], float factor, float factor8) {
    const int g = lane() / 4, t = lane() % 4;
    HLLM_UNROLL
    for (int n = 0; n < Dh / 8; n++) {
        to.store(swizzled<Dh>(g, n) / 2 + t, pack_bf16(sums[n][0] * factor, sums[n][1] * factor));
        to.store(swizzled<Dh>(g + 8, n) / 2 + t, pack_bf16(sums[n][2] * factor8, sums[n][3] * factor8));
    }
}

// Operands of mma out of a tile.
// a: rows [row, row + 16), elements [16 step, 16 step + 16).
template <int Dh>
HLLM_DEVICE void load_a(uint32_t (&a)[4], Shared<bf16> tile, int row, int step) {
    ldmatrix_x4(a, tile, swizzled<Dh>(row + lane() % 16, 2 * step + lane() / 16));
}
// b of two products whose columns are the tile's rows [row, row + 8) and [row + 8, row + 16), along 16 elements.
template <int Dh>
HLLM_DEVICE void load_b(uint32_t (&b)[2][2], Shared<bf16> tile, int row, int step) {
    uint32_t r[4];
    ldmatrix_x4(r, tile, swizzled<Dh>(row + lane() / 16 * 8 + lane() % 8, 2 * step + lane() / 8 % 2));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}
// b of two products whose columns are elements [16 step, 16 step + 8) and the next 8, along the tile's rows [row, row + 16).
template <int Dh>
HLLM_DEVICE void load_b_trans(uint32_t (&b)[2][2], Shared<bf16> tile, int row, int step) {
    uint32_t r[4];
    ldmatrix_x4_trans(r, tile, swizzled<Dh>(row + lane() % 16, 2 * step + lane() / 16));
    b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}
// a from what two products left, of columns [0, 8) and [8, 16): the same numbers, rounded.
HLLM_DEVICE void round_to_a(uint32_t (&a)[4], const float (&low)[4], const float (&high)[4]) {
    a[0] = pack_bf16(low[0], low[1]), a[1] = pack_bf16(low[2], low[3]);
    a[2] = pack_bf16(high[0], high[1]), a[3] = pack_bf16(high[2], high[3]);
}

// The keys and values of a query tile, 64 columns at a time, in two stages of shared memory: while one is used, the other
// arrives.
template <int Dh>
struct KeyStream {
    static constexpr int STAGE = 2 * MMA_KEYS * Dh * 2, BYTES = 2 * STAGE + 2 * MMA_KEYS * 4;
    HeadRows<const bf16> k, v;
    const Run* runs;
    Tile tile;
    int head, base;  // in shared memory

    HLLM_DEVICE int count() const { return (tile.columns + MMA_KEYS - 1) / MMA_KEYS; }
    HLLM_DEVICE Shared<bf16> keys(int i) const { return shared<bf16>(base + i % 2 * STAGE); }
    HLLM_DEVICE Shared<bf16> values(int i) const { return shared<bf16>(base + i % 2 * STAGE + STAGE / 2); }
    HLLM_DEVICE Shared<int> rows(int i) const { return shared<int>(base + 2 * STAGE + i % 2 * MMA_KEYS * 4); }

    // Looks up the key rows of the i-th columns; after a barrier they can be loaded.
    HLLM_DEVICE void find(int i) const {
        if (thread() < MMA_KEYS) rows(i).store(thread(), key_row(runs, tile, i * MMA_KEYS + thread()));
    }
    HLLM_DEVICE void load(int i) const {
        if (i < count()) {
            const Shared<bf16> to_keys = keys(i), to_values = values(i);
            for (int j = thread(); j < MMA_KEYS * Dh / 8; j += MMA_THREADS) {
                const int column = j / (Dh / 8), piece = j % (Dh / 8), row = rows(i).load(column),
                          place = swizzled<Dh>(column, piece);
                cp_async16(to_keys, place, row < 0 ? k.data : k.at(row, head) + piece * 8, row >= 0);
                cp_async16(to_values, place, row < 0 ? v.data : v.at(row, head) + piece * 8, row >= 0);
            }
        }
        cp_async_commit();
    }
    // body(i) for all columns of the tile. What the caller has begun to copy is there by then.
    template <class Body>
    HLLM_DEVICE void run(Body&& body) const {
        find(0);
        find(1);
        block_barrier();
        load(0);
        for (int i = 0; i < count(); i++) {
            block_barrier();  // everyone is done with the stage that is filled now
            load(i + 1);
            find(i + 2);
            cp_async_wait<1>();
            block_barrier();
            body(i);
        }
    }
};

// What a warp sees of 64 columns: lane i knows the bits of its row i.
struct WarpSight {
    unsigned low, high;  // of the lane's own row
    int steps;           // bit i: some row sees some of columns [16 i, 16 i + 16)
    bool all;            // every row sees all

    // Lanes beyond the rows bring what changes nothing: own.query is -1.
    HLLM_DEVICE static WarpSight of(const Glimpse* glimpses, const Row& own, int first) {
        const uint64_t bits = visible(glimpses, own, first);
        WarpSight s;
        s.low = static_cast<unsigned>(bits), s.high = static_cast<unsigned>(bits >> 32);
        s.steps = (ballot(s.low & 0xffffu) != 0) | (ballot(s.low >> 16) != 0) << 1 | (ballot(s.high & 0xffffu) != 0) << 2 |
                  (ballot(s.high >> 16) != 0) << 3;
        s.all = ballot(bits == ~uint64_t{0} || own.query < 0) == ~0u;
        return s;
    }
};
// The bits of the row that lane `source` knows.
HLLM_DEVICE uint64_t bits_of(const WarpSight& sight, int source) {
    return shuffle(sight.low, source) | uint64_t{shuffle(sight.high, source)} << 32;
}

// ---- On the host ----

constexpr int MAX_WIDTH = 256;  // of a head: what fits in shared memory

inline DevicePlan& device_plan(const Plan& plan) { return *static_cast<DevicePlan*>(plan.device.get()); }

// `blocks` for each tile.
template <class Kernel>
void launch_tiles(Context& context, int tiles, int blocks, int shared_bytes, const Kernel& kernel) {
    if (tiles > 0) launch(stream_of(context), {tiles * blocks}, Kernel::MAX_THREADS, shared_bytes, kernel);
}

// Whether the tensor-core path takes these tensors: rows that can be moved by 16 bytes, widths that it is made for.
inline bool fits_mma(int64_t group, std::initializer_list<const View*> views) {
    return group <= MMA_KEYS && std::all_of(views.begin(), views.end(), [](const View* x) {
               return x->dtype == HLLM_BF16 && (x->shape[2] == 64 || x->shape[2] == 128) && x->stride[0] % 8 == 0 &&
                      x->stride[1] % 8 == 0 && reinterpret_cast<uintptr_t>(x->data) % 16 == 0;
           });
}

}  // namespace hllm::cuda
