// The bias of a product: the same row added to every row; its gradient is the sum of all rows.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/bias.cpp"
#include "cpu/simd-inl.h"

#include "cpu/backend.h"

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

void bias_forward_rows(const View& y, const View& bias, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) axpy(y.row(t), 1, bias.f32(), y.shape[1]);
}

void bias_backward_columns(const View& dbias, const View& dy, int64_t begin, int64_t end) {
    for (int64_t t = 0; t < dy.shape[0]; t++) axpy(dbias.f32() + begin, 1, dy.row(t) + begin, end - begin);
}

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hllm {

constexpr int64_t ROWS = 16, COLUMNS = 256;

void Cpu::bias_forward(Context&, const View& y, const View& bias) {
    team().ranges(y.shape[0], ROWS, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(bias_forward_rows)(y, bias, begin, end);
    });
}

void Cpu::bias_backward(Context&, const View& dbias, const View& dy) {
    team().ranges(dy.shape[1], COLUMNS, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(bias_backward_columns)(dbias, dy, begin, end);
    });
}

}  // namespace hllm
#endif
