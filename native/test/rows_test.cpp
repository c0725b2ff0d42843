#include <limits>

#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

constexpr int64_t WIDTHS[] = {1, 3, 17, 64, 65, 576};
constexpr int64_t COUNTS[] = {0, 1, 2, 7, 70};

class Rows : public OpTest {
   protected:
    std::vector<int32_t> indices(int64_t n, int64_t low, int64_t high) {
        std::vector<int32_t> index(n);
        for (int32_t& i : index) i = static_cast<int32_t>(uniform(low, high - 1));
        return index;
    }
    // Segments of 1 to 4 rows of [0, rows), which repeat within a segment and between segments.
    std::pair<std::vector<int32_t>, std::vector<int32_t>> segments(int64_t count, int64_t rows) {
        std::vector<int32_t> offsets{0};
        for (int64_t s = 0; s < count; s++) offsets.push_back(offsets.back() + static_cast<int32_t>(uniform(1, 4)));
        return {offsets, indices(offsets.back(), 0, rows)};
    }
    static std::vector<float> rows_of(const std::vector<float>& table, const std::vector<int32_t>& index, int64_t D,
                                      const std::vector<float>& special) {
        std::vector<float> out;
        for (int32_t i : index) {
            const float* from = i < 0 ? special.data() : table.data() + i * D;
            out.insert(out.end(), from, from + D);
        }
        return out;
    }
};

// ---- Fill and convert ---------------------------------------------------------------------------------------------

TEST_F(Rows, FillSetsEveryElementAndNothingElse) {
    for (const auto& shape : {std::vector<int64_t>{1}, {70000}, {3, 65}, {2, 3, 17}, {2, 1, 3, 5}, {300, 100}}) {
        const auto n = static_cast<size_t>(count(shape));
        const auto* f = output(shape, NAN, 3);
        HLLM_OK_OR_FAIL(hllm_fill(context, f, -2.75f));
        expect_same_bits(read(f), std::vector<float>(n, -2.75f), "f32");
        const auto* i = ints(std::vector<int32_t>(n, 7), shape, 3);
        HLLM_OK_OR_FAIL(hllm_fill(context, i, -2.75f));
        expect_same_bits(read_ints(i), std::vector<int32_t>(n, -2), "i32");
    }
    HLLM_OK_OR_FAIL(hllm_fill(context, output({0, 5}), 1));
    const auto* i = ints({7, 8});
    for (float bad : {NAN, INFINITY, 2147483648.f, -2147483904.f}) {
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_fill(context, i, bad));
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "fill: out is i32, which cannot hold")) << hllm_error_message();
    }
    expect_same_bits(read_ints(i), {7, 8}, "untouched");
}

TEST_F(Rows, EveryBf16SurvivesTheWayThroughF32) {
    std::vector<uint16_t> all(1 << 16), expected(1 << 16);
    for (size_t i = 0; i < all.size(); i++) all[i] = static_cast<uint16_t>(i);
    const auto *wide = output({1 << 16}), *back = halves(std::vector<uint16_t>(1 << 16, 1), {1 << 16});
    HLLM_OK_OR_FAIL(hllm_convert(context, wide, halves(all, {1 << 16})));
    HLLM_OK_OR_FAIL(hllm_convert(context, back, wide));
    const auto values = read(wide);
    const auto got = read_halves(back);
    size_t numbers = 0, wrong = 0;
    for (size_t i = 0; i < all.size(); i++) {
        if (std::isnan(widen(all[i]))) {
            wrong += !std::isnan(values[i]) || !std::isnan(widen(got[i]));
            continue;
        }
        numbers++;
        wrong += std::memcmp(&values[i], std::vector<float>{widen(all[i])}.data(), 4) != 0 || got[i] != all[i];
    }
    EXPECT_EQ(0u, wrong);
    EXPECT_EQ(65536u - 2 * 127, numbers);
}

TEST_F(Rows, F32RoundsToTheNearestBf16) {
    std::vector<float> values{0.f,
                              -0.f,
                              1.f,
                              1.f + 0x1p-8f,
                              1.f + 3 * 0x1p-8f,
                              1.f + 0x1p-8f + 0x1p-23f,
                              -1.f - 0x1p-8f,
                              0x1p-149f,
                              0x1p-134f,
                              3 * 0x1p-134f,
                              -0x1p-133f,
                              std::numeric_limits<float>::max(),
                              -std::numeric_limits<float>::max(),
                              0x1.fep127f,
                              0x1.fefffep127f,
                              0x1.ffp127f,
                              std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity()};
    for (int i = 0; i < 100000; i++) {
        const auto bits = static_cast<uint32_t>(random());
        float value;
        std::memcpy(&value, &bits, 4);
        if (std::isfinite(value)) values.push_back(value);
    }
    const auto n = static_cast<int64_t>(values.size());
    const auto* out = halves(std::vector<uint16_t>(n, 1), {n});
    HLLM_OK_OR_FAIL(hllm_convert(context, out, floats(values, {n})));
    std::vector<uint16_t> expected;
    for (float value : values) expected.push_back(std::isinf(value) ? (value > 0 ? 0x7f80 : 0xff80) : narrow(value));
    expect_same_bits(read_halves(out), expected, "rounded");
}

TEST_F(Rows, NanStaysNan) {
    std::vector<float> values;
    for (uint32_t bits : {0x7f800001u, 0x7fffffffu, 0x7fc00000u, 0xff800001u, 0xffffffffu, 0x7f80ffffu}) {
        float value;
        std::memcpy(&value, &bits, 4);
        values.push_back(value);
    }
    const auto n = static_cast<int64_t>(values.size());
    const auto* out = halves(std::vector<uint16_t>(n, 0), {n});
    HLLM_OK_OR_FAIL(hllm_convert(context, out, floats(values, {n})));
    for (uint16_t half : read_halves(out)) EXPECT_TRUE(std::isnan(widen(half))) << half;
}

TEST_F(Rows, ConvertCopiesStridedViews) {
    for (const auto& shape : {std::vector<int64_t>{5}, {3, 65}, {2, 3, 17}, {2, 3, 4, 5}}) {
        const auto n = static_cast<size_t>(count(shape));
        const auto values = normal(n);
        std::vector<int32_t> numbers = indices(n, -1000, 1000);
        std::vector<uint16_t> rounded;
        for (float value : values) rounded.push_back(narrow(value));
        const auto *f = output(shape, NAN, 2), *h = halves(std::vector<uint16_t>(n), shape, 2),
                   *h2 = halves(std::vector<uint16_t>(n), shape, 5), *w = output(shape, NAN, 1),
                   *i = ints(std::vector<int32_t>(n), shape, 2);
        HLLM_OK_OR_FAIL(hllm_convert(context, f, floats(values, shape, 3)));
        HLLM_OK_OR_FAIL(hllm_convert(context, h, f));
        HLLM_OK_OR_FAIL(hllm_convert(context, h2, h));
        HLLM_OK_OR_FAIL(hllm_convert(context, w, h2));
        HLLM_OK_OR_FAIL(hllm_convert(context, i, ints(numbers, shape, 1)));
        expect_same_bits(read(f), values, "f32 to f32");
        expect_same_bits(read_halves(h), rounded, "f32 to bf16");
        expect_same_bits(read_halves(h2), rounded, "bf16 to bf16");
        std::vector<float> wide;
        for (uint16_t half : rounded) wide.push_back(widen(half));
        expect_same_bits(read(w), wide, "bf16 to f32");
        expect_same_bits(read_ints(i), numbers, "i32 to i32");
    }
    HLLM_OK_OR_FAIL(hllm_convert(context, output({0, 3}), output({0, 3})));
}

// [a,b,c] read as [b,a,c], as when heads move in front of tokens.
TEST_F(Rows, ConvertPermutesOuterDimensions) {
    const int64_t a = 3, b = 4, c = 5;
    const auto values = normal(a * b * c);
    hllm_tensor in = *floats(values, {a, b, c});
    std::swap(in.shape[0], in.shape[1]);
    std::swap(in.stride[0], in.stride[1]);
    const auto* out = output({b, a, c});
    HLLM_OK_OR_FAIL(hllm_convert(context, out, &in));
    std::vector<float> expected;
    for (int64_t j = 0; j < b; j++)
        for (int64_t i = 0; i < a; i++)
            for (int64_t k = 0; k < c; k++) expected.push_back(values[(i * b + j) * c + k]);
    expect_same_bits(read(out), expected, "permuted");
}

// ---- Embedding and gathering --------------------------------------------------------------------------------------

TEST_F(Rows, EmbeddingCopiesRowsAndTheSpecialRow) {
    const int64_t V = 11;
    for (int64_t D : WIDTHS)
        for (int64_t T : COUNTS) {
            const auto table = normal(V * D), special = normal(D);
            const auto ids = indices(T, -1, V), rows = indices(T, 0, V);
            const auto *with = output({T, D}, NAN, 2), *without = output({T, D}, NAN), *gathered = output({T, D}, NAN, 1);
            const auto* in = floats(table, {V, D}, 3);
            HLLM_OK_OR_FAIL(hllm_embedding_forward(context, with, ints(ids), in, floats(special, {D})));
            HLLM_OK_OR_FAIL(hllm_embedding_forward(context, without, ints(rows), in, nullptr));
            HLLM_OK_OR_FAIL(hllm_gather_rows(context, gathered, in, ints(rows)));
            if (T == 0) continue;
            expect_same_bits(read(with), rows_of(table, ids, D, special), "with a special row");
            expect_same_bits(read(without), rows_of(table, rows, D, {}), "without");
            expect_same_bits(read(gathered), rows_of(table, rows, D, {}), "gathered");
        }
}

// Sums in the order of t are exact to the bit, whatever repeats.
TEST_F(Rows, GradientsOfRowsAddInOrder) {
    const int64_t V = 5;
    for (int64_t D : WIDTHS)
        for (int64_t T : COUNTS) {
            const auto dout = normal(T * D), before = normal(V * D), before_special = normal(D);
            const auto ids = indices(T, -2, V), rows = indices(T, 0, V);
            const auto *dtable = floats(before, {V, D}, 2), *dspecial = floats(before_special, {D}),
                       *only_table = floats(before, {V, D}), *only_special = floats(before_special, {D}),
                       *scattered = floats(before, {V, D}, 3), *in = floats(dout, {T, D}, 1);
            HLLM_OK_OR_FAIL(hllm_embedding_backward(context, dtable, dspecial, in, ints(ids)));
            HLLM_OK_OR_FAIL(hllm_embedding_backward(context, only_table, nullptr, in, ints(ids)));
            HLLM_OK_OR_FAIL(hllm_embedding_backward(context, nullptr, only_special, in, ints(ids)));
            HLLM_OK_OR_FAIL(hllm_embedding_backward(context, nullptr, nullptr, in, ints(ids)));
            HLLM_OK_OR_FAIL(hllm_scatter_add_rows(context, scattered, in, ints(rows)));
            auto table = before, special = before_special, scatter = before;
            for (int64_t t = 0; t < T; t++)
                for (int64_t i = 0; i < D; i++) {
                    (ids[t] < 0 ? special[i] : table[ids[t] * D + i]) += dout[t * D + i];
                    scatter[rows[t] * D + i] += dout[t * D + i];
                }
            expect_same_bits(read(dtable), table, "dtable");
            expect_same_bits(read(only_table), table, "dtable alone");
            expect_same_bits(read(dspecial), special, "dspecial");
            expect_same_bits(read(only_special), special, "dspecial alone");
            expect_same_bits(read(scattered), scatter, "scattered");
        }
}

TEST_F(Rows, AnIdOutsideTheTableIsRefusedBeforeAnythingIsWritten) {
    const int64_t V = 4, D = 3, T = 3;
    const auto *table = floats(normal(V * D), {V, D}), *special = floats(normal(D), {D}), *rows = floats(normal(T * D), {T, D});
    const std::vector<float> garbage(T * D, 9), sums(V * D, 9);
    for (int32_t bad : {-1, 4, INT32_MAX, INT32_MIN}) {
        const auto *ids = ints({0, bad, 1}), *out = floats(garbage, {T, D}), *dtable = floats(sums, {V, D}),
                   *dspecial = floats(std::vector<float>(D, 9), {D});
        auto refused = [&](int32_t status, const char* op, const char* tensor) {
            EXPECT_EQ(HLLM_INVALID_ARGUMENT, status) << op;
            const std::string message = hllm_error_message();
            EXPECT_NE(std::string::npos, message.find(op)) << message;
            EXPECT_NE(std::string::npos, message.find(std::string(tensor) + "[1] is " + std::to_string(bad))) << message;
        };
        refused(hllm_embedding_forward(context, out, ids, table, nullptr), "embedding_forward", "ids");
        refused(hllm_gather_rows(context, out, table, ids), "gather_rows", "index");
        refused(hllm_scatter_add_rows(context, dtable, rows, ids), "scatter_add_rows", "index");
        if (bad > 0) {
            refused(hllm_embedding_forward(context, out, ids, table, special), "embedding_forward", "ids");
            refused(hllm_embedding_backward(context, dtable, dspecial, rows, ids), "embedding_backward", "ids");
            refused(hllm_embedding_backward(context, dtable, nullptr, rows, ids), "embedding_backward", "ids");
        }
        expect_same_bits(read(out), garbage, "out untouched");
        expect_same_bits(read(dtable), sums, "dtable untouched");
        expect_same_bits(read(dspecial), std::vector<float>(D, 9), "dspecial untouched");
    }
}

// ---- Mean pooling -------------------------------------------------------------------------------------------------

std::vector<double> mean(const std::vector<double>& in, const std::vector<int32_t>& offsets, const std::vector<int32_t>& rows,
                         int64_t D) {
    std::vector<double> out((offsets.size() - 1) * D, 0.0);
    for (size_t s = 0; s + 1 < offsets.size(); s++)
        for (int32_t j = offsets[s]; j < offsets[s + 1]; j++)
            for (int64_t i = 0; i < D; i++) out[s * D + i] += in[rows[j] * D + i] / (offsets[s + 1] - offsets[s]);
    return out;
}

std::vector<double> mean_gradient(const std::vector<double>& dout, const std::vector<int32_t>& offsets,
                                  const std::vector<int32_t>& rows, int64_t T, int64_t D) {
    std::vector<double> din(T * D, 0.0);
    for (size_t s = 0; s + 1 < offsets.size(); s++)
        for (int32_t j = offsets[s]; j < offsets[s + 1]; j++)
            for (int64_t i = 0; i < D; i++) din[rows[j] * D + i] += dout[s * D + i] / (offsets[s + 1] - offsets[s]);
    return din;
}

TEST_F(Rows, SegmentMean) {
    for (int64_t D : WIDTHS)
        for (int64_t S : COUNTS) {
            const int64_t T = 40;
            const auto [offsets, rows] = segments(S, T / 2);  // the other half is used by no segment
            const auto in = normal(T * D), dout = normal(S * D);
            const auto *out = output({S, D}, NAN, 2), *din = output({T, D}, NAN, 2);
            HLLM_OK_OR_FAIL(hllm_segment_mean_forward(context, out, floats(in, {T, D}, 1), ints(offsets), ints(rows)));
            HLLM_OK_OR_FAIL(hllm_segment_mean_backward(context, din, floats(dout, {S, D}, 1), ints(offsets), ints(rows)));
            if (S > 0) expect_close(read(out), mean(doubles(in), offsets, rows, D), 1e-6, 1e-6, "mean");
            expect_close(read(din), mean_gradient(doubles(dout), offsets, rows, T, D), 4e-6, 1e-6, "gradient");
        }
}

TEST_F(Rows, SegmentMeanGradientIsTheDerivative) {
    const int64_t T = 5, D = 3, S = 4;
    const auto [offsets, rows] = segments(S, T);
    const auto in = doubles(normal(T * D)), dout = doubles(normal(S * D));
    const auto analytic = mean_gradient(dout, offsets, rows, T, D);
    const auto numeric =
        differences(in, [&, &o = offsets, &r = rows](const auto& at) { return inner(dout, mean(at, o, r, D)); });
    for (size_t i = 0; i < analytic.size(); i++) EXPECT_NEAR(numeric[i], analytic[i], 1e-8);
}

TEST_F(Rows, BadSegmentsAreRefused) {
    const int64_t T = 4, D = 3;
    struct Bad {
        std::vector<int32_t> offsets, rows;
    };
    const std::vector<float> garbage(2 * D, 9), gradients(T * D, 9);
    for (const Bad& bad : {Bad{{0, 0, 2}, {0, 1}}, Bad{{0, 2, 1}, {0, 1}}, Bad{{-1, 1, 2}, {0, 1}}, Bad{{0, 1, 3}, {0, 1}},
                           Bad{{0, 1, 2}, {0, 4}}, Bad{{0, 1, 2}, {-1, 0}}}) {
        const auto *out = floats(garbage, {2, D}), *din = floats(gradients, {T, D});
        EXPECT_EQ(HLLM_INVALID_ARGUMENT,
                  hllm_segment_mean_forward(context, out, floats(normal(T * D), {T, D}), ints(bad.offsets), ints(bad.rows)));
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "segment_mean_forward")) << hllm_error_message();
        EXPECT_EQ(HLLM_INVALID_ARGUMENT,
                  hllm_segment_mean_backward(context, din, floats(normal(2 * D), {2, D}), ints(bad.offsets), ints(bad.rows)));
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "segment_mean_backward")) << hllm_error_message();
        expect_same_bits(read(out), garbage, "out untouched");
        expect_same_bits(read(din), gradients, "din untouched");
    }
}

// ---- Normalisation ------------------------------------------------------------------------------------------------

TEST_F(Rows, NormalizeRows) {
    for (int64_t D : WIDTHS)
        for (int64_t T : COUNTS)
            for (float size : {1.f, 1e-12f, 1e12f}) {
                auto in = normal(T * D, size);
                if (T > 1) std::fill_n(in.begin() + D, D, 0.f);
                std::vector<double> expected;
                for (int64_t t = 0; t < T; t++) {
                    const std::vector<double> row(in.begin() + t * D, in.begin() + (t + 1) * D);
                    const double norm = std::sqrt(inner(row, row));
                    for (double x : row) expected.push_back(norm > 0 ? x / norm : 0);
                }
                const auto *out = output({T, D}, NAN, 2), *same = floats(in, {T, D}, 3);
                HLLM_OK_OR_FAIL(hllm_normalize_rows(context, out, same));
                HLLM_OK_OR_FAIL(hllm_normalize_rows(context, same, same));
                if (T == 0) continue;
                expect_close(read(out), expected, 0, 1e-6, "normalised");
                expect_same_bits(read(same), read(out), "in place");
            }
}

// ---- Threads ------------------------------------------------------------------------------------------------------

TEST_F(Rows, SameBitsOnAnyTeam) {
    const int64_t T = 500, D = 577, V = 50;
    const auto x = normal(T * D);
    const auto *in = floats(x, {T, D}), *ids = ints(indices(T, -1, V)), *rows = ints(indices(T, 0, V)),
               *table = floats(normal(V * D), {V, D}), *special = floats(normal(D), {D});
    const auto [o, r] = segments(V, T);
    const auto *offsets = ints(o), *members = ints(r);
    auto same = [&](const char* what, std::vector<int64_t> shape, float start, auto&& op) {
        expect_same_on_any_team(what, [&] {
            const auto* out = output(shape, start);
            EXPECT_EQ(HLLM_OK, op(out)) << hllm_error_message();
            return read(out);
        });
    };
    same("fill", {T, D}, 0, [&](auto* out) { return hllm_fill(context, out, 2.5f); });
    same("convert", {T, D}, 0, [&](auto* out) { return hllm_convert(context, out, in); });
    same("embedding", {T, D}, 0, [&](auto* out) { return hllm_embedding_forward(context, out, ids, table, special); });
    same("dtable", {V, D}, 1, [&](auto* out) { return hllm_embedding_backward(context, out, special, in, ids); });
    same("dspecial", {D}, 1, [&](auto* out) { return hllm_embedding_backward(context, nullptr, out, in, ids); });
    same("gather", {T, D}, 0, [&](auto* out) { return hllm_gather_rows(context, out, table, rows); });
    same("scatter", {V, D}, 1, [&](auto* out) { return hllm_scatter_add_rows(context, out, in, rows); });
    same("mean", {V, D}, 0, [&](auto* out) { return hllm_segment_mean_forward(context, out, in, offsets, members); });
    same("mean gradient", {T, D}, 0,
         [&](auto* out) { return hllm_segment_mean_backward(context, out, table, offsets, members); });
    same("normalise", {T, D}, 0, [&](auto* out) { return hllm_normalize_rows(context, out, in); });
}

}  // namespace
}  // namespace hllm_test
