#include <array>

#include "reference.h"
#include "support.h"

namespace hllm_test {
namespace {

struct Span {
    int32_t begin, length;
};
struct Segment {
    int32_t query, queries;
    std::vector<Span> spans;

    // The key row at each logical position.
    std::vector<int32_t> keys() const {
        std::vector<int32_t> rows;
        for (const Span& span : spans)
            for (int32_t i = 0; i < span.length; i++) rows.push_back(span.begin + i);
        return rows;
    }
};
struct Layout {
    std::string name;
    bool causal;
    int32_t query_rows, key_rows;
    std::vector<Segment> segments;
};
struct Heads {
    int64_t H, Hkv, Dh;
    std::string name() const { return std::to_string(H) + ":" + std::to_string(Hkv) + " x " + std::to_string(Dh); }
};

// ---- Reference ----

struct Inputs {
    std::vector<double> q, k, v;
};

// body(row of q and out, row of k and v, probability) of everything that is seen, and finish(row of q, lse), both per head;
// a row is the index of its first element.
template <class Body, class Finish>
void attend(const Layout& layout, const Heads& h, double scale, const Inputs& in, Body&& body, Finish&& finish) {
    for (const Segment& segment : layout.segments) {
        const auto keys = segment.keys();
        for (int32_t i = 0; i < segment.queries; i++)
            for (int64_t head = 0; head < h.H; head++) {
                const int64_t q = ((segment.query + i) * h.H + head) * h.Dh;
                const size_t seen = layout.causal ? keys.size() - segment.queries + 1 + i : keys.size();
                std::vector<double> scores(seen);
                std::vector<int64_t> rows(seen);
                for (size_t j = 0; j < seen; j++) {
                    rows[j] = (keys[j] * h.Hkv + head / (h.H / h.Hkv)) * h.Dh;
                    for (int64_t e = 0; e < h.Dh; e++) scores[j] += scale * in.q[q + e] * in.k[rows[j] + e];
                }
                const double high = *std::max_element(scores.begin(), scores.end());
                double total = 0;
                for (double score : scores) total += std::exp(score - high);
                const double lse = high + std::log(total);
                for (size_t j = 0; j < seen; j++) body(q, rows[j], std::exp(scores[j] - lse));
                finish(segment.query + i, head, lse);
            }
    }
}

struct Forward {
    std::vector<double> out, lse;
};
Forward forward(const Layout& layout, const Heads& h, double scale, const Inputs& in) {
    Forward f{std::vector<double>(in.q.size()), std::vector<double>(layout.query_rows * h.H)};
    attend(
        layout, h, scale, in,
        [&](int64_t q, int64_t k, double p) {
            for (int64_t e = 0; e < h.Dh; e++) f.out[q + e] += p * in.v[k + e];
        },
        [&](int64_t query, int64_t head, double lse) { f.lse[head * layout.query_rows + query] = lse; });
    return f;
}

// The gradients of inner(dout, out), with out as it was saved.
Inputs backward(const Layout& layout, const Heads& h, double scale, const Inputs& in, const std::vector<double>& dout,
                const std::vector<double>& out) {
    Inputs d{std::vector<double>(in.q.size()), std::vector<double>(in.k.size()), std::vector<double>(in.v.size())};
    attend(
        layout, h, scale, in,
        [&](int64_t q, int64_t k, double p) {
            double dp = 0, delta = 0;
            for (int64_t e = 0; e < h.Dh; e++) dp += dout[q + e] * in.v[k + e], delta += dout[q + e] * out[q + e];
            for (int64_t e = 0; e < h.Dh; e++) {
                d.q[q + e] += scale * p * (dp - delta) * in.k[k + e];
                d.k[k + e] += scale * p * (dp - delta) * in.q[q + e];
                d.v[k + e] += p * dout[q + e];
            }
        },
        [](int64_t, int64_t, double) {});
    return d;
}
Inputs backward(const Layout& layout, const Heads& h, double scale, const Inputs& in, const std::vector<double>& dout) {
    return backward(layout, h, scale, in, dout, forward(layout, h, scale, in).out);
}

// Within `tolerance` of the largest expected value.
void expect_gradient(const std::vector<float>& actual, const std::vector<double>& expected, double tolerance,
                     const std::string& what) {
    double largest = 0;
    for (double value : expected) largest = std::max(largest, std::abs(value));
    expect_close(actual, expected, tolerance * largest, tolerance, what);
}

// Each row of `width` elements within 2^-7 of its length, or of the usual length where it is shorter: what is summed up may
// cancel out.
void expect_rows(const std::vector<float>& actual, const std::vector<double>& expected, int64_t width,
                 const std::string& what) {
    ASSERT_EQ(actual.size(), expected.size()) << what;
    ASSERT_GT(actual.size(), 0u) << what;
    double squares = 0;
    for (double value : expected) squares += value * value;
    const double usual = squares / static_cast<double>(expected.size() / width);
    for (size_t t = 0; t < expected.size(); t += width) {
        double error = 0, length = 0;
        for (int64_t i = 0; i < width; i++) {
            error += std::pow(actual[t + i] - expected[t + i], 2);
            length += expected[t + i] * expected[t + i];
        }
        ASSERT_LE(std::sqrt(error), 0x1p-7 * std::sqrt(std::max(length, usual))) << what << ", row " << t / width;
    }
}

// Rows that no segment uses are exactly 0.
void expect_zeros(const std::vector<float>& values, const std::vector<char>& used, const std::string& what) {
    const size_t width = used.empty() ? 0 : values.size() / used.size();
    for (size_t t = 0; t < used.size(); t++)
        for (size_t i = 0; i < width && !used[t]; i++) ASSERT_EQ(0, values[t * width + i]) << what << " row " << t;
}

// ---- Cases ----

class Attention : public OpTest {
   protected:
    void TearDown() override {
        for (hllm_plan* plan : plans_) EXPECT_EQ(HLLM_OK, hllm_plan_destroy(plan));
        OpTest::TearDown();
    }

    hllm_plan* plan(const Layout& layout) {
        hllm_plan* made = nullptr;
        auto create = [&](const hllm_plan_args& args) { return hllm_plan_create(context, &args, &made); };
        EXPECT_EQ(HLLM_OK, with_args(layout, create)) << hllm_error_message();
        plans_.push_back(made);
        return made;
    }
    void update(hllm_plan* plan, const Layout& layout) {
        auto update = [&](const hllm_plan_args& args) { return hllm_plan_update(context, plan, &args); };
        EXPECT_EQ(HLLM_OK, with_args(layout, update)) << hllm_error_message();
    }
    template <class Use>
    static int32_t with_args(const Layout& layout, Use&& use) {
        std::vector<int32_t> begin, length, offsets{0}, span_begin, span_length;
        for (const Segment& segment : layout.segments) {
            begin.push_back(segment.query), length.push_back(segment.queries);
            for (const Span& span : segment.spans) span_begin.push_back(span.begin), span_length.push_back(span.length);
            offsets.push_back(static_cast<int32_t>(span_begin.size()));
        }
        const hllm_plan_args args{sizeof args,
                                  layout.causal,
                                  layout.query_rows,
                                  layout.key_rows,
                                  static_cast<int32_t>(begin.size()),
                                  static_cast<int32_t>(span_begin.size()),
                                  begin.data(),
                                  length.data(),
                                  offsets.data(),
                                  span_begin.data(),
                                  span_length.data()};
        return use(args);
    }

    // Sequences that see themselves, such as users' histories.
    Layout sequences(bool causal, const std::vector<int32_t>& lengths) {
        Layout layout{"sequences", causal, 0, 0, {}};
        for (int32_t n : lengths) {
            layout.segments.push_back({layout.query_rows, n, {{layout.key_rows, n}}});
            layout.query_rows += n, layout.key_rows += n;
        }
        return layout;
    }
    // The nodes of a trie of tokens: each sees its ancestors, then itself.
    Layout trie(bool causal, int32_t nodes) {
        Layout layout{"trie", causal, 0, 0, {}};
        for (int32_t s = 0; s < nodes; s++) {
            const auto n = static_cast<int32_t>(uniform(1, s == 0 ? 9 : 6));
            auto spans = s == 0 ? std::vector<Span>{} : layout.segments[uniform(0, s - 1)].spans;
            spans.push_back({layout.key_rows, n});
            layout.segments.push_back({layout.query_rows, n, spans});
            layout.query_rows += n, layout.key_rows += n;
        }
        return layout;
    }
    // Many segments that read the same prompt.
    Layout prompt(bool causal, int32_t segments, int32_t prompt_rows) {
        Layout layout{"prompt", causal, 0, prompt_rows, {}};
        for (int32_t s = 0; s < segments; s++) {
            const auto n = static_cast<int32_t>(uniform(1, 3));
            layout.segments.push_back({layout.query_rows, n, {{0, prompt_rows}, {layout.key_rows, n}}});
            layout.query_rows += n, layout.key_rows += n;
        }
        return layout;
    }
    // Sequences that see a history before themselves; the history is there already, or is the first of the queries.
    Layout continued(bool causal, int32_t history, bool there, const std::vector<int32_t>& lengths) {
        Layout layout{"continued", causal, 0, history, {}};
        if (!there) layout = {"continued with its history", causal, history, history, {{0, history, {{0, history}}}}};
        for (int32_t n : lengths) {
            layout.segments.push_back({layout.query_rows, n, {{0, history}, {layout.key_rows, n}}});
            layout.query_rows += n, layout.key_rows += n;
        }
        return layout;
    }
    // Users' histories in pages of 16 rows, anywhere; each user brings a few new queries, the last keys of the last page.
    Layout pages(bool causal, const std::vector<int32_t>& histories, int32_t queries) {
        Layout layout{"pages", causal, 0, 0, {}};
        std::vector<int32_t> free;
        for (int32_t keys : histories)
            for (int32_t i = 0; i < keys; i += 16) free.push_back(layout.key_rows), layout.key_rows += 16;
        std::shuffle(free.begin(), free.end(), random);
        for (int32_t keys : histories) {
            Segment segment{layout.query_rows, queries, {}};
            for (int32_t i = 0; i < keys; i += 16)
                segment.spans.push_back({free.back(), std::min(16, keys - i)}), free.pop_back();
            layout.segments.push_back(segment);
            layout.query_rows += queries;
        }
        return layout;
    }
    // One-token branches over one history: at time t it sees the first t + 1 rows, then itself.
    Layout branches(bool causal, int32_t history, int32_t step) {
        Layout layout{"branches", causal, history, history, {{0, history, {{0, history}}}}};
        for (int32_t t = 0; t < history; t += step)
            layout.segments.push_back({layout.query_rows++, 1, {{0, t + 1}, {layout.key_rows++, 1}}});
        return layout;
    }
    // Spans in any order that overlap, also within a segment; empty spans, segments without queries; rows that nobody uses.
    Layout scattered(bool causal, int32_t segments) {
        Layout layout{"scattered", causal, 3, 90, {}};
        for (int32_t s = 0; s < segments; s++) {
            Segment segment{layout.query_rows, static_cast<int32_t>(uniform(0, 8)), {}};
            for (int32_t keys = 0, j = 0; keys < segment.queries || j < 2; j++) {
                const auto length = static_cast<int32_t>(uniform(0, 30));
                segment.spans.push_back({static_cast<int32_t>(uniform(10, 80 - length)), length});
                keys += length;
            }
            layout.query_rows += segment.queries + static_cast<int32_t>(uniform(0, 2));
            if (segment.keys().empty()) segment.queries = 0;
            layout.segments.push_back(segment);
        }
        return layout;
    }
    // A few queries that see a long cache.
    Layout cached(bool causal, int32_t queries, int32_t keys) {
        return {"cached", causal, queries, keys, {{0, queries, {{0, keys}}}}};
    }

    struct Run {
        const hllm_tensor *out, *lse, *dq, *dk, *dv;
    };
    // Forward and backward; gaps of different sizes between the rows of all tensors.
    Run run(const Layout& layout, const Heads& h, float scale, const std::vector<float>& q, const std::vector<float>& k,
            const std::vector<float>& v, const std::vector<float>& dout, int64_t gap = 0, int32_t dtype = HLLM_F32) {
        const int64_t Tq = layout.query_rows, Tk = layout.key_rows;
        auto* p = plan(layout);
        auto garbage = [&](const std::vector<int64_t>& shape, int64_t gap) {
            return activation(dtype, std::vector<float>(count(shape), NAN), shape, gap);
        };
        const auto *vq = activation(dtype, q, {Tq, h.H, h.Dh}, gap), *vk = activation(dtype, k, {Tk, h.Hkv, h.Dh}, 2 * gap),
                   *vv = activation(dtype, v, {Tk, h.Hkv, h.Dh}, gap),
                   *vdout = activation(dtype, dout, {Tq, h.H, h.Dh}, 3 * gap);
        const Run r{garbage({Tq, h.H, h.Dh}, 3 * gap), output({h.H, Tq}, NAN, gap), garbage({Tq, h.H, h.Dh}, 2 * gap),
                    garbage({Tk, h.Hkv, h.Dh}, gap), garbage({Tk, h.Hkv, h.Dh}, gap)};
        EXPECT_EQ(HLLM_OK, hllm_attention_forward(context, r.out, r.lse, vq, vk, vv, p, scale)) << hllm_error_message();
        const hllm_attention_backward_args args{sizeof args, scale, r.dq, r.dk, r.dv, r.out, r.lse, vdout, vq, vk, vv, p};
        EXPECT_EQ(HLLM_OK, hllm_attention_backward(context, &args)) << hllm_error_message();
        return r;
    }

    void compare(const Layout& layout, const Heads& h, float scale, double tolerance, int64_t gap = 1) {
        const std::string what = layout.name + (layout.causal ? " causal " : " full ") + h.name();
        const auto q = normal(layout.query_rows * h.H * h.Dh), k = normal(layout.key_rows * h.Hkv * h.Dh),
                   v = normal(layout.key_rows * h.Hkv * h.Dh), dout = normal(layout.query_rows * h.H * h.Dh);
        const Run r = run(layout, h, scale, q, k, v, dout, gap);
        const Inputs in{doubles(q), doubles(k), doubles(v)};
        const auto f = forward(layout, h, scale, in);
        const auto d = backward(layout, h, scale, in, doubles(dout));
        expect_gradient(read(r.out), f.out, tolerance, what + " out");
        expect_close(read(r.lse), f.lse, tolerance, tolerance, what + " lse");
        expect_gradient(read(r.dq), d.q, tolerance, what + " dq");
        expect_gradient(read(r.dk), d.k, tolerance, what + " dk");
        expect_gradient(read(r.dv), d.v, tolerance, what + " dv");
        expect_unused_zeros(layout, r, what);
    }

    // bf16; a gap of a multiple of 8 leaves rows on 16 bytes, as the tensor cores want them.
    void compare_bf16(const Layout& layout, const Heads& h, float scale, int64_t gap) {
        auto values = [&](int64_t n) { return rounded(HLLM_BF16, normal(n)); };
        const auto q = values(layout.query_rows * h.H * h.Dh), k = values(layout.key_rows * h.Hkv * h.Dh),
                   v = values(layout.key_rows * h.Hkv * h.Dh), dout = values(layout.query_rows * h.H * h.Dh);
        const Inputs in{doubles(q), doubles(k), doubles(v)};
        const auto f = forward(layout, h, scale, in);
        const std::string what =
            layout.name + (layout.causal ? " causal " : " full ") + h.name() + " bf16, gap " + std::to_string(gap);
        const Run r = run(layout, h, scale, q, k, v, dout, gap, HLLM_BF16);
        const auto d = backward(layout, h, scale, in, doubles(dout), doubles(read(r.out)));
        expect_rows(read(r.out), f.out, h.Dh, what + " out");
        expect_close(read(r.lse), f.lse, 1e-4, 1e-4, what + " lse");
        expect_rows(read(r.dq), d.q, h.Dh, what + " dq");
        expect_rows(read(r.dk), d.k, h.Dh, what + " dk");
        expect_rows(read(r.dv), d.v, h.Dh, what + " dv");
        expect_unused_zeros(layout, r, what);
    }

    // Captures a forward call; the call's status.
    int32_t captured(hllm_graph** graph, const hllm_tensor* out, const hllm_tensor* q, const hllm_tensor* k,
                     const hllm_tensor* v, hllm_plan* plan) {
        hllm_graph* made = nullptr;
        EXPECT_EQ(HLLM_OK, hllm_graph_begin_capture(context)) << hllm_error_message();
        const int32_t status = hllm_attention_forward(context, out, nullptr, q, k, v, plan, 0.3f);
        const std::string message = hllm_error_message();
        EXPECT_EQ(HLLM_OK, hllm_graph_end_capture(context, &made)) << hllm_error_message();
        if (status == HLLM_OK) {
            *graph = made;
            return status;
        }
        EXPECT_NE(std::string::npos, message.find("make that call before the capture")) << message;
        EXPECT_EQ(HLLM_OK, hllm_graph_destroy(made));
        return status;
    }

    void expect_unused_zeros(const Layout& layout, const Run& r, const std::string& what) {
        std::vector<char> queries(layout.query_rows), keys(layout.key_rows);
        for (const Segment& segment : layout.segments) {
            std::fill_n(queries.begin() + segment.query, segment.queries, 1);
            for (int32_t key : segment.keys()) keys[key] |= segment.queries > 0;
        }
        expect_zeros(read(r.out), queries, what + " out");
        expect_zeros(read(r.dq), queries, what + " dq");
        expect_zeros(read(r.dk), keys, what + " dk");
        expect_zeros(read(r.dv), keys, what + " dv");
    }

   private:
    std::vector<hllm_plan*> plans_;
};

float scale_of(const Heads& h) { return 1 / std::sqrt(static_cast<float>(h.Dh)); }

const std::vector<Heads> SHAPES{{2, 2, 2}, {3, 1, 6}, {8, 1, 16}, {6, 2, 64}, {2, 1, 80}, {3, 3, 5}, {1, 1, 1}, {3, 1, 128}};

// ---- Tests ----

TEST_F(Attention, ReferenceIsTheDerivative) {
    const Heads h{4, 2, 3};
    for (bool causal : {true, false}) {
        const Layout layout = scattered(causal, 3);
        const Inputs in{doubles(normal(layout.query_rows * h.H * h.Dh)), doubles(normal(layout.key_rows * h.Hkv * h.Dh)),
                        doubles(normal(layout.key_rows * h.Hkv * h.Dh))};
        const auto dout = doubles(normal(layout.query_rows * h.H * h.Dh));
        const auto d = backward(layout, h, 0.5, in, dout);
        for (auto member : {&Inputs::q, &Inputs::k, &Inputs::v}) {
            const auto numeric = differences(in.*member, [&](const std::vector<double>& at) {
                Inputs moved = in;
                moved.*member = at;
                return inner(dout, forward(layout, h, 0.5, moved).out);
            });
            ASSERT_GT(numeric.size(), 0u);
            for (size_t i = 0; i < numeric.size(); i++) EXPECT_NEAR(numeric[i], (d.*member)[i], 1e-7);
        }
    }
}

TEST_F(Attention, ShortSequences) {
    for (const Heads& h : SHAPES)
        for (bool causal : {true, false}) compare(sequences(causal, {1, 7, 1, 20, 3, 16, 17}), h, scale_of(h), 2e-5);
}

TEST_F(Attention, Tries) {
    for (const Heads& h : SHAPES)
        for (bool causal : {true, false}) compare(trie(causal, 40), h, scale_of(h), 2e-5);
}

TEST_F(Attention, ScatteredSpansAndUnusedRows) {
    for (const Heads& h : SHAPES)
        for (bool causal : {true, false}) compare(scattered(causal, 12), h, scale_of(h), 2e-5);
}

TEST_F(Attention, Bf16OfAnyWidth) {
    if (activation_dtypes().size() == 1) GTEST_SKIP() << device() << " takes float32 activations only";
    for (const Heads& h : {Heads{8, 1, 16}, Heads{6, 2, 80}, Heads{2, 1, 64}, Heads{1, 1, 128}})
        for (bool causal : {true, false})
            for (const Layout& layout : {sequences(causal, {1, 7, 20, 33}), trie(causal, 12), scattered(causal, 5)})
                compare_bf16(layout, h, scale_of(h), 1);
}

TEST_F(Attention, Bf16OnTensorCores) {
    if (activation_dtypes().size() == 1) GTEST_SKIP() << device() << " takes float32 activations only";
    for (const Heads& h : {Heads{6, 2, 64}, Heads{2, 2, 64}, Heads{8, 1, 128}, Heads{1, 1, 128}})
        for (bool causal : {true, false})
            for (const Layout& layout : {sequences(causal, {1, 7, 1, 20, 3, 16, 17}), trie(causal, 40), prompt(causal, 20, 9),
                                         scattered(causal, 12), pages(causal, {1, 16, 40, 130, 31}, 1),
                                         pages(causal, {70, 20, 33}, 2), branches(causal, 70, 1), cached(causal, 5, 300)})
                compare_bf16(layout, h, scale_of(h), 8);
    // So many readers of a key that its gradient is summed up in groups.
    compare_bf16(prompt(true, 200, 9), {32, 1, 64}, 0.125f, 8);
    compare_bf16(sequences(true, {300}), {32, 1, 64}, 0.125f, 8);
}

TEST_F(Attention, Bf16SameBits) {
    if (activation_dtypes().size() == 1) GTEST_SKIP() << device() << " takes float32 activations only";
    const Heads h{16, 1, 64};
    for (const Layout& layout : {trie(true, 30), prompt(true, 300, 9)}) {
        const auto q = normal(layout.query_rows * h.H * h.Dh), k = normal(layout.key_rows * h.Hkv * h.Dh),
                   v = normal(layout.key_rows * h.Hkv * h.Dh), dout = normal(layout.query_rows * h.H * h.Dh);
        const Run first = run(layout, h, 0.125f, q, k, v, dout, 0, HLLM_BF16),
                  again = run(layout, h, 0.125f, q, k, v, dout, 0, HLLM_BF16);
        for (auto member : {&Run::out, &Run::lse, &Run::dq, &Run::dk, &Run::dv})
            expect_same_bits(read(first.*member), read(again.*member), layout.name);
    }
}

// What FlashAttention takes where it is built in (native/cuda/flash_attention.h), and what it just does not take.
TEST_F(Attention, Bf16SequencesOfManyRows) {
    if (activation_dtypes().size() == 1) GTEST_SKIP() << device() << " takes float32 activations only";
    for (bool causal : {true, false}) {
        for (const Heads& h : {Heads{6, 2, 64}, Heads{2, 2, 64}, Heads{4, 1, 128}, Heads{1, 1, 128}})
            compare_bf16(sequences(causal, {3, 129, 150, 1, 64}), h, scale_of(h), 8);
        for (const Heads& h : {Heads{2, 1, 64}, Heads{1, 1, 128}}) {
            for (bool there : {true, false}) compare_bf16(continued(causal, 512, there, {90, 3, 130}), h, scale_of(h), 8);
            compare_bf16(continued(causal, 511, true, {90, 130}), h, scale_of(h), 8);
        }
        Layout layout = sequences(causal, {100, 70, 90});
        layout.key_rows += 5;  // which nobody sees
        compare_bf16(layout, {2, 2, 64}, 0.125f, 8);
        for (Segment& segment : layout.segments) segment.spans[0].begin += 5;
        compare_bf16(layout, {2, 1, 64}, 0.125f, 8);
        layout.query_rows += 3;
        compare_bf16(layout, {2, 1, 64}, 0.125f, 8);
        compare_bf16(cached(causal, 70, 100), {2, 1, 64}, 0.125f, 8);
    }
}

// Lengths around the borders of tiles of rows and of columns.
TEST_F(Attention, Bf16LongSequencesOnTensorCores) {
    if (activation_dtypes().size() == 1) GTEST_SKIP() << device() << " takes float32 activations only";
    for (bool causal : {true, false}) {
        for (int32_t n : {15, 16, 17, 32, 42, 43, 63, 64, 65, 127, 128, 129, 200}) {
            compare_bf16(sequences(causal, {n, 2}), {3, 1, 64}, 0.125f, 8);
            compare_bf16(sequences(causal, {2, n, n}), {1, 1, 64}, 0.2f, 8);
        }
        for (int32_t n : {16, 63, 65, 150}) compare_bf16(sequences(causal, {n}), {8, 2, 128}, -0.1f, 8);
    }
}

// Across the boundaries of tiles of queries and of keys.
TEST_F(Attention, LongSequences) {
    for (int32_t n : {31, 32, 33, 63, 64, 65, 127, 129, 200})
        for (bool causal : {true, false}) compare(sequences(causal, {n, 2}), {3, 1, 16}, 0.25f, 2e-5);
    for (const Heads& h : {Heads{8, 1, 16}, Heads{1, 1, 64}, Heads{3, 1, 10}})
        for (bool causal : {true, false}) compare(sequences(causal, {150}), h, scale_of(h), 2e-5);
}

TEST_F(Attention, FewQueriesOverALongCache) {
    for (int32_t queries : {1, 2, 5})
        for (int32_t keys : {64, 65, 1000})
            for (bool causal : {true, false}) compare(cached(causal, queries, keys), {9, 3, 64}, 0.125f, 2e-5);
}

// So many readers of a key that its gradient is summed up in groups.
TEST_F(Attention, APromptReadByAThousandSegments) {
    for (const Heads& h : {Heads{3, 1, 8}, Heads{8, 1, 4}, Heads{2, 2, 6}})
        for (bool causal : {true, false}) compare(prompt(causal, 1000, 9), h, scale_of(h), 3e-5);
    compare(prompt(true, 1000, 70), {6, 2, 4}, 0.5f, 3e-5);
}

TEST_F(Attention, MoreQueryHeadsThanRowsOfATile) {
    for (bool causal : {true, false}) compare(sequences(causal, {5, 70}), {100, 1, 2}, 0.7f, 2e-5);
}

TEST_F(Attention, LargeScores) {
    for (bool causal : {true, false}) {
        compare(sequences(causal, {150, 1}), {2, 1, 16}, 30, 2e-3);
        compare(trie(causal, 20), {2, 1, 16}, -30, 2e-3);
    }
}

// A decoding step, captured once, for users that come and go and whose histories grow.
TEST_F(Attention, AGraphFollowsItsPlan) {
    if (on_cpu()) GTEST_SKIP() << "cpu captures nothing";
    const int32_t users = 5;
    const int64_t Tk = 700;
    for (const Heads& h : {Heads{8, 2, 64}, Heads{3, 1, 16}})
        for (int32_t dtype : activation_dtypes()) {
            const auto q = rounded(dtype, normal(users * h.H * h.Dh)), k = rounded(dtype, normal(Tk * h.Hkv * h.Dh)),
                       v = rounded(dtype, normal(Tk * h.Hkv * h.Dh));
            const auto *vq = activation(dtype, q, {users, h.H, h.Dh}), *vk = activation(dtype, k, {Tk, h.Hkv, h.Dh}),
                       *vv = activation(dtype, v, {Tk, h.Hkv, h.Dh}),
                       *out = activation(dtype, normal(users * h.H * h.Dh), {users, h.H, h.Dh});
            auto pages_of = [&](const std::vector<int32_t>& histories) {
                Layout layout = pages(true, histories, 1);
                EXPECT_LE(layout.key_rows, Tk);
                layout.query_rows = users, layout.key_rows = Tk;
                return layout;
            };
            auto* p = plan(pages_of({1, 2, 3, 16 * 31, 4}));
            EXPECT_EQ(HLLM_UNSUPPORTED, captured(nullptr, out, vq, vk, vv, p)) << "before it is prepared";
            HLLM_OK_OR_FAIL(hllm_attention_forward(context, out, nullptr, vq, vk, vv, p, 0.3f));
            hllm_graph* graph = nullptr;
            HLLM_OK_OR_FAIL(captured(&graph, out, vq, vk, vv, p));
            std::vector<Layout> later;
            for (const auto& histories : std::vector<std::vector<int32_t>>{
                     {1, 2, 3, 16 * 31, 4}, {100, 90, 80, 70, 60}, {1, 1, 1, 1, 1}, {40}, {}, {64, 65, 66, 200}})
                later.push_back(pages_of(histories));
            // Every other page is everyone's: more runs of shared keys than there were.
            later.push_back(pages_of({}));
            for (int32_t user = 0; user < users; user++) {
                later.back().segments.push_back({user, 1, {}});
                for (int32_t i = 0; i < 7; i++)
                    later.back().segments.back().spans.push_back({i % 2 ? 100 + 50 * user + 4 * i : 4 * i, 4});
            }
            for (const Layout& layout : later) {
                update(p, layout);
                HLLM_OK_OR_FAIL(hllm_graph_launch(context, graph));
                const auto expected = forward(layout, h, 0.3f, {doubles(q), doubles(k), doubles(v)}).out;
                if (dtype == HLLM_F32)
                    expect_close(read(out), expected, 2e-5, 2e-5, "launched");
                else
                    expect_rows(read(out), expected, h.Dh, "launched");
            }
            HLLM_OK_OR_FAIL(hllm_graph_destroy(graph));
        }
}

TEST_F(Attention, NothingToDo) {
    const Heads h{2, 1, 4};
    run({"", true, 0, 0, {}}, h, 1, {}, {}, {}, {}, 1);
    const Layout unused{"", true, 3, 2, {{1, 0, {{0, 0}}}}};
    const auto r = run(unused, h, 1, normal(3 * 8), normal(2 * 4), normal(2 * 4), normal(3 * 8));
    for (const auto* tensor : {r.out, r.lse, r.dq, r.dk, r.dv}) {
        const auto values = read(tensor);
        expect_same_bits(values, std::vector<float>(values.size(), 0.f), "unused rows");
    }
}

// bf16 keys and values are widened as they are gathered: the same answer as from float32 ones of the same values.
TEST_F(Attention, ReadsABf16Cache) {
    if (std::string(device()) != "cpu") GTEST_SKIP() << "elsewhere queries, keys and values are of one dtype";
    for (const Heads& h : SHAPES)
        for (const Layout& layout : {cached(true, 2, 70), trie(true, 12), scattered(false, 5)}) {
            std::vector<int64_t> shape{layout.key_rows, h.Hkv, h.Dh};
            const auto *q = floats(normal(layout.query_rows * h.H * h.Dh), {layout.query_rows, h.H, h.Dh}),
                       *k = activation(HLLM_BF16, normal(count(shape)), shape, 3),
                       *v = activation(HLLM_BF16, normal(count(shape)), shape, 1),
                       *out = output({layout.query_rows, h.H, h.Dh}), *wide = output({layout.query_rows, h.H, h.Dh});
            auto* p = plan(layout);
            HLLM_OK_OR_FAIL(hllm_attention_forward(context, out, nullptr, q, k, v, p, scale_of(h)));
            HLLM_OK_OR_FAIL(hllm_attention_forward(context, wide, nullptr, q, floats(read(k), shape), floats(read(v), shape), p,
                                                   scale_of(h)));
            expect_same_bits(read(out), read(wide), layout.name + " " + h.name());
        }
}

TEST_F(Attention, LseMayBeLeftOut) {
    const Layout layout = trie(true, 10);
    const int64_t Tq = layout.query_rows, Tk = layout.key_rows;
    const auto *q = floats(normal(Tq * 8), {Tq, 2, 4}), *k = floats(normal(Tk * 4), {Tk, 1, 4}),
               *v = floats(normal(Tk * 4), {Tk, 1, 4}), *with = output({Tq, 2, 4}), *without = output({Tq, 2, 4}),
               *lse = output({2, Tq});
    auto* p = plan(layout);
    HLLM_OK_OR_FAIL(hllm_attention_forward(context, with, lse, q, k, v, p, 0.5f));
    HLLM_OK_OR_FAIL(hllm_attention_forward(context, without, nullptr, q, k, v, p, 0.5f));
    expect_same_bits(read(with), read(without), "out");
}

// Heads that lie side by side in one projection, as a model has them.
TEST_F(Attention, ReadsWindowsOfAPackedProjection) {
    const Heads h{6, 2, 16};
    const Layout layout = sequences(true, {12, 30});
    const int64_t T = layout.query_rows, width = (h.H + 2 * h.Hkv) * h.Dh;
    const auto qkv = normal(T * width);
    auto window = [&](const hllm_tensor* all, int64_t first, int64_t heads) {
        hllm_tensor t = *all;
        t.rank = 3, t.offset += first * h.Dh * 4;
        const int64_t shape[] = {T, heads, h.Dh}, stride[] = {width, h.Dh, 1};
        std::copy_n(shape, 3, t.shape), std::copy_n(stride, 3, t.stride);
        return t;
    };
    auto part = [&](int64_t first, int64_t heads) {
        std::vector<float> values;
        for (int64_t t = 0; t < T; t++)
            values.insert(values.end(), qkv.begin() + t * width + first * h.Dh,
                          qkv.begin() + t * width + (first + heads) * h.Dh);
        return values;
    };
    const auto *packed = floats(qkv, {T, width}), *dpacked = output({T, width}, NAN), *out = output({T, h.H, h.Dh}, NAN),
               *lse = output({h.H, T}, NAN);
    const auto dout = normal(T * h.H * h.Dh);
    auto* p = plan(layout);
    const auto q = window(packed, 0, h.H), k = window(packed, h.H, h.Hkv), v = window(packed, h.H + h.Hkv, h.Hkv),
               dq = window(dpacked, 0, h.H), dk = window(dpacked, h.H, h.Hkv), dv = window(dpacked, h.H + h.Hkv, h.Hkv);
    HLLM_OK_OR_FAIL(hllm_attention_forward(context, out, lse, &q, &k, &v, p, 0.25f));
    const hllm_attention_backward_args args{sizeof args, 0.25f, &dq, &dk, &dv, out, lse, floats(dout, {T, h.H, h.Dh}),
                                            &q,          &k,    &v,  p};
    HLLM_OK_OR_FAIL(hllm_attention_backward(context, &args));
    const Inputs in{doubles(part(0, h.H)), doubles(part(h.H, h.Hkv)), doubles(part(h.H + h.Hkv, h.Hkv))};
    const auto d = backward(layout, h, 0.25, in, doubles(dout));
    std::vector<double> expected;
    for (int64_t t = 0; t < T; t++) {
        expected.insert(expected.end(), d.q.begin() + t * h.H * h.Dh, d.q.begin() + (t + 1) * h.H * h.Dh);
        for (const auto* x : {&d.k, &d.v})
            expected.insert(expected.end(), x->begin() + t * h.Hkv * h.Dh, x->begin() + (t + 1) * h.Hkv * h.Dh);
    }
    expect_close(read(out), forward(layout, h, 0.25, in).out, 2e-5, 2e-5, "out");
    expect_close(read(dpacked), expected, 1e-4, 2e-5, "gradient");
}

// What a segment computes does not depend on the segments beside it: to the bit.
TEST_F(Attention, SegmentsDoNotSeeOneAnother) {
    const Heads h{6, 2, 20};
    const Layout all = sequences(true, {5, 80, 1, 33});
    const auto q = normal(all.query_rows * h.H * h.Dh), k = normal(all.key_rows * h.Hkv * h.Dh),
               v = normal(all.key_rows * h.Hkv * h.Dh), dout = normal(all.query_rows * h.H * h.Dh);
    const Run together = run(all, h, 0.2f, q, k, v, dout);
    for (const Segment& segment : all.segments) {
        auto part = [&](const std::vector<float>& x, int64_t heads) {
            const auto begin = x.begin() + segment.query * heads * h.Dh;
            return std::vector<float>(begin, begin + segment.queries * heads * h.Dh);
        };
        const Run alone =
            run(sequences(true, {segment.queries}), h, 0.2f, part(q, h.H), part(k, h.Hkv), part(v, h.Hkv), part(dout, h.H));
        expect_same_bits(read(alone.out), part(read(together.out), h.H), "out");
        expect_same_bits(read(alone.dq), part(read(together.dq), h.H), "dq");
        expect_same_bits(read(alone.dk), part(read(together.dk), h.Hkv), "dk");
        expect_same_bits(read(alone.dv), part(read(together.dv), h.Hkv), "dv");
    }
}

TEST_F(Attention, SameBitsOnAnyTeam) {
    const Heads h{6, 2, 20};
    for (const Layout& layout : {trie(true, 200), prompt(true, 1000, 9), sequences(true, {300, 40}), scattered(false, 50)}) {
        const auto q = normal(layout.query_rows * h.H * h.Dh), k = normal(layout.key_rows * h.Hkv * h.Dh),
                   v = normal(layout.key_rows * h.Hkv * h.Dh), dout = normal(layout.query_rows * h.H * h.Dh);
        expect_same_on_any_team(layout.name, [&] {
            const Run r = run(layout, h, 0.25f, q, k, v, dout);
            std::vector<float> all;
            for (const auto* tensor : {r.out, r.lse, r.dq, r.dk, r.dv}) {
                const auto values = read(tensor);
                all.insert(all.end(), values.begin(), values.end());
            }
            return all;
        });
    }
}

}  // namespace
}  // namespace hllm_test
