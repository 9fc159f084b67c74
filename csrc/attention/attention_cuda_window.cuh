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
struct Job {
  const T* qkv;
  const T* padding;  // null if no window extends beyond the grid
  const T* rows_table;
  const T* columns_table;
  const T* bias;
  T* out;
  int64_t token;             // elements from one token of qkv to the next; in out, a third of that
  int64_t head, key, value;  // see Grid
  int heads, rows, columns, window_rows, window_columns;
  int windows_down, windows_across, query_blocks;
  // A tile of keys has slots for `tile_rows` rows of `pitch` keys each. A window wider than a tile is processed in
  // strips of `strip` columns, one after another.
  int pitch, tile_rows, strip;
  unsigned inverse_pitch;  // 2^16 / pitch, rounded up
  float scale;             // of scores: log2(e) / sqrt(dim), because weights are computed as powers of two
  float position_scale;    // of position terms: sqrt(dim), so that they can be added to scores before these are scaled
};

// Return slot / pitch, the row of a tile that a slot belongs to, by a multiplication that is exact for so few slots.
template <typename T>
__device__ __forceinline__ int row_of_slot(const Job<T>& job, int slot) {
  return static_cast<int>(static_cast<unsigned>(slot) * job.inverse_pitch >> 16);
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
__device__ __forceinline__ int anew(int value) {
#ifndef FASTSAM_CUDA_EMULATION
  asm volatile("" : "+r"(value));
#endif
  return value;
}

// The window, head and queries of this block. blockIdx.x is (image, window row, window column, head, query block), the
// last varying fastest.
template <typename T>
__device__ __forceinline__ Window<T> window_of_block(const Job<T>& job, int queries_of_block) {
  int64_t at = blockIdx.x;
  Window<T> window;
  window.first = static_cast<int>(at % job.query_blocks) * queries_of_block;
  at /= job.query_blocks;
  window.head = static_cast<int>(at % job.heads);
  at /= job.heads;
  const int x = static_cast<int>(at % job.windows_across) * job.window_columns;
  at /= job.windows_across;
  const int y = static_cast<int>(at % job.windows_down) * job.window_rows;
  const int64_t image = at / job.windows_down;
  const int64_t token = (image * job.rows + y) * job.columns + x;
  window.tokens = job.qkv + token * job.token + window.head * job.head;
  window.padding = job.padding == nullptr ? nullptr : job.padding + window.head * job.head;
  const int64_t dim = job.token / 3 / job.heads;
  window.out = job.out + (token * job.heads + window.head) * dim;
  window.rows = min(job.window_rows, job.rows - y);
  window.columns = min(job.window_columns, job.columns - x);
  return window;
}

// A token's row and column in its window.
struct Place {
  int y, x;
};
// The place of a query. Queries beyond the last one repeat it: they are computed with the others and never written.
template <typename T>
__device__ __forceinline__ Place place_of(const Window<T>& window, int query) {
  const int at = min(query, window.count() - 1);
  const int y = at / window.columns;
  return {y, at - y * window.columns};
}

// How kRows rows of a tile are copied by a set of kSet threads: kShare adjacent threads share a row and take every
// kShare-th 16-byte vector of it, so that each access reads whole sectors of global memory. Eight adjacent threads
// store to shared memory together; `row` gives them rows whose swizzles in `Tile::offset` differ, to avoid bank
// conflicts.
template <typename T, int kDim, int kRows>
struct Copy {
  static constexpr int kShare = sizeof(T) == 2 ? 2 : 4, kSet = kRows * kShare;
  static constexpr int kTurns = Tile<T, kDim>::kVectors / kShare;
  static_assert(Tile<T, kDim>::kVectors % kShare == 0);

  static __device__ __forceinline__ int row(int thread) {
    constexpr int kBits = Tile<T, kDim>::kBits;
    constexpr int kTo[3] = {kShare == 4  ? 2
                            : kBits == 3 ? 1
                                         : 0,
                            kShare == 4  ? 0
                            : kBits == 1 ? 1
                                         : 2,
                            kShare == 4  ? 1
                            : kBits == 3 ? 0
                            : kBits == 2 ? 1
                                         : 2};
    const int i = thread % kSet / kShare;
    return (i & ~7) | (i & 1) << kTo[0] | (i >> 1 & 1) << kTo[1] | (i >> 2 & 1) << kTo[2];
  }

  // Start the copies of the thread's vectors of one row; zeros if `inside` is false. If kHelpers sets share the work,
  // this thread's set is the `helper`-th and copies only every kHelpers-th of these vectors.
  template <int kHelpers = 1>
  static __device__ __forceinline__ void copy(int thread, T* tile, int row, const T* from, bool inside,
                                              int helper = 0) {
    using Shared = Tile<T, kDim>;
    const int part = thread % kShare, first = Shared::offset(row, part);
#pragma unroll
    for (int i = 0; i < kTurns; i += kHelpers) {
      const int turn = i + helper;
      if (kTurns % kHelpers != 0 && turn >= kTurns) break;
      const int to = kShare == 2 ? Shared::further(first, turn) : first + turn * kShare * Shared::kVector;
      cp_async_16(tile + to, from + (turn * kShare + part) * Shared::kVector, inside);
    }
  }
};

// Start the copies of the block's kQueries queries, by kThreads threads, in sets of kRows rows.
template <typename T, int kDim, int kThreads, int kRows, int kQueries>
__device__ __forceinline__ void copy_queries(const Job<T>& job, const Window<T>& window, T* queries) {
  using Rows = Copy<T, kDim, kRows>;
  constexpr int kSets = kThreads / Rows::kSet;
  const int thread = static_cast<int>(threadIdx.x);
  for (int row = thread / Rows::kSet * kRows + Rows::row(thread); row < kQueries; row += kSets * kRows) {
    const Place at = place_of(window, window.first + row);
    Rows::copy(thread, queries, row, window.tokens + (int64_t{at.y} * job.columns + at.x) * job.token, true);
  }
}

// Start the copies of the keys and values of a tile that begins with row `y` and column `x` of the window or, with a
// dense bias, with key `x`. Slots without a key are filled with zeros: their scores are masked and their weights are 0,
// but NaN in their place would survive that.
template <typename T, int kDim, int kThreads, int kKeys, Bias kBias>
__device__ __forceinline__ void copy_keys(const Job<T>& job, const Window<T>& window, int y, int x, T* keys,
                                          T* values) {
  using Rows = Copy<T, kDim, kKeys>;
  const int thread = anew(static_cast<int>(threadIdx.x)), slot = Rows::row(thread);
  x += slot;
  bool is_key = slot < job.strip && x < job.window_columns;
  if constexpr (kBias == Bias::kManyRows) {
    const int down = row_of_slot(job, slot);
    y += down, x -= down * job.pitch;
    is_key = x < job.window_columns && down < job.tile_rows && y < job.window_rows;
  } else if constexpr (kBias == Bias::kDense) {
    y = x / job.window_columns, x -= y * job.window_columns;
    is_key = y < job.window_rows;
  }
  const T* from = y < window.rows && x < window.columns ? window.tokens + (int64_t{y} * job.columns + x) * job.token
                                                        : window.padding;
  if (!is_key) from = window.tokens;  // a valid address, although nothing is read from it
  // If there is one set of threads, it copies both; otherwise half of the sets copy keys and half copy values.
  constexpr int kSets = kThreads / Rows::kSet, kHelpers = kSets == 1 ? 1 : kSets / 2;
  const int set = thread / Rows::kSet;
  if (kSets == 1 || set % 2 == 0) {
    Rows::template copy<kHelpers>(thread, keys, slot, from + job.key, is_key, set / 2);
  }
  if (kSets == 1 || set % 2 == 1) {
    Rows::template copy<kHelpers>(thread, values, slot, from + job.value, is_key, set / 2);
  }
}

}  // namespace fastsam::attention
