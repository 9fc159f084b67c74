// The emulator's implementation of the functions that common/mma.h declares. Fragment layouts are documented there.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/emulator/block.h"
#include "common/emulator/types.h"

namespace fastsam::emulator {

// One lane's operands of a product d += a b.
struct Product {
  float* d;
  const uint32_t* a;
  uint32_t b[2];
};

void load_matrices(uint32_t* registers, const void* row, bool transposed);
void multiply_half(Product& operands);
void multiply_bfloat16(Product& operands);
void multiply_tf32(Product& operands);

// Fail unless `address` is a multiple of 16 and, with `shared`, lies in the block's shared memory.
void require_aligned(const void* address, const char* operation, bool shared);

}  // namespace fastsam::emulator

namespace fastsam::cuda {

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { emulator::load_matrices(r, row, false); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { emulator::load_matrices(r, row, true); }

template <typename T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::Product operands{d, a, {b0, b1}};
  if constexpr (std::is_same_v<T, half>) {
    emulator::multiply_half(operands);
  } else {
    emulator::multiply_bfloat16(operands);
  }
}

inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::Product operands{d, a, {b0, b1}};
  emulator::multiply_tf32(operands);
}

inline void cp_async_16(void* shared, const void* global, bool is_valid = true) {
  emulator::require_aligned(shared, "cp.async", true);
  if (is_valid) emulator::require_aligned(global, "cp.async", false);
  emulator::begin_async_copy(shared, global, is_valid ? 16 : 0, is_valid ? 0 : 16);
}
inline void cp_async_commit() { emulator::commit_copies(); }
template <int kPending>
void cp_async_wait() {
  emulator::wait_copies(kPending);
}

}  // namespace fastsam::cuda
