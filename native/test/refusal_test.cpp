// Every operation with every tensor spoilt in every way: refused with a message that names both, and nothing is written.
#include <functional>

#include "support.h"

namespace hllm_test {
namespace {

struct Argument {
    const char* name;
    hllm_tensor tensor;
    bool output;
    bool optional;
};

// One operation with small, valid arguments. `call` gets the (spoilt) tensors in the same order.
struct Operation {
    const char* name;
    std::vector<Argument> arguments;
    std::function<int32_t(hllm_context*, const std::vector<const hllm_tensor*>&)> call;
};

class Refusal : public OpTest {
   protected:
    void SetUp() override {
        OpTest::SetUp();
        if (HasFatalFailure()) return;
        HLLM_OK_OR_FAIL(hllm_weight_create(context, floats(normal(N * K), {N, K}), HLLM_F32, &weight));
        hllm_plan_args args{};
        const int32_t begin[] = {0}, length[] = {3}, offsets[] = {0, 1}, spans[] = {0}, lengths[] = {4};
        args.struct_size = sizeof args;
        args.causal = 1;
        args.query_rows = 3;
        args.key_rows = 4;
        args.segments = 1;
        args.spans = 1;
        args.segment_begin = begin;
        args.segment_length = length;
        args.span_offsets = offsets;
        args.span_begin = spans;
        args.span_length = lengths;
        HLLM_OK_OR_FAIL(hllm_plan_create(context, &args, &plan));
        operations = all();
        ASSERT_GE(operations.size(), 25u);
    }
    void TearDown() override {
        EXPECT_EQ(HLLM_OK, hllm_plan_destroy(plan));
        EXPECT_EQ(HLLM_OK, hllm_weight_destroy(weight));
        OpTest::TearDown();
    }

    Argument in(const char* name, std::vector<int64_t> shape) {
        return {name, *floats(normal(count(shape)), shape), false, false};
    }
    Argument out(const char* name, std::vector<int64_t> shape) { return {name, *output(shape), true, false}; }
    Argument index(const char* name, const std::vector<int32_t>& values) { return {name, *ints(values), false, false}; }
    Argument out_index(const char* name, std::vector<int64_t> shape) {
        return {name, *ints(std::vector<int32_t>(count(shape), 7), shape), true, false};
    }
    static Argument optional(Argument argument) {
        argument.optional = true;
        return argument;
    }

    static constexpr int64_t T = 3, D = 4, N = 5, K = 4, V = 6;

    std::vector<Operation> all() {
        using Tensors = const std::vector<const hllm_tensor*>&;
        return {
            {"fill", {out("out", {T, D})}, [](auto* c, Tensors t) { return hllm_fill(c, t[0], 1); }},
            {"convert", {out("out", {T, D}), in("in", {T, D})}, [](auto* c, Tensors t) { return hllm_convert(c, t[0], t[1]); }},
            {"matmul",
             {out("c", {T, N}), in("a", {T, K}), in("b", {N, K})},
             [](auto* c, Tensors t) { return hllm_matmul(c, t[0], t[1], t[2], 0, 1, 0); }},
            {"linear_forward",
             {out("y", {T, N}), in("x", {T, K})},
             [this](auto* c, Tensors t) { return hllm_linear_forward(c, t[0], t[1], weight, 0); }},
            {"linear_backward_input",
             {out("dx", {T, K}), in("dy", {T, N})},
             [this](auto* c, Tensors t) { return hllm_linear_backward_input(c, t[0], t[1], weight, 0); }},
            {"linear_backward_weight",
             {out("dweight", {N, K}), in("dy", {T, N}), in("x", {T, K})},
             [](auto* c, Tensors t) { return hllm_linear_backward_weight(c, t[0], t[1], t[2]); }},
            {"embedding_forward",
             {out("out", {T, D}), index("ids", {0, -1, 5}), in("table", {V, D}), optional(in("special", {D}))},
             [](auto* c, Tensors t) { return hllm_embedding_forward(c, t[0], t[1], t[2], t[3]); }},
            {"embedding_backward",
             {optional(out("dtable", {V, D})), optional(out("dspecial", {D})), in("dout", {T, D}), index("ids", {0, -1, 5})},
             [](auto* c, Tensors t) { return hllm_embedding_backward(c, t[0], t[1], t[2], t[3]); }},
            {"gather_rows",
             {out("out", {T, D}), in("in", {V, D}), index("index", {0, 5, 1})},
             [](auto* c, Tensors t) { return hllm_gather_rows(c, t[0], t[1], t[2]); }},
            {"scatter_add_rows",
             {out("out", {V, D}), in("in", {T, D}), index("index", {0, 5, 1})},
             [](auto* c, Tensors t) { return hllm_scatter_add_rows(c, t[0], t[1], t[2]); }},
            {"segment_mean_forward",
             {out("out", {2, D}), in("in", {T, D}), index("offsets", {0, 1, 3}), index("rows", {0, 1, 2})},
             [](auto* c, Tensors t) { return hllm_segment_mean_forward(c, t[0], t[1], t[2], t[3]); }},
            {"segment_mean_backward",
             {out("din", {T, D}), in("dout", {2, D}), index("offsets", {0, 1, 3}), index("rows", {0, 1, 2})},
             [](auto* c, Tensors t) { return hllm_segment_mean_backward(c, t[0], t[1], t[2], t[3]); }},
            {"normalize_rows",
             {out("out", {T, D}), in("in", {T, D})},
             [](auto* c, Tensors t) { return hllm_normalize_rows(c, t[0], t[1]); }},
            {"mul",
             {out("out", {T, D}), in("a", {T, D}), in("b", {T, D})},
             [](auto* c, Tensors t) { return hllm_mul(c, t[0], t[1], t[2], 0); }},
            {"rmsnorm_forward",
             {out("y", {T, D}), optional(out("saved_rstd", {T})), in("x", {T, D}), in("weight", {D})},
             [](auto* c, Tensors t) { return hllm_rmsnorm_forward(c, t[0], t[1], t[2], t[3], 1e-5f); }},
            {"rmsnorm_backward",
             {out("dx", {T, D}), optional(out("dweight", {D})), in("dy", {T, D}), in("saved_rstd", {T}), in("x", {T, D}),
              in("weight", {D})},
             [](auto* c, Tensors t) { return hllm_rmsnorm_backward(c, t[0], t[1], t[2], t[3], t[4], t[5], 0); }},
            {"layernorm_forward",
             {out("y", {T, D}), optional(out("saved", {T, 2})), in("x", {T, D}), in("weight", {D}), in("bias", {D})},
             [](auto* c, Tensors t) { return hllm_layernorm_forward(c, t[0], t[1], t[2], t[3], t[4], 1e-5f); }},
            {"layernorm_backward",
             {out("dx", {T, D}), optional(out("dweight", {D})), in("dy", {T, D}), in("saved", {T, 2}), in("x", {T, D}),
              in("weight", {D})},
             [](auto* c, Tensors t) { return hllm_layernorm_backward(c, t[0], t[1], t[2], t[3], t[4], t[5], 0); }},
            {"bias_forward",
             {out("y", {T, D}), in("bias", {D})},
             [](auto* c, Tensors t) { return hllm_bias_forward(c, t[0], t[1]); }},
            {"bias_backward",
             {out("dbias", {D}), in("dy", {T, D})},
             [](auto* c, Tensors t) { return hllm_bias_backward(c, t[0], t[1]); }},
            {"gelu_forward",
             {out("y", {T, D}), in("x", {T, D})},
             [](auto* c, Tensors t) { return hllm_gelu_forward(c, t[0], t[1]); }},
            {"gelu_backward",
             {out("dx", {T, D}), in("dy", {T, D}), in("x", {T, D})},
             [](auto* c, Tensors t) { return hllm_gelu_backward(c, t[0], t[1], t[2]); }},
            {"rope",
             {out("x", {T, 2, D}), index("positions", {0, 1, 2}), in("table", {T, D})},
             [](auto* c, Tensors t) { return hllm_rope(c, t[0], t[1], t[2], 0); }},
            {"rope_scatter",
             {optional(out("q", {T, 4, D})), out("keys", {V, 2, D}), out("values", {V, 2, D}), in("k", {T, 2, D}),
              in("v", {T, 2, D}), index("positions", {0, 1, 2}), in("table", {T, D}), index("index", {5, 0, 2})},
             [](auto* c, Tensors t) {
                 hllm_rope_scatter_args a{sizeof a, 0, t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7]};
                 return hllm_rope_scatter(c, &a);
             }},
            {"swiglu_forward",
             {out("y", {T, D}), in("gate_up", {T, 2 * D})},
             [](auto* c, Tensors t) { return hllm_swiglu_forward(c, t[0], t[1]); }},
            {"swiglu_backward",
             {out("dgate_up", {T, 2 * D}), in("dy", {T, D}), in("gate_up", {T, 2 * D})},
             [](auto* c, Tensors t) { return hllm_swiglu_backward(c, t[0], t[1], t[2]); }},
            {"attention_forward",
             {out("out", {3, 4, 8}), optional(out("saved_lse", {4, 3})), in("q", {3, 4, 8}), in("k", {4, 2, 8}),
              in("v", {4, 2, 8})},
             [this](auto* c, Tensors t) { return hllm_attention_forward(c, t[0], t[1], t[2], t[3], t[4], plan, 0.3f); }},
            {"attention_backward",
             {out("dq", {3, 4, 8}), out("dk", {4, 2, 8}), out("dv", {4, 2, 8}), in("saved_out", {3, 4, 8}),
              in("saved_lse", {4, 3}), in("dout", {3, 4, 8}), in("q", {3, 4, 8}), in("k", {4, 2, 8}), in("v", {4, 2, 8})},
             [this](auto* c, Tensors t) {
                 hllm_attention_backward_args a{};
                 a.struct_size = sizeof a;
                 a.scale = 0.3f;
                 a.plan = plan;
                 const hllm_tensor** const slots[] = {&a.dq,   &a.dk, &a.dv, &a.saved_out, &a.saved_lse,
                                                      &a.dout, &a.q,  &a.k,  &a.v};
                 for (size_t i = 0; i < t.size(); i++) *slots[i] = t[i];
                 return hllm_attention_backward(c, &a);
             }},
            {"infonce",
             {out("metrics", {HLLM_INFONCE_METRICS}), out("du", {T, D}), out("dp", {T, D}), out("dn", {N, D}),
              optional(out("dlogit_scale", {1})), in("u", {T, D}), in("p", {T, D}), in("n", {N, D}),
              index("target_ids", {0, 1, 2}), index("negative_ids", {3, 4, 5, 6, 7}), in("logit_scale", {1})},
             [](auto* c, Tensors t) {
                 hllm_infonce_args a{};
                 a.struct_size = sizeof a;
                 a.threshold = 0.99f;
                 a.positions = T;
                 const hllm_tensor** const slots[] = {&a.metrics, &a.du, &a.dp,         &a.dn,           &a.dlogit_scale, &a.u,
                                                      &a.p,       &a.n,  &a.target_ids, &a.negative_ids, &a.logit_scale};
                 for (size_t i = 0; i < t.size(); i++) *slots[i] = t[i];
                 return hllm_infonce(c, &a);
             }},
            {"bce",
             {out("loss", {1}), optional(out("dlogits", {T})), in("logits", {T}), in("labels", {T})},
             [](auto* c, Tensors t) { return hllm_bce(c, t[0], t[1], t[2], t[3], T); }},
            {"norm", {out("out", {1}), in("in", {9})}, [](auto* c, Tensors t) { return hllm_norm(c, t[0], t[1]); }},
            {"clamp", {out("in", {9})}, [](auto* c, Tensors t) { return hllm_clamp(c, t[0], -1, 1); }},
            {"adamw",
             {out("parameters", {9}), in("gradients", {9}), out("moment1", {9}), out("moment2", {9})},
             [](auto* c, Tensors t) {
                 hllm_adamw_args a{sizeof a, 1e-3f, 0.9f, 0.999f, 1e-8f, 0, 1, 0, 1, t[0], t[1], t[2], t[3]};
                 return hllm_adamw(c, &a);
             }},
            {"topk",
             {out("scores", {2, 3}), out_index("rows", {2, 3}), in("queries", {2, D}), in("table", {V, D}),
              index("excluded_offsets", {0, 1, 2}), index("excluded_rows", {0, 1})},
             [](auto* c, Tensors t) { return hllm_topk(c, t[0], t[1], t[2], t[3], t[4], t[5]); }},
            {"rank",
             {out_index("ranks", {2}), in("queries", {2, D}), in("table", {V, D}), index("targets", {2, 3}),
              index("excluded_offsets", {0, 1, 2}), index("excluded_rows", {0, 1})},
             [](auto* c, Tensors t) { return hllm_rank(c, t[0], t[1], t[2], t[3], t[4], t[5]); }},
        };
    }

    static std::vector<const hllm_tensor*> tensors(const Operation& op) {
        std::vector<const hllm_tensor*> out;
        for (const Argument& argument : op.arguments) out.push_back(&argument.tensor);
        return out;
    }
    // Tensors that may be bf16 while all others are f32: those of conversions and the table of word vectors always, the rest
    // where the device takes bf16 activations.
    static bool may_be_bf16(const Operation& op, size_t which) {
        static const std::string list =
            " convert.out convert.in matmul.c linear_forward.y linear_backward_input.dx rmsnorm_forward.y"
            " rmsnorm_backward.dy layernorm_forward.y layernorm_backward.dy bias_forward.y bias_backward.dy rope.x "
            "embedding_forward.table ";
        return list.find(std::string(" ") + op.name + "." + op.arguments[which].name + " ") != std::string::npos;
    }
    // All bytes of all outputs.
    std::vector<int32_t> outputs(const Operation& op) {
        std::vector<int32_t> all;
        for (const Argument& argument : op.arguments)
            if (argument.output) {
                const auto values = read_ints(&argument.tensor);
                all.insert(all.end(), values.begin(), values.end());
            }
        return all;
    }
    // Calls `op` with argument `which` replaced by `spoilt`.
    void refused(const Operation& op, size_t which, const hllm_tensor* spoilt, const std::string& why,
                 const std::string& text) {
        auto arguments = tensors(op);
        arguments[which] = spoilt;
        const auto before = outputs(op);
        const int32_t status = op.call(context, arguments);
        const std::string message = hllm_error_message();
        const std::string what = std::string(op.name) + "(" + op.arguments[which].name + ": " + why + ")";
        // An activation of bf16 is nothing wrong, only too much for a device that computes in f32.
        const bool bf16 = message.find("computes in f32 only") != std::string::npos;
        ASSERT_EQ(bf16 ? HLLM_UNSUPPORTED : HLLM_INVALID_ARGUMENT, status) << what << ": " << message;
        if (bf16) EXPECT_EQ(1u, activation_dtypes().size()) << what << ": " << message;
        EXPECT_EQ(0u, message.find(std::string(op.name) + ": ")) << what << ": " << message;
        EXPECT_NE(std::string::npos, message.find(text)) << what << ": " << message;
        expect_same_bits(outputs(op), before, what + " wrote something");
        refusals++;
    }

    hllm_weight* weight = nullptr;
    hllm_plan* plan = nullptr;
    std::vector<Operation> operations;
    int refusals = 0;
};

// What all the refusals below start from.
TEST_F(Refusal, ValidArgumentsAreAccepted) {
    for (const Operation& op : operations) {
        EXPECT_EQ(HLLM_OK, hllm_supports(device(), op.name, HLLM_F32, 8)) << hllm_error_message();
        EXPECT_EQ(HLLM_OK, op.call(context, tensors(op))) << op.name << ": " << hllm_error_message();
        for (size_t i = 0; i < op.arguments.size(); i++) {
            if (!op.arguments[i].optional || std::string(op.arguments[i].name) == "special") continue;
            auto without = tensors(op);
            without[i] = nullptr;
            EXPECT_EQ(HLLM_OK, op.call(context, without))
                << op.name << " without " << op.arguments[i].name << ": " << hllm_error_message();
        }
    }
}

TEST_F(Refusal, NullTensors) {
    for (const Operation& op : operations)
        for (size_t i = 0; i < op.arguments.size(); i++)
            if (!op.arguments[i].optional) refused(op, i, nullptr, "NULL", op.arguments[i].name);
    EXPECT_GT(refusals, 60);
}

TEST_F(Refusal, BadWindows) {
    hllm_buffer* closed = nullptr;
    HLLM_OK_OR_FAIL(hllm_buffer_create(context, 400, &closed));
    HLLM_OK_OR_FAIL(hllm_buffer_destroy(closed));
    for (const Operation& op : operations)
        for (size_t i = 0; i < op.arguments.size(); i++) {
            const Argument& argument = op.arguments[i];
            auto spoil = [&](const char* why, const char* text, auto&& change) {
                hllm_tensor spoilt = argument.tensor;
                change(spoilt);
                refused(op, i, &spoilt, why, text);
                EXPECT_EQ(0u, std::string(hllm_error_message()).find(std::string(op.name) + ": " + argument.name))
                    << hllm_error_message();
            };
            const int last = argument.tensor.rank - 1;
            spoil("struct_size too small", " has struct_size", [](auto& t) { t.struct_size -= 1; });
            spoil("struct_size 0", " has struct_size", [](auto& t) { t.struct_size = 0; });
            spoil("rank 0", " has rank 0", [](auto& t) { t.rank = 0; });
            spoil("rank 5", " has rank 5", [](auto& t) { t.rank = 5; });
            spoil("rank -1", " has rank -1", [](auto& t) { t.rank = -1; });
            spoil("unknown dtype", " has unknown dtype 3", [](auto& t) { t.dtype = 3; });
            spoil("negative dtype", " has unknown dtype -1", [](auto& t) { t.dtype = -1; });
            spoil("no buffer", ": buffer is NULL", [](auto& t) { t.buffer = nullptr; });
            spoil("closed buffer", ": buffer is closed", [&](auto& t) { t.buffer = closed; });
            spoil("a handle out of thin air", ": buffer is closed",
                  [](auto& t) { t.buffer = reinterpret_cast<hllm_buffer*>(uintptr_t{0x7fff12345678}); });
            if (read_ints(&argument.tensor).size() > 1)
                spoil("misaligned offset", " does not lie in its buffer", [](auto& t) {
                    t.offset = 2;
                    std::fill_n(t.shape, 4, 1);
                });
            spoil("negative offset", " does not lie in its buffer", [](auto& t) { t.offset = -4; });
            spoil("one element beyond the end", " does not lie in its buffer", [](auto& t) { t.offset = 4; });
            spoil("far beyond the end", " does not lie in its buffer", [](auto& t) { t.offset = INT64_MAX - 3; });
            spoil("negative extent", " does not lie in its buffer", [](auto& t) { t.shape[0] = -1; });
            spoil("negative stride", " does not lie in its buffer", [](auto& t) { t.stride[0] = -1; });
            if (argument.tensor.shape[last] > 1)
                spoil("inner stride 0", " has innermost stride 0", [&](auto& t) { t.stride[last] = 0; });
            if (argument.tensor.shape[last] > 2) {
                spoil("inner stride 2", " has innermost stride 2", [&](auto& t) {
                    t.stride[last] = 2;
                    t.shape[last] = 2;
                    for (int k = 0; k < last; k++) t.shape[k] = 1;
                });
            }
            if (argument.tensor.rank > 1) {
                spoil("rows beyond the end", " does not lie in its buffer", [](auto& t) { t.stride[0] += 1; });
                spoil("strides that overflow", " does not lie in its buffer", [](auto& t) { t.stride[0] = INT64_MAX / 2 + 1; });
                if (argument.output) spoil("overlapping rows", " is an output", [](auto& t) { t.stride[0] = 0; });
            }
        }
    EXPECT_GT(refusals, 1000);
}

TEST_F(Refusal, WrongDtypes) {
    for (const Operation& op : operations)
        for (size_t i = 0; i < op.arguments.size(); i++)
            for (int32_t dtype : {HLLM_F32, HLLM_BF16, HLLM_I32}) {
                const std::string name = op.name;
                if (dtype == op.arguments[i].tensor.dtype) continue;
                if (name == "fill" && dtype == HLLM_I32) continue;
                if (dtype == HLLM_BF16 && may_be_bf16(op, i) &&
                    (name == "convert" || name == "embedding_forward" || activation_dtypes().size() > 1))
                    continue;
                hllm_tensor spoilt = op.arguments[i].tensor;
                spoilt.dtype = dtype;
                const char* const names[] = {"f32", "bf16", "i32"};
                refused(op, i, &spoilt, "dtype " + std::to_string(dtype), names[dtype]);
            }
    EXPECT_GT(refusals, 100);
}

// One row or column too many or too few, one dimension more or less. Which of two tensors that disagree is named differs.
TEST_F(Refusal, WrongShapes) {
    for (const Operation& op : operations)
        for (size_t i = 0; i < op.arguments.size(); i++) {
            const std::string op_name = op.name, name = op.arguments[i].name;
            const int32_t rank = op.arguments[i].tensor.rank;
            auto spoil = [&](const std::vector<int64_t>& other) {
                std::string why = "shape";
                for (int64_t extent : other) why += " " + std::to_string(extent);
                const std::vector<int32_t> ones(count(other), 1);
                const auto* spoilt = op.arguments[i].tensor.dtype == HLLM_I32
                                         ? ints(ones, other)
                                         : floats(std::vector<float>(ones.begin(), ones.end()), other);
                const auto before = read_ints(spoilt);
                refused(op, i, spoilt, why, "");
                EXPECT_EQ(before, read_ints(spoilt)) << op_name << " " << name << " " << why;
            };
            const std::vector<int64_t> shape(op.arguments[i].tensor.shape, op.arguments[i].tensor.shape + rank);
            // Extents that the other tensors do not determine: rows of a table, length of a list, number of heads.
            auto free = [&](int32_t k) {
                static const std::string list =
                    " fill.out.0 fill.out.1 clamp.in.0 norm.in.0 bias_forward.y.0 bias_backward.dy.0 embedding_forward.table.0"
                    " embedding_backward.dtable.0 gather_rows.in.0 scatter_add_rows.out.0"
                    " segment_mean_forward.in.0 segment_mean_forward.rows.0"
                    " segment_mean_backward.din.0 segment_mean_backward.rows.0 rope.x.1 rope.table.0"
                    " rope_scatter.q.1 rope_scatter.table.0"
                    " topk.table.0 topk.excluded_rows.0 rank.table.0 rank.excluded_rows.0 ";
                return list.find(" " + op_name + "." + name + "." + std::to_string(k) + " ") != std::string::npos;
            };
            for (int32_t k = 0; k < rank; k++)
                for (int change : {1, -1}) {
                    auto other = shape;
                    other[k] += change;
                    if (!free(k)) spoil(other);
                }
            if (op_name == "fill") continue;
            auto more = shape;
            more.insert(more.begin(), 1);
            spoil(more);
            if (rank > 1) spoil({count(shape)});
        }
    EXPECT_GT(refusals, 300);
}

TEST_F(Refusal, OutputsInWrappedHostMemory) {
    if (!on_cpu()) GTEST_SKIP() << device() << " cannot read host memory";
    std::vector<float> host(1000, 5);
    const auto before = host;
    hllm_buffer* wrapped = nullptr;
    HLLM_OK_OR_FAIL(hllm_buffer_wrap_host(context, host.data(), 4000, &wrapped));
    for (const Operation& op : operations)
        for (size_t i = 0; i < op.arguments.size(); i++)
            if (op.arguments[i].output) {
                hllm_tensor spoilt = op.arguments[i].tensor;
                spoilt.buffer = wrapped;
                refused(op, i, &spoilt, "wrapped", std::string(op.arguments[i].name) + " is an output, but its buffer wraps");
            }
    EXPECT_GT(refusals, 30);
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_buffer_write(context, wrapped, 0, before.data(), 4));
    EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "buffer_write: the buffer wraps")) << hllm_error_message();
    expect_same_bits(host, before, "host memory");
    HLLM_OK_OR_FAIL(hllm_buffer_destroy(wrapped));
}

TEST_F(Refusal, NullAndClosedContexts) {
    hllm_context* closed = nullptr;
    HLLM_OK_OR_FAIL(hllm_context_create(device(), &closed));
    HLLM_OK_OR_FAIL(hllm_context_destroy(closed));
    for (const Operation& op : operations) {
        const auto before = outputs(op);
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, op.call(nullptr, tensors(op)));
        EXPECT_EQ(std::string(op.name) + ": context is NULL", hllm_error_message());
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, op.call(closed, tensors(op)));
        EXPECT_EQ(0u, std::string(hllm_error_message()).find(std::string(op.name) + ": context is closed"))
            << hllm_error_message();
        expect_same_bits(outputs(op), before, op.name);
    }
}

TEST_F(Refusal, NullAndClosedWeightsAndPlans) {
    hllm_weight* const real_weight = weight;
    hllm_plan* const real_plan = plan;
    hllm_weight* closed_weight = nullptr;
    HLLM_OK_OR_FAIL(hllm_weight_create(context, output({N, K}), HLLM_BF16, &closed_weight));
    HLLM_OK_OR_FAIL(hllm_weight_destroy(closed_weight));
    hllm_plan_args args{};
    args.struct_size = sizeof args;
    hllm_plan* closed_plan = nullptr;
    HLLM_OK_OR_FAIL(hllm_plan_create(context, &args, &closed_plan));
    HLLM_OK_OR_FAIL(hllm_plan_destroy(closed_plan));
    int checked = 0;
    for (const Operation& op : operations) {
        const std::string name = op.name;
        const bool linear = name == "linear_forward" || name == "linear_backward_input";
        if (!linear && name != "attention_forward" && name != "attention_backward") continue;
        const auto before = outputs(op);
        for (bool null : {true, false}) {
            weight = null ? nullptr : closed_weight;
            plan = null ? nullptr : closed_plan;
            EXPECT_EQ(HLLM_INVALID_ARGUMENT, op.call(context, tensors(op)));
            const std::string start = name + ": " + (linear ? "weight" : "plan") + (null ? " is NULL" : " is closed");
            EXPECT_EQ(0u, std::string(hllm_error_message()).find(start)) << hllm_error_message();
            checked++;
        }
        weight = real_weight;
        plan = real_plan;
        expect_same_bits(outputs(op), before, op.name);
    }
    EXPECT_EQ(8, checked);
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_weight_refresh(context, closed_weight));
    EXPECT_EQ(0u, std::string(hllm_error_message()).find("weight_refresh: weight is closed")) << hllm_error_message();
}

TEST_F(Refusal, ArgumentStructs) {
    hllm_rope_scatter_args rope{};
    hllm_adamw_args adamw{};
    hllm_infonce_args infonce{};
    hllm_attention_backward_args attention{};
    hllm_plan_args plan_args{};
    hllm_plan* made = nullptr;
    auto both = [](const char* op, auto& args, auto&& call) {
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, call(static_cast<decltype(&args)>(nullptr)));
        EXPECT_EQ(std::string(op) + ": args is NULL", hllm_error_message());
        args.struct_size = sizeof args - 1;
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, call(&args));
        EXPECT_EQ(0u, std::string(hllm_error_message()).find(std::string(op) + ": args has struct_size"))
            << hllm_error_message();
    };
    both("rope_scatter", rope, [&](auto* args) { return hllm_rope_scatter(context, args); });
    both("adamw", adamw, [&](auto* args) { return hllm_adamw(context, args); });
    both("infonce", infonce, [&](auto* args) { return hllm_infonce(context, args); });
    both("attention_backward", attention, [&](auto* args) { return hllm_attention_backward(context, args); });
    both("plan_create", plan_args, [&](auto* args) { return hllm_plan_create(context, args, &made); });
    EXPECT_EQ(nullptr, made);
}

TEST_F(Refusal, InfonceTakesAllGradientsOrNone) {
    const Operation* infonce = nullptr;
    for (const Operation& op : operations)
        if (std::string(op.name) == "infonce") infonce = &op;
    ASSERT_NE(nullptr, infonce);
    enum { DU = 1, DP = 2, DN = 3, DSCALE = 4, TARGET_IDS = 8, NEGATIVE_IDS = 9 };
    for (int kept : {DP, DN, DSCALE}) {
        auto arguments = tensors(*infonce);
        for (int i : {DU, DP, DN, DSCALE})
            if (i != kept) arguments[i] = nullptr;
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, infonce->call(context, arguments)) << kept;
    }
    for (int dropped : {TARGET_IDS, NEGATIVE_IDS}) {
        auto arguments = tensors(*infonce);
        arguments[dropped] = nullptr;
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, infonce->call(context, arguments)) << dropped;
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), "target_ids and negative_ids")) << hllm_error_message();
    }
}

TEST_F(Refusal, Weights) {
    const auto *f32 = output({N, K}), *bf16 = halves(std::vector<uint16_t>(N * K), {N, K}),
               *i32 = ints(std::vector<int32_t>(N * K), {N, K}), *flat = output({N});
    hllm_weight* made = nullptr;
    auto refused = [&](const hllm_tensor* source, int32_t storage, const char* text) {
        EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_weight_create(context, source, storage, &made));
        EXPECT_NE(nullptr, std::strstr(hllm_error_message(), text)) << hllm_error_message();
        EXPECT_EQ(nullptr, made);
    };
    refused(i32, HLLM_F32, "weight_create: source is i32");
    refused(flat, HLLM_F32, "weight_create: source is f32 of rank 1");
    refused(f32, HLLM_I32, "weight_create: storage 2");
    refused(f32, -1, "weight_create: storage -1");
    refused(bf16, HLLM_F32, "weight_create: a bf16 source");
    refused(nullptr, HLLM_F32, "weight_create: source is NULL");
    EXPECT_EQ(HLLM_INVALID_ARGUMENT, hllm_weight_create(context, f32, HLLM_F32, nullptr));
    EXPECT_STREQ("weight_create: weight is NULL", hllm_error_message());
}

}  // namespace
}  // namespace hllm_test
