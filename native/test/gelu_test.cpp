#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

double cdf(double x) { return std::erfc(-x / std::sqrt(2.0)) / 2; }

std::vector<double> forward(const std::vector<double>& x) {
    std::vector<double> y;
    for (double v : x) y.push_back(v * cdf(v));
    return y;
}

std::vector<double> backward(const std::vector<double>& dy, const std::vector<double>& x) {
    std::vector<double> dx;
    for (size_t i = 0; i < x.size(); i++)
        dx.push_back(dy[i] * (cdf(x[i]) + x[i] * std::exp(-x[i] * x[i] / 2) / std::sqrt(2 * M_PI)));
    return dx;
}

class Gelu : public OpTest {
   protected:
    void check(const std::vector<float>& values, int64_t T, int64_t F, int64_t gap) {
        for (int32_t dtype : activation_dtypes()) {
            const std::string what = "dtype " + std::to_string(dtype) + " T " + std::to_string(T) + " F " + std::to_string(F);
            const auto x = rounded(dtype, values), dy = rounded(dtype, normal(T * F));
            const std::vector<float> nothing(T * F, NAN);
            const auto *in = activation(dtype, x, {T, F}, gap), *y = activation(dtype, nothing, {T, F}, gap),
                       *dx = activation(dtype, nothing, {T, F}, gap);
            HLLM_OK_OR_FAIL(hllm_gelu_forward(context, y, in));
            HLLM_OK_OR_FAIL(hllm_gelu_backward(context, dx, activation(dtype, dy, {T, F}, gap), in));
            if (T == 0) return;
            expect_close(read(y), forward(doubles(x)), 2e-6, 2e-6 + rounding(dtype), what + " y");
            expect_close(read(dx), backward(doubles(dy), doubles(x)), 2e-6, 2e-6 + rounding(dtype), what + " dx");
        }
    }
};

TEST_F(Gelu, ForwardAndBackward) {
    for (int64_t F : {1, 3, 17, 64, 65, 576})
        for (int64_t T : {0, 1, 5, 70})
            for (int64_t gap : {0, 3, 8}) check(normal(T * F, 3), T, F, gap);
}

// Far out it is 0 or x, not NaN and not garbage.
TEST_F(Gelu, LargeValues) {
    std::vector<float> values{0, -0.f};
    for (float size : {1e-30f, 1e-3f, 3.f, 5.f, 6.f, 9.f, 13.f, 14.f, 14.5f, 15.f, 88.f, 200.f, 1e4f, 1e10f, 1e19f, 1e30f})
        values.insert(values.end(), {size, -size});
    check(values, 1, static_cast<int64_t>(values.size()), 0);
}

TEST_F(Gelu, GradientsAreTheDerivatives) {
    const auto x = doubles(normal(10, 2)), dy = doubles(normal(10));
    const auto analytic = backward(dy, x);
    const auto numeric = differences(x, [&](const auto& at) { return inner(dy, forward(at)); });
    for (size_t i = 0; i < analytic.size(); i++) EXPECT_NEAR(numeric[i], analytic[i], 1e-7);
}

TEST_F(Gelu, SameBitsOnAnyTeam) {
    const int64_t T = 300, F = 577;
    const auto *x = floats(normal(T * F), {T, F}), *dy = floats(normal(T * F), {T, F});
    expect_same_on_any_team("forward", [&] {
        const auto* y = output({T, F});
        EXPECT_EQ(HLLM_OK, hllm_gelu_forward(context, y, x)) << hllm_error_message();
        return read(y);
    });
    expect_same_on_any_team("backward", [&] {
        const auto* dx = output({T, F});
        EXPECT_EQ(HLLM_OK, hllm_gelu_backward(context, dx, dy, x)) << hllm_error_message();
        return read(dx);
    });
}

}  // namespace
}  // namespace hllm_test
