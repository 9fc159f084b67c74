// The mma.sync attention kernel. A block computes some queries of one head of one window; it iterates over the window's
// keys and values in tiles, which cp.async copies into two alternating stages of shared memory. Each warp owns 16 or 32
// of the block's queries, with their scores, running softmax and output.
//
// Scores are initialised with their bias and stay in registers, as do the position terms of the tile's columns. The
// terms of its rows lie in shared memory, for 16 rows of keys at a time. Resources as compiled by CUDA 13.0 for sm_80
// and sm_90a, without spills:
//
//   kernel                  threads  registers     shared memory, d = 64 / 80   warps on a multiprocessor
//   16 bits, wide               128        255             56 KB /  68 KB        8
//   16 bits, narrow             256        128             40 KB /  48 KB       16, also in the 100 KB of sm_86 and 89
//   float32                     128  211 - 247             56 KB /  69 KB        8, or 4 in 100 KB
//   dense, d = 32               128  113 - 128   20 KB (float32: 27 KB)         16 (float32: 12 in 100 KB)
#pragma once

#include "attention/attention_cuda_positions.cuh"
#include "attention/attention_cuda_softmax.cuh"

namespace fastsam::attention {

// The sizes of a kernel. Wide: each warp has 32 queries. That halves the reads of keys and values from shared memory,
// which otherwise take as long as the products, but registers and shared memory then allow only eight warps on a
// multiprocessor. Narrow: each warp has 16 queries, and up to 16 warps fit. It serves windows, whose blocks are
// short-lived, and devices whose shared memory has no room for two wide blocks.
template <typename T, int kDim, Bias kBias, bool kWide>
struct KernelTraits {
  static constexpr bool kHalf = sizeof(T) == 2, kDense = kBias == Bias::kDense;
  static constexpr int kTiles = kWide ? 2 : 1;  // tiles of 16 queries per warp
  static constexpr int kWarps = kWide || kDense || !kHalf ? 4 : 8, kThreads = kWarps * kWarp;
  static constexpr int kMinBlocks = kDense ? 4 : 2;  // per multiprocessor, as limited by registers
  static constexpr int kQueriesPerWarp = 16 * kTiles, kQueries = kWarps * kQueriesPerWarp;
  static constexpr int kKeys = kWide || (kHalf && kDense) ? 64 : 32;
  static constexpr int kRowStride = Tile<T, kDim>::kRowStride;
  // Dynamic shared memory: the queries, two stages of keys and values, and each warp's row terms. The stage that has no
  // tile yet also serves as scratch memory for column terms, of four warps at a time.
  static constexpr int kQueryElements = kQueries * kRowStride, kStageElements = 2 * kKeys * kRowStride;
  static constexpr size_t kTermBytes = kDense ? 0 : sizeof(float) * kTermRows * kQueries;
  static constexpr size_t kBytes = sizeof(T) * (kQueryElements + 2 * kStageElements) + kTermBytes;
  static_assert(kDense || sizeof(T) * kStageElements >= sizeof(float) * 4 * 16 * kKeys);
};

// Compute the column terms of the strip that begins with column x, for the slots of a tile, as fragments in `columns`.
// `scratch` is the warp's scratch memory for 16 queries; the lanes exchange the terms through it. Warp-collective.
template <typename T, int kDim, Bias kBias, int kTiles, int kGroups>
__device__ __forceinline__ void load_column_terms(const Params<T>& params, const Window<T>& window, const T* queries,
                                                  int row, int x, float* scratch,
                                                  float (&columns)[kTiles][kGroups][4]) {
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    compute_column_terms<T, kDim, 8 * kGroups>(params, window, queries, row + 16 * i, x, scratch);
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      const int down = kBias == Bias::kOneRow ? 0 : row_of_slot(params, n * 8);
      const int column = n * 8 - down * params.row_slots + 2 * pair();
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float term = scratch[term_index<8 * kGroups>(group() + 8 * (j / 2), column + j % 2)];
        columns[i][n][j] = down < params.tile_rows ? term : -INFINITY;  // slots behind the last row hold no key
      }
    }
    __syncwarp();
  }
}

// Initialise scores with the dense bias of a tile of keys that begins with `key`; minus infinity for slots without a
// key.
template <typename T, int kTiles, int kGroups>
__device__ __forceinline__ void load_bias(const Params<T>& params, const Window<T>& window, int row, int key,
                                          float (&scores)[kTiles][kGroups][4]) {
  const int64_t count = int64_t{params.window_rows} * params.window_columns;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const WindowPosition position = position_of(window, window.first + row + 16 * i + 8 * half + group());
      const T* const bias =
          params.bias + (window.head * count + int64_t{position.y} * params.window_columns + position.x) * count;
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int to = key + n * 8 + 2 * pair() + j;
          scores[i][n][2 * half + j] = to < count ? to_float(bias[to]) * params.position_scale : -INFINITY;
        }
      }
    }
  }
}

// Add queries x keys to the scores of a warp. With positions, the scores are first initialised here: with the column
// terms and, if a tile has several rows of keys, also with the row terms, of which `row_term` points to those of the
// tile's first row. The slots of a row are a multiple of 8, so each group of 8 slots has one row.
template <typename T, int kDim, Bias kBias, int kTiles, int kGroups>
__device__ __forceinline__ void multiply_keys(const Params<T>& params, const T* queries, int row, const T* keys,
                                              const float (&columns)[kTiles][kGroups][4], const float* row_term,
                                              int row_stride, float (&scores)[kTiles][kGroups][4]) {
  int slots_left = params.row_slots, rows_left = params.tile_rows;
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    FragmentA<T> q[kTiles];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) load_query_fragment<kDim>(q[i], queries, row + 16 * i, step);
#pragma unroll
    for (int n = 0; n < kGroups; n += 2) {
      if (kBias != Bias::kDense && step == 0) {
#pragma unroll
        for (int m = n; m < n + 2; ++m) {
#pragma unroll
          for (int i = 0; i < kTiles; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
              scores[i][m][j] = columns[i][m][j];
              if (kBias == Bias::kManyRows) scores[i][m][j] += row_term[16 * i + 8 * (j / 2)];
            }
          }
          slots_left -= 8;
          if (kBias == Bias::kManyRows && slots_left == 0) {
            slots_left = params.row_slots;
            if (--rows_left > 0) row_term += row_stride;
          }
        }
      }
      FragmentB<T> k;
      load_key_fragment<kDim>(k, keys, 8 * n, step);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) multiply(scores[i][n], scores[i][n + 1], q[i], k);
    }
  }
}

// out += weights x values, for a warp's queries and a tile of values.
template <typename T, int kDim, int kTiles, int kGroups>
__device__ __forceinline__ void multiply_values(const float (&weights)[kTiles][kGroups][4], const T* values,
                                                float (&out)[kTiles][kDim / 8][4]) {
#pragma unroll
  for (int n = 0; n < kGroups; n += 2) {
    FragmentA<T> w[kTiles];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) to_fragment_a(w[i], weights[i][n], weights[i][n + 1]);
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
      FragmentB<T> v;
      load_value_fragment<kDim>(v, values, 8 * n, step);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) multiply(out[i][2 * step], out[i][2 * step + 1], w[i], v);
    }
  }
}

template <typename T, int kDim, Bias kBias, bool kWide>
__global__ void __launch_bounds__(KernelTraits<T, kDim, kBias, kWide>::kThreads,
                                  KernelTraits<T, kDim, kBias, kWide>::kMinBlocks) attend(const Params<T> params) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800  // older devices lack the instructions; the host launches nothing
  using Traits = KernelTraits<T, kDim, kBias, kWide>;
  constexpr int kTiles = Traits::kTiles, kKeys = Traits::kKeys, kGroups = kKeys / 8;
  constexpr bool kDense = kBias == Bias::kDense, kOneRow = kBias == Bias::kOneRow;
  DYNAMIC_SHARED(T, queries);
  T* const stages = queries + Traits::kQueryElements;
  const Window<T> window = locate_window(params, Traits::kQueries);
  if (window.first >= window.count()) return;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, row = warp * Traits::kQueriesPerWarp;
  float* const terms =
      reinterpret_cast<float*>(stages + 2 * Traits::kStageElements) + warp * kTermRows * Traits::kQueriesPerWarp;
  // Warps without queries only take part in copies and barriers.
  const bool has_queries = window.first + row < window.count();
  // (y, x) is where a tile of keys begins. Tiles run down a strip of columns, then down the next strip. With a dense
  // bias, x is the index of a key and y is unused.
  const int rows = kDense ? 1 : params.window_rows;
  const int columns_end = kDense ? params.window_rows * params.window_columns : params.window_columns;
  const auto advance = [&](int& y, int& x) {
    y += kDense ? 1 : params.tile_rows;
    if (y >= rows) y = 0, x += kDense ? kKeys : params.strip_columns;
  };
  const auto copy = [&](int y, int x, int stage) {
    T* const keys = stages + stage * Traits::kStageElements;
    copy_keys<T, kDim, Traits::kThreads, kKeys, kBias>(params, window, y, x, keys, keys + Traits::kStageElements / 2);
    cp_async_commit();
  };
  copy_queries<T, kDim, Traits::kThreads, kKeys, Traits::kQueries>(params, window, queries);
  cp_async_commit();
  copy(0, 0, 0);
  cp_async_wait<1>();
  __syncthreads();  // all warps' copies of the queries have arrived; those of the first tile need not have

  SoftmaxState<kDim, kTiles> state;
  state.clear();
  float columns[kTiles][kGroups][4];
#pragma unroll 1
  for (int stage = 0, y = 0, x = 0; x < columns_end; stage ^= 1, advance(y, x)) {
    float scores[kTiles][kGroups][4];
    if constexpr (kDense) {
      if (has_queries) load_bias(params, window, row, x, scores);
    } else {
      if (y == 0) {
        if (x > 0) __syncthreads();  // other warps may still read the last tile from the stage used as scratch memory
        float* const scratch = reinterpret_cast<float*>(stages + (stage ^ 1) * Traits::kStageElements);
#pragma unroll 1
        for (int turn = 0; turn < Traits::kWarps / 4; ++turn) {
          if (turn > 0) __syncthreads();
          if (has_queries && warp / 4 == turn) {
            load_column_terms<T, kDim, kBias>(params, window, queries, row, x, scratch + warp % 4 * 16 * kKeys,
                                              columns);
          }
        }
      }
      if (has_queries && y % kTermRows == 0) {
        const float factor = kOneRow ? params.position_scale * params.scale : params.position_scale;
        compute_row_terms<T, kDim, Traits::kQueriesPerWarp>(params, window, queries, row, y, factor, terms);
      }
    }
    cp_async_wait<0>();
    // This tile has arrived for all warps, and all have finished with the other stage, which the next copy overwrites.
    __syncthreads();
    int y_next = y, x_next = x;
    advance(y_next, x_next);
    if (x_next < columns_end) copy(y_next, x_next, stage ^ 1);
    if (!has_queries) continue;
    const T* const keys = stages + stage * Traits::kStageElements;
    // If a tile is one row of keys, its row term is the same for all scores of a query: add it to the exponent once.
    const float* const row_term = kDense ? nullptr : terms + y % kTermRows * Traits::kQueriesPerWarp + group();
    float shift[kTiles][2];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) shift[i][half] = kOneRow ? row_term[16 * i + 8 * half] : 0.0f;
    }
    multiply_keys<T, kDim, kBias>(params, queries, row, keys, columns, row_term, Traits::kQueriesPerWarp, scores);
    softmax_step(scores, params.scale, shift, state);
    multiply_values<T, kDim>(scores, keys + Traits::kStageElements / 2, state.out);
  }
  if (has_queries) store_output<T, kDim, kTiles>(params, window, row, state, queries);
#endif
}

}  // namespace fastsam::attention
