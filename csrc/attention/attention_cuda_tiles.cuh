// Tiles of tokens in shared memory, and the fragments of them that a warp multiplies: 16 x 16 by 16 x 16 for every
// element type. 16-bit elements are multiplied directly. A float32 is split into two TF32 numbers (to 2^-22) and
// multiplied in three products, which gives an error like float32's own with six times the instructions.
#pragma once

#include "common/cuda.h"
#include "common/mma.h"

namespace fastsam::attention {

using namespace fastsam::cuda;

// The layout of a tile: rows of kDim elements in 16-byte vectors, without bank conflicts. ldmatrix reads the same
// vector of eight rows at a time; these must lie in eight different groups of four banks. That holds if the row stride
// in vectors is odd; here it is even, so the vectors of a row are permuted (XOR swizzle) depending on the row. Float
// tiles are read element by element, both along rows (keys) and down columns (values); a stride of 4 mod 16 floats
// suits both.
template <typename T, int kDim>
struct Tile {
  static constexpr bool kFloat = sizeof(T) == 4;
  static constexpr int kVectorSize = 16 / sizeof(T);  // elements per vector
  static constexpr int kVectorsPerRow = kDim / kVectorSize;
  static constexpr int kRowStride = kFloat ? kDim + 4 : kDim;
  static_assert(kDim % 16 == 0);
  // Number of low bits of the vector's index that are permuted: the number of factors of two in the stride, at most 3.
  static constexpr int kSwizzleBits = kFloat ? 0 : kVectorsPerRow % 8 == 0 ? 3 : kVectorsPerRow % 4 == 0 ? 2 : 1;

  static __device__ __forceinline__ int offset(int row, int vector) {
    const int swizzle = (row & 7) >> (3 - kSwizzleBits);
    return row * kRowStride + (vector ^ swizzle) * kVectorSize;
  }
  static __device__ __forceinline__ int element(int row, int column) {
    return offset(row, column / kVectorSize) + column % kVectorSize;
  }
  // Given the `offset` of vector 0 or 1 of a row, return the offset of the vector 2 * step further on.
  static __device__ __forceinline__ int advance(int offset, int step) {
    return kSwizzleBits > 1 ? offset ^ (step * 2 * kVectorSize) : offset + step * 2 * kVectorSize;
  }
};

// Fragments of the factors of a product: FragmentA is 16 rows x depth 16, FragmentB depth 16 x 16 columns. For float32
// they are two steps of depth 8, each number in a high and a low part (see split_tf32 in common/mma.h).
template <typename T>
struct FragmentA {
  uint32_t x[4];
};
template <typename T>
struct FragmentB {
  uint32_t x[4];
};
template <>
struct FragmentA<float> {
  uint32_t high[2][4], low[2][4];
};
template <>
struct FragmentB<float> {
  uint32_t high[2][2][2], low[2][2][2];  // [column / 8][depth / 8]
};

// Load 16 rows from `row` on, a multiple of 8, with elements [16 * step, 16 * step + 16) as the depth: queries.
template <int kDim, typename T>
__device__ __forceinline__ void load_query_fragment(FragmentA<T>& to, const T* tile, int row, int step) {
  using Shared = Tile<T, kDim>;
  ldmatrix_x4(to.x, tile + row * kDim + Shared::advance(Shared::offset(lane() % 16, lane() / 16), step));
}
template <int kDim>
__device__ __forceinline__ void load_query_fragment(FragmentA<float>& to, const float* tile, int row, int step) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int depth = 16 * step + 8 * (i / 4) + pair() + 4 * (i % 4 / 2);
    split_tf32(tile[Tile<float, kDim>::element(row + group() + 8 * (i % 2), depth)], to.high[i / 4][i % 4],
               to.low[i / 4][i % 4]);
  }
}

// Load 16 rows from `row` on as columns, with elements [16 * step, 16 * step + 16) as the depth: keys.
template <int kDim, typename T>
__device__ __forceinline__ void load_key_fragment(FragmentB<T>& to, const T* tile, int row, int step) {
  using Shared = Tile<T, kDim>;
  const int from = Shared::offset(lane() / 16 * 8 + lane() % 8, lane() / 8 % 2);
  ldmatrix_x4(to.x, tile + row * kDim + Shared::advance(from, step));
}
template <int kDim>
__device__ __forceinline__ void load_key_fragment(FragmentB<float>& to, const float* tile, int row, int step) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int depth = 16 * step + 8 * (i / 2 % 2) + pair() + 4 * (i % 2);
    split_tf32(tile[Tile<float, kDim>::element(row + group() + 8 * (i / 4), depth)], to.high[i / 4][i / 2 % 2][i % 2],
               to.low[i / 4][i / 2 % 2][i % 2]);
  }
}

// The same from a table (last + 1, kDim) in global memory, with row indices clamped to [0, last]: position tables.
template <int kDim, typename T>
__device__ __forceinline__ void load_table_fragment(FragmentB<T>& to, const T* table, int row, int last, int step) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int64_t from = min(max(row + group() + 8 * (i / 2), 0), last);
    to.x[i] = *reinterpret_cast<const uint32_t*>(table + from * kDim + 16 * step + 8 * (i % 2) + 2 * pair());
  }
}
template <int kDim>
__device__ __forceinline__ void load_table_fragment(FragmentB<float>& to, const float* table, int row, int last,
                                                    int step) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int64_t from = min(max(row + group() + 8 * (i / 4), 0), last);
    split_tf32(table[from * kDim + 16 * step + 8 * (i / 2 % 2) + pair() + 4 * (i % 2)],
               to.high[i / 4][i / 2 % 2][i % 2], to.low[i / 4][i / 2 % 2][i % 2]);
  }
}

// Load 16 rows from `row` on as the depth, with elements [16 * step, 16 * step + 16) as columns: values.
template <int kDim, typename T>
__device__ __forceinline__ void load_value_fragment(FragmentB<T>& to, const T* tile, int row, int step) {
  using Shared = Tile<T, kDim>;
  ldmatrix_x4_trans(to.x, tile + row * kDim + Shared::advance(Shared::offset(lane() % 16, lane() / 16), step));
}
// The depth is permuted in the same way as by `to_fragment_a`.
template <int kDim>
__device__ __forceinline__ void load_value_fragment(FragmentB<float>& to, const float* tile, int row, int step) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int depth = row + 8 * (i / 2 % 2) + 2 * pair() + i % 2;
    split_tf32(tile[Tile<float, kDim>::element(depth, 16 * step + 8 * (i / 4) + group())],
               to.high[i / 4][i / 2 % 2][i % 2], to.low[i / 4][i / 2 % 2][i % 2]);
  }
}

// Convert two adjacent 16 x 8 accumulators to the left factor (16 x 16) of the next product. For TF32, a lane holds
// accumulator columns 2t and 2t + 1, but the left factor wants columns t and t + 4. Since the order of the depth is
// arbitrary, the former stand for the latter; `load_value_fragment` permutes the other factor likewise.
template <typename T>
__device__ __forceinline__ void to_fragment_a(FragmentA<T>& to, const float (&first)[4], const float (&second)[4]) {
  to.x[0] = pack<T>(first[0], first[1]);
  to.x[1] = pack<T>(first[2], first[3]);
  to.x[2] = pack<T>(second[0], second[1]);
  to.x[3] = pack<T>(second[2], second[3]);
}
__device__ __forceinline__ void to_fragment_a(FragmentA<float>& to, const float (&first)[4], const float (&second)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = (i % 2) * 2 + i / 2;
    split_tf32(first[at], to.high[0][i], to.low[0][i]);
    split_tf32(second[at], to.high[1][i], to.low[1][i]);
  }
}

// d0 and d1 (16 x 8 each, side by side) += a * b.
template <typename T>
__device__ __forceinline__ void multiply(float (&d0)[4], float (&d1)[4], const FragmentA<T>& a, const FragmentB<T>& b) {
  mma_m16n8k16<T>(d0, a.x, b.x[0], b.x[1]);
  mma_m16n8k16<T>(d1, a.x, b.x[2], b.x[3]);
}
__device__ __forceinline__ void multiply(float (&d0)[4], float (&d1)[4], const FragmentA<float>& a,
                                         const FragmentB<float>& b) {
  // Tensor cores truncate when they accumulate. So add up the small products first, start each sum at zero to keep it
  // short, and add it to d by ordinary additions, which round.
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
