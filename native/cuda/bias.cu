// The bias of a product: the same row added to every row; its gradient is the sum of all rows.
#include "cuda/backend.h"
#include "cuda/pack.cuh"

namespace hllm::cuda {
namespace {

template <int N, class E>
struct BiasForward {
    static constexpr int MAX_THREADS = BLOCK;
    E* y;
    const float* bias;
    int64_t y_stride, T, D;

    HLLM_KERNEL void operator()() const {
        for_each_row_pack<N>(T, D, [&](int64_t t, int64_t i) {
            auto v = load<N>(y + t * y_stride + i);
            const auto b = load<N>(bias + i);
            for (int k = 0; k < N; k++) v[k] += b[k];
            store(y + t * y_stride + i, v);
        });
    }
};

// A block takes every gridth row, and N columns in each thread; its sums go to its row of `partial`.
template <int N, class E>
struct BiasBackward {
    static constexpr int MAX_THREADS = BLOCK;
    float* partial;
    const E* dy;
    int64_t dy_stride, T, D;

    HLLM_KERNEL void operator()() const {
        const int64_t i = (int64_t{block_y()} * threads() + thread()) * N;
        if (i >= D) return;
        Pack<N> sum{};
        for (int64_t t = block_x(); t < T; t += grid_x()) {
            const auto v = load<N>(dy + t * dy_stride + i);
            for (int k = 0; k < N; k++) sum[k] += v[k];
        }
        store(partial + block_x() * D + i, sum);
    }
};

}  // namespace

void CudaBackend::bias_forward(Context& context, const View& y, const View& bias) {
    const int64_t T = y.shape[0], D = y.shape[1];
    by_type(y, [&](auto type) {
        using E = decltype(type);
        by_width<E>(D % PACK<E> == 0 && aligned(y, bias), [&](auto width) {
            launch_items(context, T * D / width,
                         BiasForward<decltype(width)::value, E>{static_cast<E*>(y.data), bias.f32(), y.stride[0], T, D});
        });
    });
}

void CudaBackend::bias_backward(Context& context, const View& dbias, const View& dy) {
    const int64_t T = dy.shape[0], D = dy.shape[1], blocks = std::min(T, ROW_SHARES);
    if (dy.elements() == 0) return;
    float* partial = context.scratch.take<float>(blocks * D);
    by_type(dy, [&](auto type) {
        using E = decltype(type);
        by_width<E>(D % PACK<E> == 0 && aligned(dy), [&](auto width) {
            const int64_t packs = D / width;
            launch(stream_of(context), {static_cast<int>(blocks), static_cast<int>((packs + BLOCK - 1) / BLOCK)}, BLOCK, 0,
                   BiasBackward<decltype(width)::value, E>{partial, static_cast<const E*>(dy.data), dy.stride[0], T, D});
        });
    });
    add_partials(context, dbias.f32(), partial, blocks, D);
}

}  // namespace hllm::cuda
