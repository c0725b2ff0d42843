// Attention by the FlashAttention library, where the build was given its sources (-DHLLM_FLASH_ATTENTION=...).
//
// The library knows sequences of queries, each with one sequence of keys. It cuts each into tiles of its own, of 128 rows,
// and so takes what fills them; our own kernels, whose tiles short sequences share, do everything else. It takes
//   bf16 tensors that fit our tensor-core path, with a scale above 0, in calls that are not captured (a graph has to follow
//   updates of its plan, and the library's launches do not);
//   plans whose segments cover all queries and see as many keys of their own each, one segment's keys behind the other's,
//   with at least FLASH_ROWS rows in a segment on average: packed sequences;
//   and, before their own keys, in all segments from some one on, the same prefix of at least FLASH_PREFIX keys: a prompt, a
//   history. That takes two calls, of the own keys and of the prefix, merged by log-sum-exp. Merging moves each row four
//   times, which pays where the prefix is long.
#pragma once
#include "abi/backend.h"

namespace hllm::cuda {

constexpr int FLASH_ROWS = 64, FLASH_PREFIX = 512;

// "attention by ...": for device info.
const char* attention_provider();

// Whether the library took the call. The tensors fit the tensor-core path (fits_mma).
bool flash_forward(Context& context, const View& out, const View& lse, const View& q, const View& k, const View& v,
                   const Plan& plan, float scale);
bool flash_backward(Context& context, const View& dq, const View& dk, const View& dv, const View& out, const View& lse,
                    const View& dout, const View& q, const View& k, const View& v, const Plan& plan, float scale);

}  // namespace hllm::cuda
