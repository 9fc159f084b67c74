// The bodies of common/wgmma.h for the emulator. They know nothing of how a kernel lays out its tiles: descriptors and
// fragments are read as the PTX manual's section on wgmma says (Asynchronous Warpgroup Level Matrix Instructions:
// "Register Fragments and Shared Memory Matrix Layouts", "Matrix Descriptor Format"; see wgmma.cpp).
//
// A product is done when its group is waited for, not before: its accumulator holds NaN meanwhile, and what is written
// there is lost. Products without a wgmma_fence() since the last wait, or of what a thread has copied to shared memory
// without fence_for_wgmma() since, are errors; so are warpgroups whose warps don't issue the same products.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/cuda.h"

namespace fastsam::emulator {

// What a lane brings to a product.
struct WarpgroupProduct {
  float* d;
  int columns;
  uint32_t a[4];
  uint64_t b;
  bool down_rows;
  float (*value)(uint16_t);
};
void issue_product(WarpgroupProduct& mine);
void fence_products();
void commit_products();
void wait_products(int pending);
void fence_written();

// Where shared memory lies in its own 18 bits of addresses.
uint32_t shared_window_address(const void* pointer);

void memory_barrier_init(uint64_t* barrier, uint32_t count);
void memory_barrier_arrive(uint64_t* barrier);
void memory_barrier_wait(uint64_t* barrier, uint32_t parity);

}  // namespace fastsam::emulator

namespace fastsam::cuda {

inline uint32_t shared_address(const void* pointer) { return emulator::shared_window_address(pointer); }

inline void wgmma_fence() { emulator::fence_products(); }
inline void wgmma_commit() { emulator::commit_products(); }
template <int kPending>
void wgmma_wait() {
  emulator::wait_products(kPending);
}
template <typename T, int kCount>
void wgmma_hold(T (&)[kCount][4]) {}

template <typename T, bool kDownRows, int kGroups>
void wgmma(float (&d)[kGroups][4], const uint32_t (&a)[4], uint64_t b) {
  static_assert(kGroups == 8 || kGroups == 10);
  static_assert(std::is_same_v<T, half> || std::is_same_v<T, bfloat16>);
  constexpr auto kValue = std::is_same_v<T, half> ? &emulator::half_value : &emulator::bfloat16_value;
  emulator::WarpgroupProduct mine{&d[0][0], 8 * kGroups, {a[0], a[1], a[2], a[3]}, b, kDownRows, kValue};
  emulator::issue_product(mine);
}

inline void fence_for_wgmma() { emulator::fence_written(); }

inline void barrier_init(uint64_t* barrier, uint32_t count) { emulator::memory_barrier_init(barrier, count); }
inline void barrier_arrive(uint64_t* barrier) { emulator::memory_barrier_arrive(barrier); }
inline void barrier_wait(uint64_t* barrier, uint32_t parity) { emulator::memory_barrier_wait(barrier, parity); }

template <int kRegisters>
void fewer_registers() {}
template <int kRegisters>
void more_registers() {}

}  // namespace fastsam::cuda
