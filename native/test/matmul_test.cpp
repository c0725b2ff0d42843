#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

struct Case {
    int64_t m, n, k;
};

class Matmul : public OpTest {
   protected:
    // All transposes, overwriting and adding, against the reference; the gaps make every operand a strided view.
    void check(int64_t m, int64_t n, int64_t k, int64_t gap) {
        for (int32_t in : activation_dtypes())
            for (int32_t out : activation_dtypes()) check(m, n, k, gap, in, out);
    }
    void check(int64_t m, int64_t n, int64_t k, int64_t gap, int32_t in, int32_t out) {
        const auto a = rounded(in, normal(m * k)), b = rounded(in, normal(k * n)), c = rounded(out, normal(m * n));
        for (int flags = 0; flags < 8; flags++) {
            const bool ta = flags & 1, tb = flags & 2, accumulate = flags & 4;
            const auto* va = activation(in, a, ta ? shape(k, m) : shape(m, k), gap);
            const auto* vb = activation(in, b, tb ? shape(n, k) : shape(k, n), gap);
            const auto* vc = activation(out, accumulate ? c : std::vector<float>(m * n, NAN), {m, n}, gap);
            HLLM_OK_OR_FAIL(hllm_matmul(context, vc, va, vb, ta, tb, accumulate));
            auto expected = product(m, n, k, a, b, ta, tb);
            if (accumulate) expected = sum(c, expected);
            expect_close(read(vc), expected, 2e-7 * static_cast<double>(k + 1), 1e-6 + rounding(out),
                         "matmul " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k) + " flags " +
                             std::to_string(flags) + " gap " + std::to_string(gap));
            if (HasFatalFailure()) return;
        }
    }
    static std::vector<int64_t> shape(int64_t rows, int64_t columns) { return {rows, columns}; }
};

TEST_F(Matmul, OddShapes) {
    for (int64_t m : {1, 2, 3, 7, 17, 65})
        for (int64_t n : {1, 3, 17, 64, 65})
            for (int64_t k : {0, 1, 3, 17, 65}) check(m, n, k, (m + n + k) % 3);
}

// The library takes another path above 64 rows.
TEST_F(Matmul, EveryRowCountAroundTheSmallPath) {
    for (int64_t m = 1; m <= 130; m++) check(m, 33, 19, 0);
}

TEST_F(Matmul, LargeEnoughToSplit) {
    for (auto [m, n, k] : {Case{300, 130, 70}, Case{97, 400, 70}, Case{5, 900, 70}, Case{64, 385, 64}, Case{65, 385, 64}})
        check(m, n, k, 5);
}

// Blocks of 4,096 columns, and of up to 1,024 terms of the sum.
TEST_F(Matmul, SeveralBlocks) {
    for (auto [m, n, k] : {Case{70, 4100, 20}, Case{70, 20, 1025}, Case{66, 40, 2051}}) check(m, n, k, 3);
}

TEST_F(Matmul, NothingToDo) {
    for (auto [m, n, k] : {Case{0, 3, 2}, Case{3, 0, 2}, Case{0, 0, 0}}) {
        const auto* c = output({m, n});
        HLLM_OK_OR_FAIL(hllm_matmul(context, c, floats(normal(m * k), {m, k}), floats(normal(k * n), {k, n}), 0, 0, 0));
        EXPECT_EQ(0u, read(c).size());
    }
}

TEST_F(Matmul, SameBitsOnAnyTeam) {
    for (auto [m, n, k] : {Case{1, 1000, 64}, Case{64, 1000, 300}, Case{65, 1000, 300}, Case{300, 577, 64}, Case{577, 300, 129},
                           Case{1000, 96, 577}, Case{200, 1000, 257}})
        for (int flags = 0; flags < 4; flags++) {
            const bool ta = flags & 1, tb = flags & 2;
            const auto* a = floats(normal(m * k), ta ? shape(k, m) : shape(m, k));
            const auto* b = floats(normal(k * n), tb ? shape(n, k) : shape(k, n));
            const auto c = normal(m * n);
            for (int accumulate : {0, 1})
                expect_same_on_any_team("matmul " + std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k), [&] {
                    const auto* out = floats(c, {m, n});
                    EXPECT_EQ(HLLM_OK, hllm_matmul(context, out, a, b, ta, tb, accumulate)) << hllm_error_message();
                    return read(out);
                });
        }
}

}  // namespace
}  // namespace hllm_test
