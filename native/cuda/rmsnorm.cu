// RMSNorm: y = x * rstd * w, rstd = 1 / sqrt(mean(x^2) + eps). A block per row; the second look at a row finds it in the cache.
#include "cuda/backend.h"
#include "cuda/pack.cuh"

namespace hllm::cuda {
namespace {

template <int N, class E>
struct RmsNormForward {
    static constexpr int MAX_THREADS = BLOCK;
    E* y;
    float* saved_rstd;
    const float *x, *weight;
    int64_t y_stride, x_stride, D;
    float eps;

    HLLM_KERNEL void operator()() const {
        const int64_t t = block_x();
        const float* in = x + t * x_stride;
        float squares = 0;
        for (int64_t i = thread() * N; i < D; i += threads() * N) {
            const auto v = load<N>(in + i);
            for (int k = 0; k < N; k++) squares += v[k] * v[k];
        }
        const float rstd = 1 / sqrtf(block_sum(squares, shared<float>(0)) / static_cast<float>(D) + eps);
        if (saved_rstd && thread() == 0) saved_rstd[t] = rstd;
        for (int64_t i = thread() * N; i < D; i += threads() * N) {
            auto v = load<N>(in + i);
            const auto w = load<N>(weight + i);
            for (int k = 0; k < N; k++) v[k] = v[k] * rstd * w[k];
            store(y + t * y_stride + i, v);
        }
    }
};

// With xh = x * rstd: dx = rstd * (w dy - xh * mean(w dy xh)); dweight += dy xh. A block takes every gridth row, and sums its
// share of dweight in its row of `partial`.
template <int N, class E>
struct RmsNormBackward {
    static constexpr int MAX_THREADS = BLOCK;
    float *dx, *partial;
    const E* dy;
    const float *saved_rstd, *x, *weight;
    int64_t dx_stride, dy_stride, x_stride, T, D;
    bool accumulate;

    HLLM_KERNEL void operator()() const {
        for (int64_t t = block_x(); t < T; t += grid_x()) {
            const float* in = x + t * x_stride;
            const E* g = dy + t * dy_stride;
            float* out = dx + t * dx_stride;
            float s = 0;
            for (int64_t i = thread() * N; i < D; i += threads() * N) {
                const auto vx = load<N>(in + i), vg = load<N>(g + i), vw = load<N>(weight + i);
                for (int k = 0; k < N; k++) s += vg[k] * vw[k] * vx[k];
            }
            const float rstd = saved_rstd[t];
            const float c = block_sum(s, shared<float>(0)) * rstd * rstd * rstd / static_cast<float>(D);
            for (int64_t i = thread() * N; i < D; i += threads() * N) {
                const auto vx = load<N>(in + i), vg = load<N>(g + i), vw = load<N>(weight + i);
                auto d = accumulate ? load<N>(out + i) : Pack<N>{};
                float* sum = partial + block_x() * D + i;
                auto p = partial && t != block_x() ? load<N>(sum) : Pack<N>{};
                for (int k = 0; k < N; k++) {
                    d[k] += rstd * vw[k] * vg[k] - c * vx[k];
                    p[k] += vg[k] * rstd * vx[k];
                }
                store(out + i, d);
                if (partial) store(sum, p);
            }
        }
    }
};

}  // namespace

void CudaBackend::rmsnorm_forward(Context& context, const View& y, const View& saved_rstd, const View& x, const View& weight,
                                  float eps) {
    const int64_t T = x.shape[0], D = x.shape[1];
    by_type(y, [&](auto type) {
        using E = decltype(type);
        by_width<E>(D % PACK<E> == 0 && aligned(y, x, weight), [&](auto width) {
            launch_rows(context, T, D / width,
                        RmsNormForward<decltype(width)::value, E>{static_cast<E*>(y.data), saved_rstd.f32(), x.f32(),
                                                                  weight.f32(), y.stride[0], x.stride[0], D, eps});
        });
    });
}

void CudaBackend::rmsnorm_backward(Context& context, const View& dx, const View& dweight, const View& dy,
                                   const View& saved_rstd, const View& x, const View& weight, bool accumulate) {
    const int64_t T = x.shape[0], D = x.shape[1], blocks = std::min(T, ROW_SHARES);
    if (x.elements() == 0) return;
    float* partial = dweight ? context.scratch.take<float>(blocks * D) : nullptr;
    by_type(dy, [&](auto type) {
        using E = decltype(type);
        by_width<E>(D % PACK<E> == 0 && aligned(dx, dy, x, weight), [&](auto width) {
            launch_rows(context, blocks, D / width,
                        RmsNormBackward<decltype(width)::value, E>{dx.f32(), partial, static_cast<const E*>(dy.data),
                                                                   saved_rstd.f32(), x.f32(), weight.f32(), dx.stride[0],
                                                                   dy.stride[0], x.stride[0], T, D, accumulate});
        });
    });
    if (dweight) add_partials(context, dweight.f32(), partial, blocks, D);
}

}  // namespace hllm::cuda
