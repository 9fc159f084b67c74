// What the test programs of CUDA code share. Each is compiled by g++ for the emulator and, where there is a GPU, by
// nvcc: what a kernel may rely on must hold on both.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#include "common/cuda.h"

inline void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what.c_str());
  std::exit(1);
}

// Memory that both sides see.
template <typename T>
class Both {
 public:
  explicit Both(size_t count) : count_(count) {
#ifdef FASTSAM_CUDA_EMULATION
    data_ = new T[count]();
#else
    fastsam::cuda::check(cudaMallocManaged(&data_, count * sizeof(T)), "allocating");
    fastsam::cuda::check(cudaMemset(data_, 0, count * sizeof(T)), "clearing");
    fastsam::cuda::check(cudaDeviceSynchronize(), "clearing");
#endif
  }
  ~Both() {
#ifdef FASTSAM_CUDA_EMULATION
    delete[] data_;
#else
    cudaFree(data_);
#endif
  }
  Both(const Both&) = delete;
  Both& operator=(const Both&) = delete;

  T* data() { return data_; }
  size_t size() const { return count_; }
  T& operator[](size_t i) { return data_[i]; }

 private:
  T* data_ = nullptr;
  size_t count_;
};

// Until the kernels are done.
inline void finish() { fastsam::cuda::check(cudaStreamSynchronize(nullptr), "running the kernels"); }
