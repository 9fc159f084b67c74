// Kernel parameters, the mapping from a block to its queries, keys and values in the packed qkv, and the copies of
// these into shared memory.
#pragma once

#include "attention/attention_cuda_tiles.cuh"

namespace fastsam::attention {

// The kind of bias that is added to the scores, and with it what a tile of keys is.
enum class Bias {
  kOneRow,    // relative positions; a tile of keys is one row of the window, or part of one
  kManyRows,  // relative positions; a tile is several whole rows
  kDense      // an array with a number for each query and key; a tile is consecutive keys regardless of rows
};

// The parameters of a kernel launch.
template <typename T>
struct Params {
  const T* qkv;
  const T* padding;  // null if no window extends beyond the grid
  const T* rel_pos_h;
  const T* rel_pos_w;
  const T* bias;
  T* out;
  int64_t token_stride;                           // elements from one token of qkv to the next; in out, a third of that
  int64_t head_stride, key_offset, value_offset;  // see Grid
  int heads, rows, columns, window_rows, window_columns;
  int windows_y, windows_x, query_blocks;
  // A tile of keys has slots for `tile_rows` rows of `row_slots` keys each. A window wider than a tile is processed in
  // strips of `strip_columns` columns, one after another.
  int row_slots, tile_rows, strip_columns;
  unsigned inverse_row_slots;  // 2^16 / row_slots, rounded up
  float scale;                 // of scores: log2(e) / sqrt(dim), because weights are computed as powers of two
  float position_scale;  // of position terms: sqrt(dim), so that they can be added to scores before these are scaled
};

// Return slot / row_slots, the row of a tile that a slot belongs to, by a multiplication that is exact for so few
// slots.
template <typename T>
__device__ __forceinline__ int row_of_slot(const Params<T>& params, int slot) {
  return static_cast<int>(static_cast<unsigned>(slot) * params.inverse_row_slots >> 16);
}

// A block's window and head, and its first query. Queries are numbered along the rows of the part on the grid.
template <typename T>
struct Window {
  const T* tokens;   // the head's query of the window's first token
  const T* padding;  // the head's query of a token beyond the grid
  T* out;
  int head;
  int rows, columns;  // of the part of the window that is on the grid
  int first;          // the block's first query

  // Number of queries of the window.
  __device__ __forceinline__ int count() const { return rows * columns; }
};

// Return `value`, opaquely to the compiler. Otherwise it would compute values derived from it early and keep them in
// registers, of which there are none to spare.
__device__ __forceinline__ int opaque(int value) {
#ifndef FASTSAM_CUDA_EMULATION
  asm volatile("" : "+r"(value));
#endif
  return value;
}

// The window, head and queries of this block. blockIdx.x is (image, window row, window column, head, query block), the
// last varying fastest.
template <typename T>
__device__ __forceinline__ Window<T> locate_window(const Params<T>& params, int queries_per_block) {
  int64_t index = blockIdx.x;
  Window<T> window;
  window.first = static_cast<int>(index % params.query_blocks) * queries_per_block;
  index /= params.query_blocks;
  window.head = static_cast<int>(index % params.heads);
  index /= params.heads;
  const int x = static_cast<int>(index % params.windows_x) * params.window_columns;
  index /= params.windows_x;
  const int y = static_cast<int>(index % params.windows_y) * params.window_rows;
  const int64_t image = index / params.windows_y;
  const int64_t token = (image * params.rows + y) * params.columns + x;
  window.tokens = params.qkv + token * params.token_stride + window.head * params.head_stride;
  window.padding = params.padding == nullptr ? nullptr : params.padding + window.head * params.head_stride;
  const int64_t dim = params.token_stride / 3 / params.heads;
  window.out = params.out + (token * params.heads + window.head) * dim;
  window.rows = min(params.window_rows, params.rows - y);
  window.columns = min(params.window_columns, params.columns - x);
  return window;
}

// A token's row and column in its window.
struct WindowPosition {
  int y, x;
};
// The place of a query. Queries beyond the last one repeat it: they are computed with the others and never written.
template <typename T>
__device__ __forceinline__ WindowPosition position_of(const Window<T>& window, int query) {
  const int index = min(query, window.count() - 1);
  const int y = index / window.columns;
  return {y, index - y * window.columns};
}

// How kRows rows of a tile are copied by a set of kSetThreads threads: kThreadsPerRow adjacent threads share a row and
// take every kThreadsPerRow-th 16-byte vector of it, so that each access reads whole sectors of global memory. Eight
// adjacent threads store to shared memory together; `row` gives them rows whose swizzles in `Tile::offset` differ, to
// avoid bank conflicts.
template <typename T, int kDim, int kRows>
struct Copy {
  static constexpr int kThreadsPerRow = sizeof(T) == 2 ? 2 : 4, kSetThreads = kRows * kThreadsPerRow;
  static constexpr int kVectorsPerThread = Tile<T, kDim>::kVectorsPerRow / kThreadsPerRow;
  static_assert(Tile<T, kDim>::kVectorsPerRow % kThreadsPerRow == 0);

  static __device__ __forceinline__ int row(int thread) {
    constexpr int kSwizzleBits = Tile<T, kDim>::kSwizzleBits;
    constexpr int kTo[3] = {kThreadsPerRow == 4 ? 2
                            : kSwizzleBits == 3 ? 1
                                                : 0,
                            kThreadsPerRow == 4 ? 0
                            : kSwizzleBits == 1 ? 1
                                                : 2,
                            kThreadsPerRow == 4 ? 1
                            : kSwizzleBits == 3 ? 0
                            : kSwizzleBits == 2 ? 1
                                                : 2};
    const int i = thread % kSetThreads / kThreadsPerRow;
    return (i & ~7) | (i & 1) << kTo[0] | (i >> 1 & 1) << kTo[1] | (i >> 2 & 1) << kTo[2];
  }

  // Start the copies of the thread's vectors of one row; zeros if `is_valid` is false. If kSplits sets share the work,
  // this thread's set is the `split`-th and copies only every kSplits-th of these vectors.
  template <int kSplits = 1>
  static __device__ __forceinline__ void copy(int thread, T* tile, int row, const T* from, bool is_valid,
                                              int split = 0) {
    using Shared = Tile<T, kDim>;
    const int part = thread % kThreadsPerRow, first = Shared::offset(row, part);
#pragma unroll
    for (int i = 0; i < kVectorsPerThread; i += kSplits) {
      const int turn = i + split;
      if (kVectorsPerThread % kSplits != 0 && turn >= kVectorsPerThread) break;
      const int to =
          kThreadsPerRow == 2 ? Shared::advance(first, turn) : first + turn * kThreadsPerRow * Shared::kVectorSize;
      cp_async_16(tile + to, from + (turn * kThreadsPerRow + part) * Shared::kVectorSize, is_valid);
    }
  }
};

// Start the copies of the block's kQueries queries, by kThreads threads, in sets of kRows rows.
template <typename T, int kDim, int kThreads, int kRows, int kQueries>
__device__ __forceinline__ void copy_queries(const Params<T>& params, const Window<T>& window, T* queries) {
  using Rows = Copy<T, kDim, kRows>;
  constexpr int kSets = kThreads / Rows::kSetThreads;
  const int thread = static_cast<int>(threadIdx.x);
  for (int row = thread / Rows::kSetThreads * kRows + Rows::row(thread); row < kQueries; row += kSets * kRows) {
    const WindowPosition position = position_of(window, window.first + row);
    Rows::copy(thread, queries, row,
               window.tokens + (int64_t{position.y} * params.columns + position.x) * params.token_stride, true);
  }
}

// Start the copies of the keys and values of a tile that begins with row `y` and column `x` of the window or, with a
// dense bias, with key `x`. Slots without a key are filled with zeros: their scores are masked and their weights are 0,
// but NaN in their place would survive that.
template <typename T, int kDim, int kThreads, int kKeys, Bias kBias>
__device__ __forceinline__ void copy_keys(const Params<T>& params, const Window<T>& window, int y, int x, T* keys,
                                          T* values) {
  using Rows = Copy<T, kDim, kKeys>;
  const int thread = opaque(static_cast<int>(threadIdx.x)), slot = Rows::row(thread);
  x += slot;
  bool is_key = slot < params.strip_columns && x < params.window_columns;
  if constexpr (kBias == Bias::kManyRows) {
    const int down = row_of_slot(params, slot);
    y += down, x -= down * params.row_slots;
    is_key = x < params.window_columns && down < params.tile_rows && y < params.window_rows;
  } else if constexpr (kBias == Bias::kDense) {
    y = x / params.window_columns, x -= y * params.window_columns;
    is_key = y < params.window_rows;
  }
  const T* from = y < window.rows && x < window.columns
                      ? window.tokens + (int64_t{y} * params.columns + x) * params.token_stride
                      : window.padding;
  if (!is_key) from = window.tokens;  // a valid address, although nothing is read from it
  // If there is one set of threads, it copies both; otherwise half of the sets copy keys and half copy values.
  constexpr int kSets = kThreads / Rows::kSetThreads, kSplits = kSets == 1 ? 1 : kSets / 2;
  const int set = thread / Rows::kSetThreads;
  if (kSets == 1 || set % 2 == 0) {
    Rows::template copy<kSplits>(thread, keys, slot, from + params.key_offset, is_key, set / 2);
  }
  if (kSets == 1 || set % 2 == 1) {
    Rows::template copy<kSplits>(thread, values, slot, from + params.value_offset, is_key, set / 2);
  }
}

}  // namespace fastsam::attention
