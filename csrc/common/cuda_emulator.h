// CUDA's language and intrinsics on the CPU, for tests of a kernel's logic where no GPU is at hand.
//
// One block runs at a time, each of its threads on a stack of its own (emulator/block.h). Memory is the host's. Shared
// memory holds NaN (all bits set) when a block begins. A barrier that some threads never reach, a lane that is read and
// doesn't take part, a misaligned matrix row: each is an error with a text, not a hang. What a GPU
// does at the same time happens here in one order or, with set_order, in the reverse; what may go wrong in others is
// found all the same (emulator/races.h). Nothing is timed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/emulator/block.h"
#include "common/emulator/types.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__

// Static shared memory. The attribute gives it sections of its own, also in templates (GCC 11 and newer);
// emulator/shared.ld puts them side by side, and every block begins by spoiling the whole.
#define __shared__ static __attribute__((noinit))

#define DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::fastsam::emulator::dynamic_shared())

#define threadIdx (::fastsam::emulator::thread_index())
#define blockIdx (::fastsam::emulator::block_index())
#define blockDim (::fastsam::emulator::block_size())
#define gridDim (::fastsam::emulator::grid_size())
#define warpSize 32

#include "common/emulator/intrinsics.h"
#include "common/emulator/warp.h"
