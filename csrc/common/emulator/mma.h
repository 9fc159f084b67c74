// The bodies of common/mma.h for the emulator: fragments are gathered from the lanes' registers into plain matrices,
// multiplied, and handed back, by the same layouts.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "common/emulator/block.h"
#include "common/emulator/warp.h"

namespace fastsam::emulator {

struct MatrixLoad {
  uint32_t* registers;
  const void* row;
};

inline void require_all(const Lanes& lanes, const char* operation) {
  if (lanes.present != 0xffffffffu) fail(std::string("calls ") + operation + " without all 32 lanes of its warp");
}

inline void require_aligned(const void* address, const char* operation, bool shared) {
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) {
    fail(std::string("calls ") + operation + " with an address that is not a multiple of 16");
  }
  if (shared && !is_shared(address, 16)) {
    fail(std::string("calls ") + operation + " with an address outside its shared memory");
  }
}

template <int kMatrices, bool kTrans>
void load_matrices(uint32_t* registers, const void* row) {
  MatrixLoad mine{registers, row};
  meet_warp(kTrans ? "ldmatrix.trans" : "ldmatrix", 0xffffffffu, &mine, [](const Lanes& lanes) {
    require_all(lanes, "ldmatrix");
    for (int matrix = 0; matrix < kMatrices; ++matrix) {
      uint16_t elements[8][8];
      for (int i = 0; i < 8; ++i) {
        const void* from = static_cast<MatrixLoad*>(lanes.operands[8 * matrix + i])->row;
        require_aligned(from, "ldmatrix", true);
        std::memcpy(elements[i], from, sizeof(elements[i]));
      }
      each_lane<MatrixLoad>(lanes, [&](int lane, MatrixLoad& one) {
        const int g = lane / 4, t = lane % 4;
        const uint32_t low = kTrans ? elements[2 * t][g] : elements[g][2 * t];
        const uint32_t high = kTrans ? elements[2 * t + 1][g] : elements[g][2 * t + 1];
        one.registers[matrix] = low | high << 16;
      });
    }
  });
}

struct Product {
  float* d;
  const uint32_t* a;
  uint32_t b[2];
};

// a (16, K) and b (K, 8) hold the values of all lanes' fragments.
template <int K>
void multiply(const Lanes& lanes, const float (&a)[16][K], const float (&b)[K][8]) {
  each_lane<Product>(lanes, [&](int lane, Product& one) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < K; ++k) one.d[i] += a[row][k] * b[k][column];
    }
  });
}

template <float (*kValue)(uint16_t)>
void multiply_16_bit(const Lanes& lanes) {
  require_all(lanes, "mma.m16n8k16");
  float a[16][16], b[16][8];
  each_lane<Product>(lanes, [&](int lane, Product& one) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 2; ++i) {
      const auto part = [i](uint32_t both) { return kValue(static_cast<uint16_t>(both >> 16 * i)); };
      for (int j = 0; j < 4; ++j) a[g + j % 2 * 8][2 * t + i + j / 2 * 8] = part(one.a[j]);
      for (int j = 0; j < 2; ++j) b[2 * t + i + 8 * j][g] = part(one.b[j]);
    }
  });
  multiply(lanes, a, b);
}

inline void multiply_tf32(const Lanes& lanes) {
  require_all(lanes, "mma.m16n8k8");
  const auto value = [](uint32_t bits) { return bit_cast<float>(bits & 0xffffe000u); };
  float a[16][8], b[8][8];
  each_lane<Product>(lanes, [&](int lane, Product& one) {
    const int g = lane / 4, t = lane % 4;
    for (int j = 0; j < 4; ++j) a[g + j % 2 * 8][t + j / 2 * 4] = value(one.a[j]);
    for (int j = 0; j < 2; ++j) b[t + 4 * j][g] = value(one.b[j]);
  });
  multiply(lanes, a, b);
}

}  // namespace fastsam::emulator

namespace fastsam::cuda {

inline void ldmatrix_x1(uint32_t (&r)[1], const void* row) { emulator::load_matrices<1, false>(r, row); }
inline void ldmatrix_x2(uint32_t (&r)[2], const void* row) { emulator::load_matrices<2, false>(r, row); }
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) { emulator::load_matrices<4, false>(r, row); }
inline void ldmatrix_x1_trans(uint32_t (&r)[1], const void* row) { emulator::load_matrices<1, true>(r, row); }
inline void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) { emulator::load_matrices<2, true>(r, row); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { emulator::load_matrices<4, true>(r, row); }

template <typename T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::Product mine{d, a, {b0, b1}};
  if constexpr (std::is_same_v<T, half>) {
    emulator::meet_warp("mma.m16n8k16.f16", kAllLanes, &mine, &emulator::multiply_16_bit<emulator::half_value>);
  } else {
    emulator::meet_warp("mma.m16n8k16.bf16", kAllLanes, &mine, &emulator::multiply_16_bit<emulator::bfloat16_value>);
  }
}

inline uint32_t to_tf32(float value) {
  const uint32_t bits = __float_as_uint(value);
  // Infinity and NaN have no bits to round.
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::Product mine{d, a, {b0, b1}};
  emulator::meet_warp("mma.m16n8k8.tf32", kAllLanes, &mine, &emulator::multiply_tf32);
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
