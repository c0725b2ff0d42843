#include "cpu/gemm.h"

#include <blis.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "cpu/simd.h"
#include "cpu/team.h"

namespace hllm {
namespace {

// BLIS knows processors by model number and treats one newer than itself as "generic", five times slower: choose its
// kernel set by instruction set instead. A user's own BLIS_ARCH_TYPE stands.
const bool kernels_chosen = [] {
    const Simd level = simd();
    (void)level;
#ifdef BLIS_CONFIG_SKX
    if (level >= Simd::AVX512) setenv("BLIS_ARCH_TYPE", std::to_string(BLIS_ARCH_SKX).c_str(), 0);
#endif
#ifdef BLIS_CONFIG_HASWELL
    if (level == Simd::AVX2) setenv("BLIS_ARCH_TYPE", std::to_string(BLIS_ARCH_HASWELL).c_str(), 0);
#endif
    return true;
}();

// Below this many rows BLIS may take its path for small matrices, whose order of summation can depend on the shape of a
// piece; there, pieces depend on the shape of the whole alone. Above, that path is off, and an element's sum is the same
// however the matrix is cut.
constexpr int64_t SMALL_ROWS = 64;
constexpr int64_t ALIGN = 32;  // cuts fall between register tiles, or near enough

void call(int64_t m, int64_t n, int64_t k, const float* a, int64_t rsa, int64_t csa, const float* b, int64_t rsb, int64_t csb,
          float* c, int64_t rsc, bool accumulate, bool small) {
    rntm_t runtime;
    bli_rntm_init_from_global(&runtime);  // bli_rntm_init is not public, and gone since BLIS 1.0
    if (!small) bli_rntm_disable_l3_sup(&runtime);
    float one = 1, beta = accumulate ? 1 : 0;
    bli_sgemm_ex(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, m, n, k, &one, const_cast<float*>(a), rsa, csa, const_cast<float*>(b),
                 rsb, csb, &beta, c, rsc, 1, nullptr, &runtime);
}

}  // namespace

void gemm_serial(int64_t m, int64_t n, int64_t k, const float* a, int64_t rsa, int64_t csa, const float* b, int64_t rsb,
                 int64_t csb, float* c, int64_t rsc, bool accumulate) {
    if (m == 0 || n == 0) return;
    if (k == 0) {
        if (!accumulate)
            for (int64_t i = 0; i < m; i++) std::fill_n(c + i * rsc, n, 0.f);
        return;
    }
    call(m, n, k, a, rsa, csa, b, rsb, csb, c, rsc, accumulate, m <= SMALL_ROWS);
}

void gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t rsa, int64_t csa, const float* b, int64_t rsb, int64_t csb,
          float* c, int64_t rsc, bool accumulate) {
    if (m == 0 || n == 0 || k == 0) return gemm_serial(m, n, k, a, rsa, csa, b, rsb, csb, c, rsc, accumulate);
    const bool small = m <= SMALL_ROWS;
    auto block = [&](int64_t i, int64_t j, int64_t rows, int64_t columns) {
        call(rows, columns, k, a + i * rsa, rsa, csa, b + j * csb, rsb, csb, c + i * rsc + j, rsc, accumulate, small);
    };
    if (small) {
        // A dozen pieces keep a team busy; wider ones than 384 columns gain nothing.
        const int64_t columns = std::clamp<int64_t>((n / 12 + ALIGN - 1) / ALIGN * ALIGN, 96, 384);
        team().ranges(n, columns, [&](int64_t j, int64_t end, int) { block(0, j, m, end - j); });
        return;
    }
    if (m * n * k < 1 << 20) return block(0, 0, m, n);
    // One slab per thread along the longer side: the other operand is packed once per slab.
    const int64_t parts = team().size(), longer = std::max(m, n);
    const int64_t slab = ((longer + parts - 1) / parts + ALIGN - 1) / ALIGN * ALIGN;
    if (m >= n)
        team().ranges(m, slab, [&](int64_t i, int64_t end, int) { block(i, 0, end - i, n); });
    else
        team().ranges(n, slab, [&](int64_t j, int64_t end, int) { block(0, j, m, end - j); });
}

const char* gemm_info() {
    bli_init();  // asking for the kernel set before the first product would abort
    static const std::string text =
        std::string("BLIS ") + bli_info_get_version_str() + " (" + bli_arch_string(bli_arch_query_id()) + ")";
    return text.c_str();
}

}  // namespace hllm
