// CUDA intrinsics of a single thread: bit manipulation, rounding, atomics. Since one thread runs at a time, an atomic
// is a plain read and write.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/emulator/block.h"
#include "common/emulator/races.h"
#include "common/emulator/types.h"

// ---- memory ----
template <typename T>
T __ldg(const T* address) {
  return *address;
}
inline void __nanosleep(unsigned) { fastsam::emulator::yield(); }
[[noreturn]] inline void __trap() { fastsam::emulator::fail("stopped at __trap()"); }

// ---- atomics: each returns the previous value ----
template <typename T>
FASTSAM_NO_RACE_CHECK T atomicExch(T* address, std::common_type_t<T> value) {
  fastsam::emulator::races::update(address, sizeof(T), fastsam::emulator::linear_thread());
  const T old = *address;
  *address = value;
  return old;
}
template <typename T>
FASTSAM_NO_RACE_CHECK T atomicAdd(T* address, std::common_type_t<T> value) {
  return atomicExch(address, static_cast<T>(*address + value));
}
template <typename T>
FASTSAM_NO_RACE_CHECK T atomicSub(T* address, std::common_type_t<T> value) {
  return atomicExch(address, static_cast<T>(*address - value));
}
template <typename T>
FASTSAM_NO_RACE_CHECK T atomicMin(T* address, std::common_type_t<T> value) {
  return atomicExch(address, value < *address ? value : *address);
}
template <typename T>
FASTSAM_NO_RACE_CHECK T atomicMax(T* address, std::common_type_t<T> value) {
  return atomicExch(address, value > *address ? value : *address);
}
template <typename T>
FASTSAM_NO_RACE_CHECK T atomicAnd(T* address, std::common_type_t<T> value) {
  return atomicExch(address, static_cast<T>(*address & value));
}
template <typename T>
FASTSAM_NO_RACE_CHECK T atomicOr(T* address, std::common_type_t<T> value) {
  return atomicExch(address, static_cast<T>(*address | value));
}
template <typename T>
FASTSAM_NO_RACE_CHECK T atomicXor(T* address, std::common_type_t<T> value) {
  return atomicExch(address, static_cast<T>(*address ^ value));
}
template <typename T>
FASTSAM_NO_RACE_CHECK T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value) {
  const T old = *address;
  atomicExch(address, old == expected ? value : old);
  return old;
}

// ---- bits ----
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1u) << (31 - i);
  return reversed;
}
inline unsigned long long __brevll(unsigned long long x) {
  return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
         __brev(static_cast<unsigned>(x >> 32));
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned chosen = 0;
  for (int i = 0; i < 4; ++i) {
    // The fourth bit of a selector, which in PTX replicates the sign, is ignored.
    const unsigned byte = static_cast<unsigned>(bytes >> (8 * (selector >> (4 * i) & 7u))) & 0xffu;
    chosen |= byte << (8 * i);
  }
  return chosen;
}
inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>(uint64_t{x} * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((uint64_t{high} << 32 | low) << (shift & 31u)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31u));
}

// ---- reinterpretation of bits ----
inline unsigned __float_as_uint(float x) { return fastsam::emulator::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return fastsam::emulator::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return fastsam::emulator::bit_cast<float>(x); }

// ---- arithmetic that is never contracted to fma (files that include this are compiled with -ffp-contract=off) ----
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }

// ---- approximations, here exact ----
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

// ---- min and max, which CUDA declares globally for all arithmetic types; of two floats, the one that is not NaN ----
template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) {
  using C = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<C>) return std::fmin(static_cast<C>(a), static_cast<C>(b));
  return static_cast<C>(b) < static_cast<C>(a) ? static_cast<C>(b) : static_cast<C>(a);
}
template <typename A, typename B>
std::common_type_t<A, B> max(A a, B b) {
  using C = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<C>) return std::fmax(static_cast<C>(a), static_cast<C>(b));
  return static_cast<C>(a) < static_cast<C>(b) ? static_cast<C>(b) : static_cast<C>(a);
}
