// What the host side asks of the GPU beside kernels. Free of CUDA's headers.
#pragma once

#include <cstddef>
#include <string>

namespace fastsam::cuda {

// Why kernels can't run on the current device, or "": the module may hold no code for it, or want a newer driver.
// std::runtime_error for any other trouble.
std::string why_not();

// Bytes that each of the current device's multiprocessors has for the blocks it runs at a time.
int shared_memory();

// Queues a copy on the stream. The host's memory is pinned, and stays as it is until that is done.
void copy(void* to, const void* from, size_t bytes, void* stream);

// That what was queued on a stream by now is done.
class Arrival {
 public:
  Arrival() = default;
  Arrival(const Arrival&) = delete;
  Arrival& operator=(const Arrival&) = delete;
  ~Arrival();

  // On a stream of the current device, which is the same at each call.
  void record(void* stream);
  // Waits for what was recorded last, if anything was.
  void wait();

 private:
  void* event_ = nullptr;
  bool pending_ = false;
};

}  // namespace fastsam::cuda
