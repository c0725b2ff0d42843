// SwiGLU: y = silu(gate) * up, silu(z) = z * sigmoid(z).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/swiglu.cpp"
#include "cpu/simd-inl.h"

#include "cpu/backend.h"

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

// Exp is defined up to 104, where it has long been infinite.
HWY_INLINE V32 sigmoid(V32 z) {
    const V32 one = hn::Set(F32(), 1);
    return hn::Div(one, hn::Add(one, hn::Exp(F32(), hn::Min(hn::Neg(z), hn::Set(F32(), 104)))));
}

void swiglu_forward_rows(const View& y, const View& gate_up, int64_t begin, int64_t end) {
    const size_t F = y.shape[1];
    for (int64_t t = begin; t < end; t++)
        map(y.row(t), gate_up.row(t), gate_up.row(t) + F, F,
            [](V32 gate, V32 up) { return hn::Mul(hn::Mul(gate, sigmoid(gate)), up); });
}

// dup = dy silu(g); dgate = dy up s (1 + g (1 - s)), s = sigmoid(g).
void swiglu_backward_rows(const View& dgate_up, const View& dy, const View& gate_up, int64_t begin, int64_t end) {
    const size_t F = dy.shape[1];
    const F32 d;
    const size_t N = hn::Lanes(d);
    const V32 one = hn::Set(d, 1);
    for (int64_t t = begin; t < end; t++) {
        const float *gate = gate_up.row(t), *up = gate + F, *g = dy.row(t);
        float *dgate = dgate_up.row(t), *dup = dgate + F;
        for (size_t i = 0; i < F; i += N) {
            const size_t n = F - i < N ? F - i : N;
            auto in = [&](const float* from) { return n == N ? hn::LoadU(d, from + i) : load_first(d, from + i, n); };
            auto out = [&](V32 v, float* to) { n == N ? hn::StoreU(v, d, to + i) : store_first(d, v, to + i, n); };
            const V32 z = in(gate), dout = in(g), s = sigmoid(z), u = in(up);
            out(hn::Mul(dout, hn::Mul(z, s)), dup);
            out(hn::Mul(hn::Mul(dout, u), hn::Mul(s, hn::MulAdd(z, hn::Sub(one, s), one))), dgate);
        }
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hllm {

constexpr int64_t ROWS = 8;

void Cpu::swiglu_forward(Context&, const View& y, const View& gate_up) {
    team().ranges(y.shape[0], ROWS, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(swiglu_forward_rows)(y, gate_up, begin, end);
    });
}

void Cpu::swiglu_backward(Context&, const View& dgate_up, const View& dy, const View& gate_up) {
    team().ranges(dy.shape[0], ROWS, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(swiglu_backward_rows)(dgate_up, dy, gate_up, begin, end);
    });
}

}  // namespace hllm
#endif
