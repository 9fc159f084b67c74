#include "common/cuda_device.h"

#include "common/cuda.h"

namespace fastsam::cuda {
namespace {

// Compiled for what all the others are compiled for.
__global__ void probe_kernel() {}

}  // namespace

std::string why_not() {
#ifdef FASTSAM_CUDA_EMULATION
  (void)probe_kernel;
  return "";
#else
  cudaFuncAttributes found;
  const cudaError_t error = cudaFuncGetAttributes(&found, probe_kernel);
  switch (error) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:  // the same, where that is found out later
    case cudaErrorInsufficientDriver:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorJitCompilerNotFound:
      (void)cudaGetLastError();
      return cudaGetErrorString(error);
    default:
      check(error, "looking for a kernel's code");
      return "";
  }
#endif
}

int shared_memory() {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "looking for the current CUDA device");
  check(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
        "asking for a CUDA device's shared memory");
  return value;
}

}  // namespace fastsam::cuda
