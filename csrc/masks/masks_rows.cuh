// How one warp of masks_cuda.cu evaluates a mixed band, 32 pixel rows of a tile.
#pragma once

#include <cstddef>
#include <cstdint>

#include "masks/masks_layout.cuh"

namespace fastsam::masks::cuda {

// Evaluates band k of a tile: lane i computes its i-th row. Construct it and call `fill` with all lanes of a warp,
// after block.taps is complete.
class BandEvaluator {
 public:
  __device__ BandEvaluator(const Problem& problem, const Workspace& workspace, const Layout& layout,
                           const BlockState& block, const Tile& tile, const Frame& frame, int k)
      : problem_(problem), block_(block), tile_(tile), k_(k), valid_(rle::cuda::low_mask(tile.valid(frame, k))) {
    lane_ = static_cast<int>(threadIdx.x) % 32;
    cells_ = reinterpret_cast<float*>(block.scratch) + threadIdx.x / 32 * (kCellStride * layout.cached_rows);
    const int64_t y = 32 * (tile.word + k) + lane_;
    tap_ = workspace.y[min(y, problem.y_size - 1)];
    low_ = __shfl_sync(kAllLanes, tap_.cell, 0);
    const int last = __shfl_sync(kAllLanes, tap_.cell, 31);
    const int rows = static_cast<int>(min(int64_t{last} + 2, problem.rows - 1)) - low_;
    last_ = rows;
    cells_cached_ = rows < layout.cached_rows;
#pragma unroll
    for (int i = 0; i < 3; ++i) rows_[i] = cells_ + min(tap_.cell - low_ + i, last_) * kCellStride;
    // Rows below the mask become NaN, which is not above any level.
    if (y >= problem.y_size) tap_.near = nanf("");
  }

  // Sets the band's bits and adds this lane's pixels to `counts`.
  __device__ void fill(LevelCounts& counts) {
    classify();
    const int num_known = fill_known_columns();
    cells_cached_ ? evaluate_mixed<true>() : evaluate_mixed<false>();
    counts.inner += num_known + static_cast<int>(inner_);
    counts.outer += num_known + static_cast<int>(outer_);
    __syncwarp();  // the next band may overwrite the cells
  }

 private:
  // Reads the cells under the band, and keeps them in shared memory if there is room. Sets above_, the columns of cells
  // whose pixels in this band are all above the upper level, and mixed_, those whose pixels must be evaluated.
  __device__ void classify() {
    const int64_t last = problem_.columns - 1;
    const float* at = block_.logits + int64_t{low_} * problem_.columns;
    const int64_t column = min(block_.first_cell + lane_, last);
    const int64_t beyond = min(block_.first_cell + kCells + (lane_ & 1), last);
    float min_cell = kHugeLogit, max_cell = -kHugeLogit, min_beyond = kHugeLogit, max_beyond = -kHugeLogit;
#pragma unroll 4
    for (int r = 0; r <= last_; ++r, at += problem_.columns) {
      const float cell = limited(at[column], kHugeLogit), next = limited(at[beyond], kHugeLogit);
      min_cell = fminf(min_cell, cell);
      max_cell = fmaxf(max_cell, cell);
      min_beyond = fminf(min_beyond, next);
      max_beyond = fmaxf(max_beyond, next);
      if (!cells_cached_) continue;
      cells_[r * kCellStride + lane_] = cell;
      if (lane_ < 2) cells_[r * kCellStride + kCells + lane_] = next;
    }
    __syncwarp();
    const float min_of_three = reduce_three<rle::cuda::Min>(min_cell, min_beyond),
                max_of_three = reduce_three<rle::cuda::Max>(max_cell, max_beyond);
    const float slack = kTapRounding * fmaxf(fabsf(min_of_three), fabsf(max_of_three));
    const bool is_above = min_of_three - slack > problem_.levels.high;
    const bool is_maybe_above = max_of_three + slack > problem_.levels.low;
    above_ = __ballot_sync(kAllLanes, is_above);
    mixed_ = __ballot_sync(kAllLanes, is_maybe_above && !is_above);
  }

  // Combines the values of this lane's column and of the two after it. beyond: in lanes 0 and 1, the values of the two
  // columns after the last lane's.
  template <typename Operation>
  __device__ float reduce_three(float value, float beyond) const {
    float result = value;
#pragma unroll
    for (int step = 1; step <= 2; ++step) {
      const int from = lane_ + step;
      const float inside = __shfl_sync(kAllLanes, value, from & 31), outside = __shfl_sync(kAllLanes, beyond, from & 1);
      result = Operation()(result, from < 32 ? inside : outside);
    }
    return result;
  }

  // Sets the bits of pixel columns that need no evaluation. Returns how many pixels of those that this lane fills are
  // above the upper level.
  __device__ int fill_known_columns() {
    int columns = 0;
    for (int x = lane_; x < tile_.columns; x += 32) {
      const int cell = block_.taps[x].cell;
      if (mixed_ >> cell & 1u) continue;
      const bool is_above = above_ >> cell & 1u;
      block_.bits[tile_.word_index(x, k_)] = is_above ? valid_ : 0;
      columns += is_above;
    }
    return columns * __popc(valid_);
  }

  // One column of cells, interpolated at this lane's pixel row. kCached: the cells are in shared memory.
  template <bool kCached>
  __device__ float interpolate_column(int column) const {
    if (kCached) {
      return tap_sum(tap_.near, rows_[0][column], tap_.middle, rows_[1][column], tap_.far, rows_[2][column]);
    }
    const float* const at = block_.logits + min(block_.first_cell + column, problem_.columns - 1);
    float cells[3];
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const int64_t row = low_ + min(tap_.cell - low_ + i, last_);
      cells[i] = limited(at[row * problem_.columns], kHugeLogit);
    }
    return tap_sum(tap_.near, cells[0], tap_.middle, cells[1], tap_.far, cells[2]);
  }

  // Evaluates the pixels of the mixed columns. Neighbouring columns share two of their three columns of enlarged cells.
  template <bool kCached>
  __device__ void evaluate_mixed() {
    float first = 0, second = 0, third = 0;
    int before = -2;
    for (uint32_t remaining = mixed_; remaining != 0; remaining &= remaining - 1) {
      const int cell = __ffs(static_cast<int>(remaining)) - 1, offset = static_cast<int>(tile_.x);
      const int begin = max(block_.starts[cell] - offset, 0);
      const int end = min(block_.starts[cell + 1] - offset, tile_.columns);
      if (begin >= end) continue;
      if (cell == before + 1) {
        first = second;
        second = third;
      } else {
        first = interpolate_column<kCached>(cell);
        second = interpolate_column<kCached>(cell + 1);
      }
      third = interpolate_column<kCached>(cell + 2);
      before = cell;
      evaluate(begin, end, first, second, third);
    }
  }

  // Evaluates the pixels of the tile's columns [begin, end), which read the same columns of cells. Two at a time,
  // because neither waits for the other. More at a time would leave a larger remainder of the few pixel columns that a
  // cell has.
  __device__ void evaluate(int begin, int end, float first, float second, float third) {
    uint32_t* bits = block_.bits + tile_.word_index(begin, k_);
    const Tap* taps = block_.taps + begin;
    const auto value = [&](const Tap& tap) { return tap_sum(tap.near, first, tap.middle, second, tap.far, third); };
    int remaining = end - begin;
#pragma unroll 1
    for (; remaining > 1; remaining -= 2, taps += 2, bits += 2) {
      const Tap tap0 = taps[0], tap1 = taps[1];
      const float value0 = value(tap0), value1 = value(tap1);
      const uint32_t bits0 = vote_pixels(value0), bits1 = vote_pixels(value1);
      if (lane_ != 0) continue;
      bits[0] = bits0;
      bits[1] = bits1;
    }
    if (remaining == 0) return;
    const uint32_t set = vote_pixels(value(*taps));
    if (lane_ == 0) *bits = set;
  }

  // Returns the word of a column, of which each lane passes one pixel, and counts pixels above the levels.
  __device__ uint32_t vote_pixels(float pixel) {
    const Levels levels = problem_.levels;
    inner_ += pixel > levels.high ? 1.0f : 0.0f;
    outer_ += pixel > levels.low ? 1.0f : 0.0f;
    return __ballot_sync(kAllLanes, pixel > levels.threshold);
  }

  const Problem& problem_;
  const BlockState& block_;
  const Tile& tile_;
  const int k_;
  const uint32_t valid_;
  int lane_, low_, last_;  // the band reads rows of cells low_ to low_ + last_
  bool cells_cached_;      // the cells fit into shared memory
  float* cells_;           // this warp's cells there
  const float* rows_[3];   // the three rows of them that this lane's pixel row reads
  Tap tap_;
  uint32_t above_ = 0, mixed_ = 0;
  // Pixels of this lane's row above the levels. There are at most a tile's columns of them, so a float is exact, and
  // takes an instruction less to count.
  float inner_ = 0, outer_ = 0;
};

}  // namespace fastsam::masks::cuda
