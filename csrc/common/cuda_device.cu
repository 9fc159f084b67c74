#include "common/cuda_device.h"

#include "common/cuda.h"

namespace fastsam::cuda {
namespace {

// Compiled for what all the others are compiled for.
__global__ void probe_kernel() {}

int attribute(cudaDeviceAttr which, const char* what) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "looking for the current CUDA device");
  check(cudaDeviceGetAttribute(&value, which, device), what);
  return value;
}

}  // namespace

int device_count() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver) {
    (void)cudaGetLastError();
    return 0;
  }
  check(error, "counting the CUDA devices");
  return count;
}

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

int compute_capability() {
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor, "asking for a CUDA device's compute capability") +
         attribute(cudaDevAttrComputeCapabilityMinor, "asking for a CUDA device's compute capability");
}

int shared_memory() {
  return attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, "asking for a CUDA device's shared memory");
}

int multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount, "counting a CUDA device's multiprocessors"); }

}  // namespace fastsam::cuda
