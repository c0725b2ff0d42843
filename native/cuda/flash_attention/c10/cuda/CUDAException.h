// Stands in for PyTorch's header in a build of FlashAttention without it: a failing call becomes an exception of hllm.
#pragma once
#include <cuda_runtime.h>

#include <cstdio>  // as the original does, which the sources count on
#include <cstdlib>

namespace hllm::cuda {
void check(cudaError_t status, const char* what);
}

#define C10_CUDA_CHECK(call) ::hllm::cuda::check(call, "FlashAttention")
#define C10_CUDA_KERNEL_LAUNCH_CHECK() C10_CUDA_CHECK(cudaGetLastError())
