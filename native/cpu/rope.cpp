// Rotary position embedding (Su et al. 2021), halves convention: (a, b) = (x[i], x[i + Dh/2]) turns by the angle of i.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/rope.cpp"
#include "cpu/simd-inl.h"

#include "cpu/backend.h"

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

void rope_rows(const View& x, const View& positions, const View& table, bool inverse, int64_t begin, int64_t end) {
    const size_t half = x.shape[2] / 2;
    const F32 d;
    const size_t N = hn::Lanes(d);
    for (int64_t t = begin; t < end; t++) {
        const float *cosine = table.row(positions.i32()[t]), *sine = cosine + half;
        for (int64_t h = 0; h < x.shape[1]; h++) {
            float *a = x.row(t) + h * x.stride[1], *b = a + half;
            for (size_t i = 0; i < half; i += N) {
                const size_t n = half - i < N ? half - i : N;
                auto in = [&](const float* from) { return n == N ? hn::LoadU(d, from + i) : load_first(d, from + i, n); };
                auto out = [&](V32 v, float* to) { n == N ? hn::StoreU(v, d, to + i) : store_first(d, v, to + i, n); };
                const V32 va = in(a), vb = in(b), c = in(cosine), s = inverse ? hn::Neg(in(sine)) : in(sine);
                out(hn::Sub(hn::Mul(va, c), hn::Mul(vb, s)), a);
                out(hn::Add(hn::Mul(vb, c), hn::Mul(va, s)), b);
            }
        }
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hllm {

void Cpu::rope(Context&, const View& x, const View& positions, const View& table, bool inverse) {
    check_indices("rope", "positions", positions, 0, table.shape[0]);
    team().ranges(x.shape[0], 16, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(rope_rows)(x, positions, table, inverse, begin, end);
    });
}

}  // namespace hllm
#endif
