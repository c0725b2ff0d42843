// What hllm_plan_create accepts and refuses; attention_test.cpp tests what plans mean.
#include <array>
#include <thread>

#include "support.h"

namespace hllm_test {
namespace {

// Owns the arrays of an hllm_plan_args.
struct Arrays {
    int32_t causal, query_rows, key_rows;
    std::vector<int32_t> segment_begin, segment_length, span_offsets, span_begin, span_length;

    hllm_plan_args args() const {
        hllm_plan_args args{};
        args.struct_size = sizeof args;
        args.causal = causal;
        args.query_rows = query_rows;
        args.key_rows = key_rows;
        args.segments = static_cast<int32_t>(segment_begin.size());
        args.spans = static_cast<int32_t>(span_begin.size());
        args.segment_begin = segment_begin.data();
        args.segment_length = segment_length.data();
        args.span_offsets = span_offsets.data();
        args.span_begin = span_begin.data();
        args.span_length = span_length.data();
        return args;
    }
};

class Plan : public OpTest {
   protected:
    // Two segments; the second reads a shared prefix and its own rows.
    static Arrays valid() { return {1, 6, 8, {0, 3}, {2, 3}, {0, 1, 3}, {0, 0, 4}, {4, 2, 4}}; }

    void accepted(const Arrays& arrays, const char* what) {
        const auto args = arrays.args();
        hllm_plan* plan = nullptr;
        int64_t before = 0, with = 0, after = 0;
        HLLM_OK_OR_FAIL(hllm_live_bytes(device(), &before));
        HLLM_OK_OR_FAIL(hllm_plan_create(context, &args, &plan)) << what;
        HLLM_OK_OR_FAIL(hllm_live_bytes(device(), &with));
        EXPECT_NE(nullptr, plan) << what;
        if (!arrays.segment_begin.empty()) EXPECT_GT(with, before) << what;
        HLLM_OK_OR_FAIL(hllm_plan_destroy(plan)) << what;
        HLLM_OK_OR_FAIL(hllm_live_bytes(device(), &after));
        EXPECT_EQ(before, after) << what;
    }
    void refused(const hllm_plan_args& args, const char* text) {
        hllm_plan* plan = nullptr;
        int64_t before = 0, after = 0;
        HLLM_OK_OR_FAIL(hllm_live_bytes(device(), &before));
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_plan_create(context, &args, &plan)) << text;
        EXPECT_EQ(0u, std::string(hllm_error_message()).find("plan_create: ")) << hllm_error_message();
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), text)) << hllm_error_message();
        EXPECT_EQ(nullptr, plan) << text;
        HLLM_OK_OR_FAIL(hllm_live_bytes(device(), &after));
        EXPECT_EQ(before, after) << text;
    }
    template <class Change>
    void refused(const char* text, Change&& change) {
        Arrays arrays = valid();
        change(arrays);
        refused(arrays.args(), text);
    }
};

TEST_F(Plan, Accepts) {
    accepted(valid(), "shared prefix");
    accepted({1, 0, 0, {}, {}, {}, {}, {}}, "nothing");
    accepted({1, 5, 5, {}, {}, {}, {}, {}}, "rows in no segment");
    accepted({0, 4, 2, {0}, {4}, {0, 1}, {0}, {2}}, "more queries than keys when not causal");
    accepted({1, 4, 4, {0, 2}, {2, 2}, {0, 1, 2}, {2, 0}, {2, 2}}, "keys in any order");
    accepted({1, 2, 4, {0}, {2}, {0, 3}, {0, 2, 3}, {2, 0, 1}}, "an empty span");
    accepted({1, 2, 4, {0, 1}, {0, 1}, {0, 0, 1}, {1}, {3}}, "an empty segment without keys");
    accepted({1, 2, 4, {0, 1}, {0, 1}, {0, 1, 2}, {0, 1}, {2, 3}}, "an empty segment with keys");
    accepted({1, 1, 4, {0}, {1}, {0, 2}, {0, 0}, {3, 3}}, "a key twice");
}

TEST_F(Plan, Refuses) {
    refused("segment 0 covers", [](Arrays& a) { a.segment_begin[0] = -1; });
    refused("segment 0 covers", [](Arrays& a) { a.segment_length[0] = -1; });
    refused("segment 1 covers", [](Arrays& a) { a.segment_begin[1] = 1; });
    refused("segment 1 covers", [](Arrays& a) { a.segment_length[1] = 4; });
    refused("segment 1 covers", [](Arrays& a) { a.segment_begin[1] = a.segment_length[1] = INT32_MAX; });
    refused("segment 1 covers", [](Arrays& a) { std::swap(a.segment_begin[0], a.segment_begin[1]); });
    refused("span_offsets must run from 0", [](Arrays& a) { a.span_offsets[0] = 1; });
    refused("span_offsets must run from 0", [](Arrays& a) { a.span_offsets[2] = 2; });
    refused("span_offsets must run from 0", [](Arrays& a) { a.span_offsets[2] = 4; });
    refused("span_offsets[0] is out of order", [](Arrays& a) { a.span_offsets[1] = -1; });
    refused("span_offsets[0] is out of order", [](Arrays& a) { a.span_offsets[1] = 4; });
    refused("span 1 covers", [](Arrays& a) { a.span_begin[1] = -1; });
    refused("span 1 covers", [](Arrays& a) { a.span_length[1] = -1; });
    refused("span 2 covers", [](Arrays& a) { a.span_length[2] = 5; });
    refused("span 2 covers", [](Arrays& a) { a.span_begin[2] = a.span_length[2] = INT32_MAX; });
    refused("segment 0 has 2 queries but 1 keys; a causal segment", [](Arrays& a) { a.span_length[0] = 1; });
    refused("segment 0 has 2 queries but 0 keys", [](Arrays& a) { a.causal = 0, a.span_length[0] = 0; });
    for (int32_t hllm_plan_args::*count :
         {&hllm_plan_args::query_rows, &hllm_plan_args::key_rows, &hllm_plan_args::segments, &hllm_plan_args::spans}) {
        const Arrays arrays = valid();
        auto args = arrays.args();
        args.*count = -1;
        refused(args, "negative");
    }
    for (const int32_t* hllm_plan_args::*array :
         {&hllm_plan_args::segment_begin, &hllm_plan_args::segment_length, &hllm_plan_args::span_offsets,
          &hllm_plan_args::span_begin, &hllm_plan_args::span_length}) {
        const Arrays arrays = valid();
        auto args = arrays.args();
        args.*array = nullptr;
        refused(args, "NULL");
    }
    const Arrays arrays = valid();
    const auto args = arrays.args();
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_plan_create(context, &args, nullptr));
    EXPECT_STREQ("plan_create: plan is NULL", hllm_error_message());
}

// What a backward pass reads of a plan is derived at the first one: a plan of a forward alone does not pay for it.
TEST_F(Plan, ForwardDerivesNothing) {
    if (!on_cpu()) GTEST_SKIP() << device() << " cuts a plan into tiles of its own at the first call";
    const auto args_of = valid();
    const auto args = args_of.args();
    hllm_plan* plan = nullptr;
    HLLM_OK_OR_FAIL(hllm_plan_create(context, &args, &plan));
    const auto *q = floats(normal(6 * 4 * 4), {6, 4, 4}), *k = floats(normal(8 * 2 * 4), {8, 2, 4}), *out = output({6, 4, 4}),
               *lse = output({4, 6}), *dq = output({6, 4, 4}), *dk = output({8, 2, 4}), *dv = output({8, 2, 4});
    const auto bytes = [] {
        int64_t bytes = 0;
        EXPECT_EQ(HLLM_OK, hllm_live_bytes(device(), &bytes));
        return bytes;
    };
    const auto forward = [&] { HLLM_OK_OR_FAIL(hllm_attention_forward(context, out, lse, q, k, k, plan, 1)); };
    const auto backward = [&] {
        hllm_attention_backward_args a{sizeof a, 1, dq, dk, dv, out, lse, q, q, k, k, plan};
        HLLM_OK_OR_FAIL(hllm_attention_backward(context, &a));
    };
    backward();  // the scratch of both is there from here on
    forward();
    HLLM_OK_OR_FAIL(hllm_plan_update(context, plan, &args));
    const int64_t fresh = bytes();
    forward();
    EXPECT_EQ(fresh, bytes());
    backward();
    const int64_t derived = bytes();
    EXPECT_GT(derived, fresh);
    const auto first = read(dk);
    backward();
    EXPECT_EQ(derived, bytes());
    expect_same_bits(read(dk), first, "dk");
    HLLM_OK_OR_FAIL(hllm_plan_update(context, plan, &args));
    EXPECT_EQ(fresh, bytes());
    HLLM_OK_OR_FAIL(hllm_plan_destroy(plan));
}

// The first backward pass may be that of several contexts at once.
TEST_F(Plan, SeveralContextsMayBeTheFirst) {
    const auto args_of = valid();
    const auto args = args_of.args();
    const auto *q = floats(normal(6 * 4 * 4), {6, 4, 4}), *k = floats(normal(8 * 2 * 4), {8, 2, 4}), *out = output({6, 4, 4}),
               *lse = output({4, 6});
    for (int round = 0; round < 20; round++) {
        hllm_plan* plan = nullptr;
        HLLM_OK_OR_FAIL(hllm_plan_create(context, &args, &plan));
        HLLM_OK_OR_FAIL(hllm_attention_forward(context, out, lse, q, k, k, plan, 1));
        const hllm_tensor *dq[2], *dk[2], *dv[2];
        for (int i : {0, 1}) dq[i] = output({6, 4, 4}), dk[i] = output({8, 2, 4}), dv[i] = output({8, 2, 4});
        HLLM_OK_OR_FAIL(hllm_context_synchronize(context));
        const auto backward = [&](int i) {
            hllm_context* own = nullptr;
            EXPECT_EQ(HLLM_OK, hllm_context_create(device(), &own)) << hllm_error_message();
            const hllm_attention_backward_args a{sizeof a, 1, dq[i], dk[i], dv[i], out, lse, q, q, k, k, plan};
            EXPECT_EQ(HLLM_OK, hllm_attention_backward(own, &a)) << hllm_error_message();
            EXPECT_EQ(HLLM_OK, hllm_context_destroy(own)) << hllm_error_message();
        };
        std::thread other(backward, 1);
        backward(0);
        other.join();
        expect_same_bits(read(dk[0]), read(dk[1]), "dk");
        HLLM_OK_OR_FAIL(hllm_plan_destroy(plan));
    }
}

// The rows of q, k and v must be those of the plan.
TEST_F(Plan, RowsMustMatchTheTensors) {
    const Arrays arrays = valid();
    const auto args = arrays.args();
    hllm_plan* plan = nullptr;
    HLLM_OK_OR_FAIL(hllm_plan_create(context, &args, &plan));
    auto attention = [&](int64_t queries, int64_t keys, int64_t values, int64_t heads) {
        return hllm_attention_forward(context, output({queries, heads, 4}), nullptr, output({queries, heads, 4}),
                                      output({keys, 2, 4}), output({values, 2, 4}), plan, 1);
    };
    for (auto [queries, keys, values] : {std::array<int64_t, 3>{5, 8, 8}, {6, 7, 7}, {6, 8, 9}}) {
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, attention(queries, keys, values, 4));
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "attention_forward: ")) << hllm_error_message();
    }
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, attention(6, 8, 8, 3));
    EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "3 query heads are not a multiple of 2 key heads"))
        << hllm_error_message();
    EXPECT_EQ(HLLM_OK, attention(6, 8, 8, 4)) << hllm_error_message();
    HLLM_OK_OR_FAIL(hllm_plan_destroy(plan));
}

}  // namespace
}  // namespace hllm_test
