// LayerNorm: y = (x - mean) * rstd * w + b, rstd = 1 / sqrt(variance + eps).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/layernorm.cpp"
#include "cpu/simd-inl.h"

#include <cmath>

#include "cpu/backend.h"

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

void layernorm_forward_rows(const View& y, const View& saved, const View& x, const View& weight, const View& bias, float eps,
                            int64_t begin, int64_t end) {
    const size_t D = x.shape[1];
    const F32 d;
    for (int64_t t = begin; t < end; t++) {
        V32 total = hn::Zero(d);
        for_each(x.row(t), D, [&](V32 v) { total = hn::Add(total, v); });
        const float mean = sum(total) / D;
        const V32 m = hn::Set(d, mean);
        map(y.row(t), x.row(t), D, [&](V32 v) { return hn::Sub(v, m); });
        const float rstd = 1 / std::sqrt(dot(y.row(t), y.row(t), D) / D + eps);
        if (saved) saved.row(t)[0] = mean, saved.row(t)[1] = rstd;
        const V32 r = hn::Set(d, rstd);
        map(y.row(t), y.row(t), weight.f32(), D, [&](V32 v, V32 w) { return hn::Mul(hn::Mul(v, r), w); });
        axpy(y.row(t), 1, bias.f32(), D);
    }
}

// With xh = (x - mean) * rstd: dx = rstd * (w dy - mean(w dy) - xh * mean(w dy xh)).
void layernorm_backward_rows(const View& dx, const View& dy, const View& saved, const View& x, const View& weight,
                             bool accumulate, int64_t begin, int64_t end) {
    const size_t D = x.shape[1];
    const F32 d;
    const size_t N = hn::Lanes(d);
    for (int64_t t = begin; t < end; t++) {
        const V32 mean = hn::Set(d, saved.row(t)[0]), rstd = hn::Set(d, saved.row(t)[1]);
        V32 g = hn::Zero(d), gx = hn::Zero(d);
        // body(w dy, xh, i, n) for the elements [i, i + n); beyond them both are 0 and of no meaning.
        const auto for_all = [&](auto&& body) {
            for (size_t i = 0; i < D; i += N) {
                const size_t n = D - i < N ? D - i : N;
                const auto in = [&](const float* from) { return n == N ? hn::LoadU(d, from + i) : load_first(d, from + i, n); };
                body(hn::Mul(in(weight.f32()), in(dy.row(t))), hn::Mul(hn::Sub(in(x.row(t)), mean), rstd), i, n);
            }
        };
        for_all([&](V32 v, V32 xh, size_t, size_t) { g = hn::Add(g, v), gx = hn::MulAdd(v, xh, gx); });
        const V32 mean_g = hn::Set(d, sum(g) / D), mean_gx = hn::Set(d, sum(gx) / D);
        for_all([&](V32 v, V32 xh, size_t i, size_t n) {
            float* out = dx.row(t) + i;
            v = hn::Mul(rstd, hn::NegMulAdd(xh, mean_gx, hn::Sub(v, mean_g)));
            if (n == N)
                hn::StoreU(accumulate ? hn::Add(v, hn::LoadU(d, out)) : v, d, out);
            else
                store_first(d, accumulate ? hn::Add(v, load_first(d, out, n)) : v, out, n);
        });
    }
}

// dweight += dy xh over all rows, for some columns.
void layernorm_dweight_columns(const View& dweight, const View& dy, const View& saved, const View& x, int64_t begin,
                               int64_t end) {
    const F32 d;
    const size_t N = hn::Lanes(d), n = end - begin;
    float* out = dweight.f32() + begin;
    for (int64_t t = 0; t < x.shape[0]; t++) {
        const float *in = x.row(t) + begin, *g = dy.row(t) + begin, mean = saved.row(t)[0], rstd = saved.row(t)[1];
        const V32 m = hn::Set(d, mean), r = hn::Set(d, rstd);
        size_t i = 0;
        for (; i + N <= n; i += N)
            hn::StoreU(hn::MulAdd(hn::LoadU(d, g + i), hn::Mul(hn::Sub(hn::LoadU(d, in + i), m), r), hn::LoadU(d, out + i)), d,
                       out + i);
        for (; i < n; i++) out[i] += g[i] * ((in[i] - mean) * rstd);
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hllm {

constexpr int64_t ROWS = 16, COLUMNS = 256;

void Cpu::layernorm_forward(Context&, const View& y, const View& saved, const View& x, const View& weight, const View& bias,
                            float eps) {
    team().ranges(x.shape[0], ROWS, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(layernorm_forward_rows)(y, saved, x, weight, bias, eps, begin, end);
    });
}

void Cpu::layernorm_backward(Context&, const View& dx, const View& dweight, const View& dy, const View& saved, const View& x,
                             const View& weight, bool accumulate) {
    team().ranges(x.shape[0], ROWS, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(layernorm_backward_rows)(dx, dy, saved, x, weight, accumulate, begin, end);
    });
    if (!dweight) return;
    team().ranges(x.shape[1], COLUMNS, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(layernorm_dweight_columns)(dweight, dy, saved, x, begin, end);
    });
}

}  // namespace hllm
#endif
