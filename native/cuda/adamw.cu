// The optimiser's passes over the flat buffers: gradient norm, clamp, AdamW (Loshchilov & Hutter 2019).
#include <cmath>

#include "cuda/backend.h"
#include "cuda/pack.cuh"

namespace hllm::cuda {
namespace {

// In double: squares of ordinary gradients leave the range of float. partial[block] = its share.
template <int N>
struct SumOfSquares {
    static constexpr int MAX_THREADS = BLOCK;
    double* partial;
    const float* in;
    int64_t n;

    HLLM_KERNEL void operator()() const {
        double sum = 0;
        for_each_pack<N>(n, [&](auto width, int64_t i) {
            const auto v = load<decltype(width)::value>(in + i);
            for (float x : v.v) sum += static_cast<double>(x) * static_cast<double>(x);
        });
        sum = block_sum(sum, shared<double>(0));
        if (thread() == 0) partial[block_x()] = sum;
    }
};

// NaN becomes `low`, as on the CPU.
template <int N>
struct Clamp {
    static constexpr int MAX_THREADS = BLOCK;
    float* in;
    int64_t n;
    float low, high;

    HLLM_KERNEL void operator()() const {
        for_each_pack<N>(n, [&](auto width, int64_t i) {
            auto v = load<decltype(width)::value>(in + i);
            for (float& x : v.v) x = fminf(fmaxf(x, low), high);
            store(in + i, v);
        });
    }
};

template <int N>
struct AdamWStep {
    static constexpr int MAX_THREADS = BLOCK;
    float *parameters, *moment1, *moment2;
    const float* gradients;
    int64_t n;
    float beta1, beta2, scale, decay, rate, root, eps;

    HLLM_KERNEL void operator()() const {
        for_each_pack<N>(n, [&](auto width, int64_t i) {
            constexpr int W = decltype(width)::value;
            const auto g = load<W>(gradients + i);
            auto p = load<W>(parameters + i), m = load<W>(moment1 + i), v = load<W>(moment2 + i);
            for (int k = 0; k < W; k++) {
                const float gradient = g[k] * scale;
                m[k] = fmaf(beta1, m[k], (1 - beta1) * gradient);
                v[k] = fmaf(beta2, v[k], (1 - beta2) * (gradient * gradient));
                p[k] = p[k] * decay - rate * m[k] / fmaf(sqrtf(v[k]), root, eps);
            }
            store(moment1 + i, m);
            store(moment2 + i, v);
            store(parameters + i, p);
        });
    }
};

// Shares of the norm: a number that does not depend on the device, so that the sum does not either; 8 blocks per SM of an H100.
constexpr int64_t PARTIALS = 1024;

}  // namespace

void CudaBackend::norm(Context& context, const View& out, const View& in) {
    const int64_t n = in.shape[0];
    const auto blocks = static_cast<int>(std::clamp<int64_t>(n / (16 * BLOCK), 1, PARTIALS));
    double* partial = context.scratch.take<double>(blocks);
    by_width<float>(aligned(in), [&](auto width) {
        launch(stream_of(context), {blocks}, BLOCK, BLOCK * 8, SumOfSquares<decltype(width)::value>{partial, in.f32(), n});
    });
    launch(stream_of(context), {1}, BLOCK, BLOCK * 8, SumShares{out.f32(), partial, blocks, true});
}

void CudaBackend::clamp(Context& context, const View& in, float low, float high) {
    const int64_t n = in.shape[0];
    by_width<float>(aligned(in), [&](auto width) {
        constexpr int N = decltype(width)::value;
        launch_items(context, (n + N - 1) / N, Clamp<N>{in.f32(), n, low, high});
    });
}

void CudaBackend::adamw(Context& context, const AdamW& a) {
    const double correction1 = 1 - std::pow(double{a.beta1}, double(a.step)),
                 correction2 = 1 - std::pow(double{a.beta2}, double(a.step));
    const int64_t n = a.parameters.shape[0];
    by_width<float>(aligned(a.parameters, a.gradients, a.moment1, a.moment2), [&](auto width) {
        constexpr int N = decltype(width)::value;
        launch_items(
            context, (n + N - 1) / N,
            AdamWStep<N>{a.parameters.f32(), a.moment1.f32(), a.moment2.f32(), a.gradients.f32(), n, a.beta1, a.beta2,
                         a.gradient_scale, static_cast<float>(1 - double{a.lr} * a.weight_decay),
                         static_cast<float>(a.lr / correction1), static_cast<float>(1 / std::sqrt(correction2)), a.eps});
    });
}

}  // namespace hllm::cuda
