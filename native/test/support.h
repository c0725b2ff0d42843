// What every test of an operation needs, through the public C ABI alone, so that the same cases run on any device:
//   HLLM_TEST_DEVICE  the device, default "cpu"
//   HLLM_TEST_SEED    the seed of all random values, fixed by default; printed with every failure
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "hllm.h"
#include "reference.h"

#define HLLM_OK_OR_FAIL(call) ASSERT_EQ(HLLM_OK, (call)) << hllm_error_message()

namespace hllm_test {

inline const char* device() {
    const char* name = std::getenv("HLLM_TEST_DEVICE");
    return name ? name : "cpu";
}

inline bool on_cpu() { return std::strcmp(device(), "cpu") == 0; }

// The dtypes that activations may have on this device.
inline const std::vector<int32_t>& activation_dtypes() {
    static const std::vector<int32_t> all = hllm_supports(device(), "linear_forward", HLLM_BF16, 0) == HLLM_OK
                                                ? std::vector<int32_t>{HLLM_F32, HLLM_BF16}
                                                : std::vector<int32_t>{HLLM_F32};
    return all;
}

// What a tensor of this dtype holds of the values.
inline std::vector<float> rounded(int32_t dtype, std::vector<float> values) {
    if (dtype == HLLM_BF16)
        for (float& value : values) value = widen(narrow(value));
    return values;
}

// Unused elements around the rows of a tensor: rows of a multiple of 128 elements stay on 16 bytes, as wide loads want them;
// the others get `odd`, which puts them off.
inline int64_t gap_for(int64_t width, int64_t odd) { return width % 128 == 0 ? 8 : odd; }

// The relative error that rounding an output to this dtype may add.
inline double rounding(int32_t dtype) { return dtype == HLLM_BF16 ? 0x1p-8 : 0; }

inline uint64_t seed() {
    const char* text = std::getenv("HLLM_TEST_SEED");
    return text ? std::strtoull(text, nullptr, 10) : 20240912;
}

// |actual - expected| <= absolute + relative * |expected| everywhere; at least one element.
inline void expect_close(const std::vector<float>& actual, const std::vector<double>& expected, double absolute,
                         double relative, const std::string& what) {
    ASSERT_EQ(actual.size(), expected.size()) << what;
    ASSERT_GT(actual.size(), 0u) << what;
    size_t wrong = 0, first = 0;
    for (size_t i = actual.size(); i-- > 0;)
        if (!(std::abs(actual[i] - expected[i]) <= absolute + relative * std::abs(expected[i]))) wrong++, first = i;
    EXPECT_EQ(0u, wrong) << what << ": of " << actual.size() << " elements, first at " << first << ": " << actual[first]
                         << ", expected " << expected[first];
}

// The same bits, NaN included.
template <class T>
void expect_same_bits(const std::vector<T>& a, const std::vector<T>& b, const std::string& what) {
    ASSERT_EQ(a.size(), b.size()) << what;
    ASSERT_GT(a.size(), 0u) << what;
    EXPECT_EQ(0, std::memcmp(a.data(), b.data(), a.size() * sizeof(T))) << what;
}

// A context and the buffers of one test, freed at its end.
class OpTest : public testing::Test {
   protected:
    void SetUp() override { HLLM_OK_OR_FAIL(hllm_context_create(device(), &context)); }
    void TearDown() override {
        for (const hllm_tensor& tensor : tensors_) EXPECT_EQ(HLLM_OK, hllm_buffer_destroy(tensor.buffer));
        EXPECT_EQ(HLLM_OK, hllm_context_destroy(context)) << hllm_error_message();
        hllm_threads_set(0);
    }

    // Tensors in buffers of their own, valid to the end of the test: dense, or with `gap` unused elements in front and
    // behind every row (every slice of the outer dimensions). Reading checks that nobody wrote into the gaps.
    const hllm_tensor* floats(const std::vector<float>& values, std::vector<int64_t> shape, int64_t gap = 0) {
        return make(HLLM_F32, values, shape, gap);
    }
    const hllm_tensor* halves(const std::vector<uint16_t>& values, std::vector<int64_t> shape, int64_t gap = 0) {
        return make(HLLM_BF16, values, shape, gap);
    }
    const hllm_tensor* ints(const std::vector<int32_t>& values, std::vector<int64_t> shape, int64_t gap = 0) {
        return make(HLLM_I32, values, shape, gap);
    }
    const hllm_tensor* ints(const std::vector<int32_t>& values) { return ints(values, {static_cast<int64_t>(values.size())}); }
    // An activation, rounded to its dtype.
    const hllm_tensor* activation(int32_t dtype, const std::vector<float>& values, std::vector<int64_t> shape,
                                  int64_t gap = 0) {
        if (dtype == HLLM_F32) return floats(values, shape, gap);
        std::vector<uint16_t> rounded;
        for (float value : values) rounded.push_back(std::isnan(value) ? 0x7fc0 : narrow(value));
        return halves(rounded, shape, gap);
    }
    // An output, filled with a value that no operation may leave or add to by accident.
    const hllm_tensor* output(std::vector<int64_t> shape, float garbage = 12345, int64_t gap = 0) {
        return floats(std::vector<float>(count(shape), garbage), shape, gap);
    }

    // The elements in row-major order; bf16 is widened.
    std::vector<float> read(const hllm_tensor* tensor) {
        if (tensor->dtype == HLLM_F32) return read_as<float>(tensor);
        std::vector<float> values;
        for (uint16_t half : read_halves(tensor)) values.push_back(widen(half));
        return values;
    }
    std::vector<int32_t> read_ints(const hllm_tensor* tensor) { return read_as<int32_t>(tensor); }
    std::vector<uint16_t> read_halves(const hllm_tensor* tensor) { return read_as<uint16_t>(tensor); }

    // What an operation is refused with: at once on the CPU, by the next synchronize where it was only enqueued.
    int32_t status_of(int32_t returned) { return returned == HLLM_OK ? hllm_context_synchronize(context) : returned; }

    // The same bits on a team of any size; `run` computes anew and returns what it read.
    template <class Run>
    void expect_same_on_any_team(const std::string& what, Run&& run) {
        HLLM_OK_OR_FAIL(hllm_threads_set(1));
        const auto alone = run();
        for (int32_t threads : on_cpu() ? std::vector<int32_t>{2, 3, 5} : std::vector<int32_t>{2}) {
            HLLM_OK_OR_FAIL(hllm_threads_set(threads));
            expect_same_bits(run(), alone, what + " on " + std::to_string(threads) + " threads");
        }
        HLLM_OK_OR_FAIL(hllm_threads_set(0));
    }

    std::vector<float> normal(int64_t n, float deviation = 1) {
        std::normal_distribution<float> distribution(0, deviation);
        std::vector<float> values(n);
        for (float& value : values) value = distribution(random);
        return values;
    }
    int64_t uniform(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random); }

    static int64_t count(const std::vector<int64_t>& shape) {
        int64_t n = 1;
        for (int64_t extent : shape) n *= extent;
        return n;
    }

    hllm_context* context = nullptr;
    std::mt19937_64 random{seed()};

   private:
    static constexpr int GAP = 0x5a;  // every byte of a gap
    struct Memory {
        int64_t bytes;
        bool has_gaps;
    };

    template <class T>
    const hllm_tensor* make(int32_t dtype, const std::vector<T>& values, const std::vector<int64_t>& shape, int64_t gap) {
        hllm_tensor tensor{};
        tensor.struct_size = sizeof tensor;
        tensor.dtype = dtype;
        tensor.rank = static_cast<int32_t>(shape.size());
        tensor.offset = gap * static_cast<int64_t>(sizeof(T));
        int64_t extent = 1;
        for (int64_t i = tensor.rank - 1; i >= 0; i--) {
            tensor.shape[i] = shape[i];
            tensor.stride[i] = extent;
            extent = extent * shape[i] + gap;
        }
        EXPECT_EQ(static_cast<size_t>(count(shape)), values.size());
        std::vector<T> memory(std::max<int64_t>(1, extent + gap));
        std::memset(memory.data(), GAP, memory.size() * sizeof(T));
        for (size_t i = 0; i < values.size(); i++) memory[gap + at(tensor, i)] = values[i];
        const auto bytes = static_cast<int64_t>(memory.size() * sizeof(T));
        // An exception, which ends the test as failed: without its buffer the rest makes no sense.
        if (hllm_buffer_create(context, bytes, &tensor.buffer) != HLLM_OK) throw std::runtime_error(hllm_error_message());
        EXPECT_EQ(HLLM_OK, hllm_buffer_write(context, tensor.buffer, 0, memory.data(), bytes)) << hllm_error_message();
        tensors_.push_back(tensor);
        memory_[tensor.buffer] = {bytes, gap > 0};
        return &tensors_.back();
    }
    template <class T>
    std::vector<T> read_as(const hllm_tensor* tensor) {
        const auto [bytes, has_gaps] = memory_.at(tensor->buffer);
        std::vector<T> memory(bytes / sizeof(T)), values(count({tensor->shape, tensor->shape + tensor->rank}));
        EXPECT_EQ(HLLM_OK, hllm_buffer_read(context, memory.data(), tensor->buffer, 0, bytes)) << hllm_error_message();
        T gap;
        std::memset(&gap, GAP, sizeof gap);
        for (size_t i = 0; i < values.size(); i++) {
            T& element = memory[tensor->offset / sizeof(T) + at(*tensor, i)];
            values[i] = element;
            element = gap;
        }
        if (has_gaps)
            EXPECT_TRUE(std::all_of(memory.begin(), memory.end(), [&](const T& x) {
                return std::memcmp(&x, &gap, sizeof gap) == 0;
            })) << "written outside the tensor";
        return values;
    }
    // Where element i in row-major order lies, from the tensor's first element.
    static int64_t at(const hllm_tensor& tensor, int64_t i) {
        int64_t position = 0;
        for (int32_t k = tensor.rank - 1; k >= 0; i /= tensor.shape[k--]) position += i % tensor.shape[k] * tensor.stride[k];
        return position;
    }

    std::deque<hllm_tensor> tensors_;  // stable addresses
    std::map<hllm_buffer*, Memory> memory_;
    testing::ScopedTrace trace_{__FILE__, __LINE__, "HLLM_TEST_SEED=" + std::to_string(seed())};
};

}  // namespace hllm_test
