// Warp-level matrix products on tensor cores (mma.sync), with the loads (ldmatrix) and asynchronous copies (cp.async)
// that feed them. All 32 lanes of the warp must call ldmatrix and mma functions together; cp.async is per thread. Warps
// must be runs of 32 along threadIdx.x.
//
// Fragments lie in registers as in the PTX manual. With g = lane / 4 and t = lane % 4, 16-bit elements are held as
//   A (16 x 16)  a[0] row g, columns 2t, 2t + 1; a[1] row g + 8; a[2] row g, columns + 8; a[3] row g + 8, columns + 8
//   B (16 x 8)   b0 rows 2t, 2t + 1, column g; b1 rows + 8
//   D (16 x 8)   d[0], d[1] row g, columns 2t, 2t + 1; d[2], d[3] row g + 8
// and tf32 numbers as (row, column): A (16 x 8) a[0] (g, t), a[1] (g + 8, t), a[2] (g, t + 4), a[3] (g + 8, t + 4);
// B (8 x 8) b0 (t, g), b1 (t + 4, g); D as above. Products and cp.async need sm_80; on sm_75, which has only ldmatrix,
// they stop at __trap(), so the host must check the compute capability before a launch.
#pragma once

#include "common/cuda.h"

#ifdef FASTSAM_CUDA_EMULATION
#include "common/emulator/mma.h"
#endif

namespace fastsam::cuda {

// The lane's position in a fragment: `group` is g above, a row; `pair` is t, a pair of columns.
__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % kWarp); }
__device__ __forceinline__ int group() { return lane() / 4; }
__device__ __forceinline__ int pair() { return lane() % 4; }

// 2^x. The emulator's is accurate to 1 ulp, the GPU's approximation to 2 ulp.
__device__ __forceinline__ float exp2_approx(float x) {
#ifdef FASTSAM_CUDA_EMULATION
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

#ifndef FASTSAM_CUDA_EMULATION

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define FASTSAM_FROM_SM80(...) asm volatile(__VA_ARGS__)
#else
#define FASTSAM_FROM_SM80(...) __trap()
#endif

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Load four 8 x 8 matrices of 16-bit elements from shared memory. Lane i passes the address of row i % 8 of matrix
// i / 8: 16 bytes, aligned to 16. On return r[i] holds row g, columns 2t and 2t + 1 of matrix i; in the `trans` form,
// column g, rows 2t and 2t + 1.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// d (16 x 8) += a (16 x 16) * b (16 x 8), with factors of type T, half or bfloat16.
template <typename T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void mma_m16n8k16<half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  FASTSAM_FROM_SM80(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};" : "+f"(d[0]),
      "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma_m16n8k16<bfloat16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                                       uint32_t b1) {
  FASTSAM_FROM_SM80(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};" : "+f"(d[0]),
      "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d (16 x 8) += a (16 x 8) * b (8 x 8) in tf32. Factors are the bits of floats, whose lower 13 bits are ignored.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  FASTSAM_FROM_SM80(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};" : "+f"(d[0]),
      "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Start an asynchronous copy of 16 bytes from global to shared memory, both aligned to 16. If `is_valid` is false,
// write zeros instead and don't access global memory. A thread waits for its own copies with cp_async_wait; a barrier
// after that makes them visible to other threads.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool is_valid = true) {
  FASTSAM_FROM_SM80("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                    "r"(is_valid ? 16 : 0) : "memory");
}
// Close the group of this thread's copies since the last commit; the group may be empty.
__device__ __forceinline__ void cp_async_commit() { FASTSAM_FROM_SM80("cp.async.commit_group;" :: : "memory"); }
// Wait until all but the newest kPending groups of this thread's copies have arrived.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  FASTSAM_FROM_SM80("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#undef FASTSAM_FROM_SM80

#endif

// Split a float into two TF32 numbers whose sum equals it to a relative 2^-22. `high` is rounded to nearest, so that
// the rest fits a TF32 except for one bit. That bit is truncated, which is no less accurate than rounding it, and which
// keeps a NaN: GPUs produce NaN with all bits set, which adding the rounding increment would wrap to zero. In `high`
// that does happen, so `low` must carry the NaN.
__device__ __forceinline__ void split_tf32(float value, uint32_t& high, uint32_t& low) {
  high = (__float_as_uint(value) + 0x1000u) & 0xffffe000u;
  low = __float_as_uint(value - __uint_as_float(high)) & 0xffffe000u;
}

}  // namespace fastsam::cuda
