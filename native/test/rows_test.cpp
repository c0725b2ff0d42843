#include <limits>

#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

constexpr int64_t WIDTHS[] = {1, 3, 17, 64, 65, 128, 576};
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
    for (const auto& shape : {std::vector<int64_t>{1}, {70000}, {3, 65}, {2, 3, 17}, {2, 1, 3, 5}, {300, 100}, {3, 128}}) {
        const auto n = static_cast<size_t>(count(shape));
        const int64_t gap = gap_for(shape.back(), 3);
        const auto* f = output(shape, NAN, gap);
        HLLM_OK_OR_FAIL(hllm_fill(context, f, -2.75f));
        expect_same_bits(read(f), std::vector<float>(n, -2.75f), "f32");
        const auto* i = ints(std::vector<int32_t>(n, 7), shape, gap);
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
    for (const auto& shape : {std::vector<int64_t>{5}, {3, 65}, {2, 3, 17}, {2, 3, 4, 5}, {2, 3, 128}}) {
        const auto n = static_cast<size_t>(count(shape));
        const auto values = normal(n);
        std::vector<int32_t> numbers = indices(n, -1000, 1000);
        std::vector<uint16_t> rounded;
        for (float value : values) rounded.push_back(narrow(value));
        const auto gap = [&](int64_t odd) { return gap_for(shape.back(), odd); };
        const auto *f = output(shape, NAN, gap(2)), *h = halves(std::vector<uint16_t>(n), shape, gap(2)),
                   *h2 = halves(std::vector<uint16_t>(n), shape, gap(5)), *w = output(shape, NAN, gap(1)),
                   *i = ints(std::vector<int32_t>(n), shape, gap(2));
        HLLM_OK_OR_FAIL(hllm_convert(context, f, floats(values, shape, gap(3))));
        HLLM_OK_OR_FAIL(hllm_convert(context, h, f));
        HLLM_OK_OR_FAIL(hllm_convert(context, h2, h));
        HLLM_OK_OR_FAIL(hllm_convert(context, w, h2));
        HLLM_OK_OR_FAIL(hllm_convert(context, i, ints(numbers, shape, gap(1))));
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
            const auto *with = output({T, D}, NAN, gap_for(D, 2)), *without = output({T, D}, NAN),
                       *gathered = output({T, D}, NAN, gap_for(D, 1));
            const auto* in = floats(table, {V, D}, gap_for(D, 3));
            HLLM_OK_OR_FAIL(hllm_embedding_forward(context, with, ints(ids), in, floats(special, {D})));
            HLLM_OK_OR_FAIL(hllm_embedding_forward(context, without, ints(rows), in, nullptr));
            HLLM_OK_OR_FAIL(hllm_gather_rows(context, gathered, in, ints(rows)));
            const auto* narrow = output({T, D}, NAN, gap_for(D, 1));
            HLLM_OK_OR_FAIL(hllm_embedding_forward(context, narrow, ints(ids),
                                                   activation(HLLM_BF16, table, {V, D}, gap_for(D, 3)), floats(special, {D})));
            if (T == 0) continue;
            expect_same_bits(read(narrow), rows_of(rounded(HLLM_BF16, table), ids, D, special), "of a bf16 table");
            for (int32_t dtype : activation_dtypes()) {
                const auto* out = activation(dtype, std::vector<float>(T * D, NAN), {T, D}, gap_for(D, 1));
                HLLM_OK_OR_FAIL(hllm_gather_rows(context, out, activation(dtype, table, {V, D}, gap_for(D, 3)), ints(rows)));
                expect_same_bits(read(out), rows_of(rounded(dtype, table), rows, D, {}), "gathered activations");
            }
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
            const auto *dtable = floats(before, {V, D}, gap_for(D, 2)), *dspecial = floats(before_special, {D}),
                       *only_table = floats(before, {V, D}), *only_special = floats(before_special, {D}),
                       *scattered = floats(before, {V, D}, gap_for(D, 3)), *in = floats(dout, {T, D}, gap_for(D, 1));
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

// Long lists and many: a batch's tokens, where most ids are rare, some are every other token, and the table is large.
TEST_F(Rows, GradientsOfManyRowsAddInOrder) {
    struct Case {
        int64_t T, V, D, distinct;
    };
    for (const Case c : {Case{3000, 1, 5, 1}, {3001, 300, 128, 7}, {5000, 70000, 3, 70000}, {100000, 49152, 4, 600}}) {
        const auto dout = normal(c.T * c.D), before_special = normal(c.D);
        auto table = normal(c.V * c.D), special = before_special;
        std::vector<int32_t> ids(c.T);
        for (int32_t& id : ids)
            id = uniform(0, 3) == 0 ? -1 : static_cast<int32_t>(c.V - 1 - uniform(0, 1) * uniform(0, c.distinct - 1));
        const auto *dtable = floats(table, {c.V, c.D}), *dspecial = floats(special, {c.D});
        HLLM_OK_OR_FAIL(hllm_embedding_backward(context, dtable, dspecial, floats(dout, {c.T, c.D}), ints(ids)));
        for (int64_t t = 0; t < c.T; t++)
            for (int64_t i = 0; i < c.D; i++) (ids[t] < 0 ? special[i] : table[ids[t] * c.D + i]) += dout[t * c.D + i];
        const std::string what = std::to_string(c.T) + " ids of " + std::to_string(c.V);
        expect_same_bits(read(dtable), table, what + ": dtable");
        expect_same_bits(read(dspecial), special, what + ": dspecial");
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
            EXPECT_EQ(HLLM_INVALID_ARGUMENT, status_of(status)) << op;
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
        if (!on_cpu()) continue;  // elsewhere the rows of the other ids are written
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

TEST_F(Rows, ScatterRowsOverwritesTheRowsThatAreNamed) {
    for (int64_t D : {1, 3, 16, 65, 128})
        for (int32_t to : {HLLM_F32, HLLM_BF16})
            for (int32_t from : {HLLM_F32, HLLM_BF16}) {
                const auto old = normal(9 * D);
                const auto *out = activation(to, old, {9, D}, gap_for(D, 2)),
                           *in = activation(from, normal(4 * D), {4, D}, gap_for(D, 1));
                const std::vector<int32_t> index{7, 0, 3, 8};
                auto expected = read(out);
                const auto source = read(in);
                for (size_t n = 0; n < index.size(); n++)
                    for (int64_t d = 0; d < D; d++) {
                        const float value = source[n * D + d];
                        expected[index[n] * D + d] = to == HLLM_BF16 ? widen(narrow(value)) : value;
                    }
                HLLM_OK_OR_FAIL(hllm_scatter_rows(context, out, in, ints(index)));
                expect_same_bits(read(out), expected, "D " + std::to_string(D));
                EXPECT_EQ(HLLM_INVALID_ARGUMENT, status_of(hllm_scatter_rows(context, out, in, ints({1, 2, 9, 3}))));
                if (std::string(device()) == "cpu") expect_same_bits(read(out), expected, "a refused call writes nothing");
            }
}

TEST_F(Rows, SegmentMean) {
    for (int64_t D : WIDTHS)
        for (int64_t S : COUNTS) {
            const int64_t T = 40;
            const auto [offsets, rows] = segments(S, T / 2);  // the other half is used by no segment
            const auto in = normal(T * D), dout = normal(S * D);
            const auto *out = output({S, D}, NAN, gap_for(D, 2)), *din = output({T, D}, NAN, gap_for(D, 2)),
                       *from = floats(in, {T, D}, gap_for(D, 1)), *back = floats(dout, {S, D}, gap_for(D, 1));
            HLLM_OK_OR_FAIL(hllm_segment_mean_forward(context, out, from, ints(offsets), ints(rows)));
            HLLM_OK_OR_FAIL(hllm_segment_mean_backward(context, din, back, ints(offsets), ints(rows)));
            if (S > 0) expect_close(read(out), mean(doubles(in), offsets, rows, D), 1e-6, 1e-6, "mean");
            expect_close(read(din), mean_gradient(doubles(dout), offsets, rows, T, D), 4e-6, 1e-6, "gradient");
        }
}

// Texts of hundreds of tokens, most of them shared.
TEST_F(Rows, MeanOfLongSegments) {
    const int64_t T = 50;
    for (int64_t D : {17, 128}) {
        std::vector<int32_t> offsets{0};
        for (int32_t length : {1, 31, 32, 33, 64, 200, 7, 257}) offsets.push_back(offsets.back() + length);
        const auto S = static_cast<int64_t>(offsets.size()) - 1;
        const auto rows = indices(offsets.back(), 0, T);
        const auto in = normal(T * D), dout = normal(S * D);
        const auto *out = output({S, D}, NAN), *din = output({T, D}, NAN);
        HLLM_OK_OR_FAIL(hllm_segment_mean_forward(context, out, floats(in, {T, D}), ints(offsets), ints(rows)));
        HLLM_OK_OR_FAIL(hllm_segment_mean_backward(context, din, floats(dout, {S, D}), ints(offsets), ints(rows)));
        expect_close(read(out), mean(doubles(in), offsets, rows, D), 2e-6, 1e-6, "mean");
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
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, status_of(hllm_segment_mean_forward(context, out, floats(normal(T * D), {T, D}),
                                                                             ints(bad.offsets), ints(bad.rows))));
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "segment_mean_forward")) << hllm_error_message();
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, status_of(hllm_segment_mean_backward(context, din, floats(normal(2 * D), {2, D}),
                                                                              ints(bad.offsets), ints(bad.rows))));
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "segment_mean_backward")) << hllm_error_message();
        if (!on_cpu()) continue;  // elsewhere the good segments are written
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
                const auto *out = output({T, D}, NAN, gap_for(D, 2)), *same = floats(in, {T, D}, gap_for(D, 3));
                HLLM_OK_OR_FAIL(hllm_normalize_rows(context, out, same));
                HLLM_OK_OR_FAIL(hllm_normalize_rows(context, same, same));
                if (T == 0) continue;
                expect_close(read(out), expected, 0, 1e-6, "normalised");
                expect_same_bits(read(same), read(out), "in place");
            }
}

// ---- Products -----------------------------------------------------------------------------------------------------

TEST_F(Rows, Mul) {
    for (int64_t D : WIDTHS)
        for (int64_t T : COUNTS)
            for (bool accumulate : {false, true}) {
                const auto x = normal(T * D), y = normal(T * D), start = normal(T * D);
                std::vector<double> expected;
                for (int64_t i = 0; i < T * D; i++)
                    expected.push_back((accumulate ? double{start[i]} : 0) + double{x[i]} * double{y[i]});
                const auto *out = floats(start, {T, D}, gap_for(D, 2)), *a = floats(x, {T, D}, gap_for(D, 3)),
                           *b = floats(y, {T, D});
                HLLM_OK_OR_FAIL(hllm_mul(context, out, a, b, accumulate));
                if (T == 0) continue;
                expect_close(read(out), expected, accumulate ? 1e-6 : 0, 1e-6, "product");
                if (accumulate) continue;
                HLLM_OK_OR_FAIL(hllm_mul(context, a, a, b, 0));
                expect_same_bits(read(a), read(out), "in place");
            }
}

// A row of stride 0 is every row: how a matrix is scaled.
TEST_F(Rows, MulByOneRow) {
    const int64_t T = 5, D = 17;
    const auto x = normal(T * D), row = normal(D);
    const auto *a = floats(x, {T, D}), *out = output({T, D}, NAN);
    hllm_tensor every = *floats(row, {1, D});
    every.shape[0] = T;
    every.stride[0] = 0;
    std::vector<double> expected;
    for (int64_t i = 0; i < T * D; i++) expected.push_back(double{x[i]} * double{row[i % D]});
    HLLM_OK_OR_FAIL(hllm_mul(context, out, a, &every, 0));
    expect_close(read(out), expected, 0, 1e-6, "b");
    HLLM_OK_OR_FAIL(hllm_mul(context, out, &every, a, 0));
    expect_close(read(out), expected, 0, 1e-6, "a");
}

// Parts of wider rows, where the first row or the others start off the addresses that wide loads need.
TEST_F(Rows, PartsOfWiderRows) {
    struct Part {
        int64_t D, first, width;
    };
    for (auto [D, first, width] : {Part{64, 0, 72}, {64, 1, 72}, {64, 0, 65}, {64, 4, 128}, {63, 0, 72}}) {
        const int64_t T = 5;
        const auto part = [&, D = D, first = first, width = width](const std::vector<float>& values) {
            std::vector<float> wide(T * width, 7);
            for (int64_t t = 0; t < T; t++) std::copy_n(&values[t * D], D, &wide[t * width + first]);
            hllm_tensor tensor = *floats(wide, {T, width});
            tensor.offset = first * 4;
            tensor.shape[1] = D;
            return tensor;
        };
        const auto x = normal(T * D), y = normal(T * D);
        std::vector<float> expected(T * D);
        for (int64_t i = 0; i < T * D; i++) expected[i] = x[i] * y[i];
        const std::string what = std::to_string(D) + " of " + std::to_string(width) + " from " + std::to_string(first);
        hllm_tensor a = part(x), out = part(x);
        const auto *dense = output({T, D}, NAN), *b = floats(y, {T, D});
        HLLM_OK_OR_FAIL(hllm_mul(context, dense, &a, b, 0));
        expect_same_bits(read(dense), expected, "read of " + what);
        HLLM_OK_OR_FAIL(hllm_mul(context, &out, floats(x, {T, D}), b, 0));
        HLLM_OK_OR_FAIL(hllm_convert(context, dense, &out));
        expect_same_bits(read(dense), expected, "written to " + what);
        HLLM_OK_OR_FAIL(hllm_convert(context, &out, &a));
        HLLM_OK_OR_FAIL(hllm_convert(context, dense, &out));
        expect_same_bits(read(dense), x, "copied within " + what);
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
    same("mul", {T, D}, 1, [&](auto* out) { return hllm_mul(context, out, in, in, 1); });
}

}  // namespace
}  // namespace hllm_test
