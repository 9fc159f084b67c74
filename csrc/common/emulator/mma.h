// The bodies of common/mma.h for the emulator.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/emulator/block.h"
#include "common/emulator/types.h"

namespace fastsam::emulator {

// What a lane brings to a product.
struct Product {
  float* d;
  const uint32_t* a;
  uint32_t b[2];
};

void load_matrices(uint32_t* registers, const void* row, int matrices, bool transposed);
void multiply_half(Product& mine);
void multiply_bfloat16(Product& mine);
void multiply_tf32(Product& mine);

// `shared`: whether it must be in shared memory.
void require_aligned(const void* address, const char* operation, bool shared);

}  // namespace fastsam::emulator

namespace fastsam::cuda {

inline void ldmatrix_x1(uint32_t (&r)[1], const void* row) { emulator::load_matrices(r, row, 1, false); }
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row) { emulator::load_matrices(r, row, 2, false); }
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { emulator::load_matrices(r, row, 4, false); }
inline void ldmatrix_x1_trans(uint32_t (&r)[1], const void* row) { emulator::load_matrices(r, row, 1, true); }
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) { emulator::load_matrices(r, row, 2, true); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { emulator::load_matrices(r, row, 4, true); }

template <typename T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::Product mine{d, a, {b0, b1}};
  if constexpr (std::is_same_v<T, half>) {
    emulator::multiply_half(mine);
  } else {
    emulator::multiply_bfloat16(mine);
  }
}

inline uint32_t to_tf32(float value) {
  const uint32_t bits = __float_as_uint(value);
  // Infinity and NaN have no bits to round.
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::Product mine{d, a, {b0, b1}};
  emulator::multiply_tf32(mine);
}

inline void cp_async_16(void* shared, const void* global, bool inside = true) {
  emulator::require_aligned(shared, "cp.async", true);
  if (inside) emulator::require_aligned(global, "cp.async", false);
  emulator::defer_copy(shared, global, inside ? 16 : 0, inside ? 0 : 16);
}
inline void cp_async_commit() { emulator::commit_copies(); }
template <int kPending>
void cp_async_wait() {
  emulator::wait_copies(kPending);
}

}  // namespace fastsam::cuda
