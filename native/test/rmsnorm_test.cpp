#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

constexpr float EPS = 1e-5f;

struct Forward {
    std::vector<double> y, rstd;
};

Forward forward(const std::vector<double>& x, const std::vector<double>& w, int64_t T, int64_t D) {
    Forward f;
    for (int64_t t = 0; t < T; t++) {
        double squares = 0;
        for (int64_t i = 0; i < D; i++) squares += x[t * D + i] * x[t * D + i];
        f.rstd.push_back(1 / std::sqrt(squares / static_cast<double>(D) + double{EPS}));
        for (int64_t i = 0; i < D; i++) f.y.push_back(x[t * D + i] * f.rstd[t] * w[i]);
    }
    return f;
}

struct Gradients {
    std::vector<double> dx, dw;
};

Gradients backward(const std::vector<double>& dy, const std::vector<double>& x, const std::vector<double>& w, int64_t T,
                   int64_t D) {
    Gradients g{std::vector<double>(T * D), std::vector<double>(D, 0.0)};
    const auto rstd = forward(x, w, T, D).rstd;
    for (int64_t t = 0; t < T; t++) {
        double mean = 0;
        for (int64_t i = 0; i < D; i++) mean += w[i] * dy[t * D + i] * x[t * D + i] * rstd[t] / static_cast<double>(D);
        for (int64_t i = 0; i < D; i++) {
            const double normal = x[t * D + i] * rstd[t];
            g.dx[t * D + i] = rstd[t] * (w[i] * dy[t * D + i] - normal * mean);
            g.dw[i] += dy[t * D + i] * normal;
        }
    }
    return g;
}

// y and dy are activations, all else is f32.
class RmsNorm : public OpTest {
   protected:
    void check(int64_t T, int64_t D, int32_t dtype) {
        const std::string what = "dtype " + std::to_string(dtype) + " T " + std::to_string(T) + " D " + std::to_string(D);
        const auto x = normal(T * D, 3), w = normal(D), dy = rounded(dtype, normal(T * D)), dx = normal(T * D), dw = normal(D);
        const auto gap = [&](int64_t odd) { return gap_for(D, odd); };
        const auto *vx = floats(x, {T, D}, gap(2)), *vw = floats(w, {D}), *vdy = activation(dtype, dy, {T, D}, gap(1));
        const std::vector<float> nothing(T * D, NAN);
        const auto *y = activation(dtype, nothing, {T, D}, gap(3)), *unsaved = activation(dtype, nothing, {T, D}),
                   *rstd = output({T}, NAN);
        HLLM_OK_OR_FAIL(hllm_rmsnorm_forward(context, y, rstd, vx, vw, EPS));
        HLLM_OK_OR_FAIL(hllm_rmsnorm_forward(context, unsaved, nullptr, vx, vw, EPS));
        const auto *fresh = output({T, D}, NAN, gap(1)), *added = floats(dx, {T, D}, gap(2)), *vdw = floats(dw, {D}),
                   *no_dweight = output({T, D}, NAN);
        HLLM_OK_OR_FAIL(hllm_rmsnorm_backward(context, fresh, vdw, vdy, rstd, vx, vw, 0));
        HLLM_OK_OR_FAIL(hllm_rmsnorm_backward(context, no_dweight, nullptr, vdy, rstd, vx, vw, 0));
        const auto g = backward(doubles(dy), doubles(x), doubles(w), T, D);
        expect_close(read(vdw), sum(dw, g.dw), 1e-6 * (static_cast<double>(T) + 1), 1e-6, what + " dweight");
        if (T == 0) return;
        HLLM_OK_OR_FAIL(hllm_rmsnorm_backward(context, added, nullptr, vdy, rstd, vx, vw, 1));
        const auto f = forward(doubles(x), doubles(w), T, D);
        expect_close(read(y), f.y, 1e-6, 2e-6 + rounding(dtype), what + " y");
        expect_close(read(rstd), f.rstd, 0, 1e-6, what + " rstd");
        expect_same_bits(read(unsaved), read(y), what + " without saved_rstd");
        // Cancellation: at D 1 the exact gradient is all but 0 while its two terms are of the size of rstd.
        double size = 0;
        for (double r : f.rstd) size = std::max(size, r);
        expect_close(read(fresh), g.dx, 1e-5 * size, 1e-5, what + " dx");
        expect_same_bits(read(no_dweight), read(fresh), what + " without dweight");
        expect_close(read(added), sum(dx, g.dx), 1e-5 * size + 1e-6, 1e-5, what + " dx added");
    }
};

TEST_F(RmsNorm, ForwardAndBackward) {
    for (int32_t dtype : activation_dtypes()) {
        for (int64_t D : {1, 3, 17, 64, 65, 128, 576})
            for (int64_t T : {0, 1, 5, 65}) check(T, D, dtype);
        check(1100, 128, dtype);
        check(3, 2176, dtype);
    }
}

TEST_F(RmsNorm, AZeroRowIsHarmless) {
    const int64_t D = 17;
    const auto *x = floats(std::vector<float>(D, 0.f), {1, D}), *w = floats(normal(D), {D}), *y = output({1, D}, NAN),
               *rstd = output({1}, NAN);
    HLLM_OK_OR_FAIL(hllm_rmsnorm_forward(context, y, rstd, x, w, EPS));
    expect_close(read(y), std::vector<double>(D, 0.0), 0, 0, "y");
    expect_close(read(rstd), {1 / std::sqrt(double{EPS})}, 0, 1e-6, "rstd");
}

TEST_F(RmsNorm, GradientsAreTheDerivatives) {
    const int64_t T = 3, D = 5;
    const auto x = doubles(normal(T * D)), w = doubles(normal(D)), dy = doubles(normal(T * D));
    const auto g = backward(dy, x, w, T, D);
    const auto by_x = differences(x, [&](const auto& at) { return inner(dy, forward(at, w, T, D).y); });
    const auto by_w = differences(w, [&](const auto& at) { return inner(dy, forward(x, at, T, D).y); });
    for (size_t i = 0; i < x.size(); i++) EXPECT_NEAR(by_x[i], g.dx[i], 1e-7);
    for (size_t i = 0; i < w.size(); i++) EXPECT_NEAR(by_w[i], g.dw[i], 1e-7);
}

TEST_F(RmsNorm, SameBitsOnAnyTeam) {
    const int64_t T = 500, D = 577;
    const auto *x = floats(normal(T * D), {T, D}), *w = floats(normal(D), {D}), *dy = floats(normal(T * D), {T, D});
    expect_same_on_any_team("all outputs", [&] {
        const auto *y = output({T, D}), *rstd = output({T}), *dx = output({T, D}), *dw = output({D});
        EXPECT_EQ(HLLM_OK, hllm_rmsnorm_forward(context, y, rstd, x, w, EPS)) << hllm_error_message();
        EXPECT_EQ(HLLM_OK, hllm_rmsnorm_backward(context, dx, dw, dy, rstd, x, w, 1)) << hllm_error_message();
        auto all = read(y);
        for (const auto* more : {rstd, dx, dw}) {
            const auto values = read(more);
            all.insert(all.end(), values.begin(), values.end());
        }
        return all;
    });
}

}  // namespace
}  // namespace hllm_test
