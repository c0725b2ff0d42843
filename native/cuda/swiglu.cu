// SwiGLU: y = silu(gate) * up, silu(z) = z * sigmoid(z).
#include "cuda/backend.h"
#include "cuda/pack.cuh"

namespace hllm::cuda {
namespace {

HLLM_DEVICE float sigmoid(float z) { return 1 / (1 + expf(-z)); }

template <int N, class E>
struct SwiGluForward {
    static constexpr int MAX_THREADS = BLOCK;
    E* y;
    const E* gate_up;
    int64_t y_stride, stride, T, F;

    HLLM_KERNEL void operator()() const {
        for_each_row_pack<N>(T, F, [&](int64_t t, int64_t i) {
            const E* in = gate_up + t * stride + i;
            const auto gate = load<N>(in), up = load<N>(in + F);
            Pack<N> out;
            for (int k = 0; k < N; k++) out[k] = gate[k] * sigmoid(gate[k]) * up[k];
            store(y + t * y_stride + i, out);
        });
    }
};

// dup = dy silu(g); dgate = dy up s (1 + g (1 - s)), s = sigmoid(g).
template <int N, class E>
struct SwiGluBackward {
    static constexpr int MAX_THREADS = BLOCK;
    E* dgate_up;
    const E *dy, *gate_up;
    int64_t out_stride, dy_stride, stride, T, F;

    HLLM_KERNEL void operator()() const {
        for_each_row_pack<N>(T, F, [&](int64_t t, int64_t i) {
            const E* in = gate_up + t * stride + i;
            const auto gate = load<N>(in), up = load<N>(in + F), g = load<N>(dy + t * dy_stride + i);
            Pack<N> dgate, dup;
            for (int k = 0; k < N; k++) {
                const float s = sigmoid(gate[k]);
                dup[k] = g[k] * (gate[k] * s);
                dgate[k] = g[k] * up[k] * (s * (1 + gate[k] * (1 - s)));
            }
            E* out = dgate_up + t * out_stride + i;
            store(out, dgate);
            store(out + F, dup);
        });
    }
};

}  // namespace

void CudaBackend::swiglu_forward(Context& context, const View& y, const View& gate_up) {
    const int64_t T = y.shape[0], F = y.shape[1];
    by_type(y, [&](auto type) {
        using E = decltype(type);
        by_width<E>(F % PACK<E> == 0 && aligned(y, gate_up), [&](auto width) {
            launch_items(context, T * F / width,
                         SwiGluForward<decltype(width)::value, E>{static_cast<E*>(y.data), static_cast<const E*>(gate_up.data),
                                                                  y.stride[0], gate_up.stride[0], T, F});
        });
    });
}

void CudaBackend::swiglu_backward(Context& context, const View& dgate_up, const View& dy, const View& gate_up) {
    const int64_t T = dy.shape[0], F = dy.shape[1];
    by_type(dy, [&](auto type) {
        using E = decltype(type);
        by_width<E>(F % PACK<E> == 0 && aligned(dgate_up, dy, gate_up), [&](auto width) {
            launch_items(context, T * F / width,
                         SwiGluBackward<decltype(width)::value, E>{
                             static_cast<E*>(dgate_up.data), static_cast<const E*>(dy.data),
                             static_cast<const E*>(gate_up.data), dgate_up.stride[0], dy.stride[0], gate_up.stride[0], T, F});
        });
    });
}

}  // namespace hllm::cuda
