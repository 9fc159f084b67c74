// Notifications from block.cpp to wgmma.cpp: the start and end of a block, and the arrival of asynchronous copies.
#pragma once

#include <cstddef>
#include <string>

namespace fastsam::emulator {

void begin_wgmma_block();
// After all threads of the block have ended: return what is wrong with its wgmma products, or "".
std::string end_wgmma_block();
// The current thread's asynchronous copy of `bytes` bytes to `to` has arrived.
void on_copy_arrival(const void* to, size_t bytes);

}  // namespace fastsam::emulator
