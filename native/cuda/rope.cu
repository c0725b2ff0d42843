// Rotary position embedding (Su et al. 2021), halves convention: (a, b) = (x[i], x[i + Dh/2]) turns by the angle of i.
#include "cuda/backend.h"
#include "cuda/pack.cuh"

namespace hllm::cuda {
namespace {

// The angles of each row; a row whose position lies outside the table is left out.
struct Angles {
    const int* positions;
    const float* table;
    int64_t stride, half;
    int rows;
    IndexCheck check;

    HLLM_DEVICE bool has(int64_t t) const { return check.ok(static_cast<int>(t), positions[t], 0, rows); }
    // N pairs of row t, from i on.
    template <int N, class To, class From>
    HLLM_DEVICE void turn(To* to, const From* from, int64_t t, int64_t i, float sign) const {
        const float* angle = table + positions[t] * stride + i;
        const auto a = load<N>(from), b = load<N>(from + half), c = load<N>(angle), s = load<N>(angle + half);
        Pack<N> turned_a, turned_b;
        for (int k = 0; k < N; k++) {
            turned_a[k] = a[k] * c[k] - b[k] * (sign * s[k]);
            turned_b[k] = b[k] * c[k] + a[k] * (sign * s[k]);
        }
        store(to, turned_a);
        store(to + half, turned_b);
    }
};

Angles angles(Context& context, const View& positions, const View& table, const char* what) {
    return {positions.i32(),           table.f32(), table.stride[0], table.shape[1] / 2, static_cast<int>(table.shape[0]),
            index_check(context, what)};
}

// A thread turns N pairs of a head.
template <int N, class E>
struct Rope {
    static constexpr int MAX_THREADS = BLOCK;
    E* x;
    int64_t stride, head_stride, T, heads;
    Angles angles;
    float sign;  // of the sines

    HLLM_KERNEL void operator()() const {
        for_each_row_pack<N>(T * heads, angles.half, [&](int64_t row, int64_t i) {
            const int64_t t = row / heads, h = row % heads;
            if (!angles.has(t)) return;
            E* at = x + t * stride + h * head_stride + i;
            angles.template turn<N>(at, at, t, i, sign);
        });
    }
};

// The heads of a tensor [T, heads, Dh].
template <class T>
struct Heads {
    T* data;
    int64_t stride, head_stride, heads;
    HLLM_DEVICE T* at(int64_t row, int64_t h) const { return data + row * stride + h * head_stride; }
};
template <class T>
Heads<T> heads_of(const View& view) {
    return {static_cast<T*>(view.data), view.stride[0], view.stride[1], view.shape[1]};
}

// A thread takes N pairs of a head of q, k or v.
template <int N, class E, class Stored>
struct RopeScatterRows {
    static constexpr int MAX_THREADS = BLOCK;
    Heads<E> q;
    Heads<Stored> keys, values;
    Heads<const E> k, v;
    int64_t T;
    Angles angles;
    const int* index;
    int rows;  // of keys and values
    IndexCheck check;

    HLLM_KERNEL void operator()() const {
        const int64_t heads = q.heads + 2 * k.heads;
        for_each_row_pack<N>(T * heads, angles.half, [&](int64_t row, int64_t i) {
            const int64_t t = row / heads;
            int64_t h = row % heads;
            if (!angles.has(t)) return;
            if (h < q.heads) {
                angles.template turn<N>(q.at(t, h) + i, q.at(t, h) + i, t, i, 1);
                return;
            }
            const int to = index[t];
            if (!check.ok(static_cast<int>(t), to, 0, rows)) return;
            h -= q.heads;
            if (h < k.heads) {
                angles.template turn<N>(keys.at(to, h) + i, k.at(t, h) + i, t, i, 1);
                return;
            }
            h -= k.heads;
            for (int64_t at : {i, i + angles.half}) store(values.at(to, h) + at, load<N>(v.at(t, h) + at));
        });
    }
};

}  // namespace

void CudaBackend::rope(Context& context, const View& x, const View& positions, const View& table, bool inverse) {
    const int64_t T = x.shape[0], heads = x.shape[1], half = x.shape[2] / 2;
    by_type(x, [&](auto type) {
        using E = decltype(type);
        by_width<E>(half % PACK<E> == 0 && aligned(x, table), [&](auto width) {
            launch_items(
                context, T * heads * half / width,
                Rope<decltype(width)::value, E>{static_cast<E*>(x.data), x.stride[0], x.stride[1], T, heads,
                                                angles(context, positions, table, "rope: positions"), inverse ? -1.f : 1.f});
        });
    });
}

void CudaBackend::rope_scatter(Context& context, const RopeScatter& a) {
    const int64_t T = a.k.shape[0], half = a.k.shape[2] / 2, heads = (a.q ? a.q.shape[1] : 0) + 2 * a.k.shape[1];
    by_type(a.k, [&](auto type) {
        by_type(a.keys, [&](auto stored) {
            using E = decltype(type);
            using Stored = decltype(stored);
            using Narrow = std::conditional_t<sizeof(E) < sizeof(Stored), E, Stored>;
            const bool packed =
                half % PACK<Narrow> == 0 && aligned(a.keys, a.values, a.k, a.v, a.table) && (!a.q || aligned(a.q));
            by_width<Narrow>(packed, [&](auto width) {
                launch_items(context, T * heads * half / width,
                             RopeScatterRows<decltype(width)::value, E, Stored>{
                                 a.q ? heads_of<E>(a.q) : Heads<E>{}, heads_of<Stored>(a.keys), heads_of<Stored>(a.values),
                                 heads_of<const E>(a.k), heads_of<const E>(a.v), T,
                                 angles(context, a.positions, a.table, "rope_scatter: positions"), a.index.i32(),
                                 static_cast<int>(a.keys.shape[0]), index_check(context, "rope_scatter: index")});
            });
        });
    });
}

}  // namespace hllm::cuda
