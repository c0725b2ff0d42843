#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

constexpr int64_t SIZES[] = {0, 1, 3, 17, 64, 65, 576, 4097, 70000, 200001};

class Optimiser : public OpTest {
   protected:
    float norm_of(const std::vector<float>& values, int64_t gap = 0) {
        const auto* out = output({1}, NAN);
        EXPECT_EQ(HLLM_OK, hllm_norm(context, out, floats(values, {static_cast<int64_t>(values.size())}, gap)))
            << hllm_error_message();
        return read(out)[0];
    }
    static hllm_adamw_args defaults(const hllm_tensor* p, const hllm_tensor* g, const hllm_tensor* m, const hllm_tensor* v) {
        hllm_adamw_args args{};
        args.struct_size = sizeof args;
        args.lr = 1e-2f;
        args.beta1 = 0.9f;
        args.beta2 = 0.999f;
        args.eps = 1e-8f;
        args.weight_decay = 0.01f;
        args.gradient_scale = 1;
        args.step = 1;
        args.parameters = p;
        args.gradients = g;
        args.moment1 = m;
        args.moment2 = v;
        return args;
    }
};

TEST_F(Optimiser, Norm) {
    for (int64_t n : SIZES) {
        const auto values = normal(n, 3);
        const auto in = doubles(values);
        for (int64_t gap : {0, 1})
            expect_close({norm_of(values, gap)}, {std::sqrt(inner(in, in))}, 0, 1e-6, "norm of " + std::to_string(n));
    }
}

// The squares of float32 gradients leave the range of float32 long before the gradients do.
TEST_F(Optimiser, NormOfVeryLargeAndVerySmallValues) {
    for (float size : {1e-30f, 1e-22f, 1e-18f, 1e15f, 1e18f, 1e22f, 1e30f}) {
        const auto values = normal(5000, size);
        const auto in = doubles(values);
        expect_close({norm_of(values)}, {std::sqrt(inner(in, in))}, 0, 1e-6, "norm of values about " + std::to_string(size));
    }
}

TEST_F(Optimiser, NormShowsWhatIsNotANumber) {
    for (float bad : {NAN, INFINITY}) {
        auto values = normal(100);
        values[77] = bad;
        EXPECT_FALSE(std::isfinite(norm_of(values)));
    }
}

TEST_F(Optimiser, Clamp) {
    for (int64_t n : SIZES) {
        auto values = normal(n, 3);
        const auto *in = floats(values, {n}), *off = floats(values, {n}, 1);
        HLLM_OK_OR_FAIL(hllm_clamp(context, in, -1.5f, 2.f));
        HLLM_OK_OR_FAIL(hllm_clamp(context, off, -1.5f, 2.f));
        for (float& value : values) value = std::min(std::max(value, -1.5f), 2.f);
        for (const auto* clamped : {in, off})
            if (n > 0) expect_same_bits(read(clamped), values, "clamped " + std::to_string(n));
    }
    const auto* in = floats({5, -5}, {2});
    HLLM_OK_OR_FAIL(hllm_clamp(context, in, 1, 1));
    expect_same_bits(read(in), {1, 1}, "to one value");
    for (auto [low, high] : {std::pair<float, float>{2.f, 1.f}, {NAN, 1.f}, {0.f, NAN}}) {
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_clamp(context, in, low, high));
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "clamp: low")) << hllm_error_message();
    }
    expect_same_bits(read(in), {1, 1}, "untouched");
}

// Algorithm 2 of the paper with its schedule multiplier inside lr, as PyTorch writes it: decay by lr * weight_decay, then
// the step with bias-corrected moments and eps outside the root.
TEST_F(Optimiser, FiveStepsOfAdamW) {
    for (int64_t n : SIZES) {
        const auto start = normal(n);
        const auto *p = floats(start, {n}), *m = output({n}, 0), *v = output({n}, 0);
        auto rp = doubles(start);
        std::vector<double> rm(n, 0.0), rv(n, 0.0);
        for (int64_t step = 1; step <= 5; step++) {
            auto gradient = normal(n, step == 3 ? 1e-4f : 1.f);
            if (n > 2) gradient[2] = 0;
            auto args = defaults(p, floats(gradient, {n}), m, v);
            args.step = step;
            args.lr = 1e-2f * static_cast<float>(step);
            args.gradient_scale = step == 2 ? 0.25f : 1;
            HLLM_OK_OR_FAIL(hllm_adamw(context, &args));
            for (int64_t i = 0; i < n; i++) {
                const double g = double{gradient[i]} * args.gradient_scale, b1 = args.beta1, b2 = args.beta2;
                rp[i] *= 1 - double{args.lr} * args.weight_decay;
                rm[i] = b1 * rm[i] + (1 - b1) * g;
                rv[i] = b2 * rv[i] + (1 - b2) * g * g;
                const double m_hat = rm[i] / (1 - std::pow(b1, step)), v_hat = rv[i] / (1 - std::pow(b2, step));
                rp[i] -= args.lr * m_hat / (std::sqrt(v_hat) + args.eps);
            }
            if (n == 0) continue;
            const std::string what = " of " + std::to_string(n) + " after step " + std::to_string(step);
            expect_close(read(m), rm, 2e-7, 2e-6, "moment1" + what);
            expect_close(read(v), rv, 1e-10, 2e-6, "moment2" + what);
            expect_close(read(p), rp, 1e-6, 2e-6, "parameters" + what);
        }
    }
}

TEST_F(Optimiser, WithoutGradientOnlyDecay) {
    const auto *p = floats({2, -4}, {2}), *g = output({2}, 0), *m = output({2}, 0), *v = output({2}, 0);
    auto args = defaults(p, g, m, v);
    args.weight_decay = 0;
    HLLM_OK_OR_FAIL(hllm_adamw(context, &args));
    expect_same_bits(read(p), {2, -4}, "no decay, no gradient: no change");
    args.lr = 0.5f;
    args.weight_decay = 0.5f;
    HLLM_OK_OR_FAIL(hllm_adamw(context, &args));
    expect_same_bits(read(p), {1.5f, -3}, "decay");
}

TEST_F(Optimiser, AStepBelowOneIsRefused) {
    const auto *p = floats({2}, {1}), *g = output({1}, 1), *m = output({1}, 0), *v = output({1}, 0);
    auto args = defaults(p, g, m, v);
    for (int64_t step : {int64_t{0}, int64_t{-1}, INT64_MIN}) {
        args.step = step;
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_adamw(context, &args));
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "adamw: step is")) << hllm_error_message();
    }
    expect_same_bits(read(p), {2}, "untouched");
}

TEST_F(Optimiser, SameBitsOnAnyTeam) {
    const int64_t n = 300001;
    const auto values = normal(n);
    const auto* in = floats(values, {n});
    expect_same_on_any_team("norm", [&] { return std::vector<float>{norm_of(values)}; });
    expect_same_on_any_team("clamp", [&] {
        const auto* clamped = floats(values, {n});
        EXPECT_EQ(HLLM_OK, hllm_clamp(context, clamped, -1, 1)) << hllm_error_message();
        return read(clamped);
    });
    expect_same_on_any_team("adamw", [&] {
        const auto *p = floats(values, {n}), *m = output({n}, 0.5f), *v = output({n}, 0.5f);
        const auto args = defaults(p, in, m, v);
        EXPECT_EQ(HLLM_OK, hllm_adamw(context, &args)) << hllm_error_message();
        return read(p);
    });
}

}  // namespace
}  // namespace hllm_test
