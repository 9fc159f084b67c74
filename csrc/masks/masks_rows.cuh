// What a block of masks_cuda.cu holds in shared memory, and how a warp sets the bits of 32 rows of pixels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/cuda.h"
#include "masks/masks_cuda.h"
#include "masks/masks_table.h"
#include "rle/rle_tile.cuh"

namespace fastsam::masks::cuda {

#include "masks/masks_math.inc"

using rle::cuda::Frame;
using rle::cuda::kAllLanes;
using rle::cuda::kThreads;
using rle::cuda::kWarps;
using rle::cuda::Part;
using rle::cuda::Tile;
using rle::cuda::TileShape;

// Columns of cells that a block has, and the two after them that their pixels take from.
constexpr int kCells = 32, kReach = kCells + 2;
// From row to row of a warp's cells: odd, so that lanes on different rows of one column meet 32 banks.
constexpr int kCellStride = kReach + 1;
// A tile's bits, 36 KiB: all pixels of 32 columns of cells at 1800 x 1200.
constexpr int kTileColumns = 256, kTileWords = 9216;
// Of shared memory; the smallest of the GPUs that are compiled for has 64 KiB for a block.
constexpr size_t kMostShared = 62 * 1024;

// A position of an axis: its cell, and the weights of that and the next two.
struct alignas(16) Tap {
  float near, middle, far;
  int32_t cell;
};

// Blocks for each mask.
inline int64_t parts_of(int64_t columns) { return (columns + kCells - 1) / kCells; }

// What `measure` leaves to `write`, in the caller's memory.
struct Work {
  Part* parts;      // (n, parts_of(columns))
  Tap *y, *x;       // (height), (width) of the enlarged masks
  int32_t* starts;  // (columns + 1): the number of pixel columns whose first cell is before each column
  size_t bytes = 0;

  // memory: null to learn the number of bytes.
  Work(const Problem& problem, void* memory) {
    parts = take<Part>(memory, problem.n * parts_of(problem.columns));
    y = take<Tap>(memory, problem.y.size);
    x = take<Tap>(memory, problem.x.size);
    starts = take<int32_t>(memory, problem.columns + 1);
  }

 private:
  template <typename T>
  T* take(void* memory, int64_t count) {
    const size_t at = (bytes + 15) / 16 * 16;
    bytes = at + sizeof(T) * static_cast<size_t>(count);
    return memory == nullptr ? nullptr : reinterpret_cast<T*>(static_cast<char*>(memory) + at);
  }
};

// How a block is laid out in shared memory.
struct Layout {
  TileShape shape;
  int kept_rows;   // of cells, for each warp
  size_t scratch;  // bytes, of cells at first and then of what the tile's bits are read off with

  Layout(const Frame& frame, int64_t rows, size_t other) : shape(frame, kTileColumns, kTileWords) {
    // What 32 pixels take from in an axis that enlarges evenly, and a little more. Where they take from more than is
    // kept, as in masks that are shrunk a lot, cells are read where they are.
    constexpr size_t kRow = size_t{4} * kWarps * kCellStride;
    const int64_t even = 32 * rows / frame.rows + 4;
    scratch = 0;
    const int64_t most = static_cast<int64_t>((kMostShared - bytes()) / kRow);
    kept_rows = static_cast<int>(even < most ? even : most);
    if (kept_rows > rows) kept_rows = static_cast<int>(rows);
    scratch = kRow * static_cast<size_t>(kept_rows);
    if (scratch < other) scratch = other;
  }
  size_t bytes() const { return sizeof(Tap) * kTileColumns + 4 * (kCells + 4) + shape.bytes() + scratch; }
};

// The mask of one block, and its memory.
struct Block {
  Tap* taps;        // of the tile's columns; their cells count from the block's first
  int32_t* starts;  // of the block's columns of cells, and the end of the last
  uint32_t* bits;   // of the tile
  char* scratch;
  const float* logits;
  int64_t first_cell;

  __device__ Block(char* memory, const Problem& problem, const Work& work, const Layout& layout, int64_t mask,
                   int64_t part)
      : taps(reinterpret_cast<Tap*>(memory)),
        starts(reinterpret_cast<int32_t*>(taps + kTileColumns)),
        bits(reinterpret_cast<uint32_t*>(starts + kCells + 4)),
        scratch(reinterpret_cast<char*>(bits + layout.shape.words * layout.shape.stride)),
        logits(problem.logits + mask * problem.rows * problem.columns),
        first_cell(part * kCells) {
    if (threadIdx.x <= kCells) {
      starts[threadIdx.x] = work.starts[min(first_cell + threadIdx.x, problem.columns)];
    }
  }
};

struct Counts {
  int64_t inner = 0, outer = 0;
};

// The pixel before the block's first column, where the mask's columns follow one another in the picture.
__device__ inline unsigned pixel_before(const Problem& problem, const Work& work, const float* logits, int64_t x) {
  const Tap across = work.x[x - 1], down = work.y[problem.y.size - 1];
  float sums[3];
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const float* const column = logits + min(int64_t{across.cell} + i, problem.columns - 1);
    float cells[3];
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      cells[k] = limited(column[min(int64_t{down.cell} + k, problem.rows - 1) * problem.columns], kHugeLogit);
    }
    sums[i] = tap_sum(down.near, cells[0], down.middle, cells[1], down.far, cells[2]);
  }
  return tap_sum(across.near, sums[0], across.middle, sums[1], across.far, sums[2]) > problem.levels.threshold;
}

// What one warp does with 32 rows of a tile.
class Rows {
 public:
  __device__ Rows(const Problem& problem, const Work& work, const Layout& layout, const Block& block, const Tile& tile,
                  const Frame& frame, int k)
      : problem_(problem), block_(block), tile_(tile), k_(k), valid_(rle::cuda::low_bits(tile.valid(frame, k))) {
    lane_ = static_cast<int>(threadIdx.x) % 32;
    cells_ = reinterpret_cast<float*>(block.scratch) + threadIdx.x / 32 * (kCellStride * layout.kept_rows);
    const int64_t y = 32 * (tile.word + k) + lane_;
    tap_ = work.y[min(y, problem.y.size - 1)];
    low_ = __shfl_sync(kAllLanes, tap_.cell, 0);
    const int last = __shfl_sync(kAllLanes, tap_.cell, 31);
    const int rows = static_cast<int>(min(int64_t{last} + 2, problem.rows - 1)) - low_;
    last_ = rows;
    kept_ = rows < layout.kept_rows;
#pragma unroll
    for (int i = 0; i < 3; ++i) rows_[i] = cells_ + min(tap_.cell - low_ + i, last_) * kCellStride;
    // What lies below the mask is NaN, and so not above any level.
    if (y >= problem.y.size) tap_.near = nanf("");
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

  // Mixed columns come in stretches, and within one a column's cells are enlarged once.
  template <bool kKept>
  __device__ void evaluate_all() {
    for (uint32_t left = mixed_; left != 0;) {
      const int first = __ffs(static_cast<int>(left)) - 1;
      const uint32_t behind = ~(left >> first);  // its lowest bit is the first that isn't mixed
      const int end = behind == 0 ? 32 : first + __ffs(static_cast<int>(behind)) - 1;
      evaluate<kKept>(max(block_.starts[first] - static_cast<int>(tile_.x), 0),
                      min(block_.starts[end] - static_cast<int>(tile_.x), tile_.columns));
      left = end == 32 ? 0 : left >> end << end;
    }
  }

  // Pixels of the tile's columns [begin, end).
  template <bool kKept>
  __device__ void evaluate(int begin, int end) {
    uint32_t* bits = block_.bits + tile_.at(begin, k_);
    const Tap* taps = block_.taps + begin;
    const Levels levels = problem_.levels;
    float first = 0, second = 0, third = 0, inner = 0, outer = 0;
    for (int left = end - begin, column = -2; left > 0; --left, ++taps, ++bits) {
      const Tap tap = *taps;
      if (tap.cell != column) {
        if (tap.cell == column + 1) {
          first = second;
          second = third;
        } else {
          first = stretch<kKept>(tap.cell);
          second = stretch<kKept>(tap.cell + 1);
        }
        third = stretch<kKept>(tap.cell + 2);
        column = tap.cell;
      }
      const float pixel = tap_sum(tap.near, first, tap.middle, second, tap.far, third);
      const uint32_t set = __ballot_sync(kAllLanes, pixel > levels.threshold);
      inner += pixel > levels.high ? 1.0f : 0.0f;
      outer += pixel > levels.low ? 1.0f : 0.0f;
      if (lane_ == 0) *bits = set;
    }
    inner_ += inner;
    outer_ += outer;
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
