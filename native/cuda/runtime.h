// What every CUDA file needs on the host: error checks, the context's stream, and the report of bad indices.
#pragma once
#include <cuda_runtime.h>

#include "abi/backend.h"
#include "cuda/device.cuh"

namespace hllm::cuda {

// check(status, what), declared in device.cuh, throws DEVICE_ERROR or OUT_OF_MEMORY unless status is cudaSuccess.

cudaStream_t stream_of(Context& context);
int sm_count(Context& context);

// The first index out of range that a kernel of this context met; in device memory.
struct IndexRecord {
    int count, position, value, low, high;
    const char* what;  // host address
};

// Part of a kernel that reads indices: `ok` is false for a bad one, which the kernel must then leave alone. The context's next
// synchronize or read reports it as INVALID_ARGUMENT: "<what>[position] is value, expected low to high - 1".
struct IndexCheck {
    IndexRecord* record;
    const char* what;  // "gather_rows: index"; lives as long as the program

    HLLM_DEVICE bool ok(int position, int value, int low, int high) const {
        if (low <= value && value < high) return true;
        if (atomic_add(&record->count, 1) == 0) {
            record->position = position;
            record->value = value;
            record->low = low;
            record->high = high;
            record->what = what;
        }
        return false;
    }
};

IndexCheck index_check(Context& context, const char* what);

}  // namespace hllm::cuda
