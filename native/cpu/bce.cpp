// Binary cross entropy from logits z and labels y, forward and backward at once: softplus(z) - y z, sigmoid(z) - y.
#include <cmath>

#include "cpu/backend.h"

namespace hllm {

constexpr int64_t BLOCK = 1 << 12;  // summed in order within a block, then over the blocks: the same on any number of threads

void Cpu::bce(Context& context, const View& loss, const View& dlogits, const View& logits, const View& labels,
              int64_t positions) {
    const int64_t n = logits.shape[0];
    double* partial = context.scratch.take<double>((n + BLOCK - 1) / BLOCK);
    team().ranges(n, BLOCK, [&](int64_t begin, int64_t end, int) {
        double sum = 0;
        for (int64_t i = begin; i < end; i++) {
            // exp of a negative number only: no logit overflows.
            const double z = logits.f32()[i], y = labels.f32()[i], e = std::exp(-std::abs(z));
            sum += std::max(z, 0.0) - y * z + std::log1p(e);
            if (dlogits)
                dlogits.f32()[i] = static_cast<float>(((z >= 0 ? 1 : e) / (1 + e) - y) / static_cast<double>(positions));
        }
        partial[begin / BLOCK] = sum;
    });
    double total = 0;
    for (int64_t i = 0; i < n; i += BLOCK) total += partial[i / BLOCK];
    *loss.f32() = static_cast<float>(total);
}

}  // namespace hllm
