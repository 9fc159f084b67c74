// Host-side queries, copies and events on the current CUDA device. Includes no CUDA headers.
#pragma once

#include <cstddef>
#include <string>

namespace fastsam::cuda {

// Return why kernels can't run on the current device, or "" if they can. Reasons are that the module holds no code for
// the device, or that the driver is too old. Throws std::runtime_error for any other error.
std::string unavailable_reason();

// Return the bytes of shared memory per multiprocessor of the current device, shared by all resident blocks.
int shared_memory_per_multiprocessor();

// Enqueue a copy on the stream, in either direction. Host memory must be pinned, and must stay valid and unchanged
// until the copy has finished.
void copy_async(void* to, const void* from, size_t bytes, void* stream);

// A CUDA event: lets the host wait until everything enqueued on a stream before `record` has finished.
class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event();

  // Record the event on a stream of the current device. The device must be the same at each call.
  void record(void* stream);
  // Block until the most recent `record` has been reached. Returns at once if there is none since the last wait.
  void synchronize();

 private:
  void* event_ = nullptr;
  bool pending_ = false;
};

}  // namespace fastsam::cuda
