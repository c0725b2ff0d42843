// Which instruction set the process runs with: detected once, at run time.
#pragma once

namespace hllm {

enum class Simd { BASELINE, AVX2, AVX512 };

inline Simd simd() {
#if defined(__x86_64__)
    static const Simd detected = [] {
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd"))
            return Simd::AVX512;
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? Simd::AVX2 : Simd::BASELINE;
    }();
    return detected;
#else
    return Simd::BASELINE;  // elsewhere the compiler's baseline has SIMD (NEON)
#endif
}

}  // namespace hllm
