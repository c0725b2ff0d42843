// Portable SIMD with run-time dispatch on Highway's headers alone: nothing is linked, so libhllm.so stays self-contained.
//
// A kernel file is compiled once per instruction set:
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "cpu/rmsnorm.cpp"
//   #include "cpu/simd-inl.h"
//   HWY_BEFORE_NAMESPACE();
//   namespace hllm::HWY_NAMESPACE { ...kernels: free functions, no overloads... }
//   HWY_AFTER_NAMESPACE();
//   #if HWY_ONCE
//   ...ordinary code, which calls HLLM_DISPATCH(kernel)(arguments)...
//   #endif

// On x86 three sets are worth their compile time: the baseline, AVX2 + FMA, and AVX-512 as Skylake has it (simd.h detects
// just these). Everything newer (bits below AVX3's) and the SSE steps between are left out.
#if defined(__x86_64__) && !defined(HWY_DISABLED_TARGETS)
#define HWY_DISABLED_TARGETS (((1LL << 8) - 1) | (1LL << 11) | (1LL << 12))
#endif

#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
// after foreach_target.h
#include "hwy/highway.h"

#ifndef HLLM_DISPATCH
#include "cpu/simd.h"
#if defined(__x86_64__)
#define HLLM_DISPATCH(kernel)                             \
    (hllm::simd() >= hllm::Simd::AVX512 ? &N_AVX3::kernel \
     : hllm::simd() == hllm::Simd::AVX2 ? &N_AVX2::kernel \
                                        : &HWY_STATIC_DISPATCH(kernel))
#else
#define HLLM_DISPATCH(kernel) (&HWY_STATIC_DISPATCH(kernel))
#endif
#endif

// Vector loops shared by the kernels. Tails are handled with masked-off loads of a zero-filled buffer (LoadN).
#if defined(HLLM_SIMD_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef HLLM_SIMD_INL
#undef HLLM_SIMD_INL
#else
#define HLLM_SIMD_INL
#endif

#include <cstdint>
#include <cstring>

#include "hwy/contrib/math/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::ScalableTag<float>;
using V32 = hn::Vec<F32>;

// The first n < Lanes(d) elements, then zeros.
HWY_INLINE V32 load_first(F32 d, const float* from, size_t n) {
    HWY_ALIGN float buffer[HWY_MAX_BYTES / 4] = {};
    std::memcpy(buffer, from, n * sizeof(float));
    return hn::Load(d, buffer);
}
HWY_INLINE void store_first(F32 d, V32 value, float* to, size_t n) {
    HWY_ALIGN float buffer[HWY_MAX_BYTES / 4];
    hn::Store(value, d, buffer);
    std::memcpy(to, buffer, n * sizeof(float));
}

// body(vector of in[i]) for all i, the tail padded with zeros; for reductions.
template <class Body>
HWY_INLINE void for_each(const float* in, size_t n, Body&& body) {
    const F32 d;
    const size_t N = hn::Lanes(d);
    size_t i = 0;
    for (; i + N <= n; i += N) body(hn::LoadU(d, in + i));
    if (i < n) body(load_first(d, in + i, n - i));
}

// out[i] = body(a[i]) and out[i] = body(a[i], b[i]); out may be a or b.
template <class Body>
HWY_INLINE void map(float* out, const float* a, size_t n, Body&& body) {
    const F32 d;
    const size_t N = hn::Lanes(d);
    size_t i = 0;
    for (; i + N <= n; i += N) hn::StoreU(body(hn::LoadU(d, a + i)), d, out + i);
    if (i < n) store_first(d, body(load_first(d, a + i, n - i)), out + i, n - i);
}
template <class Body>
HWY_INLINE void map(float* out, const float* a, const float* b, size_t n, Body&& body) {
    const F32 d;
    const size_t N = hn::Lanes(d);
    size_t i = 0;
    for (; i + N <= n; i += N) hn::StoreU(body(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), d, out + i);
    if (i < n) store_first(d, body(load_first(d, a + i, n - i), load_first(d, b + i, n - i)), out + i, n - i);
}

HWY_INLINE float sum(V32 v) { return hn::GetLane(hn::SumOfLanes(F32(), v)); }

HWY_INLINE float dot(const float* a, const float* b, size_t n) {
    const F32 d;
    const size_t N = hn::Lanes(d);
    V32 s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
    size_t i = 0;
    for (; i + 4 * N <= n; i += 4 * N) {
        s0 = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), s0);
        s1 = hn::MulAdd(hn::LoadU(d, a + i + N), hn::LoadU(d, b + i + N), s1);
        s2 = hn::MulAdd(hn::LoadU(d, a + i + 2 * N), hn::LoadU(d, b + i + 2 * N), s2);
        s3 = hn::MulAdd(hn::LoadU(d, a + i + 3 * N), hn::LoadU(d, b + i + 3 * N), s3);
    }
    for (; i + N <= n; i += N) s0 = hn::MulAdd(hn::LoadU(d, a + i), hn::LoadU(d, b + i), s0);
    if (i < n) s1 = hn::MulAdd(load_first(d, a + i, n - i), load_first(d, b + i, n - i), s1);
    return sum(hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

HWY_INLINE V32 load_weight(const float* from) { return hn::LoadU(F32(), from); }
HWY_INLINE V32 load_weight(const uint16_t* from) {
    const hn::ScalableTag<uint32_t> du;
    const hn::Rebind<uint16_t, decltype(du)> dh;
    return hn::BitCast(F32(), hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(dh, from))));
}
HWY_INLINE float widen(float value) { return value; }
HWY_INLINE float widen(uint16_t value) {
    const uint32_t bits = static_cast<uint32_t>(value) << 16;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

// Round to nearest even; a NaN stays a NaN.
HWY_INLINE void narrow(uint16_t* out, const float* in, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        std::memcpy(&bits, in + i, 4);
        const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        out[i] = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : rounded);
    }
}

// Bytes ahead of a stream through memory that are asked for: what one core has to have under way for the whole bandwidth.
constexpr size_t AHEAD = 2048;

// sums[r] = x[r] . w for R vectors: w, the one that comes from memory, is read once.
template <int R, class W>
HWY_INLINE void dots(float* sums, const float* const* x, const W* w, size_t n) {
    const F32 d;
    const size_t N = hn::Lanes(d);
    V32 s[R], t[R];
    for (int r = 0; r < R; r++) s[r] = t[r] = hn::Zero(d);
    size_t k = 0;
    for (; k + 2 * N <= n; k += 2 * N) {
        const V32 a = load_weight(w + k), b = load_weight(w + k + N);
        for (size_t line = 0; line < 2 * N * sizeof(W); line += 64)
            hwy::Prefetch(reinterpret_cast<const std::byte*>(w + k) + AHEAD + line);
        for (int r = 0; r < R; r++) {
            s[r] = hn::MulAdd(a, hn::LoadU(d, x[r] + k), s[r]);
            t[r] = hn::MulAdd(b, hn::LoadU(d, x[r] + k + N), t[r]);
        }
    }
    float tail[R] = {};
    for (; k < n; k++)
        for (int r = 0; r < R; r++) tail[r] += widen(w[k]) * x[r][k];
    for (int r = 0; r < R; r++) sums[r] = sum(hn::Add(s[r], t[r])) + tail[r];
}

// y += alpha * x
HWY_INLINE void axpy(float* y, float alpha, const float* x, size_t n) {
    const V32 a = hn::Set(F32(), alpha);
    map(y, x, y, n, [&](V32 vx, V32 vy) { return hn::MulAdd(a, vx, vy); });
}

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();
#endif
