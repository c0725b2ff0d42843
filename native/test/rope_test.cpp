#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

class Rope : public OpTest {
   protected:
    // Dh/2 cosines, then Dh/2 sines of each position.
    static std::vector<float> angles(int64_t positions, int64_t Dh) {
        std::vector<float> table(positions * Dh);
        for (int64_t p = 0; p < positions; p++)
            for (int64_t i = 0; i < Dh / 2; i++) {
                const double angle =
                    static_cast<double>(p) * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(Dh));
                table[p * Dh + i] = static_cast<float>(std::cos(angle));
                table[p * Dh + Dh / 2 + i] = static_cast<float>(std::sin(angle));
            }
        return table;
    }
    static std::vector<double> turned(std::vector<double> x, const std::vector<int32_t>& positions,
                                      const std::vector<float>& table, int64_t heads, int64_t Dh, bool inverse) {
        for (size_t t = 0; t < positions.size(); t++)
            for (int64_t h = 0; h < heads; h++)
                for (int64_t i = 0; i < Dh / 2; i++) {
                    double &a = x[(t * heads + h) * Dh + i], &b = x[(t * heads + h) * Dh + i + Dh / 2];
                    const double c = table[positions[t] * Dh + i],
                                 s = (inverse ? -1 : 1) * double{table[positions[t] * Dh + Dh / 2 + i]};
                    const double turned_a = a * c - b * s, turned_b = b * c + a * s;
                    a = turned_a;
                    b = turned_b;
                }
        return x;
    }
    // Dtypes and gaps.
    static std::vector<std::pair<int32_t, int64_t>> variants() {
        std::vector<std::pair<int32_t, int64_t>> all;
        for (int32_t dtype : activation_dtypes())
            for (int64_t gap : {0, 3}) all.emplace_back(dtype, gap);
        return all;
    }
    std::vector<int32_t> positions(int64_t T, int64_t P) {
        std::vector<int32_t> out(T);
        for (int32_t& p : out) p = static_cast<int32_t>(uniform(0, P - 1));
        return out;
    }
};

TEST_F(Rope, TurnsAndTurnsBack) {
    const int64_t P = 50;
    for (int64_t Dh : {2, 6, 16, 34, 64, 66})
        for (int64_t heads : {1, 3})
            for (int64_t T : {0, 1, 5, 40})
                for (auto [dtype, gap] : variants()) {
                    const std::string what = "dtype " + std::to_string(dtype) + " T " + std::to_string(T) + " heads " +
                                             std::to_string(heads) + " Dh " + std::to_string(Dh);
                    const auto x = rounded(dtype, normal(T * heads * Dh));
                    const auto at = positions(T, P);
                    const auto table = angles(P, Dh);
                    const auto *v = activation(dtype, x, {T, heads, Dh}, gap), *vp = ints(at),
                               *vt = floats(table, {P, Dh}, gap);
                    HLLM_OK_OR_FAIL(hllm_rope(context, v, vp, vt, 0));
                    if (T > 0)
                        expect_close(read(v), turned(doubles(x), at, table, heads, Dh, false), 1e-6, 1e-6 + rounding(dtype),
                                     what);
                    HLLM_OK_OR_FAIL(hllm_rope(context, v, vp, vt, 1));
                    // Rounded twice; the first error may come from the other of the two turned elements.
                    if (T > 0)
                        expect_close(read(v), doubles(x), 2e-6 + 8 * rounding(dtype), 2e-6 + 2 * rounding(dtype),
                                     what + " and back");
                }
}

// Queries and keys lie side by side in the rows of one product; each is turned where it lies.
TEST_F(Rope, TurnsAPartOfWiderRows) {
    const int64_t T = 7, heads = 2, Dh = 6, width = 30, first = 9;
    const auto rows = normal(T * width);
    const auto at = positions(T, 20);
    const auto table = angles(20, Dh);
    const auto* all = floats(rows, {T, width});
    hllm_tensor part = *all;
    part.rank = 3;
    part.offset = first * 4;
    part.shape[1] = heads;
    part.shape[2] = Dh;
    part.stride[1] = Dh;
    part.stride[2] = 1;
    HLLM_OK_OR_FAIL(hllm_rope(context, &part, ints(at), floats(table, {20, Dh}), 0));
    std::vector<double> expected = doubles(rows), inside;
    for (int64_t t = 0; t < T; t++)
        inside.insert(inside.end(), &expected[t * width + first], &expected[t * width + first + heads * Dh]);
    inside = turned(inside, at, table, heads, Dh, false);
    for (int64_t t = 0; t < T; t++) std::copy_n(&inside[t * heads * Dh], heads * Dh, &expected[t * width + first]);
    expect_close(read(all), expected, 1e-6, 1e-6, "rows");
}

TEST_F(Rope, TheGradientIsTheInverse) {
    const int64_t T = 3, heads = 2, Dh = 6, P = 9;
    const auto x = doubles(normal(T * heads * Dh)), dout = doubles(normal(T * heads * Dh));
    const auto at = positions(T, P);
    const auto table = angles(P, Dh);
    const auto analytic = turned(dout, at, table, heads, Dh, true);
    const auto numeric = differences(x, [&](const auto& v) { return inner(dout, turned(v, at, table, heads, Dh, false)); });
    for (size_t i = 0; i < x.size(); i++) EXPECT_NEAR(numeric[i], analytic[i], 1e-8);
}

TEST_F(Rope, APositionOutsideTheTableIsRefused) {
    const auto x = normal(3 * 2 * 4);
    for (int32_t bad : {-1, 5, INT32_MAX}) {
        const auto* v = floats(x, {3, 2, 4});
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, status_of(hllm_rope(context, v, ints({0, 1, bad}), floats(angles(5, 4), {5, 4}), 0)));
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "rope: positions[2] is")) << hllm_error_message();
        const auto after = read(v);
        expect_same_bits(std::vector<float>(after.end() - 8, after.end()), std::vector<float>(x.end() - 8, x.end()),
                         "untouched");
        if (on_cpu()) expect_same_bits(after, x, "all untouched");
    }
    const auto* odd = floats(normal(3 * 2 * 5), {3, 2, 5});
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_rope(context, odd, ints({0, 1, 2}), floats(normal(25), {5, 5}), 0));
    EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "odd")) << hllm_error_message();
}

TEST_F(Rope, SameBitsOnAnyTeam) {
    const int64_t T = 500, heads = 3, Dh = 66, P = 100;
    const auto x = normal(T * heads * Dh);
    const auto *at = ints(positions(T, P)), *table = floats(angles(P, Dh), {P, Dh});
    for (int inverse : {0, 1})
        expect_same_on_any_team("rope", [&] {
            const auto* v = floats(x, {T, heads, Dh});
            EXPECT_EQ(HLLM_OK, hllm_rope(context, v, at, table, inverse)) << hllm_error_message();
            return read(v);
        });
}

}  // namespace
}  // namespace hllm_test
