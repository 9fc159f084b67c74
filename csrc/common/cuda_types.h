// The element types of kernels, half, bfloat16 and float, with uniform functions to convert and pack them. Included by
// cuda.h.
#pragma once

#include <cstring>
#include <type_traits>

namespace fastsam::cuda {

using half = __half;
using bfloat16 = __nv_bfloat16;

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(bfloat16 value) { return __bfloat162float(value); }

// Convert from float, rounding to nearest, ties to even.
template <typename T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ half from_float<half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ bfloat16 from_float<bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// Two adjacent elements as a matrix fragment holds them. Two 16-bit elements share one 32-bit register, the first in
// its lower half; two floats are a float2.
template <typename T>
using Pair = std::conditional_t<std::is_same_v<T, float>, float2, uint32_t>;

template <typename T>
__device__ __forceinline__ Pair<T> pack(float first, float second);
template <>
__device__ __forceinline__ float2 pack<float>(float first, float second) {
  return make_float2(first, second);
}
template <>
__device__ __forceinline__ uint32_t pack<half>(float first, float second) {
  const __half2 both = __floats2half2_rn(first, second);
  uint32_t bits;
  memcpy(&bits, &both, sizeof(bits));
  return bits;
}
template <>
__device__ __forceinline__ uint32_t pack<bfloat16>(float first, float second) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
  uint32_t bits;
  memcpy(&bits, &both, sizeof(bits));
  return bits;
}

template <typename T>
__device__ __forceinline__ float2 unpack(Pair<T> both);
template <>
__device__ __forceinline__ float2 unpack<float>(float2 both) {
  return both;
}
template <>
__device__ __forceinline__ float2 unpack<half>(uint32_t both) {
  __half2 halves;
  memcpy(&halves, &both, sizeof(halves));
  return __half22float2(halves);
}
template <>
__device__ __forceinline__ float2 unpack<bfloat16>(uint32_t both) {
  return make_float2(__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u));
}

}  // namespace fastsam::cuda
