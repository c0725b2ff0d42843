#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

constexpr float EPS = 1e-5f;

struct Forward {
    std::vector<double> y, saved;  // [T,2]: mean, rstd
};

Forward forward(const std::vector<double>& x, const std::vector<double>& w, const std::vector<double>& b, int64_t T,
                int64_t D) {
    Forward f;
    for (int64_t t = 0; t < T; t++) {
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < D; i++) mean += x[t * D + i] / static_cast<double>(D);
        for (int64_t i = 0; i < D; i++) variance += std::pow(x[t * D + i] - mean, 2) / static_cast<double>(D);
        const double rstd = 1 / std::sqrt(variance + double{EPS});
        f.saved.insert(f.saved.end(), {mean, rstd});
        for (int64_t i = 0; i < D; i++) f.y.push_back((x[t * D + i] - mean) * rstd * w[i] + b[i]);
    }
    return f;
}

struct Gradients {
    std::vector<double> dx, dw;
};

Gradients backward(const std::vector<double>& dy, const std::vector<double>& x, const std::vector<double>& w, int64_t T,
                   int64_t D) {
    Gradients g{std::vector<double>(T * D), std::vector<double>(D, 0.0)};
    const auto saved = forward(x, w, std::vector<double>(D, 0.0), T, D).saved;
    for (int64_t t = 0; t < T; t++) {
        const double mean = saved[2 * t], rstd = saved[2 * t + 1];
        double sum = 0, product = 0;
        for (int64_t i = 0; i < D; i++) {
            sum += w[i] * dy[t * D + i] / static_cast<double>(D);
            product += w[i] * dy[t * D + i] * (x[t * D + i] - mean) * rstd / static_cast<double>(D);
        }
        for (int64_t i = 0; i < D; i++) {
            const double normal = (x[t * D + i] - mean) * rstd;
            g.dx[t * D + i] = rstd * (w[i] * dy[t * D + i] - sum - normal * product);
            g.dw[i] += dy[t * D + i] * normal;
        }
    }
    return g;
}

// y and dy are activations, all else is f32.
class LayerNorm : public OpTest {
   protected:
    void check(int64_t T, int64_t D, int32_t dtype, float offset) {
        const std::string what = "dtype " + std::to_string(dtype) + " T " + std::to_string(T) + " D " + std::to_string(D);
        auto x = normal(T * D, 3);
        for (float& value : x) value += offset;
        const auto w = normal(D), b = normal(D), dy = rounded(dtype, normal(T * D)), dx = normal(T * D), dw = normal(D);
        const auto gap = [&](int64_t odd) { return gap_for(D, odd); };
        const auto *vx = floats(x, {T, D}, gap(2)), *vw = floats(w, {D}), *vb = floats(b, {D}),
                   *vdy = activation(dtype, dy, {T, D}, gap(1));
        const std::vector<float> nothing(T * D, NAN);
        const auto *y = activation(dtype, nothing, {T, D}, gap(3)), *unsaved = activation(dtype, nothing, {T, D}),
                   *saved = output({T, 2}, NAN, 3);
        HLLM_OK_OR_FAIL(hllm_layernorm_forward(context, y, saved, vx, vw, vb, EPS));
        HLLM_OK_OR_FAIL(hllm_layernorm_forward(context, unsaved, nullptr, vx, vw, vb, EPS));
        const auto *fresh = output({T, D}, NAN, gap(1)), *added = floats(dx, {T, D}, gap(2)), *vdw = floats(dw, {D}),
                   *no_dweight = output({T, D}, NAN);
        HLLM_OK_OR_FAIL(hllm_layernorm_backward(context, fresh, vdw, vdy, saved, vx, vw, 0));
        HLLM_OK_OR_FAIL(hllm_layernorm_backward(context, no_dweight, nullptr, vdy, saved, vx, vw, 0));
        const auto f = forward(doubles(x), doubles(w), doubles(b), T, D);
        const auto g = backward(doubles(dy), doubles(x), doubles(w), T, D);
        // Cancellation: in a row of one element the variance is 0, rstd large, and all that is left is rounding.
        double size = 1;
        for (int64_t t = 0; t < T; t++) size = std::max(size, f.saved[2 * t + 1]);
        const double lost = 3e-7 * size * (1 + std::abs(offset));
        expect_close(read(vdw), sum(dw, g.dw), (2e-6 + lost) * (static_cast<double>(T) + 1), 2e-6, what + " dweight");
        if (T == 0) return;
        HLLM_OK_OR_FAIL(hllm_layernorm_backward(context, added, nullptr, vdy, saved, vx, vw, 1));
        expect_close(read(y), f.y, 2e-6 + 4 * lost, 4e-6 + rounding(dtype), what + " y");
        expect_close(read(saved), f.saved, 1e-6 * (1 + std::abs(offset)), 2e-6, what + " saved");
        expect_same_bits(read(unsaved), read(y), what + " without saved");
        expect_close(read(fresh), g.dx, 1e-5 * size + 4 * lost * size, 1e-5, what + " dx");
        expect_same_bits(read(no_dweight), read(fresh), what + " without dweight");
        expect_close(read(added), sum(dx, g.dx), 1e-5 * size + 4 * lost * size + 1e-6, 1e-5, what + " dx added");
    }
};

TEST_F(LayerNorm, ForwardAndBackward) {
    for (int32_t dtype : activation_dtypes()) {
        for (int64_t D : {1, 3, 17, 64, 65, 128, 384})
            for (int64_t T : {0, 1, 5, 65}) check(T, D, dtype, 0);
        check(1100, 128, dtype, 0);
        check(3, 2176, dtype, 0);
        check(7, 96, dtype, 20);  // rows far from 0
    }
}

TEST_F(LayerNorm, AConstantRowIsHarmless) {
    const int64_t D = 17;
    const auto b = normal(D);
    const auto *x = floats(std::vector<float>(D, 0.5f), {1, D}), *w = floats(normal(D), {D}), *vb = floats(b, {D}),
               *y = output({1, D}, NAN), *saved = output({1, 2}, NAN);
    HLLM_OK_OR_FAIL(hllm_layernorm_forward(context, y, saved, x, w, vb, EPS));
    expect_close(read(y), doubles(b), 1e-4, 0, "y");
    expect_close(read(saved), {0.5, 1 / std::sqrt(double{EPS})}, 0, 1e-6, "saved");
}

TEST_F(LayerNorm, GradientsAreTheDerivatives) {
    const int64_t T = 3, D = 5;
    const auto x = doubles(normal(T * D)), w = doubles(normal(D)), b = doubles(normal(D)), dy = doubles(normal(T * D));
    const auto g = backward(dy, x, w, T, D);
    const auto by_x = differences(x, [&](const auto& at) { return inner(dy, forward(at, w, b, T, D).y); });
    const auto by_w = differences(w, [&](const auto& at) { return inner(dy, forward(x, at, b, T, D).y); });
    for (size_t i = 0; i < x.size(); i++) EXPECT_NEAR(by_x[i], g.dx[i], 1e-7);
    for (size_t i = 0; i < w.size(); i++) EXPECT_NEAR(by_w[i], g.dw[i], 1e-7);
}

TEST_F(LayerNorm, SameBitsOnAnyTeam) {
    const int64_t T = 500, D = 577;
    const auto *x = floats(normal(T * D), {T, D}), *w = floats(normal(D), {D}), *b = floats(normal(D), {D}),
               *dy = floats(normal(T * D), {T, D});
    expect_same_on_any_team("all outputs", [&] {
        const auto *y = output({T, D}), *saved = output({T, 2}), *dx = output({T, D}), *dw = output({D});
        EXPECT_EQ(HLLM_OK, hllm_layernorm_forward(context, y, saved, x, w, b, EPS)) << hllm_error_message();
        EXPECT_EQ(HLLM_OK, hllm_layernorm_backward(context, dx, dw, dy, saved, x, w, 1)) << hllm_error_message();
        auto all = read(y);
        for (const auto* more : {saved, dx, dw}) {
            const auto values = read(more);
            all.insert(all.end(), values.begin(), values.end());
        }
        return all;
    });
}

}  // namespace
}  // namespace hllm_test
