// The scheduler of the emulator: runs the threads of a block one at a time, each on its own stack, switching to another
// when one has to wait at a barrier or a warp operation.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/emulator/types.h"

namespace fastsam::emulator {

// Return the message with which a GPU would refuse a launch of this shape, or null if it would not.
const char* launch_error(dim3 grid, dim3 block, size_t shared);

// Call `body` for every thread of every block, one block after another. Throws std::runtime_error, naming the kernel
// and where its threads wait, if none of them can continue; errors that a thread raises are passed on.
void run(const std::string& kernel, dim3 grid, dim3 block, size_t shared, const std::function<void()>& body);

// Set the order in which a block's threads run: ascending, or descending if `reverse`. Results that differ between the
// two show a missing barrier.
void set_order(bool reverse);

// Return the names of the kernels that have run since the last call of this function, without duplicates.
std::vector<std::string> take_launched_kernels();

// ---- from within a kernel ----
const uint3& thread_index();
const uint3& block_index();
const dim3& block_size();
const dim3& grid_size();
void* dynamic_shared();
int lane();
unsigned linear_thread();

// Wait until all threads of the block that haven't ended are here. Return how many of them passed a true `predicate`.
int sync_block(const char* barrier, bool predicate = false);

// The operands of a warp-wide operation, one per lane. Lanes that don't take part are not in `present` and have null.
struct Lanes {
  uint32_t present;
  void* operands[32];
};
// Wait until all lanes of `mask` that haven't ended are here with the same operation and mask. The last one to arrive
// calls `action` once for all of them; the operands live on the stacks of the waiting lanes.
void sync_warp(const char* operation, uint32_t mask, void* operand, void (*action)(const Lanes&));

// Let another thread run. A loop that waits for memory to change must call this, or it never ends.
void yield();

// Throw an error that names the current thread, its block and the kernel; it ends the kernel.
[[noreturn]] void fail(const std::string& what);

// End the kernel with such an error from a place that exceptions must not leave. `thread` is the linear index of the
// thread at fault.
[[noreturn]] void abort_kernel(unsigned thread, const std::string& what);
// Describe a thread, given its linear index, as "thread (1, 0, 0)".
std::string describe_thread(unsigned thread);

// Tell the race detector that these lanes of the current warp have met at __syncwarp().
void on_syncwarp(const Lanes& lanes);

// Return whether all of the `bytes` bytes at `address` are shared memory of this block.
bool is_shared(const void* address, size_t bytes);

// Asynchronous copies of the current thread (cp.async): `bytes` bytes from `from`, then `zeros` zero bytes. A copy is
// carried out only when its group is waited for, so that reading too early shows.
void begin_async_copy(void* to, const void* from, size_t bytes, size_t zeros);
void commit_copies();
// Carry out all but the newest `pending` groups.
void wait_copies(size_t pending);

}  // namespace fastsam::emulator
