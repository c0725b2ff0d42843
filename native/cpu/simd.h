// Which instruction set the process runs with: detected once, at run time. HLLM_ISA=avx512, avx2 or baseline in the
// environment asks for a lower one, to compare or to test.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <string>

namespace hllm {

enum class Simd { BASELINE, AVX2, AVX512, AVX512_BF16 };

inline Simd simd() {
#if defined(__x86_64__)
    static const Simd detected = [] {
        __builtin_cpu_init();
        const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512cd");
        const char* asked = std::getenv("HLLM_ISA");
        const std::string isa = asked ? asked : "";
        const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
        const Simd limit = isa == "baseline" ? Simd::BASELINE
                           : isa == "avx2"   ? Simd::AVX2
                           : isa == "avx512" ? Simd::AVX512
                                             : Simd::AVX512_BF16;
        return std::min(limit, bf16 ? Simd::AVX512_BF16 : avx512 ? Simd::AVX512 : avx2 ? Simd::AVX2 : Simd::BASELINE);
    }();
    return detected;
#else
    return Simd::BASELINE;  // elsewhere the compiler's baseline has SIMD (NEON)
#endif
}

}  // namespace hllm
