// Helpers of the CUDA test programs. Each program is compiled by g++ for the emulator and, where there is a GPU, by
// nvcc: whatever kernels rely on must hold on both.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/cuda.h"

inline void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what.c_str());
  std::exit(1);
}

// Requires that `call` throws a std::runtime_error whose message contains all of `words`.
inline void expect_error(const std::function<void()>& call, const std::vector<std::string>& words) {
  try {
    call();
  } catch (const std::runtime_error& error) {
    for (const std::string& word : words) {
      require(std::string(error.what()).find(word) != std::string::npos, "\"" + word + "\" in: " + error.what());
    }
    return;
  }
  require(false, "no error; expected one with: " + words[0]);
}

// Zero-initialised array that host and device can access: managed memory on a GPU.
template <typename T>
class ManagedArray {
 public:
  explicit ManagedArray(size_t count) : count_(count) {
#ifdef FASTSAM_CUDA_EMULATION
    data_ = new T[count]();
#else
    fastsam::cuda::check(cudaMallocManaged(&data_, count * sizeof(T)), "allocating");
    fastsam::cuda::check(cudaMemset(data_, 0, count * sizeof(T)), "clearing");
    fastsam::cuda::check(cudaDeviceSynchronize(), "clearing");
#endif
  }
  ~ManagedArray() {
#ifdef FASTSAM_CUDA_EMULATION
    delete[] data_;
#else
    cudaFree(data_);
#endif
  }
  ManagedArray(const ManagedArray&) = delete;
  ManagedArray& operator=(const ManagedArray&) = delete;

  T* data() { return data_; }
  size_t size() const { return count_; }
  T& operator[](size_t i) { return data_[i]; }

 private:
  T* data_ = nullptr;
  size_t count_;
};

// Waits for all kernels; throws if one failed.
inline void synchronize() { fastsam::cuda::check(cudaStreamSynchronize(nullptr), "running the kernels"); }
