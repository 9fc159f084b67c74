// Matrix products of a warpgroup on Hopper's tensor cores, and what they need around them: descriptors of matrices in
// shared memory, barriers in memory, fences. A warpgroup is four warps whose first one's number is a multiple of four;
// all 128 threads make the calls that begin with wgmma together. There is code for sm_90a alone: on others these stop
// at
// __trap(), and the host side asks first.
//
// The accumulator of 64 x N: warp w of the group has rows 16 w to 16 w + 15, and of them each lane what it has of the
// 16 x 8 products in mma.h, side by side; the left factor, 64 x 16, likewise. That is figures 148 and 149 of the PTX
// manual (section "Matrix Fragments for wgmma.mma_async.m64nNk16").
#pragma once

#include <type_traits>

#include "common/cuda.h"
#include "common/mma.h"

#ifdef FASTSAM_CUDA_EMULATION
#include "common/emulator/wgmma.h"
#endif

// Whether this pass of the compiler knows wgmma. The host's takes it for granted.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FASTSAM_HAS_WGMMA 1
#endif

namespace fastsam::cuda {

// How 16-byte vectors of a matrix change places: bits 4, 4-5 or 4-6 of their address by the bits three above.
enum class Swizzle : uint64_t { kNone = 0, k128Bytes = 1, k64Bytes = 2, k32Bytes = 3 };

// The descriptor of a matrix, as the PTX manual's section "Matrix Descriptor Format" has it. Offsets in bytes,
// multiples of 16; the pattern of the swizzle must begin at a multiple of 1024, 512 or 256 bytes. With the depth along
// rows of 32, 64 or 128 bytes `stride` is from eight of them to the next eight, `leading` is not looked at. With the
// depth down the rows, `stride` is from eight of depth to the next eight, `leading` from one row's worth of columns to
// the next.
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t address, uint32_t leading, uint32_t stride,
                                                     Swizzle swizzle) {
  return uint64_t{(address & 0x3ffffu) >> 4} | uint64_t{(leading & 0x3ffffu) >> 4} << 16 |
         uint64_t{(stride & 0x3ffffu) >> 4} << 32 | static_cast<uint64_t>(swizzle) << 62;
}

#ifndef FASTSAM_CUDA_EMULATION

#ifdef FASTSAM_HAS_WGMMA
#define FASTSAM_SM90A(...) asm volatile(__VA_ARGS__)
#else
#define FASTSAM_SM90A(...) __trap()
#endif

// Before the first product, and after registers were written that the next ones read or add to.
__device__ __forceinline__ void wgmma_fence() { FASTSAM_SM90A("wgmma.fence.sync.aligned;" :: : "memory"); }
// Closes the group of the products since the last one.
__device__ __forceinline__ void wgmma_commit() { FASTSAM_SM90A("wgmma.commit_group.sync.aligned;" :: : "memory"); }
// Until at most kPending groups, the newest, are outstanding. The results must be held (below) before they are read.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  FASTSAM_SM90A("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// What the compiler thinks it knows of these registers ends here: products write them after they were issued.
template <int kGroups>
__device__ __forceinline__ void wgmma_hold(float (&d)[kGroups][4]) {
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) asm volatile("" : "+f"(d[n][j])::"memory");
  }
}
template <int kSteps>
__device__ __forceinline__ void wgmma_hold(uint32_t (&a)[kSteps][4]) {
#pragma unroll
  for (int n = 0; n < kSteps; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) asm volatile("" : "+r"(a[n][j])::"memory");
  }
}

#define FASTSAM_FOUR(d, n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define FASTSAM_EIGHT_GROUPS(d)                                                                       \
  FASTSAM_FOUR(d, 0), FASTSAM_FOUR(d, 1), FASTSAM_FOUR(d, 2), FASTSAM_FOUR(d, 3), FASTSAM_FOUR(d, 4), \
      FASTSAM_FOUR(d, 5), FASTSAM_FOUR(d, 6), FASTSAM_FOUR(d, 7)
#define FASTSAM_WGMMA_64(type)                                                                                      \
  FASTSAM_SM90A("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                                         \
                " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
                "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, 1, 1, 1, "      \
                "%37;" : FASTSAM_EIGHT_GROUPS(d) : "r"(a[0]),                                                       \
                "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kDownRows ? 1 : 0))
#define FASTSAM_WGMMA_80(type)                                                                                      \
  FASTSAM_SM90A("wgmma.mma_async.sync.aligned.m64n80k16.f32." type "." type                                         \
                " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
                "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39}, "  \
                "{%40, %41, %42, %43}, %44, 1, 1, 1, %45;" : FASTSAM_EIGHT_GROUPS(d),                               \
                FASTSAM_FOUR(d, 8), FASTSAM_FOUR(d, 9) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),        \
                "n"(kDownRows ? 1 : 0))

// d += a b, 64 x 8 kGroups from 64 x 16 and 16 x 8 kGroups elements of T, which is half or bfloat16; b is a descriptor.
// kDownRows: the depth of b goes down its rows in memory, else along them.
template <typename T, bool kDownRows>
__device__ __forceinline__ void wgmma(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b) {
  if constexpr (std::is_same_v<T, half>) {
    FASTSAM_WGMMA_64("f16");
  } else {
    static_assert(std::is_same_v<T, bfloat16>);
    FASTSAM_WGMMA_64("bf16");
  }
}
template <typename T, bool kDownRows>
__device__ __forceinline__ void wgmma(float (&d)[10][4], const uint32_t (&a)[4], uint64_t b) {
  if constexpr (std::is_same_v<T, half>) {
    FASTSAM_WGMMA_80("f16");
  } else {
    static_assert(std::is_same_v<T, bfloat16>);
    FASTSAM_WGMMA_80("bf16");
  }
}

#undef FASTSAM_WGMMA_80
#undef FASTSAM_WGMMA_64
#undef FASTSAM_EIGHT_GROUPS
#undef FASTSAM_FOUR

// Shows what this thread has written to shared memory to products, once a barrier has told them of it.
__device__ __forceinline__ void fence_for_wgmma() { FASTSAM_SM90A("fence.proxy.async.shared::cta;" :: : "memory"); }

// A barrier in shared memory that `count` arrivals at a time complete. One thread makes it; __syncthreads() shows it.
__device__ __forceinline__ void barrier_init(uint64_t* barrier, uint32_t count) {
  FASTSAM_SM90A("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  FASTSAM_SM90A("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Until the phase of this parity is complete; the first has parity 0, and before it one of parity 1 counts as complete.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, uint32_t parity) {
  uint32_t done = 0;
  do {
    FASTSAM_SM90A(
        "{\n"
        ".reg .pred done;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n"
        "}" : "=r"(done) : "r"(shared_address(barrier)),
        "r"(parity) : "memory");
  } while (done == 0);
}

// Gives up registers, or takes those that other warpgroups gave up: how many each thread of the group has from here on.
template <int kRegisters>
__device__ __forceinline__ void fewer_registers() {
  FASTSAM_SM90A("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void more_registers() {
  FASTSAM_SM90A("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

#undef FASTSAM_SM90A

#endif

}  // namespace fastsam::cuda
