#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

class Bias : public OpTest {
   protected:
    void check(int64_t T, int64_t N, int32_t dtype) {
        const std::string what = "dtype " + std::to_string(dtype) + " T " + std::to_string(T) + " N " + std::to_string(N);
        const auto y = rounded(dtype, normal(T * N)), dy = rounded(dtype, normal(T * N)), bias = normal(N), dbias = normal(N);
        const auto *vy = activation(dtype, y, {T, N}, gap_for(N, 3)), *vd = floats(dbias, {N}, gap_for(N, 1));
        HLLM_OK_OR_FAIL(hllm_bias_forward(context, vy, floats(bias, {N})));
        HLLM_OK_OR_FAIL(hllm_bias_backward(context, vd, activation(dtype, dy, {T, N}, gap_for(N, 1))));
        auto expected = doubles(y), sums = doubles(dbias);
        for (int64_t t = 0; t < T; t++)
            for (int64_t i = 0; i < N; i++) {
                expected[t * N + i] += bias[i];
                sums[i] += dy[t * N + i];
            }
        expect_close(read(vd), sums, 1e-6 * (static_cast<double>(T) + 1), 1e-6, what + " dbias");
        if (T > 0) expect_close(read(vy), expected, 1e-6, 1e-6 + rounding(dtype), what + " y");
    }
};

TEST_F(Bias, ForwardAndBackward) {
    for (int32_t dtype : activation_dtypes()) {
        for (int64_t N : {1, 3, 17, 64, 65, 128, 1152})
            for (int64_t T : {0, 1, 5, 65}) check(T, N, dtype);
        check(1100, 128, dtype);
        check(3, 2305, dtype);
    }
}

TEST_F(Bias, SameBitsOnAnyTeam) {
    const int64_t T = 500, N = 577;
    const auto values = normal(T * N);
    const auto *dy = floats(values, {T, N}), *bias = floats(normal(N), {N});
    expect_same_on_any_team("y and dbias", [&] {
        const auto *y = floats(values, {T, N}), *dbias = output({N});
        EXPECT_EQ(HLLM_OK, hllm_bias_forward(context, y, bias)) << hllm_error_message();
        EXPECT_EQ(HLLM_OK, hllm_bias_backward(context, dbias, dy)) << hllm_error_message();
        auto all = read(y);
        const auto sums = read(dbias);
        all.insert(all.end(), sums.begin(), sums.end());
        return all;
    });
}

}  // namespace
}  // namespace hllm_test
