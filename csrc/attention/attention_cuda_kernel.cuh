// The kernel: a block attends with some queries of one head of one window to all keys of that window, tile by tile.
#pragma once

#include "attention/attention_cuda_positions.cuh"

namespace fastsam::attention {

// How a kernel is cut. Wide: each warp has 32 queries, which halves the reading of keys and values from shared memory,
// else as long a job as multiplying them; at the price of registers and shared memory for no more than eight warps on a
// multiprocessor. Narrow: 16 queries for each of up to 16 warps, for windows, whose blocks end soon after they begin,
// and where shared memory has no room for two wide blocks.
template <typename T, int kDim, Bias kBias, bool kWide>
struct Shape {
  static constexpr bool kHalf = sizeof(T) == 2, kDense = kBias == Bias::kDense;
  static constexpr int kTiles = kWide ? 2 : 1;  // of 16 queries, for each warp
  static constexpr int kWarps = kWide || kDense || !kHalf ? 4 : 8, kThreads = kWarps * kWarp;
  static constexpr int kBlocks = kDense ? 4 : 2;  // on a multiprocessor, as far as registers go
  static constexpr int kQueriesOfWarp = 16 * kTiles, kQueries = kWarps * kQueriesOfWarp;
  static constexpr int kKeys = kWide || (kHalf && kDense) ? 64 : 32;
  static constexpr int kStride = Tile<T, kDim>::kStride;
  // Of dynamic shared memory, in elements: the queries, two stages of keys and values, and each warp's row terms. A
  // stage that waits for its tile serves for column terms, of four warps at a time.
  static constexpr int kQueryElements = kQueries * kStride, kStageElements = 2 * kKeys * kStride;
  static constexpr size_t kTermBytes = kDense ? 0 : sizeof(float) * kTermRows * kQueries;
  static constexpr size_t kBytes = sizeof(T) * (kQueryElements + 2 * kStageElements) + kTermBytes;
  static_assert(kDense || sizeof(T) * kStageElements >= sizeof(float) * 4 * 16 * kKeys);
};

// 2^x; the emulator's is exact to the last bit, the GPU's to two of them.
__device__ __forceinline__ float power_of_two(float x) {
#ifdef FASTSAM_CUDA_EMULATION
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

template <typename T>
__device__ __forceinline__ void store_two(T* to, float first, float second) {
  *reinterpret_cast<uint32_t*>(to) = pack<T>(first, second);
}
__device__ __forceinline__ void store_two(float* to, float first, float second) {
  *reinterpret_cast<float2*>(to) = make_float2(first, second);
}

// A warp's largest score so far, the sum of weights and the weighted sum of values for each of its queries.
template <int kDim, int kTiles>
struct Sums {
  float top[kTiles][2], total[kTiles][2];
  float out[kTiles][kDim / 8][4];
};

// Scores to weights 2^(scale * score + shift - top). `top` follows the largest score only where it would be left
// behind by more than 2^8: no weight comes near what half precision can hold, and most tiles rescale nothing.
template <int kDim, int kTiles, int kGroups>
__device__ __forceinline__ void softmax_step(float (&scores)[kTiles][kGroups][4], float scale,
                                             const float (&shift)[kTiles][2], Sums<kDim, kTiles>& sums) {
  constexpr float kSlack = 8.0f;
  float high[kTiles][2];
  bool behind = false;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = fmaxf(scores[i][0][2 * half], scores[i][0][2 * half + 1]);
#pragma unroll
      for (int n = 1; n < kGroups; ++n) top = fmaxf(top, fmaxf(scores[i][n][2 * half], scores[i][n][2 * half + 1]));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      high[i][half] = fmaf(top, scale, shift[i][half]);
      behind |= high[i][half] > sums.top[i][half] + kSlack;
    }
  }
  if (__any_sync(kAllLanes, behind)) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float top = fmaxf(sums.top[i][half], high[i][half]);
        const float factor = power_of_two(sums.top[i][half] - top);
        sums.top[i][half] = top;
        sums.total[i][half] *= factor;
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          sums.out[i][n][2 * half] *= factor;
          sums.out[i][n][2 * half + 1] *= factor;
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
    const float base[2] = {shift[i][0] - sums.top[i][0], shift[i][1] - sums.top[i][1]};
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float weight = power_of_two(fmaf(scores[i][n][j], scale, base[j / 2]));
        scores[i][n][j] = weight;
        sums.total[i][j / 2] += weight;
      }
    }
  }
}

// Sums to output, by way of the warp's own queries' place in shared memory: whole rows go out.
template <typename T, int kDim, int kTiles>
__device__ __forceinline__ void write_out(const Job<T>& job, const Window<T>& window, int row,
                                          const Sums<kDim, kTiles>& sums, T* queries) {
  using Shared = Tile<T, kDim>;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sums.total[i][half];
      total += __shfl_xor_sync(kAllLanes, total, 1);
      total += __shfl_xor_sync(kAllLanes, total, 2);
      const float factor = 1.0f / total;
      const int to = row + 16 * i + 8 * half + group();
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        T* const at = queries + Shared::element(to, 8 * n + 2 * pair());
        store_two(at, sums.out[i][n][2 * half] * factor, sums.out[i][n][2 * half + 1] * factor);
      }
    }
  }
  __syncwarp();
  for (int i = lane(); i < 16 * kTiles * Shared::kVectors; i += kWarp) {
    const int from = row + i / Shared::kVectors, vector = i % Shared::kVectors;
    if (window.first + from >= window.count()) break;
    const Place at = place_of(window, window.first + from);
    T* const to = window.out + (int64_t{at.y} * job.columns + at.x) * (job.token / 3) + vector * Shared::kVector;
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(queries + Shared::offset(from, vector));
  }
}

template <typename T, int kDim, Bias kBias, bool kWide>
__global__ void __launch_bounds__(Shape<T, kDim, kBias, kWide>::kThreads, Shape<T, kDim, kBias, kWide>::kBlocks)
    attend(const Job<T> job) {
  using Size = Shape<T, kDim, kBias, kWide>;
  constexpr int kTiles = Size::kTiles, kKeys = Size::kKeys, kGroups = kKeys / 8;
  constexpr bool kDense = kBias == Bias::kDense;
  DYNAMIC_SHARED(T, queries);
  T* const stages = queries + Size::kQueryElements;
  const Window<T> window = window_of_block(job, Size::kQueries);
  if (window.first >= window.count()) return;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, row = warp * Size::kQueriesOfWarp;
  float* const terms =
      reinterpret_cast<float*>(stages + 2 * Size::kStageElements) + warp * kTermRows * Size::kQueriesOfWarp;
  // Warps without queries only help with the copying.
  const bool attends = window.first + row < window.count();
  // Where tiles of keys begin, in the order in which they come: down a strip, then the next strip. Of a dense bias x
  // counts keys.
  const int rows = kDense ? 1 : job.window_rows;
  const int columns_end = kDense ? job.window_rows * job.window_columns : job.window_columns;
  const auto advance = [&](int& y, int& x) {
    y += kDense ? 1 : job.tile_rows;
    if (y >= rows) y = 0, x += kDense ? kKeys : job.strip;
  };
  const auto copy = [&](int y, int x, int stage) {
    T* const keys = stages + stage * Size::kStageElements;
    copy_keys<T, kDim, Size::kThreads, kKeys, kBias>(job, window, y, x, keys, keys + Size::kStageElements / 2);
    cp_async_commit();
  };
  copy_queries<T, kDim, Size::kThreads, kKeys, Size::kQueries>(job, window, queries);
  cp_async_commit();
  copy(0, 0, 0);
  cp_async_wait<1>();
  __syncthreads();

  Sums<kDim, kTiles> sums;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Finite: what scores of minus infinity add is nothing then, and not a number only where there are no others.
      sums.top[i][half] = -3e38f, sums.total[i][half] = 0.0f;
    }
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) sums.out[i][n][j] = 0.0f;
    }
  }
  float columns[kTiles][kGroups][4];  // terms of the strip's columns

#pragma unroll 1
  for (int stage = 0, y = 0, x = 0; x < columns_end; stage ^= 1, advance(y, x)) {
    if constexpr (!kDense) {
      if (y == 0) {
        if (x > 0)
          __syncthreads();  // others may still read the stage that the terms go through
                            // The stage has room for four warps' terms.
#pragma unroll 1
        for (int turn = 0; turn < Size::kWarps / 4; ++turn) {
          if (turn > 0) __syncthreads();
          if (!attends || warp / 4 != turn) continue;
          float* const through =
              reinterpret_cast<float*>(stages + (stage ^ 1) * Size::kStageElements) + warp % 4 * 16 * kKeys;
#pragma unroll
          for (int i = 0; i < kTiles; ++i) {
            column_terms<T, kDim, kKeys>(job, window, queries, row + 16 * i, x, through);
#pragma unroll
            for (int n = 0; n < kGroups; ++n) {
              const int down = kBias == Bias::kOneRow ? 0 : row_of_slot(job, n * 8);
              const int column = n * 8 - down * job.pitch + 2 * pair();
#pragma unroll
              for (int j = 0; j < 4; ++j) {
                const float term = through[term_at<kKeys>(group() + 8 * (j / 2), column + j % 2)];
                columns[i][n][j] = down < job.tile_rows ? term : -INFINITY;  // not all slots have a row
              }
            }
            __syncwarp();
          }
        }
      }
      if (attends && y % kTermRows == 0) {
        row_terms<T, kDim, Size::kQueriesOfWarp>(
            job, window, queries, row, y, kBias == Bias::kOneRow ? job.position_scale * job.scale : job.position_scale,
            terms);
      }
    }
    cp_async_wait<0>();
    __syncthreads();
    int y_next = y, x_next = x;
    advance(y_next, x_next);
    if (x_next < columns_end) copy(y_next, x_next, stage ^ 1);
    if (!attends) continue;
    const T* const keys = stages + stage * Size::kStageElements;
    const T* const values = keys + Size::kStageElements / 2;

    float scores[kTiles][kGroups][4], shift[kTiles][2];
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        shift[i][half] =
            kBias == Bias::kOneRow ? terms[y % kTermRows * Size::kQueriesOfWarp + 16 * i + 8 * half + group()] : 0.0f;
      }
    }
    const float* of_row = kDense ? nullptr : terms + y % kTermRows * Size::kQueriesOfWarp + group();
    int slots_left = job.pitch, rows_left = job.tile_rows;
    if constexpr (kDense) {
      const int64_t count = int64_t{job.window_rows} * job.window_columns;
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const Place at = place_of(window, window.first + row + 16 * i + 8 * half + group());
          const T* const bias = job.bias + (int64_t{window.head} * count + at.y * job.window_columns + at.x) * count;
#pragma unroll
          for (int n = 0; n < kGroups; ++n) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              const int key = x + n * 8 + 2 * pair() + j;
              scores[i][n][2 * half + j] = key < count ? to_float(bias[key]) * job.position_scale : -INFINITY;
            }
          }
        }
      }
    }
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
      Left<T> q[kTiles];
#pragma unroll
      for (int i = 0; i < kTiles; ++i) load_rows<kDim>(q[i], queries, row + 16 * i, step);
#pragma unroll
      for (int n = 0; n < kGroups; n += 2) {
        if (!kDense && step == 0) {
#pragma unroll
          for (int m = n; m < n + 2; ++m) {
#pragma unroll
            for (int i = 0; i < kTiles; ++i) {
#pragma unroll
              for (int j = 0; j < 4; ++j) {
                scores[i][m][j] = columns[i][m][j];
                if (kBias == Bias::kManyRows) scores[i][m][j] += of_row[16 * i + 8 * (j / 2)];
              }
            }
            slots_left -= 8;
            if (kBias == Bias::kManyRows && slots_left == 0) {
              slots_left = job.pitch;
              if (--rows_left > 0) of_row += Size::kQueriesOfWarp;
            }
          }
        }
        Right<T> k;
        load_columns<kDim>(k, keys, 8 * n, step);
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          multiply(scores[i][n], scores[i][n + 1], q[i], k);
        }
      }
    }
    softmax_step(scores, job.scale, shift, sums);
#pragma unroll
    for (int n = 0; n < kGroups; n += 2) {
      Left<T> weights[kTiles];
#pragma unroll
      for (int i = 0; i < kTiles; ++i) weights_of(weights[i], scores[i][n], scores[i][n + 1]);
#pragma unroll
      for (int step = 0; step < kDim / 16; ++step) {
        Right<T> v;
        load_depth<kDim>(v, values, 8 * n, step);
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          multiply(sums.out[i][2 * step], sums.out[i][2 * step + 1], weights[i], v);
        }
      }
    }
  }
  if (attends) write_out<T, kDim, kTiles>(job, window, row, sums, queries);
}

}  // namespace fastsam::attention
