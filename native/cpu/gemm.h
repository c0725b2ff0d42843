// The one seam to the GEMM library.
#pragma once
#include <cstdint>

namespace hllm {

// c[m,n] = a[m,k] b[k,n], or +=; strides in elements, any layout for a and b, rows of c contiguous. Runs on the team;
// bits do not depend on its size.
void gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t rsa, int64_t csa, const float* b, int64_t rsb, int64_t csb,
          float* c, int64_t rsc, bool accumulate);

// The same on the calling thread alone, for use inside a team body.
void gemm_serial(int64_t m, int64_t n, int64_t k, const float* a, int64_t rsa, int64_t csa, const float* b, int64_t rsb,
                 int64_t csb, float* c, int64_t rsc, bool accumulate);

const char* gemm_info();  // "BLIS 0.9.0 (skx)"

}  // namespace hllm
