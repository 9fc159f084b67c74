// CUDA's language and intrinsics on the CPU, to test the logic of kernels without a GPU.
//
// One block runs at a time, each of its threads on a stack of its own (emulator/block.h). Global memory is host memory.
// Shared memory is filled with NaN (all bits set) when a block begins. Mistakes raise an error with a message instead
// of hanging: a barrier that some threads never reach, a shuffle from a lane that doesn't take part, a misaligned
// matrix row. Threads that a GPU runs concurrently run here in one fixed order or, with set_order, in the reverse
// order; emulator/races.h detects races that neither order shows. Speed is not modelled.
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

// Static shared memory. The attribute places it in .noinit sections, also in templates (GCC 11 and newer).
// emulator/shared.ld makes these sections adjacent, so that each block can fill them all with NaN at its start.
#define __shared__ static __attribute__((noinit))

#define DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::fastsam::emulator::dynamic_shared())

#define threadIdx (::fastsam::emulator::thread_index())
#define blockIdx (::fastsam::emulator::block_index())
#define blockDim (::fastsam::emulator::block_size())
#define gridDim (::fastsam::emulator::grid_size())
#define warpSize 32

#include "common/emulator/intrinsics.h"
#include "common/emulator/warp.h"
