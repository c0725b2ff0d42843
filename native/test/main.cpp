#include <gtest/gtest.h>

#include "support.h"

#if defined(__SANITIZE_ADDRESS__)
// The tests ask for more memory than there is, and expect an answer.
extern "C" __attribute__((visibility("default"))) const char* __asan_default_options() { return "allocator_may_return_null=1"; }
#endif

namespace {

// No test leaves a buffer, weight, plan or scratch memory behind.
class NothingLeft : public testing::Environment {
    void TearDown() override {
        int64_t bytes = -1;
        EXPECT_EQ(HLLM_OK, hllm_live_bytes(hllm_test::device(), &bytes)) << hllm_error_message();
        EXPECT_EQ(0, bytes) << "bytes left when all tests had ended";
    }
};

}  // namespace

int main(int argc, char** argv) {
    testing::InitGoogleTest(&argc, argv);
    testing::AddGlobalTestEnvironment(new NothingLeft);
    std::printf("device %s, seed %llu, %s\n", hllm_test::device(), static_cast<unsigned long long>(hllm_test::seed()),
                hllm_build_info());
    return RUN_ALL_TESTS();
}
