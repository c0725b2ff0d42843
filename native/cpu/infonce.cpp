// Cosine InfoNCE with shared negatives, forward and backward fused, one tile of positions at a time: the gradient of the
// loss is a known scalar, so a tile of logits is used up before the next one is computed. x^ is x / |x|, 0 for a zero row.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/infonce.cpp"
#include "cpu/simd-inl.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/backend.h"
#include "cpu/packed.h"

#ifndef HLLM_CPU_INFONCE  // what follows is shared by the instruction sets
#define HLLM_CPU_INFONCE
namespace hllm {
namespace {

// One position of a tile.
struct Position {
    float u_inverse, p_inverse;  // 1 / |u|, 1 / |p|
    float cosine;                // of u and p
    double loss;
    double target;            // d loss / d (logit of the target)
    double total;             // sum of exp(logit - maximum) over all logits
    double scale;             // d loss / d logit_scale
    int64_t samples, better;  // unmasked logits; negatives that beat the target
};

}  // namespace
}  // namespace hllm
#endif

HWY_BEFORE_NAMESPACE();
namespace hllm {
namespace HWY_NAMESPACE {

// 1 / |x|, or 0.
float infonce_inverse(const float* x, size_t n) {
    const float norm = std::sqrt(dot(x, x, n));
    return norm > 0 ? 1 / norm : 0;
}

// out = x^; returns 1 / |x|, or 0.
float infonce_normalize(float* out, const float* in, size_t n) {
    const float inverse = infonce_inverse(in, n);
    const V32 factor = hn::Set(F32(), inverse);
    map(out, in, n, [&](V32 v) { return hn::Mul(v, factor); });
    return inverse;
}

void infonce_normalize_position(Position& position, float* u_hat, float* p_hat, const float* u, const float* p, size_t D) {
    position.u_inverse = infonce_normalize(u_hat, u, D);
    position.p_inverse = infonce_normalize(p_hat, p, D);
    position.cosine = dot(u_hat, p_hat, D);
}

// Cosines of u and negatives become -infinity where a negative is left out; p_cosines are those of p. Whole vectors of all.
void infonce_mask(float* u_cosines, const float* p_cosines, size_t count, float threshold, const int32_t* ids,
                  int32_t target_id) {
    const F32 d;
    const hn::RebindToSigned<F32> di;
    const V32 masked = hn::Set(d, -std::numeric_limits<float>::infinity()), limit = hn::Set(d, threshold);
    for (size_t i = 0; i < count; i += hn::Lanes(d)) {
        auto out = hn::Gt(hn::LoadU(d, p_cosines + i), limit);
        if (ids) out = hn::Or(out, hn::RebindMask(d, hn::Eq(hn::LoadU(di, ids + i), hn::Set(di, target_id))));
        hn::StoreU(hn::IfThenElse(out, masked, hn::LoadU(d, u_cosines + i)), d, u_cosines + i);
    }
}

// u_cosines[M], masked, become e / |n|, where e = exp(logit - maximum). Rows are padded to whole vectors.
void infonce_softmax(Position& position, float* u_cosines, const float* n_inverse, size_t M, float scale) {
    constexpr size_t CHUNK = 4096;  // summed in float, then added in double
    const F32 d;
    const size_t N = hn::Lanes(d);
    const float logit = scale * position.cosine;
    const V32 factor = hn::Set(d, scale), target = hn::Set(d, logit);
    const V32 masked = hn::Set(d, -std::numeric_limits<float>::infinity());
    V32 high = target;
    size_t samples = 1, better = 0;
    for (size_t i = 0; i < M; i += N) {
        const V32 cosines = hn::LoadU(d, u_cosines + i);
        const auto keep = hn::And(hn::FirstN(d, M - i), hn::Ne(cosines, masked));
        const V32 logits = hn::IfThenElse(keep, hn::Mul(cosines, factor), masked);
        samples += hn::CountTrue(d, keep);
        better += hn::CountTrue(d, hn::Gt(logits, target));
        high = hn::Max(high, logits);
        hn::StoreU(logits, d, u_cosines + i);
    }
    const float maximum = hn::GetLane(hn::MaxOfLanes(d, high));
    const V32 shift = hn::Set(d, maximum);
    double negatives = 0, distance = 0;  // sums of e and of e (logit - logit of the target)
    for (size_t begin = 0; begin < M; begin += CHUNK) {
        V32 sum_e = hn::Zero(d), sum_distance = hn::Zero(d);
        for (size_t i = begin; i < std::min(M, begin + CHUNK); i += N) {
            const V32 logits = hn::LoadU(d, u_cosines + i), e = hn::Exp(d, hn::Sub(logits, shift));
            sum_e = hn::Add(sum_e, e);
            sum_distance =
                hn::Add(sum_distance, hn::IfThenElseZero(hn::Gt(e, hn::Zero(d)), hn::Mul(e, hn::Sub(logits, target))));
            hn::StoreU(hn::Mul(e, hn::LoadU(d, n_inverse + i)), d, u_cosines + i);
        }
        negatives += sum(sum_e);
        distance += sum(sum_distance);
    }
    const double above = double{maximum} - logit;
    position.total = std::exp(-above) + negatives;
    position.loss = above == 0 ? std::log1p(negatives) : std::log(position.total) + above;
    position.target = -negatives / position.total;
    position.scale = distance / position.total;
    position.samples = static_cast<int64_t>(samples);
    position.better = static_cast<int64_t>(better);
}

// x (in place) = gradient of x, from that of x^ in x: (g - x^ (x^ . g)) / |x|.
void infonce_denormalize(float* gradient, const float* x_hat, float inverse, size_t n) {
    const V32 along = hn::Set(F32(), dot(gradient, x_hat, n)), factor = hn::Set(F32(), inverse);
    map(gradient, gradient, x_hat, n, [&](V32 g, V32 x) { return hn::Mul(hn::NegMulAdd(along, x, g), factor); });
}

// g (in place), the gradient of n^ over |n|, becomes that of n.
void infonce_backward_negative(float* g, const float* n, float inverse, size_t D) {
    const V32 along = hn::Set(F32(), dot(g, n, D) * inverse * inverse);
    map(g, g, n, D, [&](V32 v, V32 x) { return hn::NegMulAdd(along, x, v); });
}

// du holds sum of e_j n^_j. u_hat is scaled by what it contributes to the gradients of the negatives.
void infonce_backward_position(const Position& position, float* du, float* dp, float* u_hat, const float* p_hat, double scale,
                               double positions, size_t D) {
    const V32 target = hn::Set(F32(), static_cast<float>(position.target * scale / positions));
    const V32 negative = hn::Set(F32(), static_cast<float>(scale / (position.total * positions)));
    map(du, du, p_hat, D, [&](V32 g, V32 p) { return hn::MulAdd(g, negative, hn::Mul(p, target)); });
    infonce_denormalize(du, u_hat, position.u_inverse, D);
    map(dp, u_hat, D, [&](V32 u) { return hn::Mul(u, target); });
    infonce_denormalize(dp, p_hat, position.p_inverse, D);
    map(u_hat, u_hat, D, [&](V32 u) { return hn::Mul(u, negative); });
}

}  // namespace HWY_NAMESPACE
}  // namespace hllm
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hllm {

constexpr int64_t TILE = 256;      // positions
constexpr int64_t MASKED = 4096;   // negatives that are compared with the targets at a time; whole panels
constexpr int64_t PADDING = 16;    // rows of logits are padded to whole vectors of any instruction set
constexpr int64_t ROW_GRAIN = 16;  // rows of a work item that only normalises

void Cpu::infonce(Context& context, const InfoNce& a) {
    const int64_t T = a.u.shape[0], D = a.u.shape[1], M = a.n.shape[0], width = (M + PADDING - 1) / PADDING * PADDING;
    const int64_t tile = std::min(T, TILE);
    const float scale = std::exp(a.logit_scale.f32()[0]);

    std::byte* n_hat = context.scratch.take<std::byte>(hllm::packed_bytes(a.n));
    float* n_inverse = context.scratch.take<float>(width);
    View u_hat, p_hat, u_cosines, p_cosines;  // of a tile
    u_hat.shape[1] = p_hat.shape[1] = D;
    u_cosines.shape[1] = M;
    u_hat.stride[1] = p_hat.stride[1] = u_cosines.stride[1] = 1;
    u_hat.stride[0] = p_hat.stride[0] = D + PADDING;  // no multiple of a page
    u_cosines.stride[0] = width;
    p_cosines.stride[0] = std::min(width, MASKED);
    for (View* x : {&u_hat, &p_hat, &u_cosines, &p_cosines}) x->data = context.scratch.take<float>(tile * x->stride[0]);
    u_hat.shape[0] = u_cosines.shape[0] = tile;
    void* room = context.scratch.take<std::byte>(std::max({packed_room(u_hat, a.n), product_room(u_cosines, a.n.transposed()),
                                                           product_room(u_cosines.transposed(), u_hat.transposed())}));
    Position* positions = context.scratch.take<Position>(tile);
    int32_t* ids = nullptr;
    if (a.negative_ids) {
        ids = context.scratch.take<int32_t>(width);
        if (M > 0) std::memcpy(ids, a.negative_ids.i32(), static_cast<size_t>(M) * 4);
    }

    team().ranges(M, ROW_GRAIN, [&](int64_t begin, int64_t end, int) {
        for (int64_t j = begin; j < end; j++) n_inverse[j] = HLLM_DISPATCH(infonce_inverse)(a.n.row(j), D);
    });
    std::fill(n_inverse + M, n_inverse + width, 0.f);
    hllm::pack(n_hat, a.n, n_inverse);
    const auto normalize_position = HLLM_DISPATCH(infonce_normalize_position);
    const auto mask = HLLM_DISPATCH(infonce_mask);
    const auto softmax = HLLM_DISPATCH(infonce_softmax);
    const auto backward_position = HLLM_DISPATCH(infonce_backward_position);
    double metrics[HLLM_INFONCE_METRICS] = {}, dscale = 0;
    for (int64_t first = 0; first < T; first += TILE) {
        const int64_t rows = std::min(TILE, T - first);
        u_hat.shape[0] = p_hat.shape[0] = rows;
        team().ranges(rows, ROW_GRAIN, [&](int64_t begin, int64_t end, int) {
            for (int64_t t = begin; t < end; t++)
                normalize_position(positions[t], u_hat.row(t), p_hat.row(t), a.u.row(first + t), a.p.row(first + t), D);
        });
        packed_forward(room, u_cosines, u_hat, a.n, n_hat, false);
        View part = a.n;
        for (int64_t j = 0; j < M; j += MASKED) {
            part.shape[0] = j;
            const std::byte* panels = n_hat + (j > 0 ? hllm::packed_bytes(part) : 0);
            part.shape[0] = std::min(MASKED, M - j);
            packed_forward(room, p_cosines, p_hat, part, panels, false);
            team().run(rows, [&](int64_t t, int) {
                mask(u_cosines.row(t) + j, p_cosines.row(t), part.shape[0], a.threshold, ids ? ids + j : nullptr,
                     ids ? a.target_ids.i32()[first + t] : 0);
            });
        }
        team().run(rows, [&](int64_t t, int) { softmax(positions[t], u_cosines.row(t), n_inverse, M, scale); });
        for (int64_t t = 0; t < rows; t++) {
            const Position& position = positions[t];
            metrics[HLLM_INFONCE_LOSS] += position.loss;
            metrics[HLLM_INFONCE_SAMPLES] += static_cast<double>(position.samples);
            constexpr int64_t TOP[] = {1, 5, 10, 50, 100};
            for (int i = 0; i < 5; i++) metrics[HLLM_INFONCE_TOP1 + i] += position.better < TOP[i];
            dscale += position.scale;
        }
        if (!a.du) continue;
        // du^ = sum of e_j n^_j, up to a factor; dn^_j / |n_j| += e_j / |n_j| u^
        View du = a.du, e = u_cosines;
        du.data = a.du.row(first);
        e.shape[0] = rows;
        product(room, du, e, a.n.transposed(), false);
        team().ranges(rows, ROW_GRAIN, [&](int64_t begin, int64_t end, int) {
            for (int64_t t = begin; t < end; t++)
                backward_position(positions[t], a.du.row(first + t), a.dp.row(first + t), u_hat.row(t), p_hat.row(t), scale,
                                  static_cast<double>(a.positions), D);
        });
        product(room, a.dn, e.transposed(), u_hat.transposed(), first > 0);
    }
    for (int i = 0; i < HLLM_INFONCE_METRICS; i++) a.metrics.f32()[i] = static_cast<float>(metrics[i]);
    if (!a.du) return;
    team().ranges(M, ROW_GRAIN, [&](int64_t begin, int64_t end, int) {
        for (int64_t j = begin; j < end; j++) {
            if (T == 0) std::fill_n(a.dn.row(j), D, 0.f);
            HLLM_DISPATCH(infonce_backward_negative)(a.dn.row(j), a.n.row(j), n_inverse[j], D);
        }
    });
    if (a.dlogit_scale) a.dlogit_scale.f32()[0] += static_cast<float>(dscale / static_cast<double>(a.positions));
}

}  // namespace hllm
#endif
