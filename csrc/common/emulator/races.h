// The race detector of the emulator: finds unordered accesses to the same memory. For shared memory it does what
// compute-sanitizer's racecheck does on a GPU. For global memory it finds reads and writes of what another thread of
// the same launch, also of another block, has written.
//
// Kernels are compiled with -fsanitize=thread only to make the compiler insert a call before every read and write;
// races.cpp implements these calls itself. Two accesses by threads of one block are ordered by a __syncthreads()
// between them, by barriers in shared memory and, within a warp, by a __syncwarp() that both threads took part in.
// Shuffles, votes and matrix products order nothing. An asynchronous operation must be waited for before anyone reads
// or writes its destination (cp.async) or writes what it reads (wgmma). A race stops the kernel with an error.
//
// Not detected: in global memory, writes to what another thread has read; any reliance on atomics and fences for
// ordering, which no kernel here does.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam::emulator::races {

// ---- called by block.cpp; threads of the running block are identified by their linear index ----
struct Region {
  const char* begin;
  size_t bytes;
};
void begin_launch();
// `stacks`: the threads' stacks, whose accesses are not checked, since they are private to one thread.
void begin_block(unsigned threads, Region dynamic_shared, Region static_shared, Region stacks);
void end_launch(bool failed);

// All threads of the block that haven't ended have met at a block barrier.
void on_block_barrier();
// The given lanes of a warp have met at __syncwarp().
void on_syncwarp(unsigned warp, uint32_t lanes);
// A thread has arrived at, or has waited for, this phase of a barrier in shared memory. What a thread did before it
// arrived is ordered before what any thread does after waiting for that phase.
void arrive(const void* barrier, bool phase, unsigned thread);
void wait(const void* barrier, bool phase, unsigned thread);

// ---- accesses of emulated instructions, which the compiler doesn't instrument as such ----
// Suspend and resume checking, while one thread executes an instruction on behalf of its whole warp.
void pause_checks();
void resume_checks();
void read(const void* address, size_t bytes, unsigned thread);
void update(const void* address, size_t bytes, unsigned thread);  // by an atomic

// Asynchronous accesses, from their issue (begin) to their completion by a wait (end). A copy belongs to a thread; it
// writes `bytes` bytes read from `from`, then `zeros` zero bytes. Reads by wgmma products belong to the thread's warp.
void begin_copy(const void* to, const void* from, size_t bytes, size_t zeros, unsigned thread);
void end_copy(const void* to, size_t bytes, unsigned thread);
void begin_product_read(const void* address, size_t bytes, unsigned thread);
void end_product_read(const void* address, size_t bytes, unsigned thread);
// The warp has waited for its products: the reads that have ended are ordered before what its lanes do next.
void end_products(unsigned warp);

}  // namespace fastsam::emulator::races

// Attribute of functions that emulate an instruction and report its accesses themselves.
#ifdef __SANITIZE_THREAD__
#define FASTSAM_NO_RACE_CHECK __attribute__((no_sanitize_thread))
#else
#define FASTSAM_NO_RACE_CHECK
#endif
