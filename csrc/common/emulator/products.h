// What block.cpp tells wgmma.cpp.
#pragma once

#include <cstddef>
#include <string>

namespace fastsam::emulator {

void begin_block_of_products();
// What is wrong with the block's products, now that all threads have ended; "" where nothing is.
std::string end_block_of_products();
// The current thread's copy has arrived.
void note_copy(const void* to, size_t bytes);

}  // namespace fastsam::emulator
