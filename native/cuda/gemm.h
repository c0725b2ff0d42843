// Matrix products beyond Backend::matmul.
#pragma once
#include <string>

namespace hllm::cuda {

struct Gemm;
struct Queue;

std::string gemm_info();      // "cuBLASLt 13.1.2"
Gemm& gemm_of(Queue& queue);  // made when it is first asked for

}  // namespace hllm::cuda
