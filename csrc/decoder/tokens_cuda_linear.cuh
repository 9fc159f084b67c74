// Fully connected layers of tokens, several that are independent of each other in one launch. There is a kernel for a
// few rows, where reading the weights is all the time there is, and one for many. Both add up in the same order, so
// that a prompt's results don't depend on how many others there are: 16 of depth at a time within each of four
// quarters, and then these.
#pragma once

#include "decoder/decoder_cuda_parts.cuh"
#include "decoder/tokens_cuda.h"

namespace fastsam::decoder::cuda {

// Where rows lie, in groups of which all, or the chosen ones, are taken; a row's channels are 16 together, `head`
// apart.
struct Place {
  void* data;
  int64_t outer, row, head;  // elements between groups, between rows of a group, between heads
  int group;
  bool chosen;
  const int64_t* index;  // which group is meant by each, or null
  int64_t groups;        // how many there are, then
};

struct Product {
  Place x, out, residual;  // residual.data may be null
  const void *weight, *bias;
  int64_t rows;
  int n, k;
  float factor;  // of the rounded result, before the residual
  bool relu;
  unsigned first_block;
};

constexpr int kMostProducts = 5;

struct Products {
  Product of[kMostProducts];
  int count;
  int chosen[kTokens];
};

constexpr int kProductThreads = 128, kQuarters = 4, kDepth = 32;
// Rows and columns of a block.
constexpr int kFewRows = 16, kFewColumns = 16, kTile = 64;
constexpr int kStageChunks = 8;  // of 16 bytes, that is 64 of depth

// Of many rows a block has a square whose side is one tile, or two where that leaves blocks enough: it then reads half
// as much for as many products, from global and from shared memory.
template <int kSide>
struct Square {
  static constexpr int kRows = kTile * kSide, kThreads = kProductThreads * kSide, kStages = kSide == 1 ? 3 : 4;
  static constexpr int kStageVectors = 2 * kRows * kStageChunks, kBlocks = kSide == 1 ? 3 : 1;  // on a multiprocessor
  static constexpr size_t kBytes = size_t{kStages} * kStageVectors * 16;
  // Of a warp; each has 32 columns.
  static constexpr int kParts = 2 * kSide, kWarpRows = 16 * kParts, kAcross = 2 * kSide;
};

__device__ __forceinline__ int quarter_of(int k) {
  return (k + kQuarters * kDepth - 1) / (kQuarters * kDepth) * kDepth;
}

__device__ __forceinline__ int64_t row_offset(const Products& all, const Place& place, int64_t row) {
  const auto number = static_cast<unsigned>(row), group = static_cast<unsigned>(place.group);
  const unsigned inside = number % group;
  int64_t outer = number / group;
  // Nobody waits to know of a number that is out of range; it must not be followed.
  if (place.index != nullptr) outer = max(int64_t{0}, min(__ldg(place.index + outer), place.groups - 1));
  return outer * place.outer + (place.chosen ? all.chosen[inside] : static_cast<int>(inside)) * place.row;
}
__device__ __forceinline__ int64_t column_offset(const Place& place, int column) {
  return column / 16 * place.head + column % 16;
}

__device__ __forceinline__ const Product& product_of(const Products& all, unsigned block) {
  int i = 0;
  while (i + 1 < all.count && block >= all.of[i + 1].first_block) ++i;
  return all.of[i];
}

template <typename T>
__device__ __forceinline__ float rounded(float x) {
  return to_float(from_float<T>(x));
}

template <typename T>
__device__ __forceinline__ float2 two_of(const void* data, int64_t at) {
  return unpack<T>(__ldg(reinterpret_cast<const uint32_t*>(static_cast<const T*>(data) + at)));
}

// Where one row of a product's results begins, and of what is added to it.
struct RowEnds {
  int64_t out, residual;

  __device__ __forceinline__ RowEnds(const Products& all, const Product& one, int64_t row)
      : out(row_offset(all, one.out, row)),
        residual(one.residual.data != nullptr ? row_offset(all, one.residual, row) : 0) {}
};

// Two sums of a row, of columns `column` and the next.
template <typename T>
__device__ __forceinline__ void finish(const Product& one, const RowEnds& row, int column, float first, float second) {
  const float2 bias = two_of<T>(one.bias, column);
  first = rounded<T>(first + bias.x), second = rounded<T>(second + bias.y);
  if (one.relu) first = first < 0.0f ? 0.0f : first, second = second < 0.0f ? 0.0f : second;  // NaN stays
  first = rounded<T>(first * one.factor), second = rounded<T>(second * one.factor);
  if (one.residual.data != nullptr) {
    const float2 add = two_of<T>(one.residual.data, row.residual + column_offset(one.residual, column));
    first += add.x, second += add.y;
  }
  const int64_t at = row.out + column_offset(one.out, column);
  *reinterpret_cast<uint32_t*>(static_cast<T*>(one.out.data) + at) = pack<T>(first, second);
}

// 32 of depth: each lane has 8 channels of a row g, and of row g + 8, and 8 of a column g. Which of them meet in which
// product is up to us, as long as both factors agree.
template <typename T>
__device__ __forceinline__ void multiply_chunks(float (&d)[4], uint4 low, uint4 high, uint4 column) {
  const uint32_t a0[4] = {low.x, high.x, low.y, high.y}, a1[4] = {low.z, high.z, low.w, high.w};
  mma_m16n8k16<T>(d, a0, column.x, column.y);
  mma_m16n8k16<T>(d, a1, column.z, column.w);
}

__device__ __forceinline__ uint4 load_chunk(const void* row, bool inside) {
  return inside ? __ldg(static_cast<const uint4*>(row)) : make_uint4(0, 0, 0, 0);
}

// Each of four warps has a quarter of the depth.
template <typename T>
__global__ void __launch_bounds__(kProductThreads) few_rows_kernel(const __grid_constant__ Products all) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  __shared__ float sums[kQuarters][kFewRows][kFewColumns];
  const Product& one = product_of(all, blockIdx.x);
  const int block = static_cast<int>(blockIdx.x - one.first_block), across = (one.n + kFewColumns - 1) / kFewColumns;
  const int64_t first_row = int64_t{block / across} * kFewRows;
  const int first_column = block % across * kFewColumns;
  const T *rows[2], *columns[2];
  bool row_inside[2], column_inside[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t row = first_row + 8 * i + group();
    const int column = first_column + 8 * i + group();
    row_inside[i] = row < one.rows, column_inside[i] = column < one.n;
    rows[i] = static_cast<const T*>(one.x.data) + row_offset(all, one.x, row_inside[i] ? row : 0);
    columns[i] = static_cast<const T*>(one.weight) + int64_t{column_inside[i] ? column : 0} * one.k;
  }
  const int quarter = quarter_of(one.k), begin = warp() * quarter;
  float d[2][4] = {};
#pragma unroll 4
  for (int at = begin; at < begin + quarter; at += kDepth) {
    const int k = at + 8 * pair();
    const bool inside = k < one.k;
    const int64_t of_row = column_offset(one.x, k);
    const uint4 low = load_chunk(rows[0] + of_row, inside && row_inside[0]);
    const uint4 high = load_chunk(rows[1] + of_row, inside && row_inside[1]);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      multiply_chunks<T>(d[i], low, high, load_chunk(columns[i] + k, inside && column_inside[i]));
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[warp()][group() + j / 2 * 8][8 * i + 2 * pair() + j % 2] = d[i][j];
  }
  __syncthreads();
  const int row = static_cast<int>(threadIdx.x) / 8, column = static_cast<int>(threadIdx.x) % 8 * 2;
  float total[2] = {};
#pragma unroll
  for (int i = 0; i < kQuarters; ++i) total[0] += sums[i][row][column], total[1] += sums[i][row][column + 1];
  if (first_row + row < one.rows && first_column + column < one.n) {
    finish<T>(one, RowEnds(all, one, first_row + row), first_column + column, total[0], total[1]);
  }
#endif
}

// Of a stage's chunks, 8 a row; odd rows have the halves the other way round, against bank conflicts.
__device__ __forceinline__ int slot_of(int row, int chunk) { return row * kStageChunks + (chunk ^ (row % 2 * 4)); }

template <typename T, int kSide>
__global__ void __launch_bounds__(Square<kSide>::kThreads, Square<kSide>::kBlocks)
    many_rows_kernel(const __grid_constant__ Products all) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using Shape = Square<kSide>;
  DYNAMIC_SHARED(uint4, shared);
  constexpr int kRowsOfCopy = Shape::kThreads / kStageChunks, kCopies = Shape::kRows / kRowsOfCopy;
  constexpr int kParts = Shape::kParts;
  const Product& one = product_of(all, blockIdx.x);
  const int block = static_cast<int>(blockIdx.x - one.first_block), across = (one.n + Shape::kRows - 1) / Shape::kRows;
  const int64_t first_row = int64_t{block / across} * Shape::kRows;
  const int first_column = block % across * Shape::kRows;
  const int copied_row = static_cast<int>(threadIdx.x) / kStageChunks,
            copied_chunk = static_cast<int>(threadIdx.x) % kStageChunks;
  const T* rows[kCopies];
  bool row_inside[kCopies];
#pragma unroll
  for (int i = 0; i < kCopies; ++i) {
    const int64_t row = first_row + copied_row + i * kRowsOfCopy;
    row_inside[i] = row < one.rows;
    rows[i] = static_cast<const T*>(one.x.data) + row_offset(all, one.x, row_inside[i] ? row : 0);
  }
  const int column = first_column + copied_row;
  const T* const columns = static_cast<const T*>(one.weight) + int64_t{column} * one.k;
  const int stages = (one.k + 8 * kStageChunks - 1) / (8 * kStageChunks), quarter = quarter_of(one.k) / kDepth;
  const auto copy = [&](int stage) {
    if (stage < stages) {
      uint4* const to = shared + stage % Shape::kStages * Shape::kStageVectors;
      const int k = (stage * kStageChunks + copied_chunk) * 8;
      const bool inside = k < one.k;
      const int64_t of_row = inside ? column_offset(one.x, k) : 0;
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const int slot = slot_of(copied_row + i * kRowsOfCopy, copied_chunk);
        cp_async_16(to + slot, rows[i] + of_row, inside && row_inside[i]);
        cp_async_16(to + Shape::kRows * kStageChunks + slot, columns + (i * kRowsOfCopy * one.k + k),
                    inside && column + i * kRowsOfCopy < one.n);
      }
    }
    cp_async_commit();
  };
#pragma unroll
  for (int stage = 0; stage + 1 < Shape::kStages; ++stage) copy(stage);
  const int row0 = warp() / Shape::kAcross * Shape::kWarpRows, column0 = warp() % Shape::kAcross * 32;
  float d[kParts][4][4] = {}, total[kParts][4][4] = {};
  const auto add_up = [&] {
#pragma unroll
    for (int m = 0; m < kParts; ++m) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) total[m][n][j] += d[m][n][j], d[m][n][j] = 0.0f;
      }
    }
  };
  int until_quarter = quarter;
  for (int stage = 0; stage < stages; ++stage) {
    cp_async_wait<Shape::kStages - 2>();
    __syncthreads();
    copy(stage + Shape::kStages - 1);
    const uint4* const x = shared + stage % Shape::kStages * Shape::kStageVectors;
    const uint4* const weights = x + Shape::kRows * kStageChunks;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int chunk = 4 * half + pair();
      uint4 left[kParts][2];
#pragma unroll
      for (int m = 0; m < kParts; ++m) {
        left[m][0] = x[slot_of(row0 + 16 * m + group(), chunk)];
        left[m][1] = x[slot_of(row0 + 16 * m + 8 + group(), chunk)];
      }
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const uint4 right = weights[slot_of(column0 + 8 * n + group(), chunk)];
#pragma unroll
        for (int m = 0; m < kParts; ++m) multiply_chunks<T>(d[m][n], left[m][0], left[m][1], right);
      }
      if (--until_quarter == 0) add_up(), until_quarter = quarter;
    }
  }
  add_up();
#pragma unroll
  for (int m = 0; m < kParts; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first_row + row0 + 16 * m + 8 * half + group();
      if (row >= one.rows) continue;
      const RowEnds ends(all, one, row);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int column = first_column + column0 + 8 * n + 2 * pair();
        if (column < one.n) finish<T>(one, ends, column, total[m][n][2 * half], total[m][n][2 * half + 1]);
      }
    }
  }
#endif
}

}  // namespace fastsam::decoder::cuda
