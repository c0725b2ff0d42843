#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

double sigmoid(double z) { return 1 / (1 + std::exp(-z)); }

std::vector<double> forward(const std::vector<double>& gate_up, int64_t T, int64_t F) {
    std::vector<double> y;
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < F; i++) {
            const double gate = gate_up[t * 2 * F + i], up = gate_up[t * 2 * F + F + i];
            y.push_back(gate * sigmoid(gate) * up);
        }
    return y;
}

std::vector<double> backward(const std::vector<double>& dy, const std::vector<double>& gate_up, int64_t T, int64_t F) {
    std::vector<double> d(T * 2 * F);
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < F; i++) {
            const double gate = gate_up[t * 2 * F + i], up = gate_up[t * 2 * F + F + i], s = sigmoid(gate), g = dy[t * F + i];
            d[t * 2 * F + i] = g * up * s * (1 + gate * (1 - s));
            d[t * 2 * F + F + i] = g * gate * s;
        }
    return d;
}

class SwiGlu : public OpTest {
   protected:
    void check(const std::vector<float>& gate_up, int64_t T, int64_t F, int64_t gap, double absolute) {
        for (int32_t dtype : activation_dtypes()) check(dtype, rounded(dtype, gate_up), T, F, gap, absolute);
    }
    void check(int32_t dtype, const std::vector<float>& gate_up, int64_t T, int64_t F, int64_t gap, double absolute) {
        const std::string what = "dtype " + std::to_string(dtype) + " T " + std::to_string(T) + " F " + std::to_string(F);
        const auto dy = rounded(dtype, normal(T * F));
        const auto *in = activation(dtype, gate_up, {T, 2 * F}, gap),
                   *y = activation(dtype, std::vector<float>(T * F, NAN), {T, F}, gap),
                   *d = activation(dtype, std::vector<float>(T * 2 * F, NAN), {T, 2 * F}, gap);
        HLLM_OK_OR_FAIL(hllm_swiglu_forward(context, y, in));
        HLLM_OK_OR_FAIL(hllm_swiglu_backward(context, d, activation(dtype, dy, {T, F}, gap), in));
        if (T == 0) return;
        const double relative = 2e-6 + rounding(dtype);
        expect_close(read(y), forward(doubles(gate_up), T, F), absolute, relative, what + " y");
        expect_close(read(d), backward(doubles(dy), doubles(gate_up), T, F), 2 * absolute, relative, what + " gradient");
    }
};

TEST_F(SwiGlu, ForwardAndBackward) {
    for (int64_t F : {1, 3, 17, 64, 65, 576})
        for (int64_t T : {0, 1, 5, 70})
            for (int64_t gap : {0, 3, 8}) check(normal(T * 2 * F, 3), T, F, gap, 2e-6);
}

// Far out the sigmoid is 0 or 1, not NaN and not garbage.
TEST_F(SwiGlu, LargeGates) {
    std::vector<float> gates{0, -0.f, 20, -20, 87, -87, 88.5, -88.5, 95, -95, 103, -103, 104, -104, 110, -110, 128, -128};
    for (float size : {200.f, 500.f, 1e3f, 1e4f, 1e6f, 1e10f, 1e20f, 1e30f}) gates.insert(gates.end(), {size, -size});
    const auto F = static_cast<int64_t>(gates.size());
    std::vector<float> gate_up = gates;
    gate_up.insert(gate_up.end(), F, 1.f);
    check(gate_up, 1, F, 0, 2e-6);
}

TEST_F(SwiGlu, GradientsAreTheDerivatives) {
    const int64_t T = 2, F = 5;
    const auto gate_up = doubles(normal(T * 2 * F, 2)), dy = doubles(normal(T * F));
    const auto analytic = backward(dy, gate_up, T, F);
    const auto numeric = differences(gate_up, [&](const auto& at) { return inner(dy, forward(at, T, F)); });
    for (size_t i = 0; i < analytic.size(); i++) EXPECT_NEAR(numeric[i], analytic[i], 1e-7);
}

TEST_F(SwiGlu, SameBitsOnAnyTeam) {
    const int64_t T = 300, F = 577;
    const auto *in = floats(normal(T * 2 * F), {T, 2 * F}), *dy = floats(normal(T * F), {T, F});
    expect_same_on_any_team("forward", [&] {
        const auto* y = output({T, F});
        EXPECT_EQ(HLLM_OK, hllm_swiglu_forward(context, y, in)) << hllm_error_message();
        return read(y);
    });
    expect_same_on_any_team("backward", [&] {
        const auto* d = output({T, 2 * F});
        EXPECT_EQ(HLLM_OK, hllm_swiglu_backward(context, d, dy, in)) << hllm_error_message();
        return read(d);
    });
}

}  // namespace
}  // namespace hllm_test
