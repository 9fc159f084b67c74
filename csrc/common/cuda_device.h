// What the host side asks of the GPU before it chooses a kernel or a grid. Free of CUDA's headers.
#pragma once

namespace fastsam::cuda {

// GPUs that this process can use; 0 where there is no GPU or no driver. std::runtime_error for any other trouble.
int device_count();

// Of the current device: major * 10 + minor, such as 80 or 90.
int compute_capability();
int multiprocessors();
// Bytes that each of its multiprocessors has for the blocks it runs at a time.
int shared_memory();

}  // namespace fastsam::cuda
