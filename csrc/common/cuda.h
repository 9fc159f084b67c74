// The platform layer that every .cu file includes: CUDA's headers under nvcc, or the CPU emulator if
// FASTSAM_CUDA_EMULATION is defined (the .cu file is then plain C++17 for g++). Also kernel launches and error checks.
// Independent of Python and torch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#ifdef FASTSAM_CUDA_EMULATION
#include "common/cuda_emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include "common/cuda_types.h"

// Declare `name` as a T* to the block's dynamic shared memory, aligned to 128 bytes. Use it once per kernel and cut
// several arrays from it. The launch must pass the number of bytes that the kernel needs.
#ifndef FASTSAM_CUDA_EMULATION
#define DYNAMIC_SHARED(T, name)                                                   \
  extern __shared__ __align__(128) unsigned char fastsam_dynamic_shared_memory[]; \
  T* const name = reinterpret_cast<T*>(fastsam_dynamic_shared_memory)
#endif

namespace fastsam::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// A launch with more dynamic shared memory than this first sets cudaFuncAttributeMaxDynamicSharedMemorySize, which
// costs about a microsecond. A block may use 48 KiB without that, but statically declared shared memory counts towards
// it; a sixth of the limit leaves ample room for it.
constexpr size_t kSharedWithoutOptIn = 8 * 1024;

// Throw std::runtime_error, naming the operation `what`, if `error` is a failure.
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // clear it, or the next call to cudaGetLastError would report it again
  throw std::runtime_error(std::string(what) + " failed: " + cudaGetErrorString(error));
}

// Extract the first macro argument: "area_kernel<T, 4>" from "area_kernel<T, 4>, grid, block, ...". Parentheses around
// it are dropped.
inline std::string kernel_name(const char* arguments) {
  std::string name;
  int depth = 0;
  for (const char* c = arguments; *c != '\0' && (depth > 0 || *c != ','); ++c) {
    depth += (*c == '<' || *c == '(') - (*c == '>' || *c == ')');
    name += *c;
  }
  return name.front() == '(' ? name.substr(1, name.size() - 2) : name;
}

inline std::string format_size(dim3 size) {
  return std::to_string(size.x) + " x " + std::to_string(size.y) + " x " + std::to_string(size.z);
}

[[noreturn]] inline void throw_launch_error(const char* arguments, dim3 grid, dim3 block, size_t shared,
                                            const char* reason) {
  throw std::runtime_error("the CUDA kernel " + kernel_name(arguments) + " could not be launched: " + reason +
                           " (grid " + format_size(grid) + ", block " + format_size(block) + ", " +
                           std::to_string(shared) + " bytes of dynamic shared memory)");
}

// Store to an address to which other blocks may store different values at the same time; any one of them may win. Only
// for invalid input, whose results are discarded.
template <typename T>
__device__ inline void store_contended(T* address, T value) {
#ifdef FASTSAM_CUDA_EMULATION
  atomicExch(address, value);  // the emulator would report plain stores as a race
#else
  *address = value;
#endif
}

// Return ceil(count / each), for a grid's x dimension. Throws std::runtime_error above CUDA's limit of 2^31 - 1 blocks.
inline unsigned blocks_for(int64_t count, int64_t per_block) {
  const int64_t blocks = (count + per_block - 1) / per_block;
  if (count < 0 || blocks > INT32_MAX) {
    throw std::runtime_error("a CUDA grid for " + std::to_string(count) + " items would have too many blocks");
  }
  return static_cast<unsigned>(blocks);
}

template <typename... Parameters, typename... Arguments>
void launch_named(const char* arguments, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                  cudaStream_t stream, Arguments&&... values) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#ifdef FASTSAM_CUDA_EMULATION
  (void)stream;  // the emulator runs a kernel synchronously
  const char* reason = emulator::launch_error(grid, block, shared);
  if (reason != nullptr) throw_launch_error(arguments, grid, block, shared, reason);
  emulator::run(kernel_name(arguments), grid, block, shared, [&] { kernel(static_cast<Parameters>(values)...); });
#else
  cudaError_t error = cudaSuccess;
  if (shared > kSharedWithoutOptIn) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  }
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    error = cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(values)...);
  }
  if (error != cudaSuccess) {
    (void)cudaGetLastError();
    throw_launch_error(arguments, grid, block, shared, cudaGetErrorString(error));
  }
#endif
}

}  // namespace fastsam::cuda

// launch(kernel, grid, block, dynamic_shared_bytes, stream, arguments...): launch a kernel without the <<<>>> syntax,
// which plain C++ cannot parse. Errors are std::runtime_error with the kernel's name; an empty grid launches nothing.
// A macro, because the kernel's name is taken from the source text.
#define launch(...) ::fastsam::cuda::launch_named(#__VA_ARGS__, __VA_ARGS__)
