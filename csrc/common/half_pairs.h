// Arithmetic on two halves at a time. Both stand in one 32-bit register, as `pack<half>` packs them, and each result is
// rounded to half.
#pragma once

#include "common/cuda.h"

namespace fastsam::cuda {

#ifdef FASTSAM_CUDA_EMULATION

template <typename Function>
inline uint32_t map_pairs(uint32_t a, uint32_t b, uint32_t c, Function function) {
  const float2 x = unpack<half>(a), y = unpack<half>(b), z = unpack<half>(c);
  return pack<half>(function(x.x, y.x, z.x), function(x.y, y.y, z.y));
}
inline uint32_t pair_fma(uint32_t a, uint32_t b, uint32_t c) {
  return map_pairs(a, b, c, [](float x, float y, float z) { return fmaf(x, y, z); });
}
inline uint32_t pair_mul(uint32_t a, uint32_t b) {
  return map_pairs(a, b, 0, [](float x, float y, float) { return x * y; });
}
inline uint32_t pair_mul_sat(uint32_t a, uint32_t b) {
  return map_pairs(a, b, 0, [](float x, float y, float) { return x * y > 0.0f ? fminf(x * y, 1.0f) : 0.0f; });
}
inline uint32_t pair_tanh(uint32_t a) {
  return map_pairs(a, 0, 0, [](float x, float, float) { return tanhf(x); });
}

#else

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 750
#define FASTSAM_FROM_SM75(...) asm(__VA_ARGS__)
#else
#define FASTSAM_FROM_SM75(...) __trap()
#endif

__device__ __forceinline__ uint32_t pair_fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
__device__ __forceinline__ uint32_t pair_mul(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
// The product clamped to [0, 1]; 0 for NaN.
__device__ __forceinline__ uint32_t pair_mul_sat(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("mul.rn.sat.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
// tanh by the hardware approximation, with an error of about 2^-11.
__device__ __forceinline__ uint32_t pair_tanh(uint32_t a) {
  uint32_t d = 0;
  FASTSAM_FROM_SM75("tanh.approx.f16x2 %0, %1;" : "=r"(d) : "r"(a));
  return d;
}

#undef FASTSAM_FROM_SM75

#endif

}  // namespace fastsam::cuda
