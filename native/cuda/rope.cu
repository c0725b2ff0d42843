// Rotary position embedding (Su et al. 2021), halves convention: (a, b) = (x[i], x[i + Dh/2]) turns by the angle of i.
#include "cuda/backend.h"
#include "cuda/pack.cuh"

namespace hllm::cuda {
namespace {

// A thread turns N pairs of a head.
template <int N, class E>
struct Rope {
    static constexpr int MAX_THREADS = BLOCK;
    E* x;
    const int* positions;
    const float* table;
    int64_t stride, head_stride, table_stride, T, heads, half;
    int rows;
    float sign;  // of the sines
    IndexCheck check;

    HLLM_KERNEL void operator()() const {
        for_each_row_pack<N>(T * heads, half, [&](int64_t row, int64_t i) {
            const int64_t t = row / heads, h = row % heads;
            const int position = positions[t];
            if (!check.ok(static_cast<int>(t), position, 0, rows)) return;
            E* at = x + t * stride + h * head_stride + i;
            const float* angle = table + position * table_stride + i;
            const auto a = load<N>(at), b = load<N>(at + half), c = load<N>(angle), s = load<N>(angle + half);
            Pack<N> turned_a, turned_b;
            for (int k = 0; k < N; k++) {
                turned_a[k] = a[k] * c[k] - b[k] * (sign * s[k]);
                turned_b[k] = b[k] * c[k] + a[k] * (sign * s[k]);
            }
            store(at, turned_a);
            store(at + half, turned_b);
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
                Rope<decltype(width)::value, E>{static_cast<E*>(x.data), positions.i32(), table.f32(), x.stride[0], x.stride[1],
                                                table.stride[0], T, heads, half, static_cast<int>(table.shape[0]),
                                                inverse ? -1.f : 1.f, index_check(context, "rope: positions")});
        });
    });
}

}  // namespace hllm::cuda
