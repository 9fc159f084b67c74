// The emulator's implementation of the functions that common/wgmma.h declares. It is independent of how kernels lay out
// their tiles: it interprets descriptors and fragments as the PTX manual's section on wgmma defines them (Asynchronous
// Warpgroup Level Matrix Instructions: "Register Fragments and Shared Memory Matrix Layouts", "Matrix Descriptor
// Format"; see wgmma.cpp).
//
// A product is carried out only when its group is waited for. Until then its accumulator holds NaN, and writes to it
// are lost. These are errors: a product without a wgmma_fence() since the last wait; a product of shared memory that a
// cp.async of some thread has filled without a fence_proxy_async() by that thread since; warps of a warpgroup that
// don't issue the same products.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/cuda.h"

namespace fastsam::emulator {

// One lane's operands of a product. `to_float` converts a 16-bit element to float.
struct WarpgroupProduct {
  float* d;
  int columns;
  uint32_t a[4];
  uint64_t b;
  bool mn_major;
  float (*to_float)(uint16_t);
};
void issue_product(WarpgroupProduct& operands);
void fence_products();
void commit_products();
void wait_products(int pending);
void clear_unfenced();

// Return the 18-bit address of a pointer within the shared memory window, as descriptors hold it.
uint32_t shared_window_address(const void* pointer);

void mbarrier_init(uint64_t* barrier, uint32_t count);
void mbarrier_arrive(uint64_t* barrier);
void mbarrier_wait(uint64_t* barrier, uint32_t parity);

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
void wgmma_fence_operand(T (&)[kCount][4]) {}

template <typename T, bool kMnMajor, int kGroups>
void wgmma(float (&d)[kGroups][4], const uint32_t (&a)[4], uint64_t b) {
  static_assert(kGroups == 8 || kGroups == 10);
  static_assert(std::is_same_v<T, half> || std::is_same_v<T, bfloat16>);
  constexpr auto kToFloat = std::is_same_v<T, half> ? &emulator::half_value : &emulator::bfloat16_value;
  emulator::WarpgroupProduct operands{&d[0][0], 8 * kGroups, {a[0], a[1], a[2], a[3]}, b, kMnMajor, kToFloat};
  emulator::issue_product(operands);
}

inline void fence_proxy_async() { emulator::clear_unfenced(); }

inline void mbarrier_init(uint64_t* barrier, uint32_t count) { emulator::mbarrier_init(barrier, count); }
inline void mbarrier_arrive(uint64_t* barrier) { emulator::mbarrier_arrive(barrier); }
inline void mbarrier_wait(uint64_t* barrier, uint32_t parity) { emulator::mbarrier_wait(barrier, parity); }

template <int kRegisters>
void warpgroup_reg_dealloc() {}
template <int kRegisters>
void warpgroup_reg_alloc() {}

}  // namespace fastsam::cuda
