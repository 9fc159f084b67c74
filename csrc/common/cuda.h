// What a .cu file needs of its platform: CUDA under nvcc, or the CPU emulator where FASTSAM_CUDA_EMULATION is defined
// (then the file is plain C++17 for g++). Nothing here knows Python or torch.
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

// Dynamic shared memory as an array of T called `name`, at a multiple of 128 bytes. Once per kernel: several arrays are
// cut from one. A kernel that calls this is launched with the bytes it needs.
#ifndef FASTSAM_CUDA_EMULATION
#define DYNAMIC_SHARED(T, name)                                                   \
  extern __shared__ __align__(128) unsigned char fastsam_dynamic_shared_memory[]; \
  T* const name = reinterpret_cast<T*>(fastsam_dynamic_shared_memory)
#endif

namespace fastsam::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// A block may have 48 KiB of shared memory without asking. That counts what a kernel declares, too, so that dynamic
// memory above a sixth of it asks; asking costs about a microsecond.
constexpr size_t kSharedWithoutAsking = 8 * 1024;

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();  // or the next one who asks would be told of it too
  throw std::runtime_error(std::string(what) + " failed: " + cudaGetErrorString(error));
}

// "area_kernel<T, 4>" of "area_kernel<T, 4>, grid, block, ...", also where it stands in parentheses.
inline std::string kernel_name(const char* arguments) {
  std::string name;
  int depth = 0;
  for (const char* at = arguments; *at != '\0' && (depth > 0 || *at != ','); ++at) {
    depth += (*at == '<' || *at == '(') - (*at == '>' || *at == ')');
    name += *at;
  }
  return name.front() == '(' ? name.substr(1, name.size() - 2) : name;
}

inline std::string size_text(dim3 size) {
  return std::to_string(size.x) + " x " + std::to_string(size.y) + " x " + std::to_string(size.z);
}

[[noreturn]] inline void launch_failed(const char* arguments, dim3 grid, dim3 block, size_t shared,
                                       const char* reason) {
  throw std::runtime_error("the CUDA kernel " + kernel_name(arguments) + " could not be launched: " + reason +
                           " (grid " + size_text(grid) + ", block " + size_text(block) + ", " + std::to_string(shared) +
                           " bytes of dynamic shared memory)");
}

// A store at a place where other blocks may store something else at the same time, one of which will be there: of input
// that is wrong, whose results nobody will look at.
template <typename T>
__device__ inline void store_contended(T* address, T value) {
#ifdef FASTSAM_CUDA_EMULATION
  atomicExch(address, value);  // so that it isn't taken for a mistake
#else
  *address = value;
#endif
}

// How many blocks of `each` cover `count`, for a grid's x, where 2^31 - 1 is the limit.
inline unsigned blocks_for(int64_t count, int64_t each) {
  const int64_t blocks = (count + each - 1) / each;
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
  (void)stream;  // the emulator runs a kernel at once
  const char* reason = emulator::refusal(grid, block, shared);
  if (reason != nullptr) launch_failed(arguments, grid, block, shared, reason);
  emulator::run(kernel_name(arguments), grid, block, shared, [&] { kernel(static_cast<Parameters>(values)...); });
#else
  cudaError_t error = cudaSuccess;
  if (shared > kSharedWithoutAsking) {
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
    launch_failed(arguments, grid, block, shared, cudaGetErrorString(error));
  }
#endif
}

}  // namespace fastsam::cuda

// launch(kernel, grid, block, dynamic_shared_bytes, stream, arguments...): <<<>>> that plain C++ can read, and whose
// errors are std::runtime_error with the kernel's name. A grid without blocks is nothing to do. A macro, because only
// the source text knows what a kernel is called.
#define launch(...) ::fastsam::cuda::launch_named(#__VA_ARGS__, __VA_ARGS__)
