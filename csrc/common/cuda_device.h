// What the host side asks of the GPU before it chooses a kernel or a grid. Free of CUDA's headers.
#pragma once

#include <string>

namespace fastsam::cuda {

// Why kernels can't run on the current device, or "": the module may hold no code for it, or want a newer driver.
// std::runtime_error for any other trouble.
std::string why_not();

// Bytes that each of the current device's multiprocessors has for the blocks it runs at a time.
int shared_memory();

}  // namespace fastsam::cuda
