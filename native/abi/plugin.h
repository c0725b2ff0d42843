// Devices that live in libraries of their own, opened when first asked for: libhllm_cuda.so, libhllm_cuda_emulated.so.
#pragma once
#include "abi/backend.h"

namespace hllm {

// A plugin exports one function, `hllm_plugin`, which fills this. Objects and exceptions of C++ cross between the two
// libraries, so both must come from the same version and compiler; nothing but `build` is used before that is known.
struct Plugin {
    uint32_t struct_size;
    char build[200];       // HLLM_BUILD_ID of the plugin
    Backend* (*create)();  // throws Error where the device cannot be used
};

#define HLLM_BUILD_ID "hllm " HLLM_VERSION ", g++ " __VERSION__

// Each library has an unwinder linked in, which sets itself up at the first exception that is thrown in that library, and
// aborts when another's exception passes through before. Both call this before one can.
inline void prepare_exceptions() {
    try {
        throw 0;
    } catch (int) {
    }
}

// The backend of `device` ("cuda", "cuda-emulated"); throws UNSUPPORTED with the reason.
Backend* plugin_backend(const char* device);

}  // namespace hllm
