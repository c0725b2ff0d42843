// RMSNorm: y = x * rstd * w, rstd = 1 / sqrt(mean(x^2) + eps).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/rmsnorm.cpp"
#include "cpu/simd-inl.h"

#include <cmath>

#include "cpu/backend.h"

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

void rmsnorm_forward_rows(const View& y, const View& saved_rstd, const View& x, const View& weight, float eps, int64_t begin,
                          int64_t end) {
    const size_t D = x.shape[1];
    for (int64_t t = begin; t < end; t++) {
        const float rstd = 1 / std::sqrt(dot(x.row(t), x.row(t), D) / D + eps);
        if (saved_rstd) saved_rstd.f32()[t * saved_rstd.stride[0]] = rstd;
        const V32 r = hn::Set(F32(), rstd);
        map(y.row(t), x.row(t), weight.f32(), D, [&](V32 v, V32 w) { return hn::Mul(hn::Mul(v, r), w); });
    }
}

// With xh = x * rstd: dx = rstd * (w dy - xh * mean(w dy xh)); dweight += dy xh, here added into partial [D].
void rmsnorm_backward_rows(const View& dx, float* partial, const View& dy, const View& saved_rstd, const View& x,
                           const View& weight, bool accumulate, int64_t begin, int64_t end) {
    const size_t D = x.shape[1];
    const float* w = weight.f32();
    const F32 d;
    const size_t N = hn::Lanes(d);
    for (int64_t t = begin; t < end; t++) {
        const float rstd = saved_rstd.f32()[t * saved_rstd.stride[0]];
        const float *in = x.row(t), *g = dy.row(t);
        float* out = dx.row(t);
        V32 total = hn::Zero(d);
        size_t i = 0;
        for (; i + N <= D; i += N)
            total = hn::MulAdd(hn::Mul(hn::LoadU(d, g + i), hn::LoadU(d, w + i)), hn::LoadU(d, in + i), total);
        float s = sum(total);
        for (; i < D; i++) s += g[i] * w[i] * in[i];
        const float c = s * rstd * rstd * rstd / D;  // dx = rstd w dy - c x
        const V32 vr = hn::Set(d, rstd), vc = hn::Set(d, c);
        for (i = 0; i + N <= D; i += N) {
            V32 v = hn::NegMulAdd(vc, hn::LoadU(d, in + i), hn::Mul(vr, hn::Mul(hn::LoadU(d, w + i), hn::LoadU(d, g + i))));
            if (accumulate) v = hn::Add(v, hn::LoadU(d, out + i));
            hn::StoreU(v, d, out + i);
        }
        for (; i < D; i++) out[i] = (accumulate ? out[i] : 0) + rstd * w[i] * g[i] - c * in[i];
        if (partial) {
            for (i = 0; i + N <= D; i += N)
                hn::StoreU(hn::MulAdd(hn::Mul(hn::LoadU(d, g + i), vr), hn::LoadU(d, in + i), hn::LoadU(d, partial + i)), d,
                           partial + i);
            for (; i < D; i++) partial[i] += g[i] * rstd * in[i];
        }
    }
}

void add_rows(float* out, const float* in, int64_t rows, int64_t D) {
    for (int64_t r = 0; r < rows; r++) axpy(out, 1, in + r * D, D);
}

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hllm {

constexpr int64_t FORWARD_ROWS = 16, BACKWARD_ROWS = 64;

void Cpu::rmsnorm_forward(Context&, const View& y, const View& saved_rstd, const View& x, const View& weight, float eps) {
    team().ranges(x.shape[0], FORWARD_ROWS, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(rmsnorm_forward_rows)(y, saved_rstd, x, weight, eps, begin, end);
    });
}

void Cpu::rmsnorm_backward(Context& context, const View& dx, const View& dweight, const View& dy, const View& saved_rstd,
                           const View& x, const View& weight, bool accumulate) {
    const int64_t T = x.shape[0], D = x.shape[1], blocks = (T + BACKWARD_ROWS - 1) / BACKWARD_ROWS;
    // One partial dweight per block of rows, added up in order: the same bits on any number of threads.
    float* partial = dweight ? context.scratch.take<float>(blocks * D) : nullptr;
    team().ranges(T, BACKWARD_ROWS, [&](int64_t begin, int64_t end, int) {
        float* mine = partial ? partial + begin / BACKWARD_ROWS * D : nullptr;
        if (mine) std::fill_n(mine, D, 0.f);
        HLLM_DISPATCH(rmsnorm_backward_rows)(dx, mine, dy, saved_rstd, x, weight, accumulate, begin, end);
    });
    if (dweight) HLLM_DISPATCH(add_rows)(dweight.f32(), partial, blocks, D);
}

}  // namespace hllm
#endif
