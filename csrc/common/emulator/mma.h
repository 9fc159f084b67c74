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
void multiply_half(Product& mine);
void multiply_bfloat16(Product& mine);
void multiply_tf32(Product& mine);

// Fail unless `address` is a multiple of 16 and, with `shared`, lies in the block's shared memory.
void require_aligned(const void* address, const char* operation, bool shared);

}  // namespace fastsam::emulator

namespace fastsam::cuda {

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { emulator::load_matrices(r, row, false); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { emulator::load_matrices(r, row, true); }

template <typename T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::Product mine{d, a, {b0, b1}};
  if constexpr (std::is_same_v<T, half>) {
    emulator::multiply_half(mine);
  } else {
    emulator::multiply_bfloat16(mine);
  }
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
