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

// Looks for plugins in another folder.
struct PluginPath {
    explicit PluginPath(const char* folder) { setenv("HLLM_PLUGIN_PATH", folder, 1); }
    ~PluginPath() { unsetenv("HLLM_PLUGIN_PATH"); }
};

TEST_F(Abi, AMissingPluginSaysWhereItWasLookedFor) {
    if (!on_cpu()) GTEST_SKIP() << "the plugin of " << device() << " has been found";
    const PluginPath path("/no/such/folder");
    for (const char* name : {"cuda", "cuda-emulated"}) {
        hllm_context* made = nullptr;
        EXPECT_EQ(HLLM_UNSUPPORTED, hllm_context_create(name, &made));
        expect_message("device '" + std::string(name) + "' needs its plugin: /no/such/folder/libhllm_cuda");
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "No such file")) << hllm_error_message();
        EXPECT_EQ(nullptr, made);
    }
}

TEST_F(Abi, APluginOfAnotherBuildIsRefused) {
    if (!on_cpu()) GTEST_SKIP() << "the plugin of " << device() << " has been found";
    const PluginPath path(HLLM_TEST_FOREIGN_PLUGIN);
    hllm_context* made = nullptr;
    EXPECT_EQ(HLLM_UNSUPPORTED, hllm_context_create("cuda", &made));
    EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "is hllm 9.9.9, g++ 1.0, expected a plugin of hllm "))
        << hllm_error_message();
    EXPECT_EQ(HLLM_UNSUPPORTED, hllm_context_create("cuda-emulated", &made));
    EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "is no plugin at all")) << hllm_error_message();
    EXPECT_EQ(nullptr, made);
}

// With or without plugin, driver and GPU: an answer.
TEST_F(Abi, CudaWorksOrSaysWhyNot) {
    hllm_context* made = nullptr;
    const int32_t status = hllm_context_create("cuda", &made);
    if (status == HLLM_OK) {
        HLLM_OK_OR_FAIL(hllm_context_destroy(made));
        return;
    }
    EXPECT_EQ(HLLM_UNSUPPORTED, status);
    expect_message("device 'cuda'");
    EXPECT_EQ(nullptr, made);
}

TEST_F(Abi, Supports) {
    EXPECT_EQ(HLLM_OK, hllm_supports(device(), "linear_forward", HLLM_F32, 0)) << hllm_error_message();
    EXPECT_EQ(HLLM_OK, hllm_supports(device(), "attention_forward", HLLM_F32, 128)) << hllm_error_message();
    EXPECT_EQ(HLLM_OK, hllm_supports(device(), "convert", HLLM_BF16, 0)) << hllm_error_message();
    EXPECT_EQ(on_cpu() ? HLLM_UNSUPPORTED : HLLM_OK, hllm_supports(device(), "attention_forward", HLLM_BF16, 64));
    EXPECT_EQ(HLLM_UNSUPPORTED, hllm_supports(device(), "adamw", HLLM_BF16, 0));
    expect_message("adamw: device " + std::string(device()) + " computes it in f32 only");
    EXPECT_EQ(HLLM_UNSUPPORTED, hllm_supports("tpu", "adamw", HLLM_F32, 0));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_supports(device(), "adamx", HLLM_F32, 0));
    expect_message("supports: there is no operation 'adamx'");
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_supports(device(), nullptr, HLLM_F32, 0));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_supports(device(), "adamw", HLLM_I32, 0));
}

TEST_F(Abi, DeviceInfoIsOneLine) {
    const char* text = nullptr;
    int64_t available = 0;
    HLLM_OK_OR_FAIL(hllm_memory_available(device(), &available));
    EXPECT_LT(1 << 20, available);
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_memory_available(device(), nullptr));
    HLLM_OK_OR_FAIL(hllm_device_info(device(), &text));
    EXPECT_GT(std::strlen(text), 20u);
    EXPECT_EQ(nullptr, std::strchr(text, '\n')) << text;
    EXPECT_NE(nullptr, std::strstr(text, "MiB of memory")) << text;
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_device_info(device(), nullptr));
}

TEST_F(Abi, DestroyingNothingIsFine) {
    EXPECT_EQ(HLLM_OK, hllm_context_destroy(nullptr));
    EXPECT_EQ(HLLM_OK, hllm_buffer_destroy(nullptr));
    EXPECT_EQ(HLLM_OK, hllm_weight_destroy(nullptr));
    EXPECT_EQ(HLLM_OK, hllm_plan_destroy(nullptr));
    EXPECT_EQ(HLLM_OK, hllm_event_destroy(nullptr));
    EXPECT_EQ(HLLM_OK, hllm_graph_destroy(nullptr));
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
    if (!on_cpu()) {
        EXPECT_EQ(HLLM_UNSUPPORTED, hllm_buffer_wrap_host(context, host.data(), 48, &buffer));
        GTEST_SKIP() << device() << " cannot read host memory";
    }
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

TEST_F(Abi, TheMemoryLimit) {
    const int64_t before = live();
    hllm_buffer *first = nullptr, *second = nullptr;
    HLLM_OK_OR_FAIL(hllm_memory_limit_set(device(), before + 1000));
    HLLM_OK_OR_FAIL(hllm_buffer_create(context, 600, &first));
    EXPECT_EQ(HLLM_OUT_OF_MEMORY, hllm_buffer_create(context, 401, &second));
    expect_message("out of memory: 401 bytes asked for, " + std::to_string(before + 600) + " in use on " + device() +
                   ", limit " + std::to_string(before + 1000));
    EXPECT_EQ(before + 600, live());
    HLLM_OK_OR_FAIL(hllm_buffer_create(context, 400, &second));
    HLLM_OK_OR_FAIL(hllm_buffer_destroy(second));
    HLLM_OK_OR_FAIL(hllm_memory_limit_set(device(), 0));
    HLLM_OK_OR_FAIL(hllm_buffer_create(context, 401, &second));
    HLLM_OK_OR_FAIL(hllm_buffer_destroy(second));
    HLLM_OK_OR_FAIL(hllm_buffer_destroy(first));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_memory_limit_set(device(), -1));
    EXPECT_EQ(before, live());
}

// More than passes through the staging memory at once, in pieces that do not fit its halves.
TEST_F(Abi, LargeCopies) {
    std::vector<uint32_t> in(5'000'000), out(in.size());
    for (uint32_t& word : in) word = static_cast<uint32_t>(random());
    hllm_buffer* buffer = nullptr;
    const auto bytes = static_cast<int64_t>(in.size() * 4);
    HLLM_OK_OR_FAIL(hllm_buffer_create(context, bytes, &buffer));
    for (int64_t at = 0; at < bytes; at += 3'000'000) {
        std::vector<uint32_t> piece(in.begin() + at / 4, in.begin() + std::min<int64_t>(bytes, at + 3'000'000) / 4);
        HLLM_OK_OR_FAIL(hllm_buffer_write(context, buffer, at, piece.data(), static_cast<int64_t>(piece.size() * 4)));
        std::fill(piece.begin(), piece.end(), 0);  // the caller's memory is free on return
    }
    HLLM_OK_OR_FAIL(hllm_buffer_read(context, out.data(), buffer, 0, bytes));
    expect_same_bits(out, in, "in pieces");
    std::reverse(in.begin(), in.end());
    HLLM_OK_OR_FAIL(hllm_buffer_write(context, buffer, 0, in.data(), bytes));
    HLLM_OK_OR_FAIL(hllm_buffer_read(context, out.data(), buffer, 0, bytes));
    expect_same_bits(out, in, "at once");
    HLLM_OK_OR_FAIL(hllm_buffer_destroy(buffer));
}

// A buffer may go as soon as the call that uses it has returned.
TEST_F(Abi, DestroyedInTheOrderOfTheWork) {
    const auto* out = output({1000});
    for (int round = 0; round < 20; round++) {
        hllm_tensor in = *output({1000});
        HLLM_OK_OR_FAIL(hllm_buffer_create(context, 4000, &in.buffer));
        HLLM_OK_OR_FAIL(hllm_fill(context, &in, static_cast<float>(round)));
        HLLM_OK_OR_FAIL(hllm_convert(context, out, &in));
        HLLM_OK_OR_FAIL(hllm_buffer_destroy(in.buffer));
    }
    expect_same_bits(read(out), std::vector<float>(1000, 19), "the last");
}

TEST_F(Abi, EventsOrderContextsAndMeasure) {
    hllm_context* other = nullptr;
    hllm_event *written = nullptr, *done = nullptr;
    HLLM_OK_OR_FAIL(hllm_context_create(device(), &other));
    HLLM_OK_OR_FAIL(hllm_event_create(context, &written));
    HLLM_OK_OR_FAIL(hllm_event_create(other, &done));
    double seconds = -1;
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_event_wait(other, written));
    expect_message("event_wait: the event has not been recorded");
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_event_synchronize(written));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_event_elapsed(written, done, &seconds));
    const auto *a = output({100}), *b = output({100});
    HLLM_OK_OR_FAIL(hllm_context_synchronize(context));
    HLLM_OK_OR_FAIL(hllm_fill(context, a, 3));
    HLLM_OK_OR_FAIL(hllm_event_record(context, written));
    HLLM_OK_OR_FAIL(hllm_event_wait(other, written));
    HLLM_OK_OR_FAIL(hllm_convert(other, b, a));
    HLLM_OK_OR_FAIL(hllm_event_record(other, done));
    HLLM_OK_OR_FAIL(hllm_event_synchronize(done));
    HLLM_OK_OR_FAIL(hllm_event_elapsed(written, done, &seconds));
    EXPECT_GE(seconds, 0);
    EXPECT_LT(seconds, 60);
    expect_same_bits(read(b), std::vector<float>(100, 3), "b");
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_event_elapsed(written, done, nullptr));
    HLLM_OK_OR_FAIL(hllm_event_destroy(written));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_event_record(context, written));
    expect_message("event_record: event is closed");
    HLLM_OK_OR_FAIL(hllm_event_destroy(done));
    HLLM_OK_OR_FAIL(hllm_context_destroy(other));
}

TEST_F(Abi, AGraphLaunchesWhatWasCaptured) {
    hllm_graph* graph = nullptr;
    if (on_cpu()) {
        EXPECT_EQ(HLLM_UNSUPPORTED, hllm_graph_begin_capture(context));
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_graph_end_capture(context, &graph));
        expect_message("graph_end_capture: the context is not capturing");
        GTEST_SKIP() << "cpu captures nothing";
    }
    const int64_t n = 40, before = live();
    const auto* in = floats(normal(n * n), {n, n});
    const auto* out = output({n, n}, 7);
    hllm_tensor between = *in;  // made, used and destroyed while capturing
    HLLM_OK_OR_FAIL(hllm_graph_begin_capture(context));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_graph_begin_capture(context));
    HLLM_OK_OR_FAIL(hllm_buffer_create(context, n * n * 4, &between.buffer));
    HLLM_OK_OR_FAIL(hllm_matmul(context, &between, in, in, 0, 1, 1));  // adds to zeros, at every launch
    HLLM_OK_OR_FAIL(hllm_matmul(context, out, &between, in, 0, 0, 0));
    HLLM_OK_OR_FAIL(hllm_buffer_destroy(between.buffer));
    float word = 0;
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_write(context, in->buffer, 0, &word, 4));
    EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "while the context captures a graph")) << hllm_error_message();
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_read(context, &word, in->buffer, 0, 4));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_context_synchronize(context));
    hllm_event* event = nullptr;
    HLLM_OK_OR_FAIL(hllm_event_create(context, &event));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_event_record(context, event));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_event_wait(context, event));
    HLLM_OK_OR_FAIL(hllm_event_destroy(event));
    HLLM_OK_OR_FAIL(hllm_graph_end_capture(context, &graph));
    expect_same_bits(read(out), std::vector<float>(n * n, 7), "capturing runs nothing");
    for (int round = 0; round < 3; round++) {
        const auto values = normal(n * n);
        HLLM_OK_OR_FAIL(hllm_buffer_write(context, in->buffer, 0, values.data(), n * n * 4));
        HLLM_OK_OR_FAIL(hllm_graph_launch(context, graph));
        const auto squares = product(n, n, n, values, values, false, true);
        expect_close(read(out), product(n, n, n, squares, values, false, false), 2e-3, 1e-4, "launched");
    }
    hllm_context* other = nullptr;
    HLLM_OK_OR_FAIL(hllm_context_create(device(), &other));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_graph_launch(other, graph));
    expect_message("graph_launch: the graph was captured on another context");
    // A context may go while it captures.
    HLLM_OK_OR_FAIL(hllm_graph_begin_capture(other));
    HLLM_OK_OR_FAIL(hllm_fill(other, out, 1));
    HLLM_OK_OR_FAIL(hllm_context_destroy(other));
    HLLM_OK_OR_FAIL(hllm_graph_destroy(graph));
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_graph_launch(context, graph));
    expect_message("graph_launch: graph is closed");
    EXPECT_EQ(before + 2 * n * n * 4, live());
}

// Where operations are only enqueued, a bad index is found by the kernel, and told by the next read.
TEST_F(Abi, ALateFaultIsReportedOnce) {
    if (on_cpu()) GTEST_SKIP() << "cpu refuses at once";
    const auto *out = output({3, 2}, 9), *table = floats({1, 2, 3, 4}, {2, 2});
    HLLM_OK_OR_FAIL(hllm_gather_rows(context, out, table, ints({1, 2, 0})));
    std::vector<float> values(6);
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_read(context, values.data(), out->buffer, 0, 24));
    expect_message("gather_rows: index[1] is 2, expected 0 to 1");
    expect_same_bits(read(out), {3, 4, 9, 9, 1, 2}, "the bad row is left alone, and the context goes on");
    HLLM_OK_OR_FAIL(hllm_context_synchronize(context));
}

TEST_F(Abi, APlanTakesNewSegments) {
    const int64_t Tq = 2, Tk = 6, D = 4;
    const std::vector<float> q = normal(Tq * D), k = normal(Tk * D), v = normal(Tk * D);
    const auto *vq = floats(q, {Tq, 1, D}), *vk = floats(k, {Tk, 1, D}), *vv = floats(v, {Tk, 1, D});
    // One segment more than the first plan holds.
    const std::vector<int32_t> begin{0, 1, 2}, length{1, 1, 0}, offsets{0, 2, 4, 4};
    std::vector<int32_t> span_begin{0, 0, 4, 0}, span_length{2, 0, 2, 0};
    hllm_plan_args args{};
    args.struct_size = sizeof args;
    args.causal = 1;
    args.query_rows = Tq;
    args.key_rows = Tk;
    args.segments = 2;
    args.spans = 4;
    args.segment_begin = begin.data();
    args.segment_length = length.data();
    args.span_offsets = offsets.data();
    args.span_begin = span_begin.data();
    args.span_length = span_length.data();
    auto attend = [&](hllm_plan* plan) {
        const auto* out = output({Tq, 1, D}, NAN);
        EXPECT_EQ(HLLM_OK, hllm_attention_forward(context, out, nullptr, vq, vk, vv, plan, 0.5f)) << hllm_error_message();
        return read(out);
    };
    hllm_plan *updated = nullptr, *fresh = nullptr;
    HLLM_OK_OR_FAIL(hllm_plan_create(context, &args, &updated));
    const auto first = attend(updated);
    span_begin = {1, 3, 0, 5};
    span_length = {2, 1, 5, 1};
    HLLM_OK_OR_FAIL(hllm_plan_create(context, &args, &fresh));
    HLLM_OK_OR_FAIL(hllm_plan_update(context, updated, &args));
    const auto second = attend(updated);
    expect_same_bits(second, attend(fresh), "updated");
    EXPECT_NE(first, second);

    auto refused = [&](const char* text, auto&& change) {
        hllm_plan_args spoilt = args;
        change(spoilt);
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_plan_update(context, updated, &spoilt)) << text;
        expect_message(std::string("plan_update: ") + text);
    };
    refused("3 query rows, 6 key rows, causal 1; created with 2, 6, 1", [](auto& a) { a.query_rows = 3; });
    refused("2 query rows, 7 key rows", [](auto& a) { a.key_rows = 7; });
    refused("2 query rows, 6 key rows, causal 0", [](auto& a) { a.causal = 0; });
    refused("segment 0 covers", [](auto& a) { a.query_rows = 0; });
    refused("args has struct_size", [](auto& a) { a.struct_size = 4; });
    refused("3 segments and 4 spans, created for 2 and 4", [](auto& a) { a.segments = 3; });
    expect_same_bits(attend(updated), second, "a refused update changes nothing");
    HLLM_OK_OR_FAIL(hllm_plan_destroy(fresh));
    HLLM_OK_OR_FAIL(hllm_plan_destroy(updated));
}

TEST_F(Abi, ScratchIsKeptThenGivenBack) {
    hllm_context* other = nullptr;
    const int64_t T = 100, D = 50;
    const auto *x = output({T, D}, 1), *w = output({D}, 1), *rstd = output({T}, 1), *dx = output({T, D}), *dw = output({D}, 0);
    const int64_t before = live();
    HLLM_OK_OR_FAIL(hllm_context_synchronize(context));  // the other context uses its buffers
    HLLM_OK_OR_FAIL(hllm_context_create(device(), &other));
    HLLM_OK_OR_FAIL(hllm_rmsnorm_backward(other, dx, dw, x, rstd, x, w, 0));
    const int64_t after_one = live();
    for (int i = 0; i < 5; i++) HLLM_OK_OR_FAIL(hllm_rmsnorm_backward(other, dx, dw, x, rstd, x, w, 0));
    EXPECT_EQ(after_one, live()) << "the second call allocates nothing";
    HLLM_OK_OR_FAIL(hllm_context_destroy(other));
    EXPECT_EQ(before, live());
}

// Rows that lie a multiple of 4,096 bytes apart are copied before they are multiplied: into the same memory, tile after tile.
TEST_F(Abi, ScratchDoesNotGrowWithTheTable) {
    if (!on_cpu()) GTEST_SKIP() << "scratch of " << device() << " has no copies of rows";
    const int64_t B = 5, N = 8192, D = 1024, K = 3;
    const auto *queries = floats(normal(B * D), {B, D}), *table = floats(normal(N * D), {N, D});
    const auto *scores = output({B, K}), *rows = ints(std::vector<int32_t>(B * K), {B, K});
    hllm_tensor part = *table;
    part.shape[0] = N / 4;
    HLLM_OK_OR_FAIL(hllm_topk(context, scores, rows, queries, &part, nullptr, nullptr));
    HLLM_OK_OR_FAIL(hllm_topk(context, scores, rows, queries, &part, nullptr, nullptr));
    const int64_t before = live();
    HLLM_OK_OR_FAIL(hllm_topk(context, scores, rows, queries, table, nullptr, nullptr));
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
