// Linear layers: packed weights through a tile of our own, others too where that wins over the GEMM library; bf16 weights
// widened block by block in front of it; few rows through a kernel that reads the weights once, at memory speed.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/linear.cpp"
#include "cpu/simd-inl.h"

#include <cstring>

#include "cpu/backend.h"
#include "cpu/gemm.h"
#include "cpu/packed.h"

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

// y[r][n] (+)= x[r] . w[n] for ROWS rows of x and weight rows [begin, end): each weight is loaded once.
template <int ROWS, class W>
HWY_INLINE void row_block(const View& y, const View& x, const W* w, int64_t ldw, bool accumulate, int64_t row, int64_t begin,
                          int64_t end) {
    const float* in[ROWS];
    for (int r = 0; r < ROWS; r++) in[r] = x.row(row + r);
    for (int64_t n = begin; n < end; n++) {
        float sums[ROWS];
        dots<ROWS>(sums, in, w + n * ldw, x.shape[1]);
        for (int r = 0; r < ROWS; r++) {
            float& out = y.row(row + r)[n];
            out = (accumulate ? out : 0) + sums[r];
        }
    }
}

template <class W>
HWY_INLINE void few_rows(const View& y, const View& x, const W* w, int64_t ldw, bool accumulate, int64_t begin, int64_t end) {
    int64_t row = 0;
    for (; row + 4 <= x.shape[0]; row += 4) row_block<4>(y, x, w, ldw, accumulate, row, begin, end);
    if (x.shape[0] - row == 3) row_block<3>(y, x, w, ldw, accumulate, row, begin, end);
    if (x.shape[0] - row == 2) row_block<2>(y, x, w, ldw, accumulate, row, begin, end);
    if (x.shape[0] - row == 1) row_block<1>(y, x, w, ldw, accumulate, row, begin, end);
}

void few_rows_f32(const View& y, const View& x, const View& w, bool accumulate, int64_t begin, int64_t end) {
    few_rows(y, x, w.f32(), w.stride[0], accumulate, begin, end);
}
void few_rows_bf16(const View& y, const View& x, const View& w, bool accumulate, int64_t begin, int64_t end) {
    few_rows(y, x, w.bf16(), w.stride[0], accumulate, begin, end);
}

void widen_rows(float* out, const View& w, int64_t begin, int64_t end) {
    const int64_t K = w.shape[1];
    for (int64_t n = begin; n < end; n++)
        for (int64_t k = 0; k < K; k++) out[(n - begin) * K + k] = widen(w.bf16()[n * w.stride[0] + k]);
}

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hllm {

constexpr int64_t FEW = 8;            // up to here reading the weights is the cost
constexpr int64_t COLUMNS = 32;       // outputs per work item of the few-rows kernel
constexpr int64_t WIDENED = 1 << 18;  // elements of bf16 weights widened at a time: 1 MB of float32

void Cpu::matmul(Context& context, const View& c, const View& a, const View& b, bool transpose_a, bool transpose_b,
                 bool accumulate) {
    if (product_wins(c)) {
        const View x = transpose_a ? a.transposed() : a, w = transpose_b ? b : b.transposed();
        return product(context.scratch.take<std::byte>(product_room(x, w)), c, x, w, accumulate);
    }
    gemm(c.shape[0], c.shape[1], a.shape[!transpose_a], a.f32(), transpose_a ? 1 : a.stride[0], transpose_a ? a.stride[0] : 1,
         b.f32(), transpose_b ? 1 : b.stride[0], transpose_b ? b.stride[0] : 1, c.f32(), c.stride[0], accumulate);
}

int64_t Cpu::packed_bytes(const Weight& weight) const { return hllm::packed_bytes(weight.values); }

void Cpu::pack(Context&, const Weight& weight) { hllm::pack(weight.packed->data, weight.values); }

void Cpu::linear_forward(Context& context, const View& y, const View& x, const Weight& weight, bool accumulate) {
    const View& w = weight.values;
    const int64_t N = w.shape[0], K = w.shape[1];
    if (weight.packed) {
        packed_forward(context.scratch.take<std::byte>(packed_room(x, w)), y, x, w, weight.packed->data, accumulate);
    } else if (x.shape[0] <= FEW) {
        team().ranges(N, COLUMNS, [&](int64_t begin, int64_t end, int) {
            if (w.dtype == HLLM_BF16)
                HLLM_DISPATCH(few_rows_bf16)(y, x, w, accumulate, begin, end);
            else
                HLLM_DISPATCH(few_rows_f32)(y, x, w, accumulate, begin, end);
        });
    } else if (w.dtype == HLLM_F32) {
        matmul(context, y, x, w, false, true, accumulate);
    } else {
        const int64_t block = std::max<int64_t>(1, WIDENED / std::max<int64_t>(1, K));
        float* wide = context.scratch.take<float>(team().size() * block * K);
        team().ranges(N, block, [&](int64_t begin, int64_t end, int worker) {
            float* mine = wide + worker * block * K;
            HLLM_DISPATCH(widen_rows)(mine, w, begin, end);
            gemm_serial(x.shape[0], end - begin, K, x.f32(), x.stride[0], 1, mine, 1, K, y.f32() + begin, y.stride[0],
                        accumulate);
        });
    }
}

void Cpu::linear_backward_input(Context& context, const View& dx, const View& dy, const Weight& weight, bool accumulate) {
    const View& w = weight.values;
    if (w.dtype == HLLM_F32 || product_wins(dx)) return matmul(context, dx, dy, w, false, false, accumulate);
    // One block of weight rows after another, each adding to dx: the order of the sum is fixed.
    const int64_t N = w.shape[0], K = w.shape[1], block = std::max<int64_t>(1, WIDENED / std::max<int64_t>(1, K));
    float* wide = context.scratch.take<float>(block * K);
    if (N == 0 && !accumulate) fill(context, dx, 0);
    for (int64_t begin = 0; begin < N; begin += block) {
        const int64_t end = std::min(N, begin + block);
        HLLM_DISPATCH(widen_rows)(wide, w, begin, end);
        gemm(dx.shape[0], K, end - begin, dy.f32() + begin, dy.stride[0], 1, wide, K, 1, dx.f32(), dx.stride[0],
             accumulate || begin > 0);
    }
}

}  // namespace hllm
#endif
