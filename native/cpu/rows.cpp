// Operations on rows: copies and conversions, embedding (= gather) and its scatter-add, mean pooling, normalisation.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/rows.cpp"
#include "cpu/simd-inl.h"

#include <cmath>
#include <cstring>

#include "cpu/backend.h"

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

void add_row(float* out, const float* in, float scale, int64_t n) { axpy(out, scale, in, n); }

void normalize_row(float* out, const float* in, int64_t n) {
    const float norm = std::sqrt(dot(in, in, n));
    const V32 factor = hn::Set(F32(), norm > 0 ? 1 / norm : 0);
    map(out, in, n, [&](V32 v) { return hn::Mul(v, factor); });
}

void mul_row(float* out, const float* a, const float* b, int64_t n) {
    map(out, a, b, n, [](V32 x, V32 y) { return hn::Mul(x, y); });
}

void add_mul_row(float* out, const float* a, const float* b, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] += a[i] * b[i];
}

void widen_row(float* out, const uint16_t* in, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = static_cast<uint32_t>(in[i]) << 16;
        std::memcpy(out + i, &bits, 4);
    }
}

void narrow_row(uint16_t* out, const float* in, int64_t n) { narrow(out, in, n); }

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hllm {
namespace {

constexpr int64_t GRAIN = 1 << 14;  // elements per work item

int64_t rows_per_item(int64_t columns) { return std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, columns)); }

// Calls body(offset of the row in elements, per view) for every innermost row of a view of rank 1 to 4, in parallel.
template <class Body>
void innermost_rows(const View& a, const View& b, const Body& body) {
    int64_t rows = 1;
    for (int i = 0; i + 1 < a.rank; i++) rows *= a.shape[i];
    const int64_t columns = a.shape[a.rank - 1];
    team().ranges(rows, rows_per_item(columns), [&](int64_t begin, int64_t end, int) {
        for (int64_t r = begin; r < end; r++) {
            int64_t left = r, at_a = 0, at_b = 0;
            for (int i = a.rank - 2; i >= 0; i--) {
                const int64_t index = left % a.shape[i];
                left /= a.shape[i];
                at_a += index * a.stride[i];
                at_b += index * b.stride[i];
            }
            body(at_a, at_b, columns);
        }
    });
}

// Rows are added in their order within each slice of columns, so the sum is the same on any number of threads.
template <class Body>
void column_slices(int64_t rows, int64_t columns, const Body& body) {
    if (rows > 0) team().ranges(columns, 64, [&](int64_t begin, int64_t end, int) { body(begin, end - begin); });
}

// n consecutive elements from offset `from` of `in` to offset `to` of `out`, each of its own dtype.
void convert_elements(const View& out, int64_t to, const View& in, int64_t from, int64_t n) {
    const int64_t size = bytes_of(out.dtype);
    if (out.dtype == in.dtype)
        std::memcpy(static_cast<std::byte*>(out.data) + to * size, static_cast<const std::byte*>(in.data) + from * size,
                    static_cast<size_t>(n * size));
    else if (in.dtype == HLLM_BF16)
        HLLM_DISPATCH(widen_row)(out.f32() + to, in.bf16() + from, n);
    else
        HLLM_DISPATCH(narrow_row)(out.bf16() + to, in.f32() + from, n);
}

// out[t] = table[ids[t]], or the special row where ids[t] < 0.
void copy_rows(const View& out, const View& ids, const View& table, const View& special) {
    const int64_t D = out.shape[1];
    team().ranges(out.shape[0], rows_per_item(D), [&](int64_t begin, int64_t end, int) {
        for (int64_t t = begin; t < end; t++)
            if (const int64_t id = ids.i32()[t]; id < 0)
                convert_elements(out, t * out.stride[0], special, 0, D);
            else
                convert_elements(out, t * out.stride[0], table, id * table.stride[0], D);
    });
}

// Its transpose; a table or special row that is not there is left out.
void add_rows(const View& table, const View& special, const View& in, const View& ids) {
    column_slices(in.shape[0], in.shape[1], [&](int64_t column, int64_t n) {
        for (int64_t t = 0; t < in.shape[0]; t++) {
            const int32_t id = ids.i32()[t];
            float* to = id >= 0 ? (table ? table.row(id) : nullptr) : (special ? special.f32() : nullptr);
            if (to) HLLM_DISPATCH(add_row)(to + column, in.row(t) + column, 1, n);
        }
    });
}

void check_segments(const char* op, const View& offsets, const View& rows, int64_t limit) {
    const int64_t segments = offsets.shape[0] - 1;
    for (int64_t s = 0; s < segments; s++)
        if (offsets.i32()[s] < 0 || offsets.i32()[s + 1] <= offsets.i32()[s] || offsets.i32()[s + 1] > rows.shape[0])
            fail(HLLM_INVALID_ARGUMENT, "%s: segment %lld runs from %d to %d, expected at least one of %lld rows", op,
                 static_cast<long long>(s), offsets.i32()[s], offsets.i32()[s + 1], static_cast<long long>(rows.shape[0]));
    check_indices(op, "rows", rows, 0, limit);
}

}  // namespace

void Cpu::fill(Context&, const View& out, float value) {
    innermost_rows(out, out, [&](int64_t at, int64_t, int64_t columns) {
        if (out.dtype == HLLM_F32)
            std::fill_n(out.f32() + at, columns, value);
        else
            std::fill_n(out.i32() + at, columns, static_cast<int32_t>(value));
    });
}

void Cpu::convert(Context&, const View& out, const View& in) {
    innermost_rows(out, in, [&](int64_t to, int64_t from, int64_t n) { convert_elements(out, to, in, from, n); });
}

void Cpu::embedding_forward(Context&, const View& out, const View& ids, const View& table, const View& special) {
    check_indices("embedding_forward", "ids", ids, special ? INT32_MIN : 0, table.shape[0]);
    copy_rows(out, ids, table, special);
}

void Cpu::embedding_backward(Context&, const View& dtable, const View& dspecial, const View& dout, const View& ids) {
    if (dtable) check_indices("embedding_backward", "ids", ids, INT32_MIN, dtable.shape[0]);
    add_rows(dtable, dspecial, dout, ids);
}

void Cpu::gather_rows(Context&, const View& out, const View& in, const View& index) {
    check_indices("gather_rows", "index", index, 0, in.shape[0]);
    copy_rows(out, index, in, View{});
}

void Cpu::scatter_rows(Context&, const View& out, const View& in, const View& index) {
    check_indices("scatter_rows", "index", index, 0, out.shape[0]);
    for (int64_t n = 0; n < in.shape[0]; n++)
        convert_elements(out, index.i32()[n] * out.stride[0], in, n * in.stride[0], in.shape[1]);
}

void Cpu::scatter_add_rows(Context&, const View& out, const View& in, const View& index) {
    check_indices("scatter_add_rows", "index", index, 0, out.shape[0]);
    add_rows(out, View{}, in, index);
}

void Cpu::segment_mean_forward(Context&, const View& out, const View& in, const View& offsets, const View& rows) {
    check_segments("segment_mean_forward", offsets, rows, in.shape[0]);
    const int64_t D = out.shape[1];
    team().ranges(out.shape[0], 4, [&](int64_t begin, int64_t end, int) {
        for (int64_t s = begin; s < end; s++) {
            const int32_t first = offsets.i32()[s], last = offsets.i32()[s + 1];
            std::fill_n(out.row(s), D, 0.f);
            for (int32_t j = first; j < last; j++)
                HLLM_DISPATCH(add_row)(out.row(s), in.row(rows.i32()[j]), 1.f / static_cast<float>(last - first), D);
        }
    });
}

void Cpu::segment_mean_backward(Context& context, const View& din, const View& dout, const View& offsets, const View& rows) {
    check_segments("segment_mean_backward", offsets, rows, din.shape[0]);
    fill(context, din, 0);
    column_slices(dout.shape[0], dout.shape[1], [&](int64_t column, int64_t n) {
        for (int64_t s = 0; s < dout.shape[0]; s++) {
            const int32_t first = offsets.i32()[s], last = offsets.i32()[s + 1];
            const float share = 1.f / static_cast<float>(last - first);
            for (int32_t j = first; j < last; j++)
                HLLM_DISPATCH(add_row)(din.row(rows.i32()[j]) + column, dout.row(s) + column, share, n);
        }
    });
}

void Cpu::normalize_rows(Context&, const View& out, const View& in) {
    team().ranges(out.shape[0], rows_per_item(out.shape[1]), [&](int64_t begin, int64_t end, int) {
        for (int64_t t = begin; t < end; t++) HLLM_DISPATCH(normalize_row)(out.row(t), in.row(t), out.shape[1]);
    });
}

void Cpu::mul(Context&, const View& out, const View& a, const View& b, bool accumulate) {
    team().ranges(out.shape[0], rows_per_item(out.shape[1]), [&](int64_t begin, int64_t end, int) {
        const auto kernel = accumulate ? HLLM_DISPATCH(add_mul_row) : HLLM_DISPATCH(mul_row);
        for (int64_t t = begin; t < end; t++) kernel(out.row(t), a.row(t), b.row(t), out.shape[1]);
    });
}

}  // namespace hllm
#endif
