// Finds accesses to memory that nothing puts in order: what compute-sanitizer's racecheck does for shared memory on a
// GPU, and for global memory what other threads of the same launch have written, those of other blocks among them.
//
// Kernels are compiled with -fsanitize=thread, for the calls alone that it puts before every read and write; races.cpp
// answers these itself. Accesses of two threads of a block are in order with a __syncthreads() between them; within a
// warp, also with a __syncwarp() that both took part in; and by barriers in shared memory. Shuffles, votes and matrix
// products order nothing. Of a deferred copy (cp.async, wgmma) nobody may touch either side before it has been waited
// for. A race that is found stops the kernel with an error.
//
// Not looked for: writes to what a thread of another block has read, or has read without a barrier since, in global
// memory; accesses in the wrong order by atomics and fences, which no kernel here orders anything with.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam::emulator::races {

// ---- called by block.cpp, of the threads of the running block by their linear numbers ----
struct Region {
  const char* begin;
  size_t bytes;
};
void begin_launch();
// shared: dynamic and static shared memory. stacks: what belongs to one thread alone.
void begin_block(unsigned threads, Region dynamic_shared, Region static_shared, Region stacks);
void end_launch(bool failed);

// All threads that haven't ended have met.
void order_block();
// Lanes of a warp have met at __syncwarp().
void order_lanes(unsigned warp, uint32_t lanes);
// A thread leaves word at a barrier in memory, for those that wait there later for the end of that phase.
void arrive(const void* barrier, bool phase, unsigned thread);
void wait(const void* barrier, bool phase, unsigned thread);

// ---- accesses that the compiler doesn't see: of emulated instructions ----
// What a thread that runs an instruction for its warp does meanwhile is no access of its own.
void pause();
void go_on();
void read(const void* address, size_t bytes, unsigned thread);
void update(const void* address, size_t bytes, unsigned thread);  // by an atomic

// Deferred ones, from when they are issued to when they have been waited for: by a thread, a copy to shared memory, the
// last `zeros` bytes of which come from nowhere; by a warp, what its products multiply with.
void begin_copy(const void* to, const void* from, size_t bytes, size_t zeros, unsigned thread);
void end_copy(const void* to, size_t bytes, unsigned thread);
void begin_product_read(const void* address, size_t bytes, unsigned thread);
void end_product_read(const void* address, size_t bytes, unsigned thread);
// All lanes of the warp know of the reads that have ended.
void end_products(unsigned warp);

}  // namespace fastsam::emulator::races

// For an emulated instruction that says itself what it touches.
#ifdef __SANITIZE_THREAD__
#define FASTSAM_UNWATCHED __attribute__((no_sanitize_thread))
#else
#define FASTSAM_UNWATCHED
#endif
