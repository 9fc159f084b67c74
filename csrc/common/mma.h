// Matrix products of a warp on tensor cores, and what feeds them. All 32 lanes call each of these together.
//
// Fragments lie in registers as the PTX manual says. With g = lane / 4 and t = lane % 4, of 16-bit elements:
//   A (16 x 16)  a[0] row g, columns 2t, 2t + 1; a[1] row g + 8; a[2] row g, columns + 8; a[3] both
//   B (16 x 8)   b0 rows 2t, 2t + 1, column g; b1 rows + 8
//   D (16 x 8)   d[0], d[1] row g, columns 2t, 2t + 1; d[2], d[3] row g + 8
// and of tf32: A (16 x 8) a[0] (g, t), a[1] (g + 8, t), a[2] (g, t + 4), a[3] (g + 8, t + 4); B (8 x 8) b0 (t, g),
// b1 (t + 4, g); D as above. sm_75 has ldmatrix alone: on it the rest stops at __trap(), and the host side asks first.
#pragma once

#include "common/cuda.h"

#ifdef FASTSAM_CUDA_EMULATION
#include "common/emulator/mma.h"
#endif

namespace fastsam::cuda {

// The lane's place in a fragment: rows `group` and `group + 8`, columns 2 * `pair` and the one after, plus 8.
__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % kWarp); }
__device__ __forceinline__ int group() { return lane() / 4; }
__device__ __forceinline__ int pair() { return lane() % 4; }

// 2^x; the emulator's is exact to the last bit, the GPU's to two of them.
__device__ __forceinline__ float power_of_two(float x) {
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

// Loads four 8 x 8 matrices of 16-bit elements from shared memory. `row` of lanes 0-7 are the rows of the first, of
// 8-15 of the second, and so on, each 16 bytes at a multiple of 16. r[i] holds row g, columns 2t and 2t + 1 of matrix
// i; with `trans`, rows 2t and 2t + 1 of column g.
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

// d += a b, 16 x 8 from 16 x 16 and 16 x 8 elements of T, which is half or bfloat16.
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

// d += a b, 16 x 8 from 16 x 8 and 8 x 8 tf32 numbers, as the bits of floats, whose lower 13 are dropped.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  FASTSAM_FROM_SM80(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};" : "+f"(d[0]),
      "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes of global memory to shared memory, both at multiples of 16, while the thread goes on; zeros, and no look at
// global memory, unless `inside`. Each thread waits for its own copies; a barrier then shows them to the others.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool inside = true) {
  FASTSAM_FROM_SM80("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                    "r"(inside ? 16 : 0) : "memory");
}
// Closes the group of the copies since the last commit; it may be empty.
__device__ __forceinline__ void cp_async_commit() { FASTSAM_FROM_SM80("cp.async.commit_group;" :: : "memory"); }
// Until at most kPending groups, the newest, are outstanding.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  FASTSAM_FROM_SM80("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#undef FASTSAM_FROM_SM80

#endif

// A float as two TF32 numbers that add up to it, to 2^-22. The first is rounded to nearest, so that what is left over
// fits a TF32, too, but for a bit. That is cut off: rounded it would be as far off, and a NaN all of whose bits are
// set, as GPUs make them, would become a zero, as its first part does.
__device__ __forceinline__ void split(float value, uint32_t& high, uint32_t& low) {
  high = (__float_as_uint(value) + 0x1000u) & 0xffffe000u;
  low = __float_as_uint(value - __uint_as_float(high)) & 0xffffe000u;
}

}  // namespace fastsam::cuda
