#include <numeric>

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
    // T distinct rows of R.
    std::vector<int32_t> places(int64_t T, int64_t R) {
        std::vector<int32_t> out(R);
        std::iota(out.begin(), out.end(), 0);
        std::shuffle(out.begin(), out.end(), random);
        out.resize(T);
        return out;
    }
    // Columns of a tensor [T, width] as [T, heads, Dh].
    static hllm_tensor columns(const hllm_tensor& rows, int64_t first, int64_t heads, int64_t Dh) {
        hllm_tensor part = rows;
        part.rank = 3;
        part.offset += first * (rows.dtype == HLLM_BF16 ? 2 : 4);
        part.shape[1] = heads;
        part.shape[2] = Dh;
        part.stride[1] = Dh;
        part.stride[2] = 1;
        return part;
    }
    static std::vector<float> slice(const std::vector<float>& rows, int64_t width, int64_t first, int64_t n) {
        std::vector<float> out;
        for (size_t at = 0; at < rows.size(); at += width)
            out.insert(out.end(), rows.begin() + at + first, rows.begin() + at + first + n);
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
    const auto part = columns(*all, first, heads, Dh);
    HLLM_OK_OR_FAIL(hllm_rope(context, &part, ints(at), floats(table, {20, Dh}), 0));
    auto expected = doubles(rows);
    const auto inside = turned(doubles(slice(rows, width, first, heads * Dh)), at, table, heads, Dh, false);
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

// Queries, keys and values lie side by side in the rows of one product.
TEST_F(Rope, ScatterTurnsAndStores) {
    const int64_t P = 50, R = 60, heads = 2;
    for (int64_t Dh : {2, 6, 16, 34, 64})
        for (int64_t query_heads : {0, 1, 6})
            for (int64_t T : {0, 1, 40})
                for (auto [dtype, gap] : variants())
                    for (int32_t stored : {HLLM_F32, HLLM_BF16}) {
                        const std::string what = "dtype " + std::to_string(dtype) + " to " + std::to_string(stored) + " T " +
                                                 std::to_string(T) + " heads " + std::to_string(query_heads) + " Dh " +
                                                 std::to_string(Dh);
                        const int64_t width = (query_heads + 2 * heads) * Dh, wide = query_heads * Dh, kv_width = heads * Dh;
                        auto rows = rounded(dtype, normal(T * width)), keys = rounded(stored, normal(R * kv_width)),
                             values = rounded(stored, normal(R * kv_width));
                        const auto at = positions(T, P), to = places(T, R);
                        const auto table = angles(P, Dh);
                        const auto *all = activation(dtype, rows, {T, width}, gap),
                                   *to_keys = activation(stored, keys, {R, heads, Dh}, gap),
                                   *to_values = activation(stored, values, {R, heads, Dh}, gap);
                        const auto q = columns(*all, 0, query_heads, Dh), k = columns(*all, wide, heads, Dh),
                                   v = columns(*all, wide + kv_width, heads, Dh);
                        const auto turned_q = turned(doubles(slice(rows, width, 0, wide)), at, table, query_heads, Dh, false),
                                   turned_k = turned(doubles(slice(rows, width, wide, kv_width)), at, table, heads, Dh, false);
                        auto expected_keys = doubles(keys), expected_rows = doubles(rows);
                        for (int64_t t = 0; t < T; t++) {
                            std::copy_n(&turned_k[t * kv_width], kv_width, &expected_keys[to[t] * kv_width]);
                            std::copy_n(&rows[t * width + wide + kv_width], kv_width, &values[to[t] * kv_width]);
                            std::copy_n(turned_q.begin() + t * wide, wide, &expected_rows[t * width]);
                        }
                        const hllm_rope_scatter_args args{
                            sizeof args, 0,        query_heads > 0 ? &q : nullptr, to_keys, to_values, &k,
                            &v,          ints(at), floats(table, {P, Dh}, gap),    ints(to)};
                        HLLM_OK_OR_FAIL(hllm_rope_scatter(context, &args));
                        if (T > 0) expect_close(read(all), expected_rows, 1e-6, 1e-6 + rounding(dtype), what + ": queries");
                        expect_close(read(to_keys), expected_keys, 1e-6, 1e-6 + rounding(stored), what + ": keys");
                        expect_same_bits(read(to_values), rounded(stored, values), what + ": values");
                    }
}

TEST_F(Rope, ScatterRefusesPositionsAndRowsOutside) {
    const auto *k = floats(normal(3 * 2 * 4), {3, 2, 4}), *v = floats(normal(3 * 2 * 4), {3, 2, 4}),
               *table = floats(angles(5, 4), {5, 4}), *good = ints({0, 1, 2});
    const auto old = normal(6 * 2 * 4);
    const auto *keys = floats(old, {6, 2, 4}), *values = floats(old, {6, 2, 4});
    const auto refused = [&](const hllm_tensor* positions, const hllm_tensor* index, const char* text) {
        const hllm_rope_scatter_args args{sizeof args, 0, nullptr, keys, values, k, v, positions, table, index};
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, status_of(hllm_rope_scatter(context, &args)));
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), text)) << hllm_error_message();
        if (!on_cpu()) return;
        expect_same_bits(read(keys), old, "keys untouched");
        expect_same_bits(read(values), old, "values untouched");
    };
    for (int32_t bad : {-1, 6, INT32_MAX}) {
        refused(good, ints({0, 1, bad}), "rope_scatter: index[2] is");
        refused(ints({0, 1, bad}), good, "rope_scatter: positions[2] is");
    }
    const auto *odd = floats(normal(3 * 2 * 5), {3, 2, 5}), *odd_keys = output({6, 2, 5});
    const hllm_rope_scatter_args args{sizeof args, 0, nullptr, odd_keys, odd_keys, odd, odd, good, floats(normal(25), {5, 5}),
                                      good};
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_rope_scatter(context, &args));
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
