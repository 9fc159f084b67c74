// Warpgroup-level matrix products on Hopper's tensor cores (wgmma), with what they need around them: descriptors of
// matrices in shared memory, barriers in shared memory (mbarrier), fences and register reallocation. A warpgroup is
// four consecutive warps, the first with an index that is a multiple of four; its 128 threads must make the wgmma calls
// together. Only code for sm_90a contains them: elsewhere they stop at __trap(), so the host must check before a
// launch.
//
// Accumulator (64 x N): warp w of the group holds rows 16 w to 16 w + 15 as a row of adjacent 16 x 8 fragments D of
// mma.h, d[n] for columns 8 n to 8 n + 7. The left factor (64 x 16): warp w holds the same rows as one fragment A of
// mma.h. These are figures 148 and 149 of the PTX manual (section "Matrix Fragments for wgmma.mma_async.m64nNk16").
#pragma once

#include <type_traits>

#include "common/cuda.h"
#include "common/mma.h"

#ifdef FASTSAM_CUDA_EMULATION
#include "common/emulator/wgmma.h"
#endif

// Defined if this compiler pass can emit wgmma. The host pass defines it too, because it emits no device code.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FASTSAM_HAS_WGMMA 1
#endif

namespace fastsam::cuda {

// How the 16-byte vectors of a matrix are permuted in shared memory: address bits 4, 4-5 or 4-6 (for 32, 64 or 128
// bytes) are XORed with the bits three positions above them.
enum class Swizzle : uint64_t { kNone = 0, k128Bytes = 1, k64Bytes = 2, k32Bytes = 3 };

// Make the descriptor of a matrix in shared memory (PTX manual, section "Matrix Descriptor Format"). Offsets are in
// bytes and multiples of 16. The swizzle pattern must begin at a multiple of 1024, 512 or 256 bytes (for 128, 64 or
// 32). If depth (k) runs along swizzled rows of 32, 64 or 128 bytes, `stride` is the distance between groups of eight
// rows, and `leading` is ignored. If depth runs down the rows, `stride` is the distance between groups of eight rows,
// i.e. of eight k, and `leading` the distance between blocks of columns, each one swizzled row wide.
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

// Required before the first product, and after writing registers that later products read or accumulate into.
__device__ __forceinline__ void wgmma_fence() { FASTSAM_SM90A("wgmma.fence.sync.aligned;" :: : "memory"); }
// Close the group of the products issued since the last commit.
__device__ __forceinline__ void wgmma_commit() { FASTSAM_SM90A("wgmma.commit_group.sync.aligned;" :: : "memory"); }
// Wait until all but the newest kPending groups are complete. Call wgmma_fence_operand on the accumulators before
// reading them.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  FASTSAM_SM90A("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Compiler barrier for these registers: products are asynchronous and access them after their instruction was issued,
// so the compiler must not move or cache their values across this point.
template <int kGroups>
__device__ __forceinline__ void wgmma_fence_operand(float (&d)[kGroups][4]) {
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) asm volatile("" : "+f"(d[n][j])::"memory");
  }
}
template <int kSteps>
__device__ __forceinline__ void wgmma_fence_operand(uint32_t (&a)[kSteps][4]) {
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
                "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kMnMajor ? 1 : 0))
#define FASTSAM_WGMMA_80(type)                                                                                      \
  FASTSAM_SM90A("wgmma.mma_async.sync.aligned.m64n80k16.f32." type "." type                                         \
                " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
                "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39}, "  \
                "{%40, %41, %42, %43}, %44, 1, 1, 1, %45;" : FASTSAM_EIGHT_GROUPS(d),                               \
                FASTSAM_FOUR(d, 8), FASTSAM_FOUR(d, 9) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),        \
                "n"(kMnMajor ? 1 : 0))

// d (64 x N) += a (64 x 16) * b (16 x N) with N = 64 or 80 and factors of type T, half or bfloat16. `a` is in
// registers, `b` a descriptor. Asynchronous: see wgmma_wait. With kMnMajor, each row of b in memory is one k;
// otherwise k runs along the rows.
template <typename T, bool kMnMajor>
__device__ __forceinline__ void wgmma(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b) {
  if constexpr (std::is_same_v<T, half>) {
    FASTSAM_WGMMA_64("f16");
  } else {
    static_assert(std::is_same_v<T, bfloat16>);
    FASTSAM_WGMMA_64("bf16");
  }
}
template <typename T, bool kMnMajor>
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

// Make this thread's writes to shared memory visible to the asynchronous proxy, through which products read. Call it
// before the barrier that tells the products' threads that the data is there.
__device__ __forceinline__ void fence_proxy_async() { FASTSAM_SM90A("fence.proxy.async.shared::cta;" :: : "memory"); }

// Initialise a barrier in shared memory (mbarrier), each phase of which `count` arrivals complete. Call it from one
// thread; a __syncthreads() must follow before other threads use the barrier.
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, uint32_t count) {
  FASTSAM_SM90A("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
  FASTSAM_SM90A("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Wait until the phase with this parity is complete. The first phase has parity 0; a wait for parity 1 before that
// returns at once.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
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

// Set the number of registers per thread of this warpgroup from here on: release some, or take those that other
// warpgroups released.
template <int kRegisters>
__device__ __forceinline__ void warpgroup_reg_dealloc() {
  FASTSAM_SM90A("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void warpgroup_reg_alloc() {
  FASTSAM_SM90A("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

#undef FASTSAM_SM90A

#endif

}  // namespace fastsam::cuda
