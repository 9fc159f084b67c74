// Where a block's queries, keys and values lie in the packed qkv, and how they get into shared memory.
#pragma once

#include "attention/attention_cuda_tiles.cuh"

namespace fastsam::attention {

// What a score begins with before query times key is added to it.
enum class Bias {
  kOneRow,    // positions; a tile of keys is (part of) one row of the window
  kManyRows,  // positions; a tile is several whole rows
  kDense      // a number for each query and key; a tile is the next keys, wherever they stand
};

// What a kernel is launched with; the same for all blocks.
template <typename T>
struct Job {
  const T* qkv;
  const T* padding;  // null where no window reaches over the grid
  const T* rows_table;
  const T* columns_table;
  const T* bias;
  T* out;
  int64_t token;             // elements of qkv between tokens; a third of it in out
  int64_t head, key, value;  // see Grid
  int heads, rows, columns, window_rows, window_columns;
  int windows_down, windows_across, query_blocks;
  // A tile of keys has slots for `tile_rows` rows of `pitch` keys each. Windows wider than a tile are gone through in
  // strips of `strip` columns, one after the other.
  int pitch, tile_rows, strip;
  unsigned inverse_pitch;  // 2^16 / pitch, rounded up
  float scale;             // of scores, log2(e) included: weights are powers of two
  float position_scale;    // of products with a table, so that they can stand among unscaled scores
};

// The row of a tile that a slot belongs to: slot / pitch, as one multiplication; slots are few.
template <typename T>
__device__ __forceinline__ int row_of_slot(const Job<T>& job, int slot) {
  return static_cast<int>(static_cast<unsigned>(slot) * job.inverse_pitch >> 16);
}

// One head of one window, and the queries in it that a block has.
template <typename T>
struct Window {
  const T* tokens;   // the head's query of the window's first token
  const T* padding;  // that of a token beyond the grid
  T* out;
  int head;
  int rows, columns;  // of the window that are on the grid
  int first;          // the block's first query, along those rows

  __device__ __forceinline__ int count() const { return rows * columns; }
};

// A number that the compiler takes for a new one, so that it doesn't compute ahead what follows from it and then keep
// that in registers, of which there are none to spare.
__device__ __forceinline__ int anew(int value) {
#ifndef FASTSAM_CUDA_EMULATION
  asm volatile("" : "+r"(value));
#endif
  return value;
}

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

// A query's place in its window. Those beyond the last one stand for it: computed with the others, never written.
struct Place {
  int y, x;
};
template <typename T>
__device__ __forceinline__ Place place_of(const Window<T>& window, int query) {
  const int at = min(query, window.count() - 1);
  const int y = at / window.columns;
  return {y, at - y * window.columns};
}

// How kRows rows of a tile are copied: by a set of kShare neighbouring threads for each, which take every kShare-th
// vector of it, whole sectors of global memory each time. Eight threads, whose vectors go to shared memory together,
// have rows that differ where `Tile::offset` needs it, so that they don't meet in a bank.
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

  // The thread's share of one row of a tile; or of that the part that is the `helper`-th of kHelpers sets'.
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

// The keys and values of a tile that begins with row `y` and column `x` of the window, or, of a dense bias, with key
// `x`. Slots without a key hold zeros: what is computed of them must be numbers.
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
  if (!is_key) from = window.tokens;  // an address that may be read, of which nothing is
  // One set of threads copies both, or some the keys and as many the values.
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
