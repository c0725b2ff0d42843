// Plain double-precision arithmetic that more than one test compares with.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace hllm_test {

// op(a) op(b), [m,n]; row-major, a is [m,k] or its transpose [k,m], b is [k,n] or [n,k].
template <class A, class B>
std::vector<double> product(int64_t m, int64_t n, int64_t k, const std::vector<A>& a, const std::vector<B>& b, bool transpose_a,
                            bool transpose_b) {
    std::vector<double> c(m * n, 0.0);
    for (int64_t i = 0; i < m; i++)
        for (int64_t l = 0; l < k; l++)
            for (int64_t j = 0; j < n; j++)
                c[i * n + j] += double{a[transpose_a ? l * m + i : i * k + l]} * double{b[transpose_b ? j * k + l : l * n + j]};
    return c;
}

// The gradient of f at x by central differences: what an analytic gradient in double must agree with.
template <class F>
std::vector<double> differences(std::vector<double> x, F&& f, double step = 1e-5) {
    std::vector<double> gradient(x.size());
    for (size_t i = 0; i < x.size(); i++) {
        const double at = x[i];
        x[i] = at + step;
        const double above = f(x);
        x[i] = at - step;
        const double below = f(x);
        x[i] = at;
        gradient[i] = (above - below) / (2 * step);
    }
    return gradient;
}

inline std::vector<double> doubles(const std::vector<float>& values) { return {values.begin(), values.end()}; }

inline double inner(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); i++) sum += a[i] * b[i];
    return sum;
}

// b added to a.
template <class A>
std::vector<double> sum(const std::vector<A>& a, const std::vector<double>& b) {
    std::vector<double> out(a.begin(), a.end());
    for (size_t i = 0; i < out.size(); i++) out[i] += b[i];
    return out;
}

inline float widen(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Nearest bf16, ties to even, found without bit tricks: the better of the two neighbours. Finite values only.
inline uint16_t narrow(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const auto low = static_cast<uint16_t>(bits >> 16), high = static_cast<uint16_t>(low + 1);  // by magnitude
    // The step above the largest finite bf16 counts as one more binade, as IEEE 754 has it.
    const double upper = std::isinf(widen(high)) ? std::copysign(std::ldexp(1.0, 128), value) : double{widen(high)};
    const double below = std::abs(double{value} - double{widen(low)}), above = std::abs(upper - double{value});
    return below < above || (below == above && low % 2 == 0) ? low : high;
}

}  // namespace hllm_test
