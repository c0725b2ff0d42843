// GELU: y = x * cdf(x), cdf(x) = (1 + erf(x / sqrt(2))) / 2.
#include "cuda/backend.h"
#include "cuda/pack.cuh"

namespace hllm::cuda {
namespace {

HLLM_DEVICE float normal_cdf(float x) { return 0.5f * (1 + erff(0.70710678f * x)); }

template <int N, class E>
struct GeluForward {
    static constexpr int MAX_THREADS = BLOCK;
    E* y;
    const E* x;
    int64_t y_stride, x_stride, T, F;

    HLLM_KERNEL void operator()() const {
        for_each_row_pack<N>(T, F, [&](int64_t t, int64_t i) {
            auto v = load<N>(x + t * x_stride + i);
            for (int k = 0; k < N; k++) v[k] *= normal_cdf(v[k]);
            store(y + t * y_stride + i, v);
        });
    }
};

// dx = dy (cdf(x) + x density(x)).
template <int N, class E>
struct GeluBackward {
    static constexpr int MAX_THREADS = BLOCK;
    E* dx;
    const E *dy, *x;
    int64_t dx_stride, dy_stride, x_stride, T, F;

    HLLM_KERNEL void operator()() const {
        for_each_row_pack<N>(T, F, [&](int64_t t, int64_t i) {
            auto g = load<N>(dy + t * dy_stride + i);
            const auto v = load<N>(x + t * x_stride + i);
            for (int k = 0; k < N; k++) g[k] *= normal_cdf(v[k]) + v[k] * 0.39894228f * expf(-0.5f * v[k] * v[k]);
            store(dx + t * dx_stride + i, g);
        });
    }
};

}  // namespace

void CudaBackend::gelu_forward(Context& context, const View& y, const View& x) {
    const int64_t T = y.shape[0], F = y.shape[1];
    by_type(y, [&](auto type) {
        using E = decltype(type);
        by_width<E>(F % PACK<E> == 0 && aligned(y, x), [&](auto width) {
            launch_items(context, T * F / width,
                         GeluForward<decltype(width)::value, E>{static_cast<E*>(y.data), static_cast<const E*>(x.data),
                                                                y.stride[0], x.stride[0], T, F});
        });
    });
}

void CudaBackend::gelu_backward(Context& context, const View& dx, const View& dy, const View& x) {
    const int64_t T = dx.shape[0], F = dx.shape[1];
    by_type(dx, [&](auto type) {
        using E = decltype(type);
        by_width<E>(F % PACK<E> == 0 && aligned(dx, dy, x), [&](auto width) {
            launch_items(context, T * F / width,
                         GeluBackward<decltype(width)::value, E>{static_cast<E*>(dx.data), static_cast<const E*>(dy.data),
                                                                 static_cast<const E*>(x.data), dx.stride[0], dy.stride[0],
                                                                 x.stride[0], T, F});
        });
    });
}

}  // namespace hllm::cuda
