// What the emulator's files share.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "cuda/device.cuh"

namespace hllm::cuda::emulator {

// The device's own state is never destroyed: a process may exit, in a signal's name too, while a thread runs a kernel.
template <class T>
T& lasting() {
    return *new T();
}

// A number from the environment.
uint64_t setting(const char* name, uint64_t otherwise);
// Below n, from the generator that HLLM_EMULATOR_SEED starts.
uint64_t draw(uint64_t n);

// After a violation the device answers cudaErrorAssert, with the first report's text, until it is reset.
void report(const std::string& text);
bool broken();
// Notes why a call fails, and returns the error.
cudaError_t refuse(cudaError_t error, const std::string& why);

// ---- memory.cpp -------------------------------------------------------------------------------------------------------

// What fresh memory holds: NaN as float and as bf16, negative and absurd as an index.
constexpr uint16_t POISON = 0xffc1;
void poison(void* p, size_t bytes);

// An allocation is counted at the calls, and lives between the moments at which its stream gets there.
cudaError_t reserve(void** pointer, size_t bytes);
void begin_life(void* pointer);
cudaError_t give_back(void* pointer);
void end_life(void* pointer);
void forget_memory();
uint64_t memory_limit();
uint64_t memory_in_use();

// Lets the host, and so a kernel, reach the live allocation at p; false where there is none, or if it is open.
bool open_memory(const void* p);
// Ends that, and looks for writes beside what was open.
void close_memory();

bool on_device(const void* p);
// Whether these bytes lie in one live allocation; `describe` says what there is.
bool live(const void* p, size_t bytes);
std::string describe(const void* p);
// Opens the memory, or reports that it is not live.
void require_live(const char* what, const void* p, size_t bytes);

cudaError_t allocate_pinned(void** pointer, size_t bytes);
cudaError_t free_pinned(void* pointer);
bool is_pinned(const void* p, size_t bytes);

// ---- device.cpp -------------------------------------------------------------------------------------------------------

// Runs a kernel to its end, or to a violation, which it reports.
void execute(const Launch& launch);

// ---- runtime.cpp ------------------------------------------------------------------------------------------------------

// Adds work to a stream, or to the graph that it captures.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);

}  // namespace hllm::cuda::emulator
