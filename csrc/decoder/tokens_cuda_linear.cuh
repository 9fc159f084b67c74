// Fully connected layers of tokens: up to kMaxProducts independent products in one launch. One kernel serves few rows,
// where reading the weights takes all the time; the other serves many rows. Both sum in the same order, so that a
// prompt's results don't depend on the number of prompts: in steps of depth 16 within each of four quarters of the
// depth, then over the quarters.
#pragma once

#include "decoder/decoder_cuda_fragments.cuh"
#include "decoder/tokens_cuda.h"

namespace fastsam::decoder::cuda {

// The layout of a matrix in memory. Row r is row r % group of group r / group or, if `uses_chosen`, the chosen[r %
// group]-th row of that group. A row's channels are in runs of 16, which are `head_stride` elements apart.
struct MatrixLayout {
  void* data;
  int64_t group_stride, row_stride,
      head_stride;  // strides of groups, of rows within a group, and of heads (runs of 16 channels)
  int group_rows;
  bool uses_chosen;
  const int64_t* row_index;  // for left factors with group = 1: row r is row row_index[r]; or null
  int64_t num_groups;        // the number of groups, to which `row_index` is clamped
};

// out = factor * relu(x weight^T + bias) + residual, with relu only if `relu`.
struct Product {
  MatrixLayout x, out, residual;  // residual.data may be null
  const void *weight, *bias;
  int64_t rows;
  int n, k;
  float factor;  // multiplies the rounded result
  bool relu;
  unsigned first_block;
};

constexpr int kMaxProducts = 5;

struct Products {
  Product items[kMaxProducts];
  int count;
  int chosen[kTokens];
};

constexpr int kProductThreads = 128, kQuarters = 4, kDepth = 32;
// Rows and columns of a block: kFewRows x kFewColumns for few rows, a square of kTile or 2 * kTile for many.
constexpr int kFewRows = 16, kFewColumns = 16, kTile = 64;
constexpr int kStageChunks = 8;  // 16-byte chunks per row of a stage, i.e. depth 64

// The sizes of the kernel for many rows. A block computes a square whose side is one tile, or two tiles if that leaves
// enough blocks: per product it then reads half as much from global and from shared memory.
template <int kSide>
struct SquareTile {
  static constexpr int kRows = kTile * kSide, kThreads = kProductThreads * kSide, kStages = kSide == 1 ? 3 : 4;
  static constexpr int kStageVectors = 2 * kRows * kStageChunks, kBlocks = kSide == 1 ? 3 : 1;  // per multiprocessor
  static constexpr size_t kBytes = size_t{kStages} * kStageVectors * 16;
  // A warp has kWarpRows rows, in kParts fragments, and 32 columns; kAcross warps lie side by side.
  static constexpr int kParts = 2 * kSide, kWarpRows = 16 * kParts, kAcross = 2 * kSide;
};

// Return the depth of a quarter: a fourth of k, rounded up to a multiple of kDepth.
__device__ __forceinline__ int quarter_depth(int k) {
  return (k + kQuarters * kDepth - 1) / (kQuarters * kDepth) * kDepth;
}

__device__ __forceinline__ int64_t row_offset(const Products& batch, const MatrixLayout& layout, int64_t row) {
  if (layout.group_rows == 1 && !layout.uses_chosen) return row * layout.group_stride;
  const auto number = static_cast<unsigned>(row), group = static_cast<unsigned>(layout.group_rows);
  const unsigned inside = number % group;
  return number / group * layout.group_stride +
         (layout.uses_chosen ? batch.chosen[inside] : static_cast<int>(inside)) * layout.row_stride;
}
// Return the start of a row of a product's left factor.
template <typename T>
__device__ __forceinline__ const T* left_row(const Products& batch, const Product& product, int64_t row) {
  // An index out of range cannot be reported without waiting for the GPU, so it is clamped.
  if (product.x.row_index != nullptr)
    row = max(int64_t{0}, min(__ldg(product.x.row_index + row), product.x.num_groups - 1));
  return static_cast<const T*>(product.x.data) + row_offset(batch, product.x, row);
}
__device__ __forceinline__ int64_t column_offset(const MatrixLayout& layout, int column) {
  const auto number = static_cast<unsigned>(column);
  return number / 16 * layout.head_stride + number % 16;
}

__device__ __forceinline__ const Product& find_product(const Products& batch, unsigned block) {
  int i = 0;
  while (i + 1 < batch.count && block >= batch.items[i + 1].first_block) ++i;
  return batch.items[i];
}

// The epilogue of a product for the columns that a lane has: kPairs pairs of adjacent columns, 8 columns apart.
template <typename T, int kPairs>
struct Epilogue {
  float2 bias[kPairs];
  int64_t out[kPairs], residual[kPairs];
  bool inside[kPairs];

  __device__ __forceinline__ Epilogue(const Product& product, int first_column) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int column = first_column + 8 * i;
      inside[i] = column < product.n;
      bias[i] = inside[i] ? load_pair(product.bias, column) : make_float2(0.0f, 0.0f);
      out[i] = column_offset(product.out, column), residual[i] = column_offset(product.residual, column);
    }
  }

  // Turn a row's sums into results and store them: bias, ReLU, factor, residual, rounded where PyTorch rounds.
  __device__ __forceinline__ void finish(const Products& batch, const Product& product, int64_t row,
                                         float2 (&x)[kPairs]) const {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) x[i] = rounded(x[i].x + bias[i].x, x[i].y + bias[i].y);
    if (product.relu) {
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {  // keeps NaN
        x[i] = make_float2(x[i].x < 0.0f ? 0.0f : x[i].x, x[i].y < 0.0f ? 0.0f : x[i].y);
      }
    }
    if (product.factor != 1.0f) {
#pragma unroll
      for (int i = 0; i < kPairs; ++i) x[i] = rounded(x[i].x * product.factor, x[i].y * product.factor);
    }
    if (product.residual.data != nullptr) {
      const int64_t from = row_offset(batch, product.residual, row);
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        if (!inside[i]) continue;
        const float2 add = load_pair(product.residual.data, from + residual[i]);
        x[i] = make_float2(x[i].x + add.x, x[i].y + add.y);
      }
    }
    T* const to = static_cast<T*>(product.out.data) + row_offset(batch, product.out, row);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (inside[i]) *reinterpret_cast<uint32_t*>(to + out[i]) = pack<T>(x[i].x, x[i].y);
    }
  }

  static __device__ __forceinline__ float2 rounded(float first, float second) {
    return unpack<T>(pack<T>(first, second));
  }
  static __device__ __forceinline__ float2 load_pair(const void* data, int64_t at) {
    return unpack<T>(__ldg(reinterpret_cast<const uint32_t*>(static_cast<const T*>(data) + at)));
  }
};

// Left factors of depth 32: each lane holds 8 adjacent channels of rows g and g + 8; of the right factor it holds 8
// adjacent channels of column g. The order of the depth is arbitrary as long as both factors agree, so these channels
// are used in the order in which they were loaded.
struct Chunks {
  uint32_t first[4], second[4];

  // `zero` must be zero, in a way the compiler cannot see. The OR makes the values new registers; otherwise the
  // compiler copies them again for each product, which takes longer than the products.
  __device__ __forceinline__ void take(uint4 low, uint4 high, uint32_t zero) {
    first[0] = low.x | zero, first[1] = high.x | zero, first[2] = low.y | zero, first[3] = high.y | zero;
    second[0] = low.z | zero, second[1] = high.z | zero;
    second[2] = low.w | zero, second[3] = high.w | zero;
  }
};
template <typename T>
__device__ __forceinline__ void multiply_chunks(float (&d)[4], const Chunks& rows, uint4 column) {
  mma_m16n8k16<T>(d, rows.first, column.x, column.y);
  mma_m16n8k16<T>(d, rows.second, column.z, column.w);
}

__device__ __forceinline__ uint4 load_chunk(const void* row, bool inside) {
  return inside ? __ldg(static_cast<const uint4*>(row)) : make_uint4(0, 0, 0, 0);
}

// The kernel for few rows: a block computes 16 x 16 results. Each of its four warps computes a quarter of the depth,
// reading both factors directly from global memory; the block then adds the quarters.
template <typename T>
__global__ void __launch_bounds__(kProductThreads) few_rows_kernel(const __grid_constant__ Products batch) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  __shared__ float sums[kQuarters][kFewRows][kFewColumns];
  const Product& product = find_product(batch, blockIdx.x);
  const int block = static_cast<int>(blockIdx.x - product.first_block),
            across = (product.n + kFewColumns - 1) / kFewColumns;
  const int64_t first_row = int64_t{block / across} * kFewRows;
  const int first_column = block % across * kFewColumns;
  const T *rows[2], *columns[2];
  bool row_inside[2], column_inside[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t row = first_row + 8 * i + group();
    const int column = first_column + 8 * i + group();
    row_inside[i] = row < product.rows, column_inside[i] = column < product.n;
    rows[i] = left_row<T>(batch, product, row_inside[i] ? row : 0);
    columns[i] = static_cast<const T*>(product.weight) + int64_t{column_inside[i] ? column : 0} * product.k;
  }
  const int quarter = quarter_depth(product.k), begin = warp() * quarter;
  float d[2][4] = {};
#pragma unroll 4
  for (int at = begin; at < begin + quarter; at += kDepth) {
    const int k = at + 8 * pair();
    const bool inside = k < product.k;
    const int64_t of_row = column_offset(product.x, k);
    Chunks left;
    left.take(load_chunk(rows[0] + of_row, inside && row_inside[0]),
              load_chunk(rows[1] + of_row, inside && row_inside[1]), 0);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      multiply_chunks<T>(d[i], left, load_chunk(columns[i] + k, inside && column_inside[i]));
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[warp()][group() + j / 2 * 8][8 * i + 2 * pair() + j % 2] = d[i][j];
  }
  __syncthreads();  // the sums of all quarters are in shared memory
  const int row = static_cast<int>(threadIdx.x) / 8, column = static_cast<int>(threadIdx.x) % 8 * 2;
  float2 total[1] = {make_float2(0.0f, 0.0f)};
#pragma unroll
  for (int i = 0; i < kQuarters; ++i) total[0].x += sums[i][row][column], total[0].y += sums[i][row][column + 1];
  if (first_row + row < product.rows) {
    Epilogue<T, 1>(product, first_column + column).finish(batch, product, first_row + row, total);
  }
#endif
}

// Return the position of a row's chunk in a stage. The halves of odd rows are swapped to avoid bank conflicts.
__device__ __forceinline__ int slot_index(int row, int chunk) { return row * kStageChunks + (chunk ^ (row % 2 * 4)); }

// The kernel for many rows: a block computes a square of Square::kRows x kRows results, each warp kWarpRows x 32 of
// them. Both factors go through a ring of kStages stages of depth 64, filled by cp.async; a thread copies the same
// chunk of every kRowsOfCopy-th row. `d` holds the sums of the current quarter of the depth, `total` those of the
// quarters before.
template <typename T, int kSide>
__global__ void __launch_bounds__(SquareTile<kSide>::kThreads, SquareTile<kSide>::kBlocks)
    many_rows_kernel(const __grid_constant__ Products batch) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using Shape = SquareTile<kSide>;
  DYNAMIC_SHARED(uint4, shared);
  constexpr int kRowsOfCopy = Shape::kThreads / kStageChunks, kCopies = Shape::kRows / kRowsOfCopy;
  constexpr int kParts = Shape::kParts;
  const Product& product = find_product(batch, blockIdx.x);
  const int block = static_cast<int>(blockIdx.x - product.first_block),
            across = (product.n + Shape::kRows - 1) / Shape::kRows;
  const int64_t first_row = int64_t{block / across} * Shape::kRows;
  const int first_column = block % across * Shape::kRows;
  const int copied_row = static_cast<int>(threadIdx.x) / kStageChunks,
            copied_chunk = static_cast<int>(threadIdx.x) % kStageChunks;
  const int column = first_column + copied_row, slot = slot_index(copied_row, copied_chunk);
  const int64_t rows_left = product.rows - first_row - copied_row,
                stage_step = 8 * kStageChunks / 16 * product.x.head_stride;
  const int num_rows = static_cast<int>(min(rows_left, int64_t{Shape::kRows})), num_columns = product.n - column;
  const T* rows[kCopies];
#pragma unroll
  for (int i = 0; i < kCopies; ++i) {
    const int64_t row = i * kRowsOfCopy < num_rows ? first_row + copied_row + i * kRowsOfCopy : 0;
    rows[i] = left_row<T>(batch, product, row) + column_offset(product.x, 8 * copied_chunk);
  }
  const T* columns = static_cast<const T*>(product.weight) + (int64_t{column} * product.k + 8 * copied_chunk);
  const int stages = (product.k + 8 * kStageChunks - 1) / (8 * kStageChunks),
            quarter = quarter_depth(product.k) / kDepth;
  int remaining_k = product.k - 8 * copied_chunk;
  const auto copy = [&](int stage) {
    if (stage < stages) {
      uint4* const to = shared + (stage % Shape::kStages * Shape::kStageVectors + slot);
      const int to_copy[2] = {remaining_k > 0 ? num_rows : 0, remaining_k > 0 ? num_columns : 0};
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        static_assert(kRowsOfCopy % 2 == 0);
        const int further = i * kRowsOfCopy * kStageChunks;
        cp_async_16(to + further, rows[i], i * kRowsOfCopy < to_copy[0]);
        cp_async_16(to + Shape::kRows * kStageChunks + further, columns + i * kRowsOfCopy * product.k,
                    i * kRowsOfCopy < to_copy[1]);
        rows[i] += stage_step;
      }
      columns += 8 * kStageChunks, remaining_k -= 8 * kStageChunks;
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
  const uint32_t zero = static_cast<uint32_t>(batch.count) / (kMaxProducts + 1);  // 0, see Chunks::take
  for (int stage = 0; stage < stages; ++stage) {
    cp_async_wait<Shape::kStages - 2>();
    // This stage has arrived for all warps, and all have finished reading the one that the next copy overwrites.
    __syncthreads();
    copy(stage + Shape::kStages - 1);
    const uint4* const x = shared + stage % Shape::kStages * Shape::kStageVectors;
    const uint4* const weights = x + Shape::kRows * kStageChunks;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int chunk = 4 * half + pair();
      Chunks left[kParts];
#pragma unroll
      for (int m = 0; m < kParts; ++m) {
        const uint4* const at = x + slot_index(row0 + 16 * m + group(), chunk);
        left[m].take(at[0], at[8 * kStageChunks], zero);
      }
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const uint4 right = weights[slot_index(column0 + 8 * n + group(), chunk)];
#pragma unroll
        for (int m = 0; m < kParts; ++m) multiply_chunks<T>(d[m][n], left[m], right);
      }
      if (--until_quarter == 0) add_up(), until_quarter = quarter;
    }
  }
  add_up();
  const Epilogue<T, 4> epilogue(product, first_column + column0 + 2 * pair());
#pragma unroll
  for (int m = 0; m < kParts; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first_row + row0 + 16 * m + 8 * half + group();
      if (row >= product.rows) continue;
      float2 sums[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) sums[n] = make_float2(total[m][n][2 * half], total[m][n][2 * half + 1]);
      epilogue.finish(batch, product, row, sums);
    }
  }
#endif
}

}  // namespace fastsam::decoder::cuda
