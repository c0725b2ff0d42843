// Stands in for PyTorch's header in a build of FlashAttention without it: the state of a random generator, which only
// dropout reads, and that is compiled out.
#pragma once

namespace at {
struct PhiloxCudaState {};
}  // namespace at
