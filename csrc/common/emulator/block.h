// Runs the threads of a block one at a time, and lets them wait for each other.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/emulator/types.h"

namespace fastsam::emulator {

// Why a launch of this shape is refused, as a GPU would; null where it isn't.
const char* refusal(dim3 grid, dim3 block, size_t shared);

// Calls `body` for every thread of every block, block after block. std::runtime_error where the threads can't go on.
void run(const std::string& kernel, dim3 grid, dim3 block, size_t shared, const std::function<void()>& body);

// Lets threads go first to last within a block, or last to first: what has no barrier where it needs one then differs.
void set_order(bool backward);

// The names of the kernels that have run since this was called last, each once.
std::vector<std::string> launched();

// ---- from within a kernel ----
const uint3& thread_index();
const uint3& block_index();
const dim3& block_size();
const dim3& grid_size();
void* dynamic_shared();
int lane();
unsigned linear_thread();

// Until all threads of the block that haven't ended are here. How many of them gave a true `predicate`.
int meet_block(const char* barrier, bool predicate = false);

// What the lanes of a warp bring to an operation that they do together; lanes not in `present` have null.
struct Lanes {
  uint32_t present;
  void* operands[32];
};
// Until all lanes of `mask` that haven't ended are here with the same operation and mask; the last one then calls `act`
// once for all, while the operands of the others wait on their stacks.
void meet_warp(const char* operation, uint32_t mask, void* operand, void (*act)(const Lanes&));

// Another thread's turn; what waits for memory to change must call it.
void yield();

// Ends the kernel with an error that says which thread of which kernel it was.
[[noreturn]] void fail(const std::string& what);

// The same for what is found in a place that no exception may leave; `thread` is its linear number.
[[noreturn]] void stop(unsigned thread, const std::string& what);
// "thread (1, 0, 0)".
std::string thread_text(unsigned thread);

// Lanes of a warp have met at __syncwarp().
void order_lanes(const Lanes& lanes);

// Whether `bytes` at `address` are shared memory of this block.
bool is_shared(const void* address, size_t bytes);

// A copy to shared memory that is done when its group is waited for, not before.
void defer_copy(void* to, const void* from, size_t bytes, size_t zeros);
void commit_copies();
// Until at most `pending` groups, the newest, are outstanding.
void wait_copies(size_t pending);

}  // namespace fastsam::emulator
