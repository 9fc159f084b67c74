// Tiles of tokens in shared memory, and the fragments of them that a warp multiplies: 16 x 16 by 16 x 16, whatever the
// element type is. Half precision goes to the tensor cores as it is. A float32 goes as two TF32 numbers that add up to
// it (to 2^-22), in three products: an error like float32's own, six times the instructions.
#pragma once

#include "common/cuda.h"
#include "common/mma.h"

namespace fastsam::attention {

using namespace fastsam::cuda;

// Rows of kDim elements, in 16-byte vectors. Eight rows' vectors of one column must lie in eight different groups of
// four banks, which they do when the rows' distance in vectors is odd; where it is even, vectors change places in a way
// that depends on the row. Float tiles are read element by element, rows down (keys) and across (values): there a
// distance of 4 mod 16 floats serves both.
template <typename T, int kDim>
struct Tile {
  static constexpr bool kFloat = sizeof(T) == 4;
  static constexpr int kVector = 16 / sizeof(T);  // elements
  static constexpr int kVectors = kDim / kVector;
  static constexpr int kStride = kFloat ? kDim + 4 : kDim;
  static_assert(kDim % 16 == 0);
  // A vector's number is changed in as many of its lowest bits as the distance has factors of two, up to three.
  static constexpr int kBits = kFloat ? 0 : kVectors % 8 == 0 ? 3 : kVectors % 4 == 0 ? 2 : 1;

  static __device__ __forceinline__ int offset(int row, int vector) {
    const int change = (row & 7) >> (3 - kBits);
    return row * kStride + (vector ^ change) * kVector;
  }
  static __device__ __forceinline__ int element(int row, int column) {
    return offset(row, column / kVector) + column % kVector;
  }
  // The offset 2 * step vectors on from an `offset` of vector 0 or 1.
  static __device__ __forceinline__ int further(int offset, int step) {
    return kBits > 1 ? offset ^ (step * 2 * kVector) : offset + step * 2 * kVector;
  }
};

// 16 rows by 16 of depth, and 16 of depth by 16 columns. Of float32 two products of depth 8, each number in two parts.
template <typename T>
struct Left {
  uint32_t x[4];
};
template <typename T>
struct Right {
  uint32_t x[4];
};
template <>
struct Left<float> {
  uint32_t high[2][4], low[2][4];
};
template <>
struct Right<float> {
  uint32_t high[2][2][2], low[2][2][2];  // [column / 8][depth / 8]
};

// The rows from `row`, a multiple of 8, on, and of their elements the 16 from 16 * step on: queries.
template <int kDim, typename T>
__device__ __forceinline__ void load_rows(Left<T>& to, const T* tile, int row, int step) {
  using Shared = Tile<T, kDim>;
  ldmatrix_x4(to.x, tile + row * kDim + Shared::further(Shared::offset(lane() % 16, lane() / 16), step));
}
template <int kDim>
__device__ __forceinline__ void load_rows(Left<float>& to, const float* tile, int row, int step) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int depth = 16 * step + 8 * (i / 4) + pair() + 4 * (i % 4 / 2);
    split(tile[Tile<float, kDim>::element(row + group() + 8 * (i % 2), depth)], to.high[i / 4][i % 4],
          to.low[i / 4][i % 4]);
  }
}

// The rows from `row` on as columns, and of their elements the 16 from 16 * step on as the depth: keys.
template <int kDim, typename T>
__device__ __forceinline__ void load_columns(Right<T>& to, const T* tile, int row, int step) {
  using Shared = Tile<T, kDim>;
  const int from = Shared::offset(lane() / 16 * 8 + lane() % 8, lane() / 8 % 2);
  ldmatrix_x4(to.x, tile + row * kDim + Shared::further(from, step));
}
template <int kDim>
__device__ __forceinline__ void load_columns(Right<float>& to, const float* tile, int row, int step) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int depth = 16 * step + 8 * (i / 2 % 2) + pair() + 4 * (i % 2);
    split(tile[Tile<float, kDim>::element(row + group() + 8 * (i / 4), depth)], to.high[i / 4][i / 2 % 2][i % 2],
          to.low[i / 4][i / 2 % 2][i % 2]);
  }
}

// The same of rows of kDim elements in global memory, at most `last` of them: a table of positions.
template <int kDim, typename T>
__device__ __forceinline__ void load_table(Right<T>& to, const T* table, int row, int last, int step) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t from = min(max(row + group() + 8 * (i / 2), 0), last);
    to.x[i] = *reinterpret_cast<const uint32_t*>(table + from * kDim + 16 * step + 8 * (i % 2) + 2 * pair());
  }
}
template <int kDim>
__device__ __forceinline__ void load_table(Right<float>& to, const float* table, int row, int last, int step) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int64_t from = min(max(row + group() + 8 * (i / 4), 0), last);
    split(table[from * kDim + 16 * step + 8 * (i / 2 % 2) + pair() + 4 * (i % 2)], to.high[i / 4][i / 2 % 2][i % 2],
          to.low[i / 4][i / 2 % 2][i % 2]);
  }
}

// The rows from `row` on as the depth, and of their elements the 16 from 16 * step on as columns: values.
template <int kDim, typename T>
__device__ __forceinline__ void load_depth(Right<T>& to, const T* tile, int row, int step) {
  using Shared = Tile<T, kDim>;
  ldmatrix_x4_trans(to.x, tile + row * kDim + Shared::further(Shared::offset(lane() % 16, lane() / 16), step));
}
// In the order in which `weights_of` has the depth.
template <int kDim>
__device__ __forceinline__ void load_depth(Right<float>& to, const float* tile, int row, int step) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int depth = row + 8 * (i / 2 % 2) + 2 * pair() + i % 2;
    split(tile[Tile<float, kDim>::element(depth, 16 * step + 8 * (i / 4) + group())], to.high[i / 4][i / 2 % 2][i % 2],
          to.low[i / 4][i / 2 % 2][i % 2]);
  }
}

// Products of 16 x 8 each, side by side, as the left factor of the next product. A lane has two neighbours of a row,
// where TF32 wants columns 4 apart: as a sum has no order, those two stand for them.
template <typename T>
__device__ __forceinline__ void weights_of(Left<T>& to, const float (&first)[4], const float (&second)[4]) {
  to.x[0] = pack<T>(first[0], first[1]);
  to.x[1] = pack<T>(first[2], first[3]);
  to.x[2] = pack<T>(second[0], second[1]);
  to.x[3] = pack<T>(second[2], second[3]);
}
__device__ __forceinline__ void weights_of(Left<float>& to, const float (&first)[4], const float (&second)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = (i % 2) * 2 + i / 2;
    split(first[at], to.high[0][i], to.low[0][i]);
    split(second[at], to.high[1][i], to.low[1][i]);
  }
}

// d0 and d1 (16 x 8 each, side by side) += a * b.
template <typename T>
__device__ __forceinline__ void multiply(float (&d0)[4], float (&d1)[4], const Left<T>& a, const Right<T>& b) {
  mma_m16n8k16<T>(d0, a.x, b.x[0], b.x[1]);
  mma_m16n8k16<T>(d1, a.x, b.x[2], b.x[3]);
}
__device__ __forceinline__ void multiply(float (&d0)[4], float (&d1)[4], const Left<float>& a, const Right<float>& b) {
  // Small products first, and sums of few: tensor cores cut off what they add, where an addition outside rounds.
  float sum0[4] = {}, sum1[4] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    mma_m16n8k8_tf32(sum0, a.low[half], b.high[0][half][0], b.high[0][half][1]);
    mma_m16n8k8_tf32(sum1, a.low[half], b.high[1][half][0], b.high[1][half][1]);
    mma_m16n8k8_tf32(sum0, a.high[half], b.low[0][half][0], b.low[0][half][1]);
    mma_m16n8k8_tf32(sum1, a.high[half], b.low[1][half][0], b.low[1][half][1]);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    mma_m16n8k8_tf32(sum0, a.high[half], b.high[0][half][0], b.high[0][half][1]);
    mma_m16n8k8_tf32(sum1, a.high[half], b.high[1][half][0], b.high[1][half][1]);
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) d0[j] += sum0[j], d1[j] += sum1[j];
}

}  // namespace fastsam::attention
