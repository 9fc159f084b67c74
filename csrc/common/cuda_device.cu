// Queries, copies and events of the current CUDA device (cuda_device.h); in the emulator, of its single device.
#include "common/cuda_device.h"

#include "common/cuda.h"

namespace fastsam::cuda {
namespace {

// Compiled for the same architectures as all other kernels, so it stands for them in unavailable_reason().
__global__ void probe_kernel() {}

}  // namespace

std::string unavailable_reason() {
#ifdef FASTSAM_CUDA_EMULATION
  (void)probe_kernel;
  return "";
#else
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe_kernel);
  switch (error) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:  // the same condition, detected later
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

int shared_memory_per_multiprocessor() {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "looking for the current CUDA device");
  check(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
        "asking for a CUDA device's shared memory");
  return value;
}

void copy_async(void* to, const void* from, size_t bytes, void* stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, static_cast<cudaStream_t>(stream)), "cudaMemcpyAsync");
}

Event::~Event() {
  if (event_ != nullptr) (void)cudaEventDestroy(static_cast<cudaEvent_t>(event_));
}

void Event::record(void* stream) {
  if (event_ == nullptr) {
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    event_ = event;
  }
  check(cudaEventRecord(static_cast<cudaEvent_t>(event_), static_cast<cudaStream_t>(stream)), "cudaEventRecord");
  pending_ = true;
}

void Event::synchronize() {
  if (!pending_) return;
  pending_ = false;
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)), "cudaEventSynchronize");
}

}  // namespace fastsam::cuda
