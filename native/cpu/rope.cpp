// Rotary position embedding (Su et al. 2021), halves convention: (a, b) = (x[i], x[i + Dh/2]) turns by the angle of i.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/rope.cpp"
#include "cpu/simd-inl.h"

#include "cpu/backend.h"

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

HWY_INLINE void put(V32 v, float* to, size_t n) {
    const F32 d;
    n == hn::Lanes(d) ? hn::StoreU(v, d, to) : store_first(d, v, to, n);
}
HWY_INLINE void put(V32 v, uint16_t* to, size_t n) {
    HWY_ALIGN float buffer[HWY_MAX_BYTES / 4];
    hn::Store(v, F32(), buffer);
    narrow(to, buffer, n);
}

// A head of 2 half elements; `to` may be `from`.
template <class To>
HWY_INLINE void turn(To* to, const float* from, const float* cosine, size_t half, bool inverse) {
    const F32 d;
    const size_t N = hn::Lanes(d);
    for (size_t i = 0; i < half; i += N) {
        const size_t n = half - i < N ? half - i : N;
        auto in = [&](const float* x) { return n == N ? hn::LoadU(d, x + i) : load_first(d, x + i, n); };
        const V32 a = in(from), b = in(from + half), c = in(cosine),
                  s = inverse ? hn::Neg(in(cosine + half)) : in(cosine + half);
        put(hn::Sub(hn::Mul(a, c), hn::Mul(b, s)), to + i, n);
        put(hn::Add(hn::Mul(b, c), hn::Mul(a, s)), to + half + i, n);
    }
}

void rope_rows(const View& x, const View& positions, const View& table, bool inverse, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++)
        for (int64_t h = 0; h < x.shape[1]; h++) {
            float* head = x.row(t) + h * x.stride[1];
            turn(head, head, table.row(positions.i32()[t]), x.shape[2] / 2, inverse);
        }
}

template <class To>
HWY_INLINE void write_rows(const RopeScatter& a, To* keys, To* values, int64_t begin, int64_t end) {
    const int64_t Dh = a.k.shape[2];
    for (int64_t t = begin; t < end; t++)
        for (int64_t h = 0; h < a.k.shape[1]; h++) {
            const int64_t row = a.index.i32()[t];
            turn(keys + row * a.keys.stride[0] + h * a.keys.stride[1], a.k.row(t) + h * a.k.stride[1],
                 a.table.row(a.positions.i32()[t]), Dh / 2, false);
            To* to = values + row * a.values.stride[0] + h * a.values.stride[1];
            const float* from = a.v.row(t) + h * a.v.stride[1];
            if constexpr (sizeof(To) == 4)
                std::memcpy(to, from, Dh * sizeof(float));
            else
                narrow(to, from, Dh);
        }
}
void rope_scatter_rows(const RopeScatter& a, int64_t begin, int64_t end) {
    if (a.keys.dtype == HLLM_BF16)
        write_rows(a, a.keys.bf16(), a.values.bf16(), begin, end);
    else
        write_rows(a, a.keys.f32(), a.values.f32(), begin, end);
    if (a.q) rope_rows(a.q, a.positions, a.table, false, begin, end);
}

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hllm {

constexpr int64_t ROWS_PER_ITEM = 16;

void Cpu::rope(Context&, const View& x, const View& positions, const View& table, bool inverse) {
    check_indices("rope", "positions", positions, 0, table.shape[0]);
    team().ranges(x.shape[0], ROWS_PER_ITEM, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(rope_rows)(x, positions, table, inverse, begin, end);
    });
}

void Cpu::rope_scatter(Context&, const RopeScatter& a) {
    check_indices("rope_scatter", "positions", a.positions, 0, a.table.shape[0]);
    check_indices("rope_scatter", "index", a.index, 0, a.keys.shape[0]);
    team().ranges(a.k.shape[0], ROWS_PER_ITEM, [&](int64_t begin, int64_t end, int) {
        HLLM_DISPATCH(rope_scatter_rows)(a, begin, end);
    });
}

}  // namespace hllm
#endif
