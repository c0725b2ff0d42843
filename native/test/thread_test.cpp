// Threads of the caller and of the team.
#include <atomic>
#include <chrono>
#include <thread>

#include "support.h"

namespace hllm_test {
namespace {

using std::chrono::steady_clock;
constexpr auto BOUND = std::chrono::seconds(60);  // a test that waits longer has failed

class Threads : public OpTest {};

TEST_F(Threads, SetAndGet) {
    HLLM_OK_OR_FAIL(hllm_threads_set(3));
    EXPECT_EQ(3, hllm_threads_get());
    HLLM_OK_OR_FAIL(hllm_threads_set(1));
    EXPECT_EQ(1, hllm_threads_get());
    for (int32_t bad : {-1, 1025, INT32_MIN, INT32_MAX}) {
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_threads_set(bad));
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "threads_set: count is")) << hllm_error_message();
        EXPECT_EQ(1, hllm_threads_get());
    }
    HLLM_OK_OR_FAIL(hllm_threads_set(0));
    EXPECT_GE(hllm_threads_get(), 1);
    EXPECT_LE(hllm_threads_get(), static_cast<int>(std::max(1u, std::thread::hardware_concurrency())));
}

TEST_F(Threads, EachHasItsOwnMessage) {
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_threads_set(-5));
    const std::string mine = hllm_error_message();
    EXPECT_NE(std::string::npos, mine.find("-5")) << mine;
    std::string fresh = "?", other;
    std::thread([&] {
        fresh = hllm_error_message();
        hllm_threads_set(-6);
        other = hllm_error_message();
    }).join();
    EXPECT_EQ("", fresh);
    EXPECT_NE(std::string::npos, other.find("-6")) << other;
    EXPECT_EQ(mine, hllm_error_message());
}

// One thread multiplies until the other, which keeps trying, has been refused.
TEST_F(Threads, ASecondThreadIsRefusedAndDoesNoHarm) {
    const int64_t n = 400;
    const auto *a = floats(normal(n * n), {n, n}), *b = floats(normal(n * n), {n, n}), *c = output({n, n}), *f = output({4}, 3);
    HLLM_OK_OR_FAIL(hllm_matmul(context, c, a, b, 0, 0, 0));
    const auto expected = read(c);
    std::atomic<int> refusals{0}, wrong{0};
    std::atomic<bool> done{false};
    std::string message;
    std::thread second([&] {
        while (!done) {
            const int32_t status = hllm_fill(context, f, 4);
            if (status == HLLM_OK) continue;
            if (status != HLLM_INVALID_ARGUMENT) wrong++;
            message = hllm_error_message();
            refusals++;
            return;
        }
    });
    const auto start = steady_clock::now();
    int completed = 0;
    while ((refusals == 0 || completed == 0) && steady_clock::now() - start < BOUND) {
        const int32_t status = status_of(hllm_matmul(context, c, a, b, 0, 0, 0));
        if (status == HLLM_OK) completed++;
        // Between two products the second thread may have been first.
        else if (!std::strstr(hllm_error_message(), "in use by another thread"))
            wrong++;
    }
    done = true;
    second.join();
    EXPECT_EQ(1, refusals);
    EXPECT_EQ(0, wrong);
    EXPECT_GT(completed, 0);
    EXPECT_NE(std::string::npos, message.find("fill: the context is in use by another thread")) << message;
    expect_same_bits(read(c), expected, "the first thread's product");
    const auto filled = read(f);
    EXPECT_TRUE(filled == std::vector<float>(4, 3) || filled == std::vector<float>(4, 4));
    HLLM_OK_OR_FAIL(hllm_context_synchronize(context));
}

// A piece of work that touches the team, scratch memory and the GEMM library.
class Work {
   public:
    explicit Work(uint64_t seed) {
        std::mt19937_64 random(seed);
        std::normal_distribution<float> normal;
        check(hllm_context_create(device(), &context_));
        for (hllm_tensor* tensor : {&x_, &y_, &dw_}) *tensor = create(T, tensor == &y_ ? N : K);
        dw_ = create(N, K);
        source_ = create(N, K);
        std::vector<float> values(N * K);
        for (float& value : values) value = normal(random);
        check(hllm_buffer_write(context_, source_.buffer, 0, values.data(), N * K * 4));
        values.resize(T * K);
        for (float& value : values) value = normal(random);
        check(hllm_buffer_write(context_, x_.buffer, 0, values.data(), T * K * 4));
        check(hllm_weight_create(context_, &source_, HLLM_BF16, &weight_));
    }
    Work(const Work&) = delete;
    ~Work() {
        hllm_weight_destroy(weight_);
        for (hllm_buffer* buffer : buffers_) hllm_buffer_destroy(buffer);
        hllm_context_destroy(context_);
    }
    std::vector<float> run() {
        check(hllm_linear_forward(context_, &y_, &x_, weight_, 0));
        check(hllm_normalize_rows(context_, &y_, &y_));
        check(hllm_fill(context_, &dw_, 0));
        check(hllm_linear_backward_weight(context_, &dw_, &y_, &x_));
        std::vector<float> out(N * K);
        check(hllm_buffer_read(context_, out.data(), dw_.buffer, 0, N * K * 4));
        return out;
    }
    int failures() const { return failures_; }

   private:
    static constexpr int64_t T = 130, N = 200, K = 150;
    hllm_tensor create(int64_t rows, int64_t columns) {
        hllm_tensor tensor{};
        tensor.struct_size = sizeof tensor;
        tensor.rank = 2;
        tensor.shape[0] = rows;
        tensor.shape[1] = tensor.stride[0] = columns;
        tensor.stride[1] = 1;
        check(hllm_buffer_create(context_, rows * columns * 4, &tensor.buffer));
        buffers_.push_back(tensor.buffer);
        return tensor;
    }
    void check(int32_t status) { failures_ += status != HLLM_OK; }

    hllm_context* context_ = nullptr;
    hllm_weight* weight_ = nullptr;
    hllm_tensor x_{}, y_{}, dw_{}, source_{};
    std::vector<hllm_buffer*> buffers_;
    int failures_ = 0;
};

TEST_F(Threads, ContextsInParallelGiveTheSameBitsAsAlone) {
    HLLM_OK_OR_FAIL(hllm_threads_set(3));
    Work first(seed()), second(seed() + 1);
    const auto alone_first = first.run(), alone_second = second.run();
    std::vector<std::vector<float>> results_first, results_second;
    auto loop = [](Work& work, auto& results) {
        for (int i = 0; i < 20; i++) results.push_back(work.run());
    };
    std::thread a([&] { loop(first, results_first); }), b([&] { loop(second, results_second); });
    a.join();
    b.join();
    ASSERT_EQ(20u, results_first.size());
    ASSERT_EQ(20u, results_second.size());
    for (const auto& result : results_first) expect_same_bits(result, alone_first, "first");
    for (const auto& result : results_second) expect_same_bits(result, alone_second, "second");
    EXPECT_EQ(0, first.failures());
    EXPECT_EQ(0, second.failures());
}

// Resizing waits for running operations, and finds its turn although two threads compute without a pause.
TEST_F(Threads, TheTeamCanBeResizedUnderLoad) {
    if (!on_cpu()) GTEST_SKIP() << "only the CPU computes with the team";
    Work first(seed()), second(seed() + 1);
    const auto alone_first = first.run(), alone_second = second.run();
    std::atomic<bool> done{false};
    std::atomic<int> runs{0}, wrong{0};
    auto loop = [&](Work& work, const std::vector<float>& alone) {
        while (!done) {
            const auto result = work.run();
            runs++;
            wrong += std::memcmp(result.data(), alone.data(), alone.size() * 4) != 0;
        }
    };
    std::thread a([&] { loop(first, alone_first); }), b([&] { loop(second, alone_second); });
    const auto start = steady_clock::now();
    int resized = 0, refused = 0;
    while (resized < 40 && steady_clock::now() - start < BOUND) {
        refused += hllm_threads_set(1 + resized % 5) != HLLM_OK;
        refused += hllm_threads_get() != 1 + resized % 5;
        resized++;
    }
    while (runs < 4 && steady_clock::now() - start < BOUND) std::this_thread::yield();
    done = true;
    a.join();
    b.join();
    EXPECT_EQ(40, resized);
    EXPECT_EQ(0, refused);
    EXPECT_GE(runs, 4);
    EXPECT_EQ(0, wrong);
    EXPECT_EQ(0, first.failures() + second.failures());
}

// Handles that die while others use them: every call is either done or refused, and nothing is left.
TEST_F(Threads, DestroyRacesWithUse) {
    for (int round = 0; round < 200; round++) {
        hllm_tensor tensor = *output({64});
        hllm_buffer* buffer = nullptr;
        HLLM_OK_OR_FAIL(hllm_buffer_create(context, 256, &buffer));
        tensor.buffer = buffer;
        std::atomic<bool> go{false};
        std::thread killer([&] {
            while (!go) std::this_thread::yield();
            EXPECT_EQ(HLLM_OK, hllm_buffer_destroy(buffer));
        });
        go = true;
        int32_t status = HLLM_OK;
        while (status == HLLM_OK) status = hllm_fill(context, &tensor, 1);
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, status);
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "buffer is closed")) << hllm_error_message();
        killer.join();
    }
}

}  // namespace
}  // namespace hllm_test
