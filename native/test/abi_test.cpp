// Handles, memory, versions and messages of the C ABI.
#include "support.h"

namespace hllm_test {
namespace {

class Abi : public OpTest {
   protected:
    static int64_t live() {
        int64_t bytes = -1;
        EXPECT_EQ(HLLM_OK, hllm_live_bytes(device(), &bytes)) << hllm_error_message();
        return bytes;
    }
    static void expect_message(const std::string& start) {
        EXPECT_EQ(0u, std::string(hllm_error_message()).find(start)) << hllm_error_message();
    }
};

TEST_F(Abi, VersionAndBuild) {
    EXPECT_EQ(HLLM_ABI_MAJOR * 65536u + HLLM_ABI_MINOR, hllm_abi_version());
    const std::string info = hllm_build_info();
    EXPECT_EQ(0u, info.find("hllm ")) << info;
    EXPECT_EQ(std::string::npos, info.find('\n'));
    EXPECT_EQ(hllm_build_info(), hllm_build_info()) << "static storage";
}

TEST_F(Abi, UnknownDevices) {
    for (const char* name : {"cuda9", "CPU", "", "tpu"}) {
        hllm_context* made = nullptr;
        EXPECT_EQ(HLLM_UNSUPPORTED, hllm_context_create(name, &made)) << name;
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), (std::string("'") + name + "'").c_str())) << hllm_error_message();
        EXPECT_EQ(nullptr, made);
        int64_t bytes = 77;
        EXPECT_EQ(HLLM_UNSUPPORTED, hllm_live_bytes(name, &bytes));
        EXPECT_EQ(77, bytes);
    }
    hllm_context* made = nullptr;
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_context_create(nullptr, &made));
    expect_message("device is NULL");
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_context_create(device(), nullptr));
    expect_message("context_create: context is NULL");
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_live_bytes(device(), nullptr));
    expect_message("live_bytes: bytes is NULL");
    EXPECT_EQ(nullptr, made);
}

TEST_F(Abi, CudaNeedsItsPlugin) {
    if (std::string(device()) != "cpu") GTEST_SKIP() << "tests run on " << device();
    hllm_context* made = nullptr;
    EXPECT_EQ(HLLM_UNSUPPORTED, hllm_context_create("cuda", &made));
    EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "cuda")) << hllm_error_message();
    EXPECT_EQ(nullptr, made);
}

TEST_F(Abi, DestroyingNothingIsFine) {
    EXPECT_EQ(HLLM_OK, hllm_context_destroy(nullptr));
    EXPECT_EQ(HLLM_OK, hllm_buffer_destroy(nullptr));
    EXPECT_EQ(HLLM_OK, hllm_weight_destroy(nullptr));
    EXPECT_EQ(HLLM_OK, hllm_plan_destroy(nullptr));
}

TEST_F(Abi, ADestroyedHandleStaysClosed) {
    hllm_context* c = nullptr;
    hllm_buffer* b = nullptr;
    hllm_weight* w = nullptr;
    hllm_plan* p = nullptr;
    hllm_plan_args args{};
    args.struct_size = sizeof args;
    HLLM_OK_OR_FAIL(hllm_context_create(device(), &c));
    HLLM_OK_OR_FAIL(hllm_buffer_create(c, 4, &b));
    HLLM_OK_OR_FAIL(hllm_weight_create(context, output({1, 1}), HLLM_F32, &w));
    HLLM_OK_OR_FAIL(hllm_plan_create(c, &args, &p));
    HLLM_OK_OR_FAIL(hllm_plan_destroy(p));
    HLLM_OK_OR_FAIL(hllm_weight_destroy(w));
    HLLM_OK_OR_FAIL(hllm_buffer_destroy(b));
    HLLM_OK_OR_FAIL(hllm_context_destroy(c));
    // Their slots are taken again: the old handles must not reach the new objects.
    hllm_context* c2 = nullptr;
    hllm_buffer* b2 = nullptr;
    hllm_weight* w2 = nullptr;
    hllm_plan* p2 = nullptr;
    HLLM_OK_OR_FAIL(hllm_context_create(device(), &c2));
    HLLM_OK_OR_FAIL(hllm_buffer_create(c2, 4, &b2));
    HLLM_OK_OR_FAIL(hllm_weight_create(context, output({1, 1}), HLLM_F32, &w2));
    HLLM_OK_OR_FAIL(hllm_plan_create(c2, &args, &p2));
    for (int round = 0; round < 2; round++) {
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_context_destroy(c));
        expect_message("context_destroy: context is closed");
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_context_synchronize(c));
        expect_message("context_synchronize: context is closed");
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_destroy(b));
        expect_message("buffer_destroy: buffer is closed");
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_weight_destroy(w));
        expect_message("weight_destroy: weight is closed");
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_plan_destroy(p));
        expect_message("plan_destroy: plan is closed");
    }
    HLLM_OK_OR_FAIL(hllm_context_synchronize(c2));
    HLLM_OK_OR_FAIL(hllm_plan_destroy(p2));
    HLLM_OK_OR_FAIL(hllm_weight_destroy(w2));
    HLLM_OK_OR_FAIL(hllm_buffer_destroy(b2));
    HLLM_OK_OR_FAIL(hllm_context_destroy(c2));
}

TEST_F(Abi, ABufferOutlivesItsContext) {
    hllm_context* other = nullptr;
    hllm_buffer* buffer = nullptr;
    HLLM_OK_OR_FAIL(hllm_context_create(device(), &other));
    HLLM_OK_OR_FAIL(hllm_buffer_create(other, 8, &buffer));
    const float in[] = {1, 2};
    HLLM_OK_OR_FAIL(hllm_buffer_write(other, buffer, 0, in, 8));
    HLLM_OK_OR_FAIL(hllm_context_destroy(other));
    float out[] = {0, 0};
    HLLM_OK_OR_FAIL(hllm_buffer_read(context, out, buffer, 0, 8));
    EXPECT_EQ(1, out[0]);
    EXPECT_EQ(2, out[1]);
    HLLM_OK_OR_FAIL(hllm_buffer_destroy(buffer));
}

TEST_F(Abi, BuffersAreZeroAndCounted) {
    const int64_t before = live();
    // Twice: the second may get the memory of the first.
    for (int round = 0; round < 2; round++) {
        hllm_buffer* buffer = nullptr;
        HLLM_OK_OR_FAIL(hllm_buffer_create(context, 1001, &buffer));
        EXPECT_EQ(before + 1001, live());
        std::vector<unsigned char> bytes(1001, 0xff);
        HLLM_OK_OR_FAIL(hllm_buffer_read(context, bytes.data(), buffer, 0, 1001));
        EXPECT_EQ(std::vector<unsigned char>(1001, 0), bytes);
        std::fill(bytes.begin(), bytes.end(), 0xff);
        HLLM_OK_OR_FAIL(hllm_buffer_write(context, buffer, 0, bytes.data(), 1001));
        HLLM_OK_OR_FAIL(hllm_buffer_destroy(buffer));
        EXPECT_EQ(before, live());
    }
}

TEST_F(Abi, ReadAndWriteRanges) {
    hllm_buffer* buffer = nullptr;
    HLLM_OK_OR_FAIL(hllm_buffer_create(context, 10, &buffer));
    const char text[] = "abcdefghij";
    HLLM_OK_OR_FAIL(hllm_buffer_write(context, buffer, 0, text, 10));
    HLLM_OK_OR_FAIL(hllm_buffer_write(context, buffer, 3, "XY", 2));
    HLLM_OK_OR_FAIL(hllm_buffer_write(context, buffer, 10, "Z", 0));
    char out[11] = "..........";
    HLLM_OK_OR_FAIL(hllm_buffer_read(context, out, buffer, 0, 10));
    EXPECT_STREQ("abcXYfghij", out);
    HLLM_OK_OR_FAIL(hllm_buffer_read(context, out, buffer, 8, 2));
    EXPECT_STREQ("ijcXYfghij", out);
    struct Range {
        int64_t offset, bytes;
    };
    for (auto [offset, bytes] : {Range{0, 11}, Range{10, 1}, Range{11, 0}, Range{-1, 2}, Range{0, -1}, Range{INT64_MAX, 1},
                                 Range{1, INT64_MAX}, Range{INT64_MIN, 1}}) {
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_write(context, buffer, offset, text, bytes));
        expect_message("buffer_write: ");
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_read(context, out, buffer, offset, bytes));
        expect_message("buffer_read: ");
    }
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_write(context, buffer, 0, nullptr, 1));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_read(context, nullptr, buffer, 0, 1));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_write(context, nullptr, 0, text, 1));
    expect_message("buffer_write: buffer is NULL");
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_read(context, out, nullptr, 0, 1));
    expect_message("buffer_read: buffer is NULL");
    EXPECT_STREQ("ijcXYfghij", out);
    HLLM_OK_OR_FAIL(hllm_buffer_destroy(buffer));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_read(context, out, buffer, 0, 1));
    expect_message("buffer_read: buffer is closed");
}

TEST_F(Abi, WrappedHostMemoryIsReadInPlace) {
    const int64_t before = live();
    std::vector<float> host = normal(12);
    hllm_buffer* buffer = nullptr;
    HLLM_OK_OR_FAIL(hllm_buffer_wrap_host(context, host.data(), 48, &buffer));
    EXPECT_EQ(before, live()) << "the caller's memory is not counted";
    host[5] = 42;
    std::vector<float> out(12);
    HLLM_OK_OR_FAIL(hllm_buffer_read(context, out.data(), buffer, 0, 48));
    expect_same_bits(out, host, "wrapped");
    HLLM_OK_OR_FAIL(hllm_buffer_destroy(buffer));
    hllm_buffer* none = nullptr;
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_wrap_host(context, nullptr, 48, &none));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_wrap_host(context, host.data(), 0, &none));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_wrap_host(context, host.data(), -1, &none));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_wrap_host(context, host.data(), 48, nullptr));
    expect_message("buffer_wrap_host: ");
    EXPECT_EQ(nullptr, none);
}

TEST_F(Abi, OutOfMemoryIsAnAnswer) {
    const int64_t before = live();
    for (int64_t bytes : {int64_t{1} << 60, INT64_MAX / 2, INT64_MAX - 64, INT64_MAX}) {
        hllm_buffer* buffer = nullptr;
        EXPECT_EQ(HLLM_OUT_OF_MEMORY, hllm_buffer_create(context, bytes, &buffer)) << bytes;
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), std::to_string(bytes).c_str())) << hllm_error_message();
        EXPECT_EQ(nullptr, buffer);
        EXPECT_EQ(before, live());
    }
    for (int64_t bytes : {int64_t{0}, int64_t{-1}, INT64_MIN}) {
        hllm_buffer* buffer = nullptr;
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_create(context, bytes, &buffer)) << bytes;
        expect_message("buffer_create: " + std::to_string(bytes) + " bytes");
        EXPECT_EQ(nullptr, buffer);
    }
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_create(context, 4, nullptr));
    expect_message("buffer_create: buffer is NULL");
    EXPECT_EQ(before, live());
    // The context goes on working.
    const auto* out = output({3});
    HLLM_OK_OR_FAIL(hllm_fill(context, out, 2));
    expect_same_bits(read(out), {2, 2, 2}, "fill");
}

TEST_F(Abi, ScratchIsKeptThenGivenBack) {
    hllm_context* other = nullptr;
    const int64_t T = 100, D = 50;
    const auto *x = output({T, D}, 1), *w = output({D}, 1), *rstd = output({T}, 1), *dx = output({T, D}), *dw = output({D}, 0);
    const int64_t before = live();
    HLLM_OK_OR_FAIL(hllm_context_create(device(), &other));
    HLLM_OK_OR_FAIL(hllm_rmsnorm_backward(other, dx, dw, x, rstd, x, w, 0));
    const int64_t after_one = live();
    for (int i = 0; i < 5; i++) HLLM_OK_OR_FAIL(hllm_rmsnorm_backward(other, dx, dw, x, rstd, x, w, 0));
    EXPECT_EQ(after_one, live()) << "the second call allocates nothing";
    HLLM_OK_OR_FAIL(hllm_context_destroy(other));
    EXPECT_EQ(before, live());
}

TEST_F(Abi, ALargerCallerStructIsUnderstood) {
    struct {
        hllm_tensor known;
        int64_t later[4];
    } newer{*output({3}), {1, 2, 3, 4}};
    newer.known.struct_size = sizeof newer;
    HLLM_OK_OR_FAIL(hllm_fill(context, &newer.known, 2));
    expect_same_bits(read(&newer.known), {2, 2, 2}, "fill");
}

}  // namespace
}  // namespace hllm_test
