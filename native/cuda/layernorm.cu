// LayerNorm: y = (x - mean) * rstd * w + b, rstd = 1 / sqrt(variance + eps). A block per row; the second look at a row finds it
// in the cache.
#include "cuda/backend.h"
#include "cuda/pack.cuh"

namespace hllm::cuda {
namespace {

template <int N, class E>
struct LayerNormForward {
    static constexpr int MAX_THREADS = BLOCK;
    E* y;
    float* saved;
    const float *x, *weight, *bias;
    int64_t y_stride, saved_stride, x_stride, D;
    float eps;

    HLLM_KERNEL void operator()() const {
        const int64_t t = block_x();
        const float* in = x + t * x_stride;
        float sum = 0;
        for (int64_t i = thread() * N; i < D; i += threads() * N) {
            const auto v = load<N>(in + i);
            for (int k = 0; k < N; k++) sum += v[k];
        }
        const float mean = block_sum(sum, shared<float>(0)) / static_cast<float>(D);
        float squares = 0;
        for (int64_t i = thread() * N; i < D; i += threads() * N) {
            const auto v = load<N>(in + i);
            for (int k = 0; k < N; k++) squares += (v[k] - mean) * (v[k] - mean);
        }
        const float rstd = 1 / sqrtf(block_sum(squares, shared<float>(0)) / static_cast<float>(D) + eps);
        if (saved && thread() == 0) {
            saved[t * saved_stride] = mean;
            saved[t * saved_stride + 1] = rstd;
        }
        for (int64_t i = thread() * N; i < D; i += threads() * N) {
            auto v = load<N>(in + i);
            const auto w = load<N>(weight + i), b = load<N>(bias + i);
            for (int k = 0; k < N; k++) v[k] = (v[k] - mean) * rstd * w[k] + b[k];
            store(y + t * y_stride + i, v);
        }
    }
};

// With xh = (x - mean) * rstd: dx = rstd * (w dy - mean(w dy) - xh * mean(w dy xh)); dweight += dy xh. A block takes every
// gridth row, and sums its share of dweight in its row of `partial`.
template <int N, class E>
struct LayerNormBackward {
    static constexpr int MAX_THREADS = BLOCK;
    float *dx, *partial;
    const E* dy;
    const float *saved, *x, *weight;
    int64_t dx_stride, dy_stride, saved_stride, x_stride, T, D;
    bool accumulate;

    HLLM_KERNEL void operator()() const {
        for (int64_t t = block_x(); t < T; t += grid_x()) {
            const float* in = x + t * x_stride;
            const E* g = dy + t * dy_stride;
            float* out = dx + t * dx_stride;
            const float mean = saved[t * saved_stride], rstd = saved[t * saved_stride + 1];
            float sum = 0, product = 0;
            for (int64_t i = thread() * N; i < D; i += threads() * N) {
                const auto vx = load<N>(in + i), vg = load<N>(g + i), vw = load<N>(weight + i);
                for (int k = 0; k < N; k++) {
                    sum += vg[k] * vw[k];
                    product += vg[k] * vw[k] * ((vx[k] - mean) * rstd);
                }
            }
            sum = block_sum(sum, shared<float>(0)) / static_cast<float>(D);
            product = block_sum(product, shared<float>(0)) / static_cast<float>(D);
            for (int64_t i = thread() * N; i < D; i += threads() * N) {
                const auto vx = load<N>(in + i), vg = load<N>(g + i), vw = load<N>(weight + i);
                auto d = accumulate ? load<N>(out + i) : Pack<N>{};
                float* share = partial + block_x() * D + i;
                auto p = partial && t != block_x() ? load<N>(share) : Pack<N>{};
                for (int k = 0; k < N; k++) {
                    const float xh = (vx[k] - mean) * rstd;
                    d[k] += rstd * (vw[k] * vg[k] - sum - xh * product);
                    p[k] += vg[k] * xh;
                }
                store(out + i, d);
                if (partial) store(share, p);
            }
        }
    }
};

}  // namespace

void CudaBackend::layernorm_forward(Context& context, const View& y, const View& saved, const View& x, const View& weight,
                                    const View& bias, float eps) {
    const int64_t T = x.shape[0], D = x.shape[1];
    by_type(y, [&](auto type) {
        using E = decltype(type);
        by_width<E>(D % PACK<E> == 0 && aligned(y, x, weight, bias), [&](auto width) {
            launch_rows(
                context, T, D / width,
                LayerNormForward<decltype(width)::value, E>{static_cast<E*>(y.data), saved.f32(), x.f32(), weight.f32(),
                                                            bias.f32(), y.stride[0], saved.stride[0], x.stride[0], D, eps});
        });
    });
}

void CudaBackend::layernorm_backward(Context& context, const View& dx, const View& dweight, const View& dy, const View& saved,
                                     const View& x, const View& weight, bool accumulate) {
    const int64_t T = x.shape[0], D = x.shape[1], blocks = std::min(T, ROW_SHARES);
    if (x.elements() == 0) return;
    float* partial = dweight ? context.scratch.take<float>(blocks * D) : nullptr;
    by_type(dy, [&](auto type) {
        using E = decltype(type);
        by_width<E>(D % PACK<E> == 0 && aligned(dx, dy, x, weight), [&](auto width) {
            launch_rows(context, blocks, D / width,
                        LayerNormBackward<decltype(width)::value, E>{
                            dx.f32(), partial, static_cast<const E*>(dy.data), saved.f32(), x.f32(), weight.f32(), dx.stride[0],
                            dy.stride[0], saved.stride[0], x.stride[0], T, D, accumulate});
        });
    });
    if (dweight) add_partials(context, dweight.f32(), partial, blocks, D);
}

}  // namespace hllm::cuda
