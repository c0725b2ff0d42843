// What the emulator's files share.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "cuda/device.cuh"

namespace hllm::cuda::emulator {

// As printf.
__attribute__((format(printf, 1, 2))) std::string format(const char* text, ...);
// A number from the environment.
uint64_t setting(const char* name, uint64_t otherwise);
// Below n, from the generator that HLLM_EMULATOR_SEED starts.
uint64_t draw(uint64_t n);

// After a violation the device answers cudaErrorAssert, with the first report's text, until it is reset.
void report(const std::string& text);
bool broken();
// Notes why a call fails, and returns the error.
cudaError_t refuse(cudaError_t error, const std::string& why);

// ---- runtime.cpp: streams and calls -----------------------------------------------------------------------------------

// Makes a call, unless the device is broken, the stream unknown, or `uncaptured` is the name of what no graph can hold while
// the stream captures one. The emulated device serves one caller at a time.
cudaError_t answer(const std::function<cudaError_t()>& call);
cudaError_t answer(cudaStream_t stream, const char* uncaptured, const std::function<cudaError_t()>& call);
// Adds work to a stream, or to the graph that it captures.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);

// ---- memory.cpp -------------------------------------------------------------------------------------------------------

// Fills with what fresh memory holds: NaN as float and as bf16, negative and absurd as an index.
void poison(void* p, size_t bytes);
// Whether these bytes lie in one live allocation of the device; `describe` says what there is.
bool live(const void* p, size_t bytes);
std::string describe(const void* p);
// Lets the host, and so a kernel, reach the live allocation at p; false where there is none, or if it is open.
bool open_memory(const void* p);
// Opens the memory, or reports that it is not live.
void require_live(const char* what, const void* p, size_t bytes);
// Ends all that, and looks for writes beside what was open.
void close_memory();
// At the device's reset.
void forget_memory();

// ---- device.cpp -------------------------------------------------------------------------------------------------------

// Runs a kernel to its end, or to a violation, which it reports.
void execute(const Launch& launch);

}  // namespace hllm::cuda::emulator
