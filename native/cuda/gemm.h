// Matrix products beyond Backend::matmul.
#pragma once
#include <string>

namespace hllm::cuda {

std::string gemm_info();  // "cuBLASLt 13.1.2"

}  // namespace hllm::cuda
