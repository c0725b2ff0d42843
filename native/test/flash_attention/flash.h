// The part of FlashAttention's flash.h that native/cuda/flash_attention.cu uses, for tests without its sources: the same
// names with the same meanings. A build with the sources compiles the same code against theirs.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace flash {

// Strides are in elements. There are more strides, from one batch to the next; they are 0 where cu_seqlens says where each
// sequence begins.
struct Flash_fwd_params {
    void *q_ptr, *k_ptr, *v_ptr;
    int64_t q_row_stride, k_row_stride, v_row_stride;
    int64_t q_head_stride, k_head_stride, v_head_stride;
    int h, h_k, h_h_k_ratio;  // query heads, key heads
    void* o_ptr;
    int64_t o_row_stride, o_head_stride;
    void* softmax_lse_ptr;
    // Sequences, the longest of queries and of keys, the width of a head; rounded up to 128, 128 and 32.
    int b, seqlen_q, seqlen_k, d, seqlen_q_rounded, seqlen_k_rounded, d_rounded;
    int total_q;  // with unpadded_lse: log-sum-exp is [h, total_q]
    float scale_softmax, scale_softmax_log2;
    int *cu_seqlens_q, *cu_seqlens_k;  // [b + 1]
    float p_dropout;                   // the probability of keeping
    uint8_t p_dropout_in_uint8_t;
    float rp_dropout, scale_softmax_rp_dropout;
    int window_size_left, window_size_right;  // -1: no limit
    uint64_t* rng_state;
    bool is_bf16, is_causal, is_seqlens_k_cumulative, unpadded_lse;
};

struct Flash_bwd_params : Flash_fwd_params {
    void *do_ptr, *dq_ptr, *dk_ptr, *dv_ptr;
    void* dq_accum_ptr;
    int64_t do_row_stride, do_head_stride;
    int64_t dq_row_stride, dk_row_stride, dv_row_stride;
    int64_t dq_head_stride, dk_head_stride, dv_head_stride;
    void* dsoftmax_sum;
    bool deterministic;
    int64_t dq_accum_split_stride;
};

template <typename T, int Headdim, bool Is_causal>
void run_mha_fwd_(Flash_fwd_params& params, cudaStream_t stream);
template <typename T, int Headdim, bool Is_causal>
void run_mha_bwd_(Flash_bwd_params& params, cudaStream_t stream);

}  // namespace flash
