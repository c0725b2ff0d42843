// The CPU backend's seam to the ABI layer.
#pragma once
#include <string>

#include "abi/backend.h"
#include "cpu/team.h"

namespace hllm {

std::string cpu_build_info();

}  // namespace hllm
