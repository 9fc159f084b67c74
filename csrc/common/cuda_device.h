// What the host side asks of the GPU before it chooses a kernel or a grid. Free of CUDA's headers.
#pragma once

#include <string>

namespace fastsam::cuda {

// GPUs that this process can use; 0 where there is no GPU or no driver. std::runtime_error for any other trouble.
int device_count();

// Why kernels can't run on the current device, or "": the module may hold no code for it, or want a newer driver.
// std::runtime_error for any other trouble.
std::string why_not();

// Of the current device: major * 10 + minor, such as 80 or 90.
int compute_capability();
int multiprocessors();
// Bytes that each of its multiprocessors has for the blocks it runs at a time.
int shared_memory();

}  // namespace fastsam::cuda
