// A fake of the FlashAttention library: what its kernels make of their parameters (read from the sources of 2.8.3), in plain
// C++ on the emulator's memory. Like theirs, a call only enqueues; blocks go over the same tiles, so that what lies beside a
// sequence, and what nobody has zeroed, is touched here too.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "cuda_emulator/engine.h"
#include "flash.h"

namespace cutlass {
struct bfloat16_t;
}

namespace {

using hllm::cuda::bf16;
using hllm::cuda::to_bf16;
using hllm::cuda::to_float;
namespace emulator = hllm::cuda::emulator;

constexpr double LOG2_E = 1.4426950408889634;
constexpr int KEY_TILE = 128;

int rounded(int n, int unit) { return (n + unit - 1) / unit * unit; }

void require(bool condition, const char* what) {
    if (!condition) emulator::report(std::string("FlashAttention: ") + what);
}

// An array that the library takes to lie at `data`.
template <class T>
struct Array {
    T* data;
    Array(void* data, int64_t first, int64_t count) : data(static_cast<T*>(data)) {
        require(reinterpret_cast<uintptr_t>(data) % sizeof(T) == 0, "an address is not aligned");
        if (count > 0) emulator::require_live("FlashAttention", this->data + first, count * sizeof(T));
    }
    T& operator[](int64_t i) const { return data[i]; }
};

// [rows, heads, d], whose rows [begin, end) are used.
struct Heads {
    bf16* data;
    int64_t row_stride, head_stride;
    Heads(void* data, int64_t row_stride, int64_t head_stride, int begin, int end, int heads, int d)
        : data(static_cast<bf16*>(data)), row_stride(row_stride), head_stride(head_stride) {
        require(reinterpret_cast<uintptr_t>(data) % 16 == 0 && row_stride % 8 == 0 && head_stride % 8 == 0,
                "rows that do not begin on 16 bytes");
        for (int row = begin; row < end; row++) Array<bf16>(at(row, 0), 0, (heads - 1) * head_stride + d);
    }
    bf16* at(int64_t row, int head) const { return data + row * row_stride + head * head_stride; }
};
float dot(const bf16* a, const bf16* b, int d) {
    float sum = 0;
    for (int e = 0; e < d; e++) sum += to_float(a[e]) * to_float(b[e]);
    return sum;
}

struct Sequence {
    int query, queries, key, keys;
    // Keys that a query sees; the last sees all.
    int seen(const flash::Flash_fwd_params& p, int i) const { return p.is_causal ? keys - queries + 1 + i : keys; }
};

std::vector<Sequence> sequences(const flash::Flash_fwd_params& p) {
    const Array<int> q(p.cu_seqlens_q, 0, p.b + 1), k(p.cu_seqlens_k, 0, p.b + 1);
    std::vector<Sequence> all;
    for (int b = 0; b < p.b && !emulator::broken(); b++) {
        all.push_back({q[b], q[b + 1] - q[b], k[b], k[b + 1] - k[b]});
        require(all.back().queries >= 0 && all.back().keys >= 0, "sequences out of order");
    }
    return all;
}

void check(const flash::Flash_fwd_params& p, int width, bool causal) {
    require(p.is_bf16 && p.d == width && p.d_rounded == width && p.is_causal == causal, "parameters of another instance");
    require(p.b > 0 && p.b <= 0xffff && p.h > 0 && p.h <= 0xffff, "a grid of no or of too many blocks");
    require(p.h_k > 0 && p.h == p.h_k * p.h_h_k_ratio, "h_h_k_ratio is not h / h_k");
    require(p.seqlen_q_rounded == rounded(p.seqlen_q, 128) && p.seqlen_k_rounded == rounded(p.seqlen_k, 128),
            "lengths are not rounded up to 128");
    require(p.is_seqlens_k_cumulative && p.unpadded_lse && p.cu_seqlens_q && p.cu_seqlens_k, "not packed sequences");
    require(
        p.p_dropout == 1 && p.rp_dropout == 1 && p.p_dropout_in_uint8_t == 255 && p.scale_softmax_rp_dropout == p.scale_softmax,
        "dropout, which is compiled out");
    require(std::abs(p.scale_softmax_log2 - p.scale_softmax * LOG2_E) <= 1e-6 * p.scale_softmax, "scales that disagree");
    require(causal ? p.window_size_right == 0 && p.window_size_left == p.seqlen_k
                   : p.window_size_right < 0 && p.window_size_left < 0,
            "a window, which is compiled out");
    require(int64_t{p.h} * (p.total_q + 128 * int64_t{p.b}) <= INT32_MAX, "more rows than 32 bits count");
}

void forward(const flash::Flash_fwd_params& p) {
    for (const Sequence& s : sequences(p)) {
        const int end = s.query + std::min(s.queries, rounded(p.seqlen_q, 128));  // of what the grid computes
        const Heads q(p.q_ptr, p.q_row_stride, p.q_head_stride, s.query, end, p.h, p.d),
            o(p.o_ptr, p.o_row_stride, p.o_head_stride, s.query, end, p.h, p.d),
            k(p.k_ptr, p.k_row_stride, p.k_head_stride, s.key, s.key + s.keys, p.h_k, p.d),
            v(p.v_ptr, p.v_row_stride, p.v_head_stride, s.key, s.key + s.keys, p.h_k, p.d);
        for (int h = 0; h < p.h && !emulator::broken(); h++) {
            const Array<float> lse(p.softmax_lse_ptr, int64_t{h} * p.total_q + s.query, end - s.query);
            if (emulator::broken()) return;
            for (int i = 0; i < end - s.query; i++) {
                const int seen = s.seen(p, i);
                std::vector<float> scores, sum(p.d);
                float high = -INFINITY, total = 0;
                for (int j = 0; j < seen; j++) {
                    scores.push_back(dot(q.at(s.query + i, h), k.at(s.key + j, h / p.h_h_k_ratio), p.d));
                    high = std::max(high, scores.back());
                }
                for (int j = 0; j < seen; j++) {
                    const float weight = std::exp2(scores[j] * p.scale_softmax_log2 - high * p.scale_softmax_log2);
                    total += weight;
                    for (int e = 0; e < p.d; e++) sum[e] += weight * to_float(v.at(s.key + j, h / p.h_h_k_ratio)[e]);
                }
                for (int e = 0; e < p.d; e++) o.at(s.query + i, h)[e] = to_bf16(total > 0 ? sum[e] / total : 0);
                lse[int64_t{h} * p.total_q + s.query + i] = total > 0 ? high * p.scale_softmax + std::log(total) : INFINITY;
            }
        }
    }
}

// The tensors of a backward call, as a sequence with index `b` uses them.
struct Backward {
    const flash::Flash_bwd_params& p;
    const Sequence& s;
    int b, tile, splits;
    int end = s.query + std::min(s.queries, rounded(p.seqlen_q, tile));
    Heads q{p.q_ptr, p.q_row_stride, p.q_head_stride, s.query, end, p.h, p.d},
        o{p.o_ptr, p.o_row_stride, p.o_head_stride, s.query, end, p.h, p.d},
        dout{p.do_ptr, p.do_row_stride, p.do_head_stride, s.query, end, p.h, p.d},
        dq{p.dq_ptr, p.dq_row_stride, p.dq_head_stride, s.query, end, p.h, p.d},
        k{p.k_ptr, p.k_row_stride, p.k_head_stride, s.key, s.key + s.keys, p.h_k, p.d},
        v{p.v_ptr, p.v_row_stride, p.v_head_stride, s.key, s.key + s.keys, p.h_k, p.d},
        dk{p.dk_ptr, p.dk_row_stride, p.dk_head_stride, s.key, s.key + s.keys, p.h, p.d},
        dv{p.dv_ptr, p.dv_row_stride, p.dv_head_stride, s.key, s.key + s.keys, p.h, p.d};
    // Sequences lie 128 rows further apart here: whole tiles are written.
    int padded = rounded(end - s.query, tile), first = s.query + 128 * b;
    Array<float> sum{p.dq_accum_ptr, int64_t{first} * p.h* p.d,
                     (splits - 1) * p.dq_accum_split_stride + int64_t{padded} * p.h* p.d};

    float& sum_at(int split, int i, int h, int e) const {
        return sum[split * p.dq_accum_split_stride + (int64_t{first + i} * p.h + h) * p.d + e];
    }

    void run(int h) const {
        const int64_t at_delta = h * (p.total_q + 128 * int64_t{p.b}) + first, at_lse = int64_t{h} * p.total_q + s.query;
        const Array<float> delta(p.dsoftmax_sum, at_delta, padded), lse(p.softmax_lse_ptr, at_lse, end - s.query);
        if (emulator::broken()) return;
        for (int i = 0; i < padded; i++)
            delta[at_delta + i] = i < s.queries ? dot(o.at(s.query + i, h), dout.at(s.query + i, h), p.d) : 0;
        for (int split = 0; split < splits; split++)
            for (int n = split * KEY_TILE; n < std::min(s.keys, rounded(p.seqlen_k, KEY_TILE)); n += splits * KEY_TILE)
                for (int j = n; j < std::min(n + KEY_TILE, s.keys); j++)
                    add_key(h, split, j, lse.data + at_lse, delta.data + at_delta);
        for (int i = 0; i < end - s.query; i++)
            for (int e = 0; e < p.d; e++) {
                float total = 0;
                for (int split = 0; split < splits; split++) total += sum_at(split, i, h, e);
                dq.at(s.query + i, h)[e] = to_bf16(total * p.scale_softmax_rp_dropout);
            }
    }

    void add_key(int h, int split, int j, const float* lse, const float* delta) const {
        std::vector<float> sum_k(p.d), sum_v(p.d);
        const bf16 *key = k.at(s.key + j, h / p.h_h_k_ratio), *value = v.at(s.key + j, h / p.h_h_k_ratio);
        for (int i = 0; i < padded; i++) {
            float weight = 0, slope = 0;
            if (i < end - s.query && j < s.seen(p, i)) {
                const bf16 *row = q.at(s.query + i, h), *drow = dout.at(s.query + i, h);
                weight = std::exp2(dot(row, key, p.d) * p.scale_softmax_log2 - lse[i] * static_cast<float>(LOG2_E));
                slope = weight * (dot(drow, value, p.d) - delta[i]);
                for (int e = 0; e < p.d; e++) {
                    sum_k[e] += slope * to_float(row[e]);
                    sum_v[e] += weight * to_float(drow[e]);
                }
            }
            for (int e = 0; e < p.d; e++) sum_at(split, i, h, e) += slope * to_float(key[e]);
        }
        for (int e = 0; e < p.d; e++) {
            dk.at(s.key + j, h)[e] = to_bf16(sum_k[e] * p.scale_softmax_rp_dropout);
            dv.at(s.key + j, h)[e] = to_bf16(sum_v[e]);
        }
    }
};

void backward(const flash::Flash_bwd_params& p) {
    require(p.deterministic, "sums in no fixed order");
    Array<uint64_t>(p.rng_state, 0, 2);
    cudaDeviceProp card;
    cudaGetDeviceProperties(&card, 0);
    const int blocks = p.b * p.h, splits = (card.multiProcessorCount + blocks - 1) / blocks;
    const std::vector<Sequence> all = sequences(p);
    for (size_t b = 0; b < all.size() && !emulator::broken(); b++) {
        const Backward one{p, all[b], static_cast<int>(b), p.d == 64 ? 128 : 64, splits};
        for (int h = 0; h < p.h && !emulator::broken(); h++) one.run(h);
    }
}

}  // namespace

namespace flash {

template <typename, int Headdim, bool Is_causal>
void run_mha_fwd_(Flash_fwd_params& params, cudaStream_t stream) {
    check(params, Headdim, Is_causal);
    emulator::enqueue(stream, [params] { forward(params); });
}
template <typename, int Headdim, bool Is_causal>
void run_mha_bwd_(Flash_bwd_params& params, cudaStream_t stream) {
    check(params, Headdim, Is_causal);
    emulator::enqueue(stream, [params] { backward(params); });
}

#define INSTANCE(width, causal)                                                                      \
    template void run_mha_fwd_<cutlass::bfloat16_t, width, causal>(Flash_fwd_params&, cudaStream_t); \
    template void run_mha_bwd_<cutlass::bfloat16_t, width, causal>(Flash_bwd_params&, cudaStream_t)
INSTANCE(64, false);
INSTANCE(64, true);
INSTANCE(128, false);
INSTANCE(128, true);

}  // namespace flash
