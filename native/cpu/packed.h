// Weights in the order in which the register tile reads them, and the product over them.
#pragma once
#include "abi/backend.h"

namespace hllm {

// Bytes of w [N,K], f32 or bf16, as panels; 0 where panels would not be faster.
int64_t packed_bytes(const View& w);
// The rows of w are contiguous. `factors` [N], or null: what each row of an f32 w is multiplied by.
void pack(void* panels, const View& w, const float* factors = nullptr);
// y[T,N] (+)= x[T,K] w^T for the w [N,K] (dtype and shape alone are read) that was packed into `panels`, in a room of
// packed_room() bytes; what is room for x is room for fewer rows of it.
int64_t packed_room(const View& x, const View& w);
void packed_forward(void* room, const View& y, const View& x, const View& w, const void* panels, bool accumulate);
// The same for a w that is packed for this product alone, block by block, in float32; the room aligned to 64. Any strides of
// x; one stride of w is 1, that of its rows if it is bf16.
bool product_wins(const View& y);  // over the GEMM library
int64_t product_room(const View& x, const View& w);
void product(void* room, const View& y, const View& x, const View& w, bool accumulate);

}  // namespace hllm
