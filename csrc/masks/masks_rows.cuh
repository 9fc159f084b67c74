// How a warp of masks_cuda.cu sets the bits of 32 rows of pixels that may differ.
#pragma once

#include <cstddef>
#include <cstdint>

#include "masks/masks_layout.cuh"

namespace fastsam::masks::cuda {

// What one warp does with 32 rows of a tile.
class Rows {
 public:
  __device__ Rows(const Problem& problem, const Work& work, const Layout& layout, const Block& block, const Tile& tile,
                  const Frame& frame, int k)
      : problem_(problem), block_(block), tile_(tile), k_(k), valid_(rle::cuda::low_bits(tile.valid(frame, k))) {
    lane_ = static_cast<int>(threadIdx.x) % 32;
    cells_ = reinterpret_cast<float*>(block.scratch) + threadIdx.x / 32 * (kCellStride * layout.kept_rows);
    const int64_t y = 32 * (tile.word + k) + lane_;
    tap_ = work.y[min(y, problem.y_size - 1)];
    low_ = __shfl_sync(kAllLanes, tap_.cell, 0);
    const int last = __shfl_sync(kAllLanes, tap_.cell, 31);
    const int rows = static_cast<int>(min(int64_t{last} + 2, problem.rows - 1)) - low_;
    last_ = rows;
    kept_ = rows < layout.kept_rows;
#pragma unroll
    for (int i = 0; i < 3; ++i) rows_[i] = cells_ + min(tap_.cell - low_ + i, last_) * kCellStride;
    // What lies below the mask is NaN, and so not above any level.
    if (y >= problem.y_size) tap_.near = nanf("");
  }

  __device__ void fill(Counts& counts) {
    classify();
    const int known = fill_known();
    kept_ ? evaluate_all<true>() : evaluate_all<false>();
    counts.inner += known + static_cast<int>(inner_);
    counts.outer += known + static_cast<int>(outer_);
    __syncwarp();  // the cells are used
  }

 private:
  // Reads the cells; sets bits of columns whose pixels in these rows are all above the upper level, and of those that
  // have to be looked at.
  __device__ void classify() {
    const int64_t last = problem_.columns - 1;
    const float* at = block_.logits + int64_t{low_} * problem_.columns;
    const int64_t column = min(block_.first_cell + lane_, last);
    const int64_t beyond = min(block_.first_cell + kCells + (lane_ & 1), last);
    float least = kHugeLogit, most = -kHugeLogit, least_beyond = kHugeLogit, most_beyond = -kHugeLogit;
#pragma unroll 4
    for (int r = 0; r <= last_; ++r, at += problem_.columns) {
      const float cell = limited(at[column], kHugeLogit), next = limited(at[beyond], kHugeLogit);
      least = fminf(least, cell);
      most = fmaxf(most, cell);
      least_beyond = fminf(least_beyond, next);
      most_beyond = fmaxf(most_beyond, next);
      if (!kept_) continue;
      cells_[r * kCellStride + lane_] = cell;
      if (lane_ < 2) cells_[r * kCellStride + kCells + lane_] = next;
    }
    __syncwarp();
    const float all_least = over_three<rle::cuda::Least>(least, least_beyond),
                all_most = over_three<rle::cuda::Most>(most, most_beyond);
    const float slack = kTapRounding * fmaxf(fabsf(all_least), fabsf(all_most));
    const bool above = all_least - slack > problem_.levels.high;
    const bool reaching = all_most + slack > problem_.levels.low;
    above_ = __ballot_sync(kAllLanes, above);
    mixed_ = __ballot_sync(kAllLanes, reaching && !above);
  }

  // Over this lane's column and the two after it.
  template <typename Operation>
  __device__ float over_three(float value, float beyond) const {
    float result = value;
#pragma unroll
    for (int step = 1; step <= 2; ++step) {
      const int from = lane_ + step;
      const float inside = __shfl_sync(kAllLanes, value, from & 31), outside = __shfl_sync(kAllLanes, beyond, from & 1);
      result = Operation()(result, from < 32 ? inside : outside);
    }
    return result;
  }

  // Gives the number of pixels that are above, in the columns that this lane fills.
  __device__ int fill_known() {
    int columns = 0;
    for (int x = lane_; x < tile_.columns; x += 32) {
      const int cell = block_.taps[x].cell;
      if (mixed_ >> cell & 1u) continue;
      const bool above = above_ >> cell & 1u;
      block_.bits[tile_.at(x, k_)] = above ? valid_ : 0;
      columns += above;
    }
    return columns * __popc(valid_);
  }

  // This lane's row between cells of one column.
  template <bool kKept>
  __device__ float stretch(int column) const {
    if (kKept) {
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

  // Pixels of the mixed columns. Of neighbouring ones each takes a column of enlarged cells more than the one before.
  template <bool kKept>
  __device__ void evaluate_all() {
    float first = 0, second = 0, third = 0;
    int before = -2;
    for (uint32_t left = mixed_; left != 0; left &= left - 1) {
      const int cell = __ffs(static_cast<int>(left)) - 1, offset = static_cast<int>(tile_.x);
      const int begin = max(block_.starts[cell] - offset, 0);
      const int end = min(block_.starts[cell + 1] - offset, tile_.columns);
      if (begin >= end) continue;
      if (cell == before + 1) {
        first = second;
        second = third;
      } else {
        first = stretch<kKept>(cell);
        second = stretch<kKept>(cell + 1);
      }
      third = stretch<kKept>(cell + 2);
      before = cell;
      evaluate(begin, end, first, second, third);
    }
  }

  // Pixels of the tile's columns [begin, end), which take from the same columns of cells. Two at a time: neither waits
  // for the other, and more at a time leave more over of the few that a cell has.
  __device__ void evaluate(int begin, int end, float first, float second, float third) {
    uint32_t* bits = block_.bits + tile_.at(begin, k_);
    const Tap* taps = block_.taps + begin;
    const auto value = [&](const Tap& tap) { return tap_sum(tap.near, first, tap.middle, second, tap.far, third); };
    int left = end - begin;
#pragma unroll 1
    for (; left > 1; left -= 2, taps += 2, bits += 2) {
      const Tap near = taps[0], far = taps[1];
      const float one = value(near), other = value(far);
      const uint32_t of_one = vote(one), of_other = vote(other);
      if (lane_ != 0) continue;
      bits[0] = of_one;
      bits[1] = of_other;
    }
    if (left == 0) return;
    const uint32_t set = vote(value(*taps));
    if (lane_ == 0) *bits = set;
  }

  // The word of a column whose pixels the lanes have; counts them.
  __device__ uint32_t vote(float pixel) {
    const Levels levels = problem_.levels;
    inner_ += pixel > levels.high ? 1.0f : 0.0f;
    outer_ += pixel > levels.low ? 1.0f : 0.0f;
    return __ballot_sync(kAllLanes, pixel > levels.threshold);
  }

  const Problem& problem_;
  const Block& block_;
  const Tile& tile_;
  const int k_;
  const uint32_t valid_;
  int lane_, low_, last_;  // the rows of cells are low_ to low_ + last_
  bool kept_;
  float* cells_;          // kept ones
  const float* rows_[3];  // of them, for this lane's row of pixels
  Tap tap_;
  uint32_t above_ = 0, mixed_ = 0;
  // Pixels of this lane's row: at most a tile's columns, and a float takes an instruction less to count them.
  float inner_ = 0, outer_ = 0;
};

}  // namespace fastsam::masks::cuda
