#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

enum class Storage { F32_VIEW, BF16_OWN, BF16_VIEW, F32_PACKED, BF16_PACKED };
constexpr Storage STORAGES[] = {Storage::F32_VIEW, Storage::BF16_OWN, Storage::BF16_VIEW, Storage::F32_PACKED,
                                Storage::BF16_PACKED};

class Linear : public OpTest {
   protected:
    struct Matrix {
        hllm_weight* handle = nullptr;
        std::vector<float> values;  // what the kernels read: rounded where the storage is bf16
    };

    void TearDown() override {
        for (hllm_weight* weight : weights_) EXPECT_EQ(HLLM_OK, hllm_weight_destroy(weight)) << hllm_error_message();
        OpTest::TearDown();
    }

    hllm_weight* create(const hllm_tensor* source, int32_t storage) {
        hllm_weight* weight = nullptr;
        EXPECT_EQ(HLLM_OK, hllm_weight_create(context, source, storage, &weight)) << hllm_error_message();
        weights_.push_back(weight);
        return weight;
    }

    Matrix matrix(Storage storage, int64_t N, int64_t K, int64_t gap) {
        Matrix m;
        m.values = normal(N * K);
        if (storage == Storage::F32_VIEW || storage == Storage::F32_PACKED) {
            m.handle = create(floats(m.values, {N, K}, gap), HLLM_F32);
            if (storage == Storage::F32_PACKED) EXPECT_EQ(HLLM_OK, hllm_weight_pack(context, m.handle));
            return m;
        }
        std::vector<uint16_t> rounded;
        for (float value : m.values) rounded.push_back(narrow(value));
        m.handle = storage == Storage::BF16_OWN ? create(floats(m.values, {N, K}, gap), HLLM_BF16)
                                                : create(halves(rounded, {N, K}, gap), HLLM_BF16);
        if (storage == Storage::BF16_PACKED) EXPECT_EQ(HLLM_OK, hllm_weight_pack(context, m.handle));
        std::transform(rounded.begin(), rounded.end(), m.values.begin(), widen);
        return m;
    }

    void check(Storage storage, int64_t T, int64_t N, int64_t K, int64_t gap) {
        const std::string what = "storage " + std::to_string(static_cast<int>(storage)) + " T " + std::to_string(T) + " N " +
                                 std::to_string(N) + " K " + std::to_string(K);
        const Matrix w = matrix(storage, N, K, gap);
        auto x = normal(T * K);
        const auto dy = normal(T * N), y = normal(T * N), dx = normal(T * K);
        if (storage == Storage::BF16_PACKED)  // which may take x in bf16: an x that is so already gives one answer
            for (float& value : x) value = widen(narrow(value));
        for (int accumulate : {0, 1}) {
            const auto* vy = accumulate ? floats(y, {T, N}, gap) : output({T, N}, NAN, gap);
            HLLM_OK_OR_FAIL(hllm_linear_forward(context, vy, floats(x, {T, K}, gap), w.handle, accumulate)) << what;
            const auto* vdx = accumulate ? floats(dx, {T, K}, gap) : output({T, K}, NAN, gap);
            HLLM_OK_OR_FAIL(hllm_linear_backward_input(context, vdx, floats(dy, {T, N}, gap), w.handle, accumulate)) << what;
            if (T == 0) continue;
            const auto product_y = product(T, N, K, x, w.values, false, true);
            const auto product_dx = product(T, K, N, dy, w.values, false, false);
            if (N > 0) expect_close(read(vy), accumulate ? sum(y, product_y) : product_y, 2e-7 * (K + 1.0), 1e-6, what + " y");
            if (K > 0)
                expect_close(read(vdx), accumulate ? sum(dx, product_dx) : product_dx, 2e-7 * (N + 1.0), 1e-6, what + " dx");
        }
    }

   private:
    std::vector<hllm_weight*> weights_;
};

TEST_F(Linear, FewAndManyRows) {
    for (Storage storage : STORAGES)
        for (int64_t T : {0, 1, 2, 3, 4, 5, 8, 9, 70})
            for (auto [N, K] :
                 {std::pair<int64_t, int64_t>{1, 1}, {3, 17}, {65, 64}, {17, 65}, {100, 576}, {64, 3}, {0, 5}, {5, 0}})
                check(storage, T, N, K, T % 3);
}

// dx goes by blocks of 4,096 columns, and of up to 1,024 terms of the sum.
TEST_F(Linear, BackwardThroughSeveralBlocks) {
    for (Storage storage : {Storage::F32_VIEW, Storage::BF16_OWN, Storage::BF16_VIEW})
        for (auto [N, K] : {std::pair<int64_t, int64_t>{1101, 40}, {2050, 33}, {20, 4100}}) check(storage, 70, N, K, 1);
}

// Tiles of 12 rows and 32 columns, blocks of 96 rows, and what is left of each.
TEST_F(Linear, PackedTiles) {
    for (Storage storage : {Storage::F32_PACKED, Storage::BF16_PACKED})
        for (int64_t T : {6, 7, 11, 12, 13, 23, 95, 97, 200})
            for (auto [N, K] : {std::pair<int64_t, int64_t>{31, 8}, {33, 15}, {48, 16}, {577, 33}})
                check(storage, T, N, K, T % 3);
}

// Several parts of K, and rows that a power of two keeps apart.
TEST_F(Linear, PackedLongRows) {
    for (Storage storage : {Storage::F32_PACKED, Storage::BF16_PACKED})
        for (int64_t T : {2, 13, 100})
            for (int64_t K : {1024, 1025, 2048, 3075}) check(storage, T, 35, K, 0);
}

// float32 x under packed bf16 weights is either kept or rounded to the nearest bf16, as the processor has it; nothing between.
TEST_F(Linear, PackedBf16RoundsXOrDoesNot) {
    const int64_t T = 13, N = 40, K = 97;
    const Matrix w = matrix(Storage::BF16_PACKED, N, K, 0);
    const auto x = normal(T * K);
    auto rounded = x;
    for (float& value : rounded) value = widen(narrow(value));
    const auto* y = output({T, N});
    HLLM_OK_OR_FAIL(hllm_linear_forward(context, y, floats(x, {T, K}), w.handle, 0));
    const auto kept = product(T, N, K, x, w.values, false, true), cut = product(T, N, K, rounded, w.values, false, true);
    const auto actual = read(y);
    double to_kept = 0, to_cut = 0;
    for (size_t i = 0; i < actual.size(); i++) {
        to_kept = std::max(to_kept, std::abs(actual[i] - kept[i]));
        to_cut = std::max(to_cut, std::abs(actual[i] - cut[i]));
    }
    EXPECT_LT(std::min(to_kept, to_cut), 1e-4);
    EXPECT_GT(std::max(to_kept, to_cut), 1e-3);
}

TEST_F(Linear, PackedWeightsFollowRefresh) {
    const int64_t N = 35, K = 6;
    const auto* x = floats(normal(3 * K), {3, K});
    const auto second = normal(N * K);
    const auto* source = floats(normal(N * K), {N, K});
    hllm_weight* packed = create(source, HLLM_F32);
    HLLM_OK_OR_FAIL(hllm_weight_pack(context, packed));
    HLLM_OK_OR_FAIL(hllm_weight_pack(context, packed));  // again is fine
    HLLM_OK_OR_FAIL(hllm_convert(context, source, floats(second, {N, K})));
    HLLM_OK_OR_FAIL(hllm_weight_refresh(context, packed));
    const auto* y = output({3, N});
    HLLM_OK_OR_FAIL(hllm_linear_forward(context, y, x, packed, 0));
    expect_close(read(y), product(3, N, K, read(x), second, false, true), 1e-6, 1e-6, "y");
}

// On a device that packs; on another the weight keeps its source.
TEST_F(Linear, PackedWeightsOutliveTheirSource) {
    const int64_t N = 35, K = 6;
    const auto w = normal(N * K);
    const auto *x = floats(normal(3 * K), {3, K}), *y = output({3, N}), *dx = output({3, K}, 7);
    hllm_buffer* buffer = nullptr;
    HLLM_OK_OR_FAIL(hllm_buffer_create(context, N * K * 4, &buffer));
    HLLM_OK_OR_FAIL(hllm_buffer_write(context, buffer, 0, w.data(), N * K * 4));
    hllm_tensor source = *floats(w, {N, K});
    source.buffer = buffer;
    hllm_weight* weight = create(&source, HLLM_F32);
    HLLM_OK_OR_FAIL(hllm_weight_pack(context, weight));
    HLLM_OK_OR_FAIL(hllm_buffer_destroy(buffer));
    HLLM_OK_OR_FAIL(hllm_linear_forward(context, y, x, weight, 0));
    expect_close(read(y), product(3, N, K, read(x), w, false, true), 1e-6, 1e-6, "y");
    if (!on_cpu()) return;
    for (int32_t status : {hllm_linear_backward_input(context, dx, y, weight, 0), hllm_weight_refresh(context, weight),
                           hllm_weight_pack(context, weight)}) {
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, status);
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "source was destroyed after")) << hllm_error_message();
    }
    expect_same_bits(read(dx), std::vector<float>(3 * K, 7), "dx");
}

// More elements than the kernels widen at a time.
TEST_F(Linear, SeveralBlocksOfWeights) {
    for (Storage storage : STORAGES)
        for (int64_t T : {3, 9, 70}) check(storage, T, 1000, 576, 0);
}

TEST_F(Linear, BackwardWeightAddsToTheGradient) {
    for (int64_t T : {0, 1, 3, 5, 70, 130})
        for (auto [N, K] : {std::pair<int64_t, int64_t>{1, 1}, {3, 17}, {65, 64}, {17, 65}, {64, 576}, {576, 64}}) {
            const auto dweight = normal(N * K), dy = normal(T * N), x = normal(T * K);
            const auto* out = floats(dweight, {N, K}, 3);
            HLLM_OK_OR_FAIL(hllm_linear_backward_weight(context, out, floats(dy, {T, N}, 3), floats(x, {T, K}, 3)));
            expect_close(read(out), sum(dweight, product(N, K, T, dy, x, true, false)), 2e-7 * (T + 1.0), 1e-6,
                         "dweight T " + std::to_string(T) + " N " + std::to_string(N) + " K " + std::to_string(K));
        }
}

// A bf16 x or dy meets bf16 weights, and gives f32 (the residual stream) or bf16.
TEST_F(Linear, Bf16Activations) {
    if (activation_dtypes().size() == 1) {
        EXPECT_EQ(HLLM_UNSUPPORTED, hllm_linear_forward(context, output({1, 1}), activation(HLLM_BF16, {1}, {1, 1}),
                                                        create(output({1, 1}), HLLM_BF16), 0));
        GTEST_SKIP() << device() << " computes in f32 only";
    }
    const int32_t bf16 = HLLM_BF16;
    for (int64_t T : {1, 3, 9, 70})
        for (auto [N, K] : {std::pair<int64_t, int64_t>{1, 1}, {3, 17}, {65, 64}, {17, 65}, {64, 64}})
            for (Storage storage : {Storage::BF16_OWN, Storage::BF16_VIEW})
                for (int32_t out : activation_dtypes())
                    for (int accumulate : {0, 1}) {
                        const std::string what =
                            "T " + std::to_string(T) + " N " + std::to_string(N) + " K " + std::to_string(K);
                        const Matrix w = matrix(storage, N, K, T % 3);
                        const auto x = rounded(bf16, normal(T * K)), dy = rounded(bf16, normal(T * N)),
                                   y = rounded(out, normal(T * N)), dx = rounded(out, normal(T * K)), dw = normal(N * K);
                        const auto *vx = activation(bf16, x, {T, K}, 2), *vdy = activation(bf16, dy, {T, N}, 1),
                                   *vy = activation(out, y, {T, N}, 3), *vdx = activation(out, dx, {T, K}),
                                   *vdw = floats(dw, {N, K}, 1);
                        HLLM_OK_OR_FAIL(hllm_linear_forward(context, vy, vx, w.handle, accumulate)) << what;
                        HLLM_OK_OR_FAIL(hllm_linear_backward_input(context, vdx, vdy, w.handle, accumulate)) << what;
                        HLLM_OK_OR_FAIL(hllm_linear_backward_weight(context, vdw, vdy, vx)) << what;
                        const auto product_y = product(T, N, K, x, w.values, false, true);
                        const auto product_dx = product(T, K, N, dy, w.values, false, false);
                        expect_close(read(vy), accumulate ? sum(y, product_y) : product_y, 2e-7 * (K + 1.0),
                                     1e-6 + rounding(out), what + " y");
                        expect_close(read(vdx), accumulate ? sum(dx, product_dx) : product_dx, 2e-7 * (N + 1.0),
                                     1e-6 + rounding(out), what + " dx");
                        expect_close(read(vdw), sum(dw, product(N, K, T, dy, x, true, false)), 2e-7 * (T + 1.0), 1e-6,
                                     what + " dweight");
                    }
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_linear_forward(context, output({2, 3}), activation(bf16, normal(8), {2, 4}),
                                                         create(output({3, 4}), HLLM_F32), 0));
    EXPECT_STREQ("linear_forward: x is bf16, but the weight is stored as f32; create it with bf16 storage",
                 hllm_error_message());
}

TEST_F(Linear, GradientsAreTheDerivatives) {
    const int64_t T = 3, N = 4, K = 5;
    const auto x = doubles(normal(T * K)), w = doubles(normal(N * K)), dy = doubles(normal(T * N));
    const auto dx = product(T, K, N, dy, w, false, false), dw = product(N, K, T, dy, x, true, false);
    const auto by_x = differences(x, [&](const auto& at) { return inner(dy, product(T, N, K, at, w, false, true)); });
    const auto by_w = differences(w, [&](const auto& at) { return inner(dy, product(T, N, K, x, at, false, true)); });
    for (size_t i = 0; i < x.size(); i++) EXPECT_NEAR(by_x[i], dx[i], 1e-8);
    for (size_t i = 0; i < w.size(); i++) EXPECT_NEAR(by_w[i], dw[i], 1e-8);
}

TEST_F(Linear, ViewsFollowTheirSourceAndCopiesFollowRefresh) {
    const int64_t N = 7, K = 5;
    const auto* x = floats(normal(3 * K), {3, K});
    const auto first = normal(N * K), second = normal(N * K);
    const auto* source = floats(first, {N, K});
    hllm_weight *view = create(source, HLLM_F32), *copy = create(source, HLLM_BF16);
    auto forward = [&](hllm_weight* weight) {
        const auto* y = output({3, N});
        EXPECT_EQ(HLLM_OK, hllm_linear_forward(context, y, x, weight, 0)) << hllm_error_message();
        return read(y);
    };
    auto created_from = [&](const std::vector<float>& values, int32_t storage) {
        return forward(create(floats(values, {N, K}), storage));
    };
    const auto old_copy = forward(copy);
    HLLM_OK_OR_FAIL(hllm_convert(context, source, floats(second, {N, K})));
    expect_same_bits(forward(view), created_from(second, HLLM_F32), "a view sees new values at once");
    expect_same_bits(forward(copy), old_copy, "a copy does not");
    HLLM_OK_OR_FAIL(hllm_weight_refresh(context, copy));
    HLLM_OK_OR_FAIL(hllm_weight_refresh(context, view));
    expect_same_bits(forward(copy), created_from(second, HLLM_BF16), "until it is refreshed");
    expect_same_bits(forward(view), created_from(second, HLLM_F32), "refreshing a view changes nothing");
}

TEST_F(Linear, ABf16CopyIsCounted) {
    int64_t before = 0, with = 0, after = 0;
    const auto* source = floats(normal(6), {2, 3});
    hllm_weight* weight = nullptr;
    HLLM_OK_OR_FAIL(hllm_live_bytes(device(), &before));
    HLLM_OK_OR_FAIL(hllm_weight_create(context, source, HLLM_BF16, &weight));
    HLLM_OK_OR_FAIL(hllm_live_bytes(device(), &with));
    HLLM_OK_OR_FAIL(hllm_weight_destroy(weight));
    HLLM_OK_OR_FAIL(hllm_live_bytes(device(), &after));
    EXPECT_EQ(12, with - before);
    EXPECT_EQ(before, after);
}

// A model file's pages serve as weights where they lie.
TEST_F(Linear, WeightsInWrappedHostMemory) {
    if (!on_cpu()) GTEST_SKIP() << device() << " cannot read host memory";
    const int64_t N = 5, K = 6, T = 2;
    const auto values = normal(N * K), x = normal(T * K);
    hllm_tensor source = *floats(values, {N, K});
    hllm_buffer* wrapped = nullptr;
    HLLM_OK_OR_FAIL(hllm_buffer_wrap_host(context, values.data(), N * K * 4, &wrapped));
    source.buffer = wrapped;
    hllm_weight* weight = create(&source, HLLM_F32);
    const auto* y = output({T, N});
    HLLM_OK_OR_FAIL(hllm_linear_forward(context, y, floats(x, {T, K}), weight, 0));
    expect_close(read(y), product(T, N, K, x, values, false, true), 1e-6, 1e-6, "y");
    HLLM_OK_OR_FAIL(hllm_buffer_destroy(wrapped));
}

TEST_F(Linear, SameBitsOnAnyTeam) {
    for (Storage storage : STORAGES)
        for (int64_t T : {1, 8, 9, 64, 70, 200}) {
            const int64_t N = 1000, K = 577;
            const Matrix w = matrix(storage, N, K, 0);
            const auto *x = floats(normal(T * K), {T, K}), *dy = floats(normal(T * N), {T, N});
            const std::string what = "T " + std::to_string(T);
            expect_same_on_any_team(what + " forward", [&] {
                const auto* y = output({T, N});
                EXPECT_EQ(HLLM_OK, hllm_linear_forward(context, y, x, w.handle, 0)) << hllm_error_message();
                return read(y);
            });
            expect_same_on_any_team(what + " backward input", [&] {
                const auto* dx = output({T, K});
                EXPECT_EQ(HLLM_OK, hllm_linear_backward_input(context, dx, dy, w.handle, 1)) << hllm_error_message();
                return read(dx);
            });
            if (storage == Storage::F32_VIEW)
                expect_same_on_any_team(what + " backward weight", [&] {
                    const auto* dw = output({N, K});
                    EXPECT_EQ(HLLM_OK, hllm_linear_backward_weight(context, dw, dy, x)) << hllm_error_message();
                    return read(dw);
                });
        }
}

}  // namespace
}  // namespace hllm_test
