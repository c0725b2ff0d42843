// Binary cross entropy from logits z and labels y, forward and backward at once: softplus(z) - y z, sigmoid(z) - y. In double;
// partial[block] is its share of the loss.
#include <cmath>

#include "cuda/backend.h"
#include "cuda/pack.cuh"

namespace hllm::cuda {
namespace {

struct Bce {
    static constexpr int MAX_THREADS = BLOCK;
    double* partial;
    float* dlogits;
    const float *logits, *labels;
    int64_t n;
    double positions;

    HLLM_KERNEL void operator()() const {
        double sum = 0;
        for_each_pack<1>(n, [&](auto, int64_t i) {
            // exp of a negative number only: no logit overflows.
            const double z = logits[i], y = labels[i], e = exp(-fabs(z));
            sum += (z > 0 ? z : 0) - y * z + log1p(e);
            if (dlogits) dlogits[i] = static_cast<float>(((z >= 0 ? 1 : e) / (1 + e) - y) / positions);
        });
        sum = block_sum(sum, shared<double>(0));
        if (thread() == 0) partial[block_x()] = sum;
    }
};

constexpr int64_t PARTIALS = 256;  // on any device, so that the sum is the same

}  // namespace

void CudaBackend::bce(Context& context, const View& loss, const View& dlogits, const View& logits, const View& labels,
                      int64_t positions) {
    const int64_t n = logits.shape[0];
    const auto blocks = static_cast<int>(std::clamp<int64_t>(n / BLOCK, 1, PARTIALS));
    double* partial = context.scratch.take<double>(blocks);
    launch(stream_of(context), {blocks}, BLOCK, BLOCK * 8,
           Bce{partial, dlogits.f32(), logits.f32(), labels.f32(), n, static_cast<double>(positions)});
    launch(stream_of(context), {1}, BLOCK, BLOCK * 8, SumShares{loss.f32(), partial, blocks, false});
}

}  // namespace hllm::cuda
