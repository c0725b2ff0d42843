#include "cuda/flash_attention.h"

#ifndef HLLM_FLASH_ATTENTION  // its version

namespace hllm::cuda {

const char* attention_provider() { return "attention by hllm"; }
bool flash_forward(Context&, const View&, const View&, const View&, const View&, const View&, const Plan&, float) {
    return false;
}
bool flash_backward(Context&, const View&, const View&, const View&, const View&, const View&, const View&, const View&,
                    const View&, const View&, const Plan&, float) {
    return false;
}

}  // namespace hllm::cuda

#else

#include <flash.h>

#include <cstdlib>

#include "cuda/attention.cuh"
#include "cuda/pack.cuh"

namespace cutlass {
struct bfloat16_t;
}

namespace hllm::cuda {

// One call of the library: rows of q from first_query on and of k and v from first_key on, cut into sequences.
struct FlashPass {
    bool causal;
    int first_query, queries, first_key, keys;
    int sequences, longest_queries, longest_keys;
    const int32_t *query_offsets, *key_offsets;  // [sequences + 1], in device memory
};

// Of the own keys, and of the prefix, if there is one; none where the plan is not for the library.
struct FlashPlan {
    std::vector<FlashPass> passes;
    std::shared_ptr<Buffer> offsets;
};

namespace {

// HLLM_ATTENTION=hllm in the environment leaves the library out, to compare.
bool left_out() {
    static const bool out = [] {
        const char* wanted = std::getenv("HLLM_ATTENTION");
        return wanted && std::string(wanted) == "hllm";
    }();
    return out;
}

constexpr int TILE_ROWS = 128;         // the most that a tile of the library has
constexpr int MAX_SEQUENCES = 0xffff;  // a dimension of its grids

int rounded(int rows) { return (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS; }

// The passes, but for the addresses of the offsets, of which the own ones are in `offsets`.
std::vector<FlashPass> passes_of(const Plan& plan, std::vector<int32_t>& offsets) {
    const auto segments = static_cast<int>(plan.segments.size());
    if (segments == 0 || segments > MAX_SEQUENCES || plan.query_rows / segments < FLASH_ROWS) return {};
    auto own_keys = [&](const Plan::Segment& s) { return plan.spans[s.span + s.spans - 1]; };
    const int first_key = own_keys(plan.segments[0]).begin;
    FlashPass own{plan.causal, 0, 0, first_key, 0, segments, 0, 0, nullptr, nullptr};
    FlashPass prefix{};
    offsets = {0};
    for (const Plan::Segment& segment : plan.segments) {
        const Plan::Span& before = plan.spans[segment.span];
        const Plan::Span keys = own_keys(segment);
        if (segment.spans > 2 || segment.query != own.queries || keys.begin != first_key + own.keys ||
            keys.length != segment.queries)
            return {};
        if (segment.spans == 2 && prefix.sequences == 0)
            prefix = {false, segment.query, 0, before.begin, before.length, 1, 0, before.length, nullptr, nullptr};
        const bool sees_prefix = segment.spans == 2 && before.begin == prefix.first_key && before.length == prefix.keys;
        if (sees_prefix != (prefix.sequences > 0)) return {};
        own.queries += segment.queries;
        own.keys = own.queries;
        own.longest_queries = own.longest_keys = std::max(own.longest_queries, segment.queries);
        offsets.push_back(own.queries);
    }
    if (own.queries != plan.query_rows) return {};
    if (prefix.sequences == 0) return {own};
    if (prefix.keys < FLASH_PREFIX) return {};
    prefix.queries = prefix.longest_queries = own.queries - prefix.first_query;
    return {own, prefix};
}

std::shared_ptr<const FlashPlan> make_flash_plan(Context& context, const Plan& plan) {
    auto made = std::make_shared<FlashPlan>();
    std::vector<int32_t> offsets;
    made->passes = passes_of(plan, offsets);
    if (made->passes.empty()) return made;
    const size_t own = offsets.size();
    for (const FlashPass& pass : made->passes) offsets.insert(offsets.end(), {0, pass.queries, 0, pass.keys});
    const auto bytes = static_cast<int64_t>(offsets.size() * sizeof offsets[0]);
    made->offsets = std::make_shared<Buffer>(context, bytes);
    context.backend->write(context, made->offsets->data, offsets.data(), bytes);
    const auto* at = static_cast<const int32_t*>(made->offsets->data);
    made->passes[0].query_offsets = made->passes[0].key_offsets = at;
    if (made->passes.size() > 1) {
        made->passes[1].query_offsets = at + own + 4;
        made->passes[1].key_offsets = at + own + 6;
    }
    return made;
}

// The passes of a call that the library takes; none for the others. They last as long as the result does.
std::shared_ptr<const FlashPlan> flash_plan(Context& context, const Plan& plan, const View& q, int64_t lse_stride,
                                            float scale) {
    static const auto none = std::make_shared<const FlashPlan>();
    if (context.capture || !(scale > 0) || left_out()) return none;
    auto made = device_plan(plan).flash(context, [&] { return make_flash_plan(context, plan); });
    // The library counts rows of all heads in 32 bits.
    const int64_t padded = lse_stride + int64_t{TILE_ROWS} * static_cast<int64_t>(plan.segments.size());
    return padded * q.shape[1] > INT32_MAX ? none : made;
}

// ---- The library's parameters ----

template <class T>
T* from(const HeadRows<T>& rows, int row) {
    return rows.data + row * rows.row_stride;
}
void* untyped(const void* p) { return const_cast<void*>(p); }

struct Inputs {
    HeadRows<const bf16> q, k, v;
    int heads, key_heads, Dh;
    float scale;
    static Inputs of(const View& q, const View& k, const View& v, float scale) {
        return {head_rows<const bf16>(q),
                head_rows<const bf16>(k),
                head_rows<const bf16>(v),
                static_cast<int>(q.shape[1]),
                static_cast<int>(k.shape[1]),
                static_cast<int>(q.shape[2]),
                scale};
    }
};

// `out` and `lse` are of the pass's own queries.
void set_forward(flash::Flash_fwd_params& p, const FlashPass& pass, const Inputs& in, const HeadRows<const bf16>& out,
                 const RowValues& lse) {
    p.q_ptr = untyped(from(in.q, pass.first_query)), p.q_row_stride = in.q.row_stride, p.q_head_stride = in.q.head_stride;
    p.k_ptr = untyped(from(in.k, pass.first_key)), p.k_row_stride = in.k.row_stride, p.k_head_stride = in.k.head_stride;
    p.v_ptr = untyped(from(in.v, pass.first_key)), p.v_row_stride = in.v.row_stride, p.v_head_stride = in.v.head_stride;
    p.o_ptr = untyped(out.data), p.o_row_stride = out.row_stride, p.o_head_stride = out.head_stride;
    p.h = in.heads, p.h_k = in.key_heads, p.h_h_k_ratio = in.heads / in.key_heads;
    p.d = p.d_rounded = in.Dh;
    p.b = pass.sequences;
    p.seqlen_q = pass.longest_queries, p.seqlen_q_rounded = rounded(pass.longest_queries);
    p.seqlen_k = pass.longest_keys, p.seqlen_k_rounded = rounded(pass.longest_keys);
    p.cu_seqlens_q = const_cast<int*>(pass.query_offsets);
    p.cu_seqlens_k = const_cast<int*>(pass.key_offsets);
    p.is_seqlens_k_cumulative = true;
    // [heads, total_q]
    p.softmax_lse_ptr = lse.data, p.total_q = static_cast<int>(lse.head_stride), p.unpadded_lse = true;
    p.scale_softmax = p.scale_softmax_rp_dropout = in.scale;
    p.scale_softmax_log2 = in.scale * LOG2_E;
    p.p_dropout = p.rp_dropout = 1;  // the probability to keep a weight
    p.p_dropout_in_uint8_t = 255;
    p.is_bf16 = true;
    p.is_causal = pass.causal;
    p.window_size_left = pass.causal ? pass.longest_keys : -1;
    p.window_size_right = pass.causal ? 0 : -1;
}

template <int Dh, bool CAUSAL>
void enter(flash::Flash_fwd_params& p, cudaStream_t stream) {
    flash::run_mha_fwd_<cutlass::bfloat16_t, Dh, CAUSAL>(p, stream);
}
template <int Dh, bool CAUSAL>
void enter(flash::Flash_bwd_params& p, cudaStream_t stream) {
    flash::run_mha_bwd_<cutlass::bfloat16_t, Dh, CAUSAL>(p, stream);
}
template <class Params>
void run(Params& p, cudaStream_t stream) {
    if (p.d == 64)
        p.is_causal ? enter<64, true>(p, stream) : enter<64, false>(p, stream);
    else
        p.is_causal ? enter<128, true>(p, stream) : enter<128, false>(p, stream);
}

// [rows, heads, Dh]
HeadRows<bf16> take_rows(Context& context, int64_t rows, int heads, int Dh) {
    return {context.scratch.take<bf16>(rows * heads * Dh), int64_t{heads} * Dh, Dh};
}
template <class T>
HeadRows<const T> read_only(const HeadRows<T>& rows) {
    return {rows.data, rows.row_stride, rows.head_stride};
}

// ---- What the passes leave to do ----

// out holds the answers from the queries' own keys, `part` those from the prefix, for the queries from `first` on.
struct MergePasses {
    static constexpr int MAX_THREADS = BLOCK;
    HeadRows<bf16> out;
    RowValues lse;  // data may be null
    RowValues own_lse;
    HeadRows<const bf16> part;
    RowValues part_lse;
    int first, rows, heads, Dh;

    HLLM_KERNEL void operator()() const {
        for_each_row_pack<8>(int64_t{rows} * heads, Dh, [&](int64_t row, int64_t e) {
            const auto query = static_cast<int>(row / heads), head = static_cast<int>(row % heads);
            const float own = *own_lse.at(query, head);
            float merged = own;
            if (query >= first) {
                const float other = *part_lse.at(query - first, head), high = fmaxf(own, other);
                merged = high + logf(expf(own - high) + expf(other - high));
                const float keep = expf(own - merged), add = expf(other - merged);
                auto sum = load<8>(out.at(query, head) + e);
                const auto more = load<8>(part.at(query - first, head) + e);
                for (int i = 0; i < 8; i++) sum[i] = keep * sum[i] + add * more[i];
                store(out.at(query, head) + e, sum);
            }
            if (lse.data && e == 0) *lse.at(query, head) = merged;
        });
    }
};

// to += part
struct AddRows {
    static constexpr int MAX_THREADS = BLOCK;
    HeadRows<bf16> to;
    HeadRows<const bf16> part;
    int rows, heads, Dh;

    HLLM_KERNEL void operator()() const {
        for_each_row_pack<8>(int64_t{rows} * heads, Dh, [&](int64_t row, int64_t e) {
            const auto query = static_cast<int>(row / heads), head = static_cast<int>(row % heads);
            auto sum = load<8>(to.at(query, head) + e);
            const auto more = load<8>(part.at(query, head) + e);
            for (int i = 0; i < 8; i++) sum[i] += more[i];
            store(to.at(query, head) + e, sum);
        });
    }
};

// dk or dv: the library's, of each query head and each pass, added up for each key head.
struct SumKeyGradients {
    static constexpr int MAX_THREADS = BLOCK;
    struct Part {
        const bf16* data;  // [keys, heads, Dh]
        int first, keys;
    };
    HeadRows<bf16> to;
    Part parts[2];
    int rows, key_heads, group, Dh;

    HLLM_KERNEL void operator()() const {
        for_each_row_pack<8>(int64_t{rows} * key_heads, Dh, [&](int64_t row, int64_t e) {
            const auto key = static_cast<int>(row / key_heads), head = static_cast<int>(row % key_heads);
            Pack<8> sum{};
            for (const Part& part : parts) {
                if (key < part.first || key >= part.first + part.keys) continue;
                const bf16* at = part.data + (int64_t{key - part.first} * key_heads + head) * group * Dh + e;
                for (int i = 0; i < group; i++) {
                    const auto more = load<8>(at + i * Dh);
                    for (int j = 0; j < 8; j++) sum[j] += more[j];
                }
            }
            store(to.at(key, head) + e, sum);
        });
    }
};

}  // namespace

const char* attention_provider() {
    if (left_out()) return "attention by hllm (HLLM_ATTENTION; FlashAttention " HLLM_FLASH_ATTENTION " is there)";
    static const std::string text = "attention by FlashAttention " HLLM_FLASH_ATTENTION " in sequences of " +
                                    std::to_string(FLASH_ROWS) + " rows and more on average, else by hllm";
    return text.c_str();
}

bool flash_forward(Context& context, const View& out, const View& lse, const View& q, const View& k, const View& v,
                   const Plan& plan, float scale) {
    const auto in = Inputs::of(q, k, v, scale);
    const RowValues saved = row_values(lse);
    const auto taken = flash_plan(context, plan, q, saved.data ? saved.head_stride : q.shape[0], scale);
    if (taken->passes.empty()) return false;
    const cudaStream_t stream = stream_of(context);
    auto take_lse = [&](int64_t rows) { return RowValues{context.scratch.take<float>(in.heads * rows), rows}; };
    auto call = [&](const FlashPass& pass, const HeadRows<bf16>& to, const RowValues& to_lse) {
        flash::Flash_fwd_params p{};
        set_forward(p, pass, in, read_only(to), to_lse);
        run(p, stream);
    };
    const auto to = head_rows<bf16>(out);
    const bool merges = taken->passes.size() > 1;
    const RowValues own_lse = saved.data && !merges ? saved : take_lse(q.shape[0]);
    call(taken->passes[0], to, own_lse);
    if (!merges) return true;
    const FlashPass& prefix = taken->passes[1];
    const auto part = take_rows(context, prefix.queries, in.heads, in.Dh);
    const RowValues part_lse = take_lse(prefix.queries);
    call(prefix, part, part_lse);
    const auto rows = static_cast<int>(q.shape[0]);
    launch_items(context, q.elements() / 8,
                 MergePasses{to, saved, own_lse, read_only(part), part_lse, prefix.first_query, rows, in.heads, in.Dh});
    return true;
}

// Both passes get the merged output and log-sum-exp, with which each one's probabilities are those of the whole.
bool flash_backward(Context& context, const View& dq, const View& dk, const View& dv, const View& out, const View& lse,
                    const View& dout, const View& q, const View& k, const View& v, const Plan& plan, float scale) {
    const auto in = Inputs::of(q, k, v, scale);
    const RowValues saved = row_values(lse);
    const auto taken = flash_plan(context, plan, q, saved.head_stride, scale);
    if (taken->passes.empty()) return false;
    const cudaStream_t stream = stream_of(context);
    const auto to_q = head_rows<bf16>(dq), to_k = head_rows<bf16>(dk), to_v = head_rows<bf16>(dv);
    const auto from_out = head_rows<const bf16>(out), from_dout = head_rows<const bf16>(dout);

    // dq of the blocks that go over the keys of a sequence, each in a sum of its own: what makes the result deterministic.
    // Between sequences there is room for what their last tiles have too much.
    auto padded = [&](const FlashPass& pass) { return int64_t{pass.queries} + int64_t{TILE_ROWS} * pass.sequences; };
    auto split = [&](const FlashPass& pass) { return padded(pass) * in.heads * in.Dh; };
    auto splits = [&](const FlashPass& pass) {
        const int blocks = pass.sequences * in.heads;
        return (sm_count(context) + blocks - 1) / blocks;
    };
    int64_t sums = 0, deltas = 0;
    for (const FlashPass& pass : taken->passes) {
        sums = std::max(sums, splits(pass) * split(pass));
        deltas = std::max(deltas, in.heads * (saved.head_stride + int64_t{TILE_ROWS} * pass.sequences));
    }
    auto *sum = context.scratch.take<float>(sums), *delta = context.scratch.take<float>(deltas);
    auto* random = context.scratch.take<uint64_t>(2);  // read, though nothing is drawn

    auto call = [&](const FlashPass& pass, const HeadRows<bf16>& pass_dq, const HeadRows<bf16>& pass_dk,
                    const HeadRows<bf16>& pass_dv) {
        flash::Flash_bwd_params p{};
        const HeadRows<const bf16> pass_out{from(from_out, pass.first_query), from_out.row_stride, from_out.head_stride};
        set_forward(p, pass, in, pass_out, {saved.data + pass.first_query, saved.head_stride});
        p.do_ptr = untyped(from(from_dout, pass.first_query));
        p.do_row_stride = from_dout.row_stride, p.do_head_stride = from_dout.head_stride;
        p.dq_ptr = pass_dq.data, p.dq_row_stride = pass_dq.row_stride, p.dq_head_stride = pass_dq.head_stride;
        p.dk_ptr = pass_dk.data, p.dk_row_stride = pass_dk.row_stride, p.dk_head_stride = pass_dk.head_stride;
        p.dv_ptr = pass_dv.data, p.dv_row_stride = pass_dv.row_stride, p.dv_head_stride = pass_dv.head_stride;
        p.dq_accum_ptr = sum;
        p.dsoftmax_sum = delta;
        p.rng_state = random;
        p.deterministic = true;
        p.dq_accum_split_stride = split(pass);
        check(cudaMemsetAsync(sum, 0, splits(pass) * split(pass) * sizeof(float), stream), "attention_backward");
        run(p, stream);
    };

    const FlashPass& own = taken->passes[0];
    if (taken->passes.size() == 1 && in.heads == in.key_heads && own.keys == k.shape[0]) {
        call(own, to_q, to_k, to_v);
        return true;
    }
    SumKeyGradients of_k{to_k, {}, static_cast<int>(k.shape[0]), in.key_heads, in.heads / in.key_heads, in.Dh};
    SumKeyGradients of_v = of_k;
    of_v.to = to_v;
    for (size_t i = 0; i < taken->passes.size(); i++) {
        const FlashPass& pass = taken->passes[i];
        const auto pass_dk = take_rows(context, pass.keys, in.heads, in.Dh),
                   pass_dv = take_rows(context, pass.keys, in.heads, in.Dh);
        of_k.parts[i] = {pass_dk.data, pass.first_key, pass.keys};
        of_v.parts[i] = {pass_dv.data, pass.first_key, pass.keys};
        if (i == 0) {
            call(pass, to_q, pass_dk, pass_dv);
            continue;
        }
        const auto part = take_rows(context, pass.queries, in.heads, in.Dh);
        call(pass, part, pass_dk, pass_dv);
        launch_items(context, int64_t{pass.queries} * in.heads * in.Dh / 8,
                     AddRows{{from(to_q, pass.first_query), to_q.row_stride, to_q.head_stride},
                             read_only(part),
                             pass.queries,
                             in.heads,
                             in.Dh});
    }
    for (const auto& kernel : {of_k, of_v}) launch_items(context, k.elements() / 8, kernel);
    return true;
}

}  // namespace hllm::cuda
#endif
