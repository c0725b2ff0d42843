// The optimiser's passes over the flat buffers: gradient norm, clamp, AdamW (Loshchilov & Hutter 2019).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/adamw.cpp"
#include "cpu/simd-inl.h"

#include <cmath>

#include "cpu/backend.h"

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

void adamw_range(const AdamW& a, int64_t begin, int64_t end) {
    const double correction1 = 1 - std::pow(double{a.beta1}, double(a.step)),
                 correction2 = 1 - std::pow(double{a.beta2}, double(a.step));
    const F32 d;
    const size_t N = hn::Lanes(d);
    const V32 beta1 = hn::Set(d, a.beta1), rest1 = hn::Set(d, 1 - a.beta1), beta2 = hn::Set(d, a.beta2),
              rest2 = hn::Set(d, 1 - a.beta2), scale = hn::Set(d, a.gradient_scale),
              decay = hn::Set(d, static_cast<float>(1 - double{a.lr} * a.weight_decay)),
              rate = hn::Set(d, static_cast<float>(a.lr / correction1)),
              root = hn::Set(d, static_cast<float>(1 / std::sqrt(correction2))), eps = hn::Set(d, a.eps);
    float *p = a.parameters.f32(), *m = a.moment1.f32(), *v = a.moment2.f32();
    const float* g = a.gradients.f32();
    for (size_t i = begin; i < size_t(end); i += N) {
        const size_t n = end - i < N ? end - i : N;
        auto in = [&](const float* from) { return n == N ? hn::LoadU(d, from + i) : load_first(d, from + i, n); };
        auto out = [&](V32 x, float* to) { n == N ? hn::StoreU(x, d, to + i) : store_first(d, x, to + i, n); };
        const V32 gradient = hn::Mul(in(g), scale);
        const V32 m1 = hn::MulAdd(beta1, in(m), hn::Mul(rest1, gradient));
        const V32 m2 = hn::MulAdd(beta2, in(v), hn::Mul(rest2, hn::Mul(gradient, gradient)));
        out(m1, m);
        out(m2, v);
        const V32 step = hn::Div(hn::Mul(rate, m1), hn::MulAdd(hn::Sqrt(m2), root, eps));
        out(hn::Sub(hn::Mul(in(p), decay), step), p);
    }
}

// In double: squares of ordinary gradients leave the range of float.
double sum_of_squares(const float* in, int64_t begin, int64_t end) {
    const hn::ScalableTag<double> d;
    const hn::Rebind<float, decltype(d)> narrow;
    const int64_t N = hn::Lanes(d);
    auto s0 = hn::Zero(d), s1 = hn::Zero(d);
    int64_t i = begin;
    for (; i + 2 * N <= end; i += 2 * N) {
        const auto a = hn::PromoteTo(d, hn::LoadU(narrow, in + i)), b = hn::PromoteTo(d, hn::LoadU(narrow, in + i + N));
        s0 = hn::MulAdd(a, a, s0);
        s1 = hn::MulAdd(b, b, s1);
    }
    double total = hn::GetLane(hn::SumOfLanes(d, hn::Add(s0, s1)));
    for (; i < end; i++) total += double{in[i]} * in[i];
    return total;
}

void clamp_range(float* in, float low, float high, int64_t begin, int64_t end) {
    const V32 l = hn::Set(F32(), low), h = hn::Set(F32(), high);
    map(in + begin, in + begin, end - begin, [&](V32 v) { return hn::Min(hn::Max(v, l), h); });
}

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hllm {

constexpr int64_t BLOCK = 1 << 16;

void Cpu::norm(Context& context, const View& out, const View& in) {
    const int64_t n = in.shape[0], blocks = (n + BLOCK - 1) / BLOCK;
    double* partial = context.scratch.take<double>(blocks);
    team().ranges(n, BLOCK, [&](int64_t begin, int64_t end, int) {
        partial[begin / BLOCK] = HLLM_DISPATCH(sum_of_squares)(in.f32(), begin, end);
    });
    double total = 0;
    for (int64_t i = 0; i < blocks; i++) total += partial[i];
    *out.f32() = static_cast<float>(std::sqrt(total));
}

void Cpu::clamp(Context&, const View& in, float low, float high) {
    team().ranges(in.shape[0], BLOCK, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(clamp_range)(in.f32(), low, high, begin, end);
    });
}

void Cpu::adamw(Context&, const AdamW& a) {
    team().ranges(a.parameters.shape[0], BLOCK, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(adamw_range)(a, begin, end);
    });
}

}  // namespace hllm
#endif
