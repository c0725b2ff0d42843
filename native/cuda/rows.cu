// Operations on rows: fill and conversion, embedding (= gather) and scatter, normalisation, products. Sums: row_sums.cu.
#include <climits>

#include "cuda/backend.h"
#include "cuda/pack.cuh"

namespace hllm::cuda {
namespace {

// ---- Fill and convert -----------------------------------------------------------------------------------------------

// Two views of one shape, walked together.
struct Walk {
    int64_t rows = 1, columns = 0;
    int64_t shape[3] = {1, 1, 1}, to[3] = {}, from[3] = {};  // the outer dimensions

    HLLM_DEVICE void locate(int64_t row, int64_t& to_at, int64_t& from_at) const {
        if (rows == 1) return;
        for (int i = 2; i >= 0; i--) {
            const int64_t index = row % shape[i];
            row /= shape[i];
            to_at += index * to[i];
            from_at += index * from[i];
        }
    }
    // body(width, offset in `to`, offset in `from`) for the packs of all rows, and the elements that are left at their ends.
    template <int N, class Body>
    HLLM_DEVICE void for_each(Body&& body) const {
        const int64_t packs = columns / N, rest = columns % N;
        for (int64_t item = first_item(); item < rows * packs; item += item_step()) {
            int64_t to_at = item % packs * N, from_at = to_at;
            locate(item / packs, to_at, from_at);
            body(Width<N>{}, to_at, from_at);
        }
        if constexpr (N > 1)
            for (int64_t item = first_item(); item < rows * rest; item += item_step()) {
                int64_t to_at = packs * N + item % rest, from_at = to_at;
                locate(item / rest, to_at, from_at);
                body(Width<1>{}, to_at, from_at);
            }
    }
};

// Elements of four bytes.
template <int N>
struct Fill {
    static constexpr int MAX_THREADS = BLOCK;
    uint32_t* out;
    uint32_t bits;
    Walk walk;

    HLLM_KERNEL void operator()() const {
        walk.for_each<N>([&](auto width, int64_t at, int64_t) {
            if constexpr (decltype(width)::value == 1)
                out[at] = bits;
            else
                store16(out + at, uint4{bits, bits, bits, bits});
        });
    }
};

// N elements, rounded or widened, or else with all their bits (i32 as float).
template <int N, class Out, class In>
HLLM_DEVICE void put(Out* to, const In* from) {
    if constexpr (!std::is_same_v<Out, In>)
        store(to, load<N>(from));
    else if constexpr (N == 1)
        *to = *from;
    else
        store16(to, load16(from));
}

template <int N, class Out, class In>
struct Convert {
    static constexpr int MAX_THREADS = BLOCK;
    Out* out;
    const In* in;
    Walk walk;

    HLLM_KERNEL void operator()() const {
        walk.template for_each<N>(
            [&](auto width, int64_t to, int64_t from) { put<decltype(width)::value>(out + to, in + from); });
    }
};

// Joins dimensions that follow one another without a gap in both views.
void join(View& a, View& b) {
    const int last = a.rank - 1;
    if (a.shape[last] == 1) a.stride[last] = b.stride[last] = 1;
    for (int i = last - 1; i >= 0; i--) {
        const auto gapless = [i](const View& v) { return v.shape[i] == 1 || v.stride[i] == v.shape[i + 1] * v.stride[i + 1]; };
        if (!gapless(a) || !gapless(b)) continue;
        for (View* v : {&a, &b}) {
            v->shape[i + 1] *= v->shape[i];
            std::copy(v->shape + i + 1, v->shape + v->rank, v->shape + i);
            std::copy(v->stride + i + 1, v->stride + v->rank, v->stride + i);
            v->rank--;
        }
    }
}

template <class A, class B>
using Narrower = std::conditional_t<sizeof(A) < sizeof(B), A, B>;

template <class Body>
void by_types(const View& a, const View& b, Body&& body) {
    by_type(a, [&](auto x) { by_type(b, [&](auto y) { body(x, y); }); });
}

// Launches make(width, walk); a pack is 16 bytes of T.
template <class T, class Make>
void launch_walk(Context& context, View to, View from, Make&& make) {
    join(to, from);
    Walk walk;
    walk.columns = to.shape[to.rank - 1];
    for (int i = 0; i + 1 < to.rank; i++) {
        walk.rows *= walk.shape[i] = to.shape[i];
        walk.to[i] = to.stride[i];
        walk.from[i] = from.stride[i];
    }
    by_width<T>(aligned(to, from), [&](auto width) {
        const int64_t items = (to.elements() + width - 1) / width;
        launch_items(context, items, make(width, walk));
    });
}

// ---- Embedding and gathering ----------------------------------------------------------------------------------------

// out[t] = table[ids[t]], or the special row where ids[t] < 0.
template <int N, class Out, class In>
struct CopyRows {
    static constexpr int MAX_THREADS = BLOCK;
    Out* out;
    const In* table;
    const Out* special;
    const int* ids;
    int64_t out_stride, table_stride, T, D;
    int table_rows;
    IndexCheck check;

    HLLM_KERNEL void operator()() const {
        for_each_row_pack<N>(T, D, [&](int64_t t, int64_t i) {
            const int id = ids[t];
            if (!check.ok(static_cast<int>(t), id, special ? INT_MIN : 0, table_rows)) return;
            Out* to = out + t * out_stride + i;
            if (id < 0)
                store(to, load<N>(special + i));
            else
                put<N>(to, table + id * table_stride + i);
        });
    }
};

void copy_rows(Context& context, const View& out, const View& ids, const View& table, const View& special, const char* what) {
    const int64_t T = out.shape[0], D = out.shape[1];
    by_types(out, table, [&](auto to, auto from) {
        using Out = decltype(to);
        using In = decltype(from);
        using E = Narrower<Out, In>;
        by_width<E>(D % PACK<E> == 0 && aligned(out, table, special), [&](auto width) {
            launch_items(context, T * D / width,
                         CopyRows<decltype(width)::value, Out, In>{
                             static_cast<Out*>(out.data), static_cast<const In*>(table.data),
                             static_cast<const Out*>(special.data), ids.i32(), out.stride[0], table.stride[0], T, D,
                             static_cast<int>(table.shape[0]), index_check(context, what)});
        });
    });
}

// out[index[t]] = in[t].
template <int N, class Out, class In>
struct ScatterRows {
    static constexpr int MAX_THREADS = BLOCK;
    Out* out;
    const In* in;
    const int* index;
    int64_t out_stride, in_stride, T, D;
    int out_rows;
    IndexCheck check;

    HLLM_KERNEL void operator()() const {
        for_each_row_pack<N>(T, D, [&](int64_t t, int64_t i) {
            const int row = index[t];
            if (check.ok(static_cast<int>(t), row, 0, out_rows)) put<N>(out + row * out_stride + i, in + t * in_stride + i);
        });
    }
};

// ---- Normalisation and products ---------------------------------------------------------------------------------------

template <int N>
struct NormalizeRows {
    static constexpr int MAX_THREADS = BLOCK;
    float* out;
    const float* in;
    int64_t out_stride, in_stride, D;

    HLLM_KERNEL void operator()() const {
        const float* from = in + block_x() * in_stride;
        float squares = 0;
        for (int64_t i = thread() * N; i < D; i += threads() * N) {
            const auto v = load<N>(from + i);
            for (int k = 0; k < N; k++) squares += v[k] * v[k];
        }
        const float norm = sqrtf(block_sum(squares, shared<float>(0))), factor = norm > 0 ? 1 / norm : 0;
        for (int64_t i = thread() * N; i < D; i += threads() * N) {
            auto v = load<N>(from + i);
            for (int k = 0; k < N; k++) v[k] *= factor;
            store(out + block_x() * out_stride + i, v);
        }
    }
};

template <int N>
struct Mul {
    static constexpr int MAX_THREADS = BLOCK;
    float* out;
    const float *a, *b;
    int64_t out_stride, a_stride, b_stride, T, D;
    bool accumulate;

    HLLM_KERNEL void operator()() const {
        for_each_row_pack<N>(T, D, [&](int64_t t, int64_t i) {
            float* to = out + t * out_stride + i;
            const auto x = load<N>(a + t * a_stride + i), y = load<N>(b + t * b_stride + i);
            auto v = accumulate ? load<N>(to) : Pack<N>{};
            for (int k = 0; k < N; k++) v[k] = accumulate ? fmaf(x[k], y[k], v[k]) : x[k] * y[k];
            store(to, v);
        });
    }
};

}  // namespace

void CudaBackend::fill(Context& context, const View& out, float value) {
    uint32_t bits;
    if (out.dtype == HLLM_I32)
        bits = static_cast<uint32_t>(static_cast<int32_t>(value));
    else
        std::memcpy(&bits, &value, sizeof bits);
    launch_walk<float>(context, out, out, [&](auto width, const Walk& walk) {
        return Fill<decltype(width)::value>{static_cast<uint32_t*>(out.data), bits, walk};
    });
}

void CudaBackend::convert(Context& context, const View& out, const View& in) {
    by_types(out, in, [&](auto to, auto from) {
        using Out = decltype(to);
        using In = decltype(from);
        launch_walk<Narrower<Out, In>>(context, out, in, [&](auto width, const Walk& walk) {
            return Convert<decltype(width)::value, Out, In>{static_cast<Out*>(out.data), static_cast<const In*>(in.data), walk};
        });
    });
}

void CudaBackend::embedding_forward(Context& context, const View& out, const View& ids, const View& table,
                                    const View& special) {
    copy_rows(context, out, ids, table, special, "embedding_forward: ids");
}

void CudaBackend::gather_rows(Context& context, const View& out, const View& in, const View& index) {
    copy_rows(context, out, index, in, View{}, "gather_rows: index");
}

void CudaBackend::scatter_rows(Context& context, const View& out, const View& in, const View& index) {
    const int64_t T = in.shape[0], D = in.shape[1];
    by_types(out, in, [&](auto to, auto from) {
        using Out = decltype(to);
        using In = decltype(from);
        using E = Narrower<Out, In>;
        by_width<E>(D % PACK<E> == 0 && aligned(out, in), [&](auto width) {
            launch_items(context, T * D / width,
                         ScatterRows<decltype(width)::value, Out, In>{
                             static_cast<Out*>(out.data), static_cast<const In*>(in.data), index.i32(), out.stride[0],
                             in.stride[0], T, D, static_cast<int>(out.shape[0]), index_check(context, "scatter_rows: index")});
        });
    });
}

void CudaBackend::normalize_rows(Context& context, const View& out, const View& in) {
    const int64_t T = out.shape[0], D = out.shape[1];
    by_width<float>(D % PACK<float> == 0 && aligned(out, in), [&](auto width) {
        launch_rows(context, T, D / width,
                    NormalizeRows<decltype(width)::value>{out.f32(), in.f32(), out.stride[0], in.stride[0], D});
    });
}

void CudaBackend::mul(Context& context, const View& out, const View& a, const View& b, bool accumulate) {
    const int64_t T = out.shape[0], D = out.shape[1];
    by_width<float>(D % PACK<float> == 0 && aligned(out, a, b), [&](auto width) {
        launch_items(context, T * D / width,
                     Mul<decltype(width)::value>{out.f32(), a.f32(), b.f32(), out.stride[0], a.stride[0], b.stride[0], T, D,
                                                 accumulate});
    });
}

}  // namespace hllm::cuda
