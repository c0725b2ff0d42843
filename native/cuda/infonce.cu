// Cosine InfoNCE with shared negatives, forward and backward fused, one tile of positions at a time. x^ is x / |x|, 0 for a
// zero row. GEMMs read the rows as they are, and norms are applied to their results: no normalised copies, no rounding of them.
//
// A tile's dot products with the negatives come a chunk of columns at a time and are used up while they are in the cache: what
// stays is e_j / |n_j| for the two GEMMs of the backward, e_j = 2^(logit_j log2(e) - r) with a running integer r per position.
// Where r grew after a chunk was stored, that chunk is brought up to date by a power of two.
#include <cmath>
#include <limits>

#include "cuda/backend.h"
#include "cuda/pack.cuh"

namespace hllm::cuda {
namespace {

constexpr int64_t WORKSPACE = 64 << 20;  // bytes; cuBLASLt has its own
constexpr int64_t CHUNK = 2048;          // columns
constexpr int64_t TILE_STEP = 128;       // positions of a tile: a multiple of it, for the GEMMs
constexpr int COLUMNS = 8;               // of a thread, in a chunk
constexpr float LOG2E = 1.44269504f;
constexpr double LN2 = 0.693147180559945309;
constexpr float MASKED = -std::numeric_limits<float>::infinity();

struct Position {
    float u_inverse, p_inverse;  // 1 / |u|, 1 / |p|
    float cosine;                // of u and p
    float reference;             // r
    float negatives, distance;   // sums of e_j and of e_j (logit_j - logit of the target)
    int samples, better;         // unmasked logits; negatives that beat the target
};

// Loss of a position, and the sum of all exp(logit) divided by 2^r.
struct Loss {
    double loss, total;
    HLLM_DEVICE Loss(const Position& position, float scale) {
        const double negatives = static_cast<double>(position.negatives);
        const double above = static_cast<double>(position.reference) * LN2 - static_cast<double>(scale * position.cosine);
        total = exp(-above) + negatives;
        loss = above > 30 ? log(total) + above : log1p(negatives * exp(above));
    }
};

HLLM_DEVICE float inverse_of(float squares) { return squares > 0 ? 1 / sqrtf(squares) : 0; }

// inverse[row] = 1 / |x|, or 0. A block per row, here and below.
template <int N, class T>
struct InverseNorms {
    static constexpr int MAX_THREADS = BLOCK;
    float* inverse;
    const T* x;
    int64_t x_stride, D;

    HLLM_KERNEL void operator()() const {
        const int64_t row = block_x();
        float squares = 0;
        for (int64_t i = thread() * N; i < D; i += threads() * N) {
            const auto v = load<N>(x + row * x_stride + i);
            for (int k = 0; k < N; k++) squares += v[k] * v[k];
        }
        squares = block_sum(squares, shared<float>(0));
        if (thread() == 0) inverse[row] = inverse_of(squares);
    }
};

template <int N, class T>
struct Begin {
    static constexpr int MAX_THREADS = BLOCK;
    Position* positions;
    const T *u, *p;
    int64_t u_stride, p_stride, D;
    const float* logit_scale;

    HLLM_KERNEL void operator()() const {
        const int64_t t = block_x();
        float uu = 0, pp = 0, up = 0;
        for (int64_t i = thread() * N; i < D; i += threads() * N) {
            const auto a = load<N>(u + t * u_stride + i), b = load<N>(p + t * p_stride + i);
            for (int k = 0; k < N; k++) {
                uu += a[k] * a[k];
                pp += b[k] * b[k];
                up += a[k] * b[k];
            }
        }
        const auto scratch = shared<float>(0);
        const float u_inverse = inverse_of(block_sum(uu, scratch)), p_inverse = inverse_of(block_sum(pp, scratch));
        const float cosine = block_sum(up, scratch) * u_inverse * p_inverse;
        const float reference = ceilf(expf(*logit_scale) * cosine * LOG2E);
        if (thread() == 0) positions[t] = {u_inverse, p_inverse, cosine, reference, 0, 0, 1, 0};
    }
};

// Takes in a chunk of columns: the position's sums, and weights = e_j / |n_j| unless it is NULL.
template <class T>
struct TakeChunk {
    static constexpr int MAX_THREADS = CHUNK / COLUMNS;
    Position* positions;
    float* references;  // r as the chunk was stored
    T* weights;
    const float *u_dots, *p_dots;  // u . n_j, p . n_j
    const float* n_inverse;
    const int32_t *target_ids, *negative_ids;
    const float* logit_scale;
    int64_t references_stride, weights_stride, dots_stride;
    int columns;
    float threshold;

    HLLM_KERNEL void operator()() const {
        const int64_t t = block_x();
        const int first = thread() * COLUMNS, warps = threads() / 32;
        const Position position = positions[t];
        const float scale = expf(*logit_scale), target = scale * position.cosine;
        const auto u = load<COLUMNS>(u_dots + t * dots_stride + first), p = load<COLUMNS>(p_dots + t * dots_stride + first);
        const auto inverse = load<COLUMNS>(n_inverse + first);
        Pack<COLUMNS> logits;
        float high = MASKED;
        int samples = 0, better = 0;
        HLLM_UNROLL
        for (int k = 0; k < COLUMNS; k++) {
            const int j = first + k;
            const bool keep = j < columns && !(p[k] * (position.p_inverse * inverse[k]) > threshold) &&
                              !(negative_ids && negative_ids[j] == target_ids[t]);
            logits[k] = keep ? scale * (u[k] * (position.u_inverse * inverse[k])) : MASKED;
            high = fmaxf(high, logits[k]);
            samples += keep;
            better += logits[k] > target;
        }
        HLLM_UNROLL
        for (int mask = 16; mask > 0; mask /= 2) {
            high = fmaxf(high, shuffle_xor(high, mask));
            samples += shuffle_xor(samples, mask);
            better += shuffle_xor(better, mask);
        }
        const auto highs = shared<float>(0), scratch = highs.at(warps);
        const auto counts = shared<int>(2 * warps * 4);
        if (lane() == 0) {
            highs.store(warp(), high);
            counts.store(2 * warp(), samples);
            counts.store(2 * warp() + 1, better);
        }
        block_barrier();
        for (int w = 0; w < warps; w++) high = fmaxf(high, highs.load(w));
        const float reference = fmaxf(position.reference, ceilf(high * LOG2E));
        float negatives = 0, distance = 0;
        Pack<COLUMNS> weight;
        HLLM_UNROLL
        for (int k = 0; k < COLUMNS; k++) {
            const float e = fast_exp2(fmaf(logits[k], LOG2E, -reference));
            negatives += e;
            if (e > 0) distance += e * (logits[k] - target);
            weight[k] = e == 0 ? 0 : e * inverse[k];  // beyond the columns the norms are arbitrary
        }
        if (weights && first < columns) store(weights + t * weights_stride + first, weight);
        negatives = block_sum(negatives, scratch);
        distance = block_sum(distance, scratch);
        if (thread() != 0) return;
        Position next = position;
        const float shrink = fast_exp2(position.reference - reference);
        next.reference = reference;
        next.negatives = position.negatives * shrink + negatives;
        next.distance = position.distance * shrink + distance;
        for (int w = 0; w < warps; w++) {
            next.samples += counts.load(2 * w);
            next.better += counts.load(2 * w + 1);
        }
        positions[t] = next;
        references[t * references_stride] = reference;
    }
};

// Brings the chunks of weights to the final r. Mostly there is nothing to do.
template <class T>
struct AlignChunks {
    static constexpr int MAX_THREADS = BLOCK;
    T* weights;
    const Position* positions;
    const float* references;
    int64_t weights_stride, chunk;
    int chunks;

    HLLM_KERNEL void operator()() const {
        const int64_t t = block_x();
        const float reference = positions[t].reference;
        for (int c = 0; c < chunks; c++) {
            const float shift = references[t * chunks + c] - reference;
            if (shift == 0) continue;
            const float factor = fast_exp2(shift);
            const int64_t begin = c * chunk, left = weights_stride - begin, columns = left < chunk ? left : chunk;
            for (int64_t j = thread() * COLUMNS; j < columns; j += threads() * COLUMNS) {
                T* at = weights + t * weights_stride + begin + j;
                auto v = load<COLUMNS>(at);
                for (int k = 0; k < COLUMNS; k++) v[k] *= factor;
                store(at, v);
            }
        }
    }
};

// du holds the sum of e_j n^_j. u_share is what u contributes to the gradients of the negatives.
template <int N, class T>
struct PositionGradients {
    static constexpr int MAX_THREADS = BLOCK;
    float *du, *dp;
    T* u_share;
    const Position* positions;
    const T *u, *p;
    int64_t du_stride, dp_stride, u_stride, p_stride, D;
    const float* logit_scale;
    double divisor;

    HLLM_KERNEL void operator()() const {
        const int64_t t = block_x();
        const Position position = positions[t];
        const float scale = expf(*logit_scale);
        const double total = Loss(position, scale).total, factor = static_cast<double>(scale) / (total * divisor);
        const float negative = static_cast<float>(factor);
        const float target = static_cast<float>(-static_cast<double>(position.negatives) * factor);
        float along = 0;
        for (int64_t i = thread() * N; i < D; i += threads() * N) {
            const auto g = load<N>(du + t * du_stride + i);
            const auto a = load<N>(u + t * u_stride + i), b = load<N>(p + t * p_stride + i);
            for (int k = 0; k < N; k++)
                along += (g[k] * negative + b[k] * position.p_inverse * target) * (a[k] * position.u_inverse);
        }
        along = block_sum(along, shared<float>(0));
        for (int64_t i = thread() * N; i < D; i += threads() * N) {
            const auto g = load<N>(du + t * du_stride + i);
            const auto a = load<N>(u + t * u_stride + i), b = load<N>(p + t * p_stride + i);
            Pack<N> from_u, from_p, share;
            for (int k = 0; k < N; k++) {
                const float u_hat = a[k] * position.u_inverse, p_hat = b[k] * position.p_inverse;
                from_u[k] = (g[k] * negative + p_hat * target - u_hat * along) * position.u_inverse;
                from_p[k] = (u_hat - p_hat * position.cosine) * target * position.p_inverse;
                share[k] = u_hat * negative;
            }
            store(du + t * du_stride + i, from_u);
            store(dp + t * dp_stride + i, from_p);
            store(u_share + t * D + i, share);
        }
    }
};

// dn holds the gradient of n^, divided by |n|.
template <int N, class T>
struct NegativeGradients {
    static constexpr int MAX_THREADS = BLOCK;
    float* dn;
    const T* n;
    const float* n_inverse;
    int64_t dn_stride, n_stride, D;

    HLLM_KERNEL void operator()() const {
        const int64_t j = block_x();
        const float inverse = n_inverse[j];
        float along = 0;
        for (int64_t i = thread() * N; i < D; i += threads() * N) {
            const auto g = load<N>(dn + j * dn_stride + i), x = load<N>(n + j * n_stride + i);
            for (int k = 0; k < N; k++) along += g[k] * (x[k] * inverse);
        }
        along = block_sum(along, shared<float>(0));
        for (int64_t i = thread() * N; i < D; i += threads() * N) {
            auto g = load<N>(dn + j * dn_stride + i);
            const auto x = load<N>(n + j * n_stride + i);
            for (int k = 0; k < N; k++) g[k] -= x[k] * inverse * along;
            store(dn + j * dn_stride + i, g);
        }
    }
};

// One block: the sums over all positions, in a fixed order.
struct Metrics {
    static constexpr int MAX_THREADS = BLOCK;
    float *metrics, *dlogit_scale;
    const Position* positions;
    const float* logit_scale;
    int64_t count;
    double divisor;

    HLLM_KERNEL void operator()() const {
        constexpr int SCALE = HLLM_INFONCE_METRICS;
        constexpr int TOP[] = {1, 5, 10, 50, 100};
        double sums[HLLM_INFONCE_METRICS + 1] = {};
        const float scale = expf(*logit_scale);
        for (int64_t t = thread(); t < count; t += threads()) {
            const Position& position = positions[t];
            const Loss loss(position, scale);
            sums[HLLM_INFONCE_LOSS] += loss.loss;
            sums[HLLM_INFONCE_SAMPLES] += position.samples;
            for (int i = 0; i < 5; i++) sums[HLLM_INFONCE_TOP1 + i] += position.better < TOP[i];
            sums[SCALE] += static_cast<double>(position.distance) / loss.total;
        }
        const auto scratch = shared<double>(0);
        for (int i = 0; i <= SCALE; i++) {
            const double sum = block_sum(sums[i], scratch);
            if (thread() == 0 && i < SCALE) metrics[i] = static_cast<float>(sum);
            if (thread() == 0 && i == SCALE && dlogit_scale) *dlogit_scale += static_cast<float>(sum / divisor);
            block_barrier();
        }
    }
};

View matrix(void* data, int32_t dtype, int64_t rows, int64_t columns, int64_t stride) {
    View view{data, dtype, 2};
    view.shape[0] = rows, view.shape[1] = columns;
    view.stride[0] = stride, view.stride[1] = 1;
    return view;
}

template <class T>
View rows_of(const View& view, int64_t first, int64_t rows) {
    return matrix(static_cast<T*>(view.data) + first * view.stride[0], view.dtype, rows, view.shape[1], view.stride[0]);
}

int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

template <int N, class T>
void infonce(Context& context, const InfoNce& a) {
    Backend& backend = *context.backend;
    const int64_t count = a.u.shape[0], D = a.u.shape[1], packs = D / N, M = a.n.shape[0];
    const int64_t chunk = std::min(CHUNK, rounded_up(std::max<int64_t>(M, 1), 32 * COLUMNS)), chunks = (M + chunk - 1) / chunk;
    const int64_t stored = rounded_up(M, COLUMNS);
    const int chunk_threads = static_cast<int>(chunk / COLUMNS);
    const float* logit_scale = a.logit_scale.f32();
    const T* n = static_cast<const T*>(a.n.data);

    // Once the dot products of a tile are used up, their memory holds u_share.
    const int64_t dots_bytes = std::max(2 * chunk * 4, D * int64_t{sizeof(T)});
    const int64_t fixed_bytes = chunks * chunk * 4 + count * int64_t{sizeof(Position)};
    const int64_t position_bytes = stored * int64_t{sizeof(T)} + dots_bytes + chunks * 4;
    int64_t tile = std::max<int64_t>(1, (WORKSPACE - fixed_bytes) / position_bytes);
    if (tile > TILE_STEP) tile = tile / TILE_STEP * TILE_STEP;
    tile = std::min(tile, count);
    Position* positions = context.scratch.take<Position>(count);
    float* n_inverse = context.scratch.take<float>(chunks * chunk);
    float* u_dots = reinterpret_cast<float*>(context.scratch.take<char>(tile * dots_bytes));
    float* p_dots = u_dots + tile * chunk;
    T* u_share = reinterpret_cast<T*>(u_dots);
    T* weights = a.du ? context.scratch.take<T>(tile * stored) : nullptr;
    float* references = context.scratch.take<float>(tile * chunks);

    launch_rows(context, M, packs, InverseNorms<N, T>{n_inverse, n, a.n.stride[0], D});
    for (int64_t first = 0; first < count; first += tile) {
        const int64_t rows = std::min(tile, count - first);
        Position* mine = positions + first;
        const View u_rows = rows_of<T>(a.u, first, rows), p_rows = rows_of<T>(a.p, first, rows);
        const T *u = static_cast<const T*>(u_rows.data), *p = static_cast<const T*>(p_rows.data);
        launch_rows(context, rows, packs, Begin<N, T>{mine, u, p, a.u.stride[0], a.p.stride[0], D, logit_scale});
        for (int64_t c = 0; c < chunks; c++) {
            const int64_t begin = c * chunk, columns = std::min(chunk, M - begin);
            const View n_rows = rows_of<T>(a.n, begin, columns);
            backend.matmul(context, matrix(u_dots, HLLM_F32, rows, columns, chunk), u_rows, n_rows, false, true, false);
            backend.matmul(context, matrix(p_dots, HLLM_F32, rows, columns, chunk), p_rows, n_rows, false, true, false);
            launch(stream_of(context), {static_cast<int>(rows)}, chunk_threads, chunk_threads / 32 * 16,
                   TakeChunk<T>{mine, references + c, weights ? weights + begin : nullptr, u_dots, p_dots, n_inverse + begin,
                                a.target_ids ? a.target_ids.i32() + first : nullptr,
                                a.negative_ids ? a.negative_ids.i32() + begin : nullptr, logit_scale, chunks, stored, chunk,
                                static_cast<int>(columns), a.threshold});
        }
        if (!a.du) continue;
        const View e = matrix(weights, a.u.dtype, rows, M, stored), share = matrix(u_share, a.u.dtype, rows, D, D);
        const View du = rows_of<float>(a.du, first, rows), dp = rows_of<float>(a.dp, first, rows);
        launch(stream_of(context), {static_cast<int>(rows)}, chunk_threads, 0,
               AlignChunks<T>{weights, mine, references, stored, chunk, static_cast<int>(chunks)});
        backend.matmul(context, du, e, a.n, false, false, false);
        launch_rows(context, rows, packs,
                    PositionGradients<N, T>{du.f32(), dp.f32(), u_share, mine, u, p, du.stride[0], dp.stride[0], a.u.stride[0],
                                            a.p.stride[0], D, logit_scale, static_cast<double>(a.positions)});
        backend.matmul(context, a.dn, e, share, true, false, first > 0);
    }
    launch(stream_of(context), {1}, BLOCK, BLOCK * 8,
           Metrics{a.metrics.f32(), a.dlogit_scale.f32(), positions, logit_scale, count, static_cast<double>(a.positions)});
    if (!a.du) return;
    if (count == 0 && M > 0) backend.fill(context, a.dn, 0);
    launch_rows(context, M, packs, NegativeGradients<N, T>{a.dn.f32(), n, n_inverse, a.dn.stride[0], a.n.stride[0], D});
}

}  // namespace

void CudaBackend::infonce(Context& context, const InfoNce& a) {
    by_type(a.u, [&](auto type) {
        using T = decltype(type);
        const bool packed = a.u.shape[1] % PACK<T> == 0 && aligned(a.u, a.p, a.n) && (!a.du || aligned(a.du, a.dp, a.dn));
        by_width<T>(packed, [&](auto width) { cuda::infonce<decltype(width)::value, T>(context, a); });
    });
}

}  // namespace hllm::cuda
