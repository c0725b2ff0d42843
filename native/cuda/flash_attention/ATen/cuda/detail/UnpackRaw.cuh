// Stands in for PyTorch's header in a build of FlashAttention without it: seed and offset of the generator, never used.
#pragma once
#include <ATen/cuda/CUDAGeneratorImpl.h>

#include <cstdint>
#include <tuple>

namespace at::cuda::philox {
__host__ __device__ inline std::tuple<uint64_t, uint64_t> unpack(PhiloxCudaState) { return {0, 0}; }
}  // namespace at::cuda::philox
