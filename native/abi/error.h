// The one exception type of the native code; the barrier in abi.cpp turns it into a status.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

#include "hllm.h"

namespace hllm {

struct Error : std::runtime_error {
    Error(hllm_status status, const std::string& text) : std::runtime_error(text), status(status) {}
    hllm_status status;
};

// printf-style; the text says which argument, what was found and what was expected.
[[noreturn]] void fail(hllm_status status, const char* format, ...) __attribute__((format(printf, 2, 3)));

}  // namespace hllm
