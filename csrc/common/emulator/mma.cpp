// ldmatrix and mma.sync for the emulator: gathers the fragments of all lanes into plain matrices, multiplies them, and
// scatters the result back to the lanes' registers, in the layouts of the PTX manual (see common/mma.h).
#include "common/mma.h"

#include <cstring>
#include <string>

#include "common/emulator/races.h"
#include "common/emulator/warp.h"

namespace fastsam::emulator {
namespace {

void require_all(const Lanes& lanes, const char* operation) {
  if (lanes.present != 0xffffffffu) fail(std::string("calls ") + operation + " without all 32 lanes of its warp");
}

struct MatrixLoad {
  uint32_t* registers;
  const void* row;
  bool transposed;
};

void load_all_lanes(const Lanes& lanes) {
  require_all(lanes, "ldmatrix");
  const auto& first = *static_cast<const MatrixLoad*>(lanes.operands[0]);
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t elements[8][8];
    for (int i = 0; i < 8; ++i) {
      const void* from = static_cast<MatrixLoad*>(lanes.operands[8 * matrix + i])->row;
      require_aligned(from, "ldmatrix", true);
      // All lanes receive parts of the row. For the race detector, two readers stand for all of them: the lane that
      // passes the address, and its neighbour.
      const unsigned reader = linear_thread() / 32 * 32 + static_cast<unsigned>(8 * matrix + i);
      races::read(from, sizeof(elements[i]), reader);
      races::read(from, sizeof(elements[i]), reader ^ 1u);
      std::memcpy(elements[i], from, sizeof(elements[i]));
    }
    for_each_lane<MatrixLoad>(lanes, [&](int lane, MatrixLoad& lane_operands) {
      const int g = lane / 4, t = lane % 4;
      const uint32_t low = first.transposed ? elements[2 * t][g] : elements[g][2 * t];
      const uint32_t high = first.transposed ? elements[2 * t + 1][g] : elements[g][2 * t + 1];
      lane_operands.registers[matrix] = low | high << 16;
    });
  }
}

// Add a (16, K) * b (K, 8), gathered from all lanes' fragments, to each lane's part of d.
template <int K>
void multiply_fragments(const Lanes& lanes, const float (&a)[16][K], const float (&b)[K][8]) {
  for_each_lane<Product>(lanes, [&](int lane, Product& lane_operands) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      float sum = lane_operands.d[i];
      for (int k = 0; k < K; ++k) sum += a[row][k] * b[k][column];
      lane_operands.d[i] = sum;
    }
  });
}

template <float (*kToFloat)(uint16_t)>
void multiply_16_bit(const Lanes& lanes) {
  require_all(lanes, "mma.m16n8k16");
  float a[16][16], b[16][8];
  for_each_lane<Product>(lanes, [&](int lane, Product& lane_operands) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 2; ++i) {
      const auto part = [i](uint32_t both) { return kToFloat(static_cast<uint16_t>(both >> 16 * i)); };
      for (int j = 0; j < 4; ++j) a[g + j % 2 * 8][2 * t + i + j / 2 * 8] = part(lane_operands.a[j]);
      for (int j = 0; j < 2; ++j) b[2 * t + i + 8 * j][g] = part(lane_operands.b[j]);
    }
  });
  multiply_fragments(lanes, a, b);
}

void multiply_as_tf32(const Lanes& lanes) {
  require_all(lanes, "mma.m16n8k8");
  const auto value = [](uint32_t bits) { return bit_cast<float>(bits & 0xffffe000u); };
  float a[16][8], b[8][8];
  for_each_lane<Product>(lanes, [&](int lane, Product& lane_operands) {
    const int g = lane / 4, t = lane % 4;
    for (int j = 0; j < 4; ++j) a[g + j % 2 * 8][t + j / 2 * 4] = value(lane_operands.a[j]);
    for (int j = 0; j < 2; ++j) b[t + 4 * j][g] = value(lane_operands.b[j]);
  });
  multiply_fragments(lanes, a, b);
}

}  // namespace

void require_aligned(const void* address, const char* operation, bool shared) {
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) {
    fail(std::string("calls ") + operation + " with an address that is not a multiple of 16");
  }
  if (shared && !is_shared(address, 16)) {
    fail(std::string("calls ") + operation + " with an address outside its shared memory");
  }
}

void load_matrices(uint32_t* registers, const void* row, bool transposed) {
  MatrixLoad operands{registers, row, transposed};
  sync_warp(transposed ? "ldmatrix.trans" : "ldmatrix", 0xffffffffu, &operands, &load_all_lanes);
}

void multiply_half(Product& operands) {
  sync_warp("mma.m16n8k16.f16", 0xffffffffu, &operands, &multiply_16_bit<half_value>);
}
void multiply_bfloat16(Product& operands) {
  sync_warp("mma.m16n8k16.bf16", 0xffffffffu, &operands, &multiply_16_bit<bfloat16_value>);
}
void multiply_tf32(Product& operands) { sync_warp("mma.m16n8k8.tf32", 0xffffffffu, &operands, &multiply_as_tf32); }

}  // namespace fastsam::emulator
