// GELU: y = x * cdf(x), cdf(x) = (1 + erf(x / sqrt(2))) / 2.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gelu.cpp"
#include "cpu/simd-inl.h"

#include "cpu/backend.h"

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

struct Normal {
    V32 bell, cdf;  // exp(-x^2 / 2), and the distribution function
};

// erf as in Abramowitz & Stegun 7.1.26: wrong by at most 1.5e-7, about one rounding.
HWY_INLINE Normal normal(V32 x) {
    const F32 d;
    const V32 one = hn::Set(d, 1), half = hn::Set(d, 0.5f), z = hn::Min(hn::Abs(x), hn::Set(d, 14.4f));  // Exp's domain
    const V32 bell = hn::Exp(d, hn::Neg(hn::Mul(half, hn::Mul(z, z))));
    const V32 t = hn::Div(one, hn::MulAdd(hn::Set(d, 0.3275911f * 0.70710678f), z, one));
    V32 p = hn::Set(d, 1.061405429f);
    for (float c : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = hn::MulAdd(p, t, hn::Set(d, c));
    const V32 beyond = hn::Mul(hn::Mul(half, bell), hn::Mul(p, t));  // 1 - cdf(|x|)
    return {bell, hn::IfThenElse(hn::Lt(x, hn::Zero(d)), beyond, hn::Sub(one, beyond))};
}

void gelu_forward_rows(const View& y, const View& x, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) map(y.row(t), x.row(t), y.shape[1], [](V32 v) { return hn::Mul(v, normal(v).cdf); });
}

// dx = dy (cdf(x) + x density(x)).
void gelu_backward_rows(const View& dx, const View& dy, const View& x, int64_t begin, int64_t end) {
    const V32 density = hn::Set(F32(), 0.39894228f);  // of the bell: 1 / sqrt(2 pi)
    for (int64_t t = begin; t < end; t++)
        map(dx.row(t), dy.row(t), x.row(t), dx.shape[1], [&](V32 g, V32 v) {
            const Normal n = normal(v);
            return hn::Mul(g, hn::MulAdd(hn::Mul(v, density), n.bell, n.cdf));
        });
}

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hllm {

constexpr int64_t ROWS = 8;

void Cpu::gelu_forward(Context&, const View& y, const View& x) {
    team().ranges(y.shape[0], ROWS, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(gelu_forward_rows)(y, x, begin, end);
    });
}

void Cpu::gelu_backward(Context&, const View& dx, const View& dy, const View& x) {
    team().ranges(dx.shape[0], ROWS, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(gelu_backward_rows)(dx, dy, x, begin, end);
    });
}

}  // namespace hllm
#endif
