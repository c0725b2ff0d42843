#include <limits>

#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

struct Case {
    int64_t T, M, D;
    double threshold = 0.99, logit_scale = std::log(1 / 0.07);
    int64_t positions = 0;                              // 0: T
    std::vector<int32_t> target_ids{}, negative_ids{};  // both empty: none
    int32_t dtype = HLLM_F32;

    std::string name() const {
        return "T " + std::to_string(T) + " M " + std::to_string(M) + " D " + std::to_string(D) +
               (negative_ids.empty() ? "" : " ids") + " threshold " + std::to_string(threshold) +
               (dtype == HLLM_BF16 ? " bf16" : "");
    }
};

// ---- Reference ----

struct Inputs {
    std::vector<double> u, p, n;
    double logit_scale;
};

std::vector<double> normalized(const std::vector<double>& x, int64_t D) {
    auto out = x;
    for (size_t t = 0; t < x.size(); t += D) {
        double squares = 0;
        for (int64_t i = 0; i < D; i++) squares += x[t + i] * x[t + i];
        for (int64_t i = 0; i < D; i++) out[t + i] = squares > 0 ? x[t + i] / std::sqrt(squares) : 0;
    }
    return out;
}

struct Result {
    std::vector<double> metrics;
    double close = 0;  // positions where rounding can decide a rank
    std::vector<double> du, dp, dn;
    double dlogit_scale = 0;
    double loss() const { return metrics[HLLM_INFONCE_LOSS]; }
};

// Gradients of total loss / positions. `masked[t * M + j]`: fixed, so that the reference is differentiable.
Result infonce(const Case& c, const Inputs& in, const std::vector<char>& masked) {
    const int64_t T = c.T, M = c.M, D = c.D;
    Result r{std::vector<double>(HLLM_INFONCE_METRICS), 0, std::vector<double>(T * D), std::vector<double>(T * D),
             std::vector<double>(M * D)};
    const auto u = normalized(in.u, D), p = normalized(in.p, D), n = normalized(in.n, D);
    const double scale = std::exp(in.logit_scale), positions = static_cast<double>(c.positions ? c.positions : T);
    std::vector<double> gu(T * D), gp(T * D), gn(M * D);  // of the normalised rows
    auto cosine = [&](const std::vector<double>& a, int64_t i, const std::vector<double>& b, int64_t j) {
        double sum = 0;
        for (int64_t e = 0; e < D; e++) sum += a[i * D + e] * b[j * D + e];
        return sum;
    };
    for (int64_t t = 0; t < T; t++) {
        const double target = scale * cosine(u, t, p, t);
        std::vector<double> logits;
        double high = target;
        for (int64_t j = 0; j < M; j++) {
            logits.push_back(masked[t * M + j] ? -std::numeric_limits<double>::infinity() : scale * cosine(u, t, n, j));
            high = std::max(high, logits[j]);
        }
        double total = std::exp(target - high), samples = 1, better = 0, close = 0;
        for (double logit : logits) {
            total += std::exp(logit - high);
            samples += std::isfinite(logit);
            better += logit > target;
            close += std::abs(logit - target) < 1e-5 * scale;
        }
        r.metrics[HLLM_INFONCE_LOSS] += high + std::log(total) - target;
        r.metrics[HLLM_INFONCE_SAMPLES] += samples;
        const int ks[] = {1, 5, 10, 50, 100};
        for (int i = 0; i < 5; i++) r.metrics[HLLM_INFONCE_TOP1 + i] += better < ks[i];
        r.close += close > 0;
        auto add = [&](double dlogit, double logit, const std::vector<double>& rows, std::vector<double>& gradients,
                       int64_t row) {
            r.dlogit_scale += dlogit * logit;
            for (int64_t e = 0; e < D; e++) {
                gu[t * D + e] += dlogit * scale * rows[row * D + e];
                gradients[row * D + e] += dlogit * scale * u[t * D + e];
            }
        };
        add((std::exp(target - high) / total - 1) / positions, target, p, gp, t);
        for (int64_t j = 0; j < M; j++)
            if (std::isfinite(logits[j])) add(std::exp(logits[j] - high) / total / positions, logits[j], n, gn, j);
    }
    auto denormalize = [&](const std::vector<double>& x, const std::vector<double>& x_hat, const std::vector<double>& g,
                           std::vector<double>& out) {
        for (size_t t = 0; t < x.size(); t += D) {
            double squares = 0, along = 0;
            for (int64_t e = 0; e < D; e++) squares += x[t + e] * x[t + e], along += x_hat[t + e] * g[t + e];
            for (int64_t e = 0; e < D && squares > 0; e++) out[t + e] = (g[t + e] - x_hat[t + e] * along) / std::sqrt(squares);
        }
    };
    denormalize(in.u, u, gu, r.du);
    denormalize(in.p, p, gp, r.dp);
    denormalize(in.n, n, gn, r.dn);
    return r;
}

std::vector<char> mask(const Case& c, const Inputs& in) {
    const auto p = normalized(in.p, c.D), n = normalized(in.n, c.D);
    std::vector<char> masked(c.T * c.M);
    for (int64_t t = 0; t < c.T; t++)
        for (int64_t j = 0; j < c.M; j++) {
            double sum = 0;
            for (int64_t e = 0; e < c.D; e++) sum += p[t * c.D + e] * n[j * c.D + e];
            masked[t * c.M + j] = sum > c.threshold || (!c.negative_ids.empty() && c.negative_ids[j] == c.target_ids[t]);
            // Cases keep away from the threshold, so that rounding does not decide.
            EXPECT_GT(std::abs(sum - c.threshold), 1e-6) << "an unlucky seed: target " << t << ", negative " << j;
        }
    return masked;
}

// ---- Cases ----

class InfoNce : public OpTest {
   protected:
    struct Floats {
        std::vector<float> u, p, n;
        float logit_scale;
        Inputs doubles() const {
            return {hllm_test::doubles(u), hllm_test::doubles(p), hllm_test::doubles(n), double{logit_scale}};
        }
    };

    // Predictions near their targets; some negatives are targets again, some rows are zero.
    Floats draw(const Case& c) {
        Floats f{normal(c.T * c.D), normal(c.T * c.D, 3), normal(c.M * c.D), static_cast<float>(c.logit_scale)};
        for (int64_t i = 0; i < c.T * c.D; i++) f.u[i] += f.p[i] / 4;
        for (int64_t j = 0; c.T > 0 && j < c.M; j += 5)
            std::copy_n(f.p.begin() + uniform(0, c.T - 1) * c.D, c.D, f.n.begin() + j * c.D);
        if (c.T > 4) {
            std::fill_n(f.u.begin() + 1 * c.D, c.D, 0.f);
            std::fill_n(f.p.begin() + 3 * c.D, c.D, 0.f);
        }
        if (c.M > 4) std::fill_n(f.n.begin() + 2 * c.D, c.D, 0.f);
        for (auto* x : {&f.u, &f.p, &f.n}) *x = rounded(c.dtype, *x);
        return f;
    }
    void draw_ids(Case& c) {
        for (int64_t t = 0; t < c.T; t++) c.target_ids.push_back(static_cast<int32_t>(uniform(0, 20)));
        for (int64_t j = 0; j < c.M; j++) c.negative_ids.push_back(static_cast<int32_t>(uniform(0, 20)));
    }

    struct Run {
        const hllm_tensor *metrics, *du, *dp, *dn, *dlogit_scale;
    };
    Run run(const Case& c, const Floats& f, bool gradients, int64_t gap = 0) {
        const int64_t T = c.T, M = c.M, D = c.D;
        Run r{output({HLLM_INFONCE_METRICS}, NAN), nullptr, nullptr, nullptr, nullptr};
        if (gradients) {
            r.du = output({T, D}, NAN, gap), r.dp = output({T, D}, NAN, 2 * gap), r.dn = output({M, D}, NAN, gap);
            r.dlogit_scale = floats({7}, {1});
        }
        const bool ids = !c.target_ids.empty();
        const hllm_infonce_args args{sizeof args,
                                     static_cast<float>(c.threshold),
                                     c.positions ? c.positions : std::max<int64_t>(1, T),
                                     r.metrics,
                                     r.du,
                                     r.dp,
                                     r.dn,
                                     r.dlogit_scale,
                                     activation(c.dtype, f.u, {T, D}, 3 * gap),
                                     activation(c.dtype, f.p, {T, D}, gap),
                                     activation(c.dtype, f.n, {M, D}, 2 * gap),
                                     ids ? ints(c.target_ids, {T}) : nullptr,
                                     ids ? ints(c.negative_ids, {M}) : nullptr,
                                     floats({f.logit_scale}, {1})};
        EXPECT_EQ(HLLM_OK, hllm_infonce(context, &args)) << hllm_error_message();
        return r;
    }

    // In bf16 both factors of a sum of negatives may be rounded.
    static void expect_gradient(const Case& c, const std::vector<float>& actual, const std::vector<double>& expected,
                                const std::string& what) {
        double largest = 0;
        for (double value : expected) largest = std::max(largest, std::abs(value));
        if (!expected.empty())
            expect_close(actual, expected, (2e-5 + 2 * rounding(c.dtype)) * largest + 1e-9, 1e-5, c.name() + what);
    }

    Result compare(Case c, int64_t gap = 1) {
        Result expected;
        for (int32_t dtype : activation_dtypes()) {
            c.dtype = dtype;
            expected = compare_as_it_is(c, gap);
        }
        return expected;
    }
    Result compare_as_it_is(const Case& c, int64_t gap) {
        const Floats f = draw(c);
        const auto expected = infonce(c, f.doubles(), mask(c, f.doubles()));
        const Run r = run(c, f, true, gap);
        const auto metrics = read(r.metrics);
        EXPECT_NEAR(expected.loss(), metrics[HLLM_INFONCE_LOSS], 1e-5 * (1 + static_cast<double>(c.T) + expected.loss()))
            << c.name();
        EXPECT_EQ(expected.metrics[HLLM_INFONCE_SAMPLES], metrics[HLLM_INFONCE_SAMPLES]) << c.name();
        for (int i = HLLM_INFONCE_TOP1; i < HLLM_INFONCE_METRICS; i++)
            EXPECT_NEAR(expected.metrics[i], metrics[i], expected.close) << c.name() << " metric " << i;
        expect_gradient(c, read(r.du), expected.du, " du");
        expect_gradient(c, read(r.dp), expected.dp, " dp");
        expect_gradient(c, read(r.dn), expected.dn, " dn");
        EXPECT_NEAR(7 + expected.dlogit_scale, read(r.dlogit_scale)[0], 1e-5 * (1 + std::abs(expected.dlogit_scale)))
            << c.name();
        expect_same_bits(read(run(c, f, false, gap).metrics), metrics, c.name() + " forward only");
        return expected;
    }
};

// ---- Tests ----

TEST_F(InfoNce, ReferenceIsTheDerivative) {
    Case c{5, 7, 4};
    c.positions = 9;
    draw_ids(c);
    const auto in = draw(c).doubles();
    Inputs moving = in;  // away from zero rows, where the gradient is 0 by definition
    for (auto* x : {&moving.u, &moving.p, &moving.n})
        for (double& value : *x) value += value == 0 ? 0.3 : 0;
    const auto masked = mask(c, moving);
    ASSERT_TRUE(std::find(masked.begin(), masked.end(), 1) != masked.end());
    const auto r = infonce(c, moving, masked);
    auto check = [&](std::vector<double> Inputs::*member, const std::vector<double>& analytic) {
        const auto numeric = differences(moving.*member, [&](const std::vector<double>& at) {
            Inputs moved = moving;
            moved.*member = at;
            return infonce(c, moved, masked).loss() / 9;
        });
        ASSERT_GT(numeric.size(), 0u);
        for (size_t i = 0; i < numeric.size(); i++) EXPECT_NEAR(numeric[i], analytic[i], 1e-7);
    };
    check(&Inputs::u, r.du);
    check(&Inputs::p, r.dp);
    check(&Inputs::n, r.dn);
    const auto numeric = differences({moving.logit_scale}, [&](const std::vector<double>& at) {
        Inputs moved = moving;
        moved.logit_scale = at[0];
        return infonce(c, moved, masked).loss() / 9;
    });
    EXPECT_NEAR(numeric[0], r.dlogit_scale, 1e-7);
}

TEST_F(InfoNce, TilesOfPositions) {
    for (int64_t T : {1, 2, 5, 127, 128, 129, 256, 300})
        for (int64_t M : {1, 16, 100, 259}) {
            Case c{T, M, 24};
            compare(c);
            draw_ids(c);
            compare(c, 0);
        }
}

// More than fit one tile of a GPU.
TEST_F(InfoNce, ManyPositions) { compare({3300, 2048, 8}, 0); }

TEST_F(InfoNce, Widths) {
    for (int64_t D : {5, 16, 31, 64, 65, 576})
        for (int64_t M : {15, 17, 1000})
            for (int64_t gap : {0, 1}) compare({40, M, D}, gap);
}

TEST_F(InfoNce, ManyNegatives) {
    const auto r = compare({20, 9001, 32});
    EXPECT_GT(r.metrics[HLLM_INFONCE_TOP100], 0);
    EXPECT_LT(r.metrics[HLLM_INFONCE_TOP1], 20);
    Case sharp{20, 5000, 32};  // the largest logit so far keeps growing
    sharp.logit_scale = std::log(100.0);
    compare(sharp, 0);
    draw_ids(sharp);
    compare(sharp, 0);
}

TEST_F(InfoNce, AGlobalBatchOnlyDividesTheGradients) {
    Case c{30, 50, 16};
    c.positions = 120;
    compare(c);
}

TEST_F(InfoNce, Scales) {
    for (double scale : {0.0, std::log(100.0), -2.0}) {
        Case c{130, 70, 12};
        c.logit_scale = scale;
        compare(c);
    }
}

// Masked by the threshold, or by their ids.
TEST_F(InfoNce, RowsWithoutNegatives) {
    for (bool by_ids : {true, false})
        for (int64_t M : {0, 1, 40}) {
            Case c{130, M, 8};
            if (by_ids)
                c.target_ids.assign(c.T, 4), c.negative_ids.assign(M, 4);
            else
                c.threshold = -1.5;
            const Floats f = draw(c);
            const Run r = run(c, f, true, 1);
            const auto metrics = read(r.metrics);
            EXPECT_EQ(0, metrics[HLLM_INFONCE_LOSS]);
            for (int i = HLLM_INFONCE_SAMPLES; i < HLLM_INFONCE_METRICS; i++) EXPECT_EQ(130, metrics[i]) << i;
            for (const auto* tensor : {r.du, r.dp})
                expect_close(read(tensor), std::vector<double>(c.T * c.D), 0, 0, "no gradient");
            if (M > 0) expect_close(read(r.dn), std::vector<double>(M * c.D), 0, 0, "no gradient");
            EXPECT_EQ(7, read(r.dlogit_scale)[0]);
        }
}

TEST_F(InfoNce, NoPositions) {
    for (int64_t M : {0, 1, 40}) {
        const Case c{0, M, 8};
        const Run r = run(c, draw(c), true, 1);
        expect_close(read(r.metrics), std::vector<double>(HLLM_INFONCE_METRICS), 0, 0, "metrics");
        if (M > 0) expect_close(read(r.dn), std::vector<double>(M * 8), 0, 0, "dn");
        EXPECT_EQ(7, read(r.dlogit_scale)[0]);
    }
}

// A negative that is the target again is left out by its cosine, also when it is longer; by its id, also when it differs.
TEST_F(InfoNce, MasksTheTargetAgain) {
    const int64_t D = 8;
    Case c{1, 3, D};
    Floats f{normal(D), normal(D), normal(3 * D), 1};
    for (int64_t i = 0; i < D; i++) f.n[i] = 5 * f.p[i];
    EXPECT_EQ(3, read(run(c, f, false).metrics)[HLLM_INFONCE_SAMPLES]);
    c.target_ids = {3}, c.negative_ids = {-1, 3, 4};
    EXPECT_EQ(2, read(run(c, f, false).metrics)[HLLM_INFONCE_SAMPLES]);
    c.threshold = 2;
    EXPECT_EQ(3, read(run(c, f, false).metrics)[HLLM_INFONCE_SAMPLES]);
}

TEST_F(InfoNce, LogitScaleGradientMayBeLeftOut) {
    const int64_t D = 8;
    const auto x = normal(2 * D);
    const auto *rows = floats(x, {2, D}), *negatives = floats(normal(3 * D), {3, D}), *metrics = output({HLLM_INFONCE_METRICS});
    const auto *du = output({2, D}), *dp = output({2, D}), *dn = output({3, D});
    const hllm_infonce_args args{sizeof args, 0.99f, 2,    metrics,   du,      dp,      dn,
                                 nullptr,     rows,  rows, negatives, nullptr, nullptr, floats({1}, {1})};
    HLLM_OK_OR_FAIL(hllm_infonce(context, &args));
    EXPECT_NE(12345, read(dn)[0]);
}

TEST_F(InfoNce, SameBitsOnAnyTeam) {
    for (const auto& [T, M] : {std::pair<int64_t, int64_t>{300, 700}, {40, 2000}}) {
        Case c{T, M, 65};
        draw_ids(c);
        for (int32_t dtype : activation_dtypes()) {
            c.dtype = dtype;
            const Floats f = draw(c);
            expect_same_on_any_team("infonce", [&] {
                const Run r = run(c, f, true);
                std::vector<float> all;
                for (const auto* tensor : {r.metrics, r.du, r.dp, r.dn, r.dlogit_scale}) {
                    const auto values = read(tensor);
                    all.insert(all.end(), values.begin(), values.end());
                }
                return all;
            });
        }
    }
}

}  // namespace
}  // namespace hllm_test
