#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

double softplus(double z) { return std::max(z, 0.0) + std::log1p(std::exp(-std::abs(z))); }

double loss_of(const std::vector<double>& logits, const std::vector<float>& labels) {
    double sum = 0;
    for (size_t i = 0; i < logits.size(); i++) sum += softplus(logits[i]) - labels[i] * logits[i];
    return sum;
}

class Bce : public OpTest {
   protected:
    std::vector<float> labels(int64_t n) {
        std::vector<float> y(n);
        for (float& label : y) label = static_cast<float>(uniform(0, 1));
        return y;
    }
};

TEST_F(Bce, LossAndGradient) {
    for (int64_t n : {0, 1, 5, 17, 4096, 4097, 10000}) {
        const auto z = normal(n, 4), y = labels(n);
        const int64_t positions = 2 * n + 3;  // a global batch is larger
        const auto* logits = floats(z, {n});
        const auto* truth = floats(y, {n});
        const auto* loss = output({1}, NAN);
        const auto* only = output({1}, NAN);
        const auto* dlogits = output({n}, NAN);
        HLLM_OK_OR_FAIL(hllm_bce(context, loss, dlogits, logits, truth, positions));
        HLLM_OK_OR_FAIL(hllm_bce(context, only, nullptr, logits, truth, positions));
        expect_close(read(loss), {loss_of(doubles(z), y)}, 0, 1e-6, "loss of " + std::to_string(n));
        expect_same_bits(read(only), read(loss), "without a gradient");
        if (n == 0) continue;
        std::vector<double> expected;
        for (int64_t i = 0; i < n; i++) expected.push_back((1 / (1 + std::exp(-double{z[i]})) - y[i]) / positions);
        expect_close(read(dlogits), expected, 0, 1e-6, "gradient of " + std::to_string(n));
    }
}

TEST_F(Bce, GradientIsTheDerivative) {
    const int64_t n = 9;
    const auto z = normal(n, 2), y = labels(n);
    const auto* loss = output({1});
    const auto* dlogits = output({n});
    HLLM_OK_OR_FAIL(hllm_bce(context, loss, dlogits, floats(z, {n}), floats(y, {n}), 1));
    const auto numeric = differences(doubles(z), [&](const auto& at) { return loss_of(at, y); });
    expect_close(read(dlogits), numeric, 1e-6, 1e-6, "gradient");
}

// A logit that is far out costs |z| or nothing, never an infinity; one that is no number shows.
TEST_F(Bce, LargeLogits) {
    for (float size : {50.f, 89.f, 104.f, 800.f, 1e6f, 1e30f})
        for (float sign : {1.f, -1.f})
            for (float y : {0.f, 1.f}) {
                const auto* loss = output({1});
                const auto* dlogits = output({1});
                HLLM_OK_OR_FAIL(hllm_bce(context, loss, dlogits, floats({sign * size}, {1}), floats({y}, {1}), 1));
                const bool right = (sign > 0) == (y > 0);
                expect_close(read(loss), {right ? 0 : double{size}}, 1e-20, 1e-6, "loss");
                expect_close(read(dlogits), {right ? 0 : double{sign}}, 1e-20, 1e-6, "gradient");
            }
    const auto* loss = output({1});
    const auto* dlogits = output({2});
    HLLM_OK_OR_FAIL(hllm_bce(context, loss, dlogits, floats({1, NAN}, {2}), floats({0, 1}, {2}), 1));
    EXPECT_TRUE(std::isnan(read(loss)[0]));
    EXPECT_TRUE(std::isnan(read(dlogits)[1]));
}

TEST_F(Bce, PositionsAreMoreThanNone) {
    const auto* loss = output({1});
    const auto* dlogits = output({2});
    const auto* in = floats({1, 0}, {2});
    for (int64_t bad : {int64_t{0}, int64_t{-1}}) {
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_bce(context, loss, dlogits, in, in, bad));
        EXPECT_EQ("bce: positions is " + std::to_string(bad) + ", expected more than 0", hllm_error_message());
    }
    expect_same_bits(read(loss), {12345.f}, "untouched");
}

TEST_F(Bce, SameBitsOnAnyTeam) {
    const int64_t n = 50000;
    const auto* logits = floats(normal(n, 3), {n});
    const auto* truth = floats(labels(n), {n});
    expect_same_on_any_team("bce", [&] {
        const auto* loss = output({1});
        const auto* dlogits = output({n});
        EXPECT_EQ(HLLM_OK, hllm_bce(context, loss, dlogits, logits, truth, n)) << hllm_error_message();
        auto all = read(dlogits);
        all.push_back(read(loss)[0]);
        return all;
    });
}

}  // namespace
}  // namespace hllm_test
