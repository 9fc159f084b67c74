// Sizes and data of the blocks in masks_cuda.cu: the prepared axes, and what a block holds in shared memory.
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

// Columns of cells per block, and the same with the two columns after them that their pixels also read.
constexpr int kCells = 32, kReach = kCells + 2;
// Floats from row to row of a warp's cells. Odd, so that lanes on different rows of one column use 32 different banks.
constexpr int kCellStride = kReach + 1;
// Most pixel columns of a tile, and the 32-bit words for its bits and a byte for each of its bands: 36 KiB, enough for
// all pixels of 32 columns of cells at 1800 x 1200.
constexpr int kTileColumns = 256, kTileWords = 9216;
// Most bytes of shared memory per block. Of the GPUs that are compiled for, the smallest offers 64 KiB.
constexpr size_t kMaxSharedBytes = 62 * 1024;

// What is known of 32 rows of a tile. kClear: no pixel is above the lower level; kSet: all are above the upper level;
// kMixed: neither is certain.
enum Band : uint8_t { kClear, kSet, kMixed };

// One position of an axis: its first cell, and the weights of that cell (near) and of the next two (middle, far).
struct alignas(16) Tap {
  float near, middle, far;
  int32_t cell;
};

// Blocks per mask.
inline int64_t num_parts(int64_t columns) { return (columns + kCells - 1) / kCells; }

// The axes as `prepare` stores them in the caller's memory.
struct PreparedAxes {
  int64_t* error;   // (1) bits of AxisError
  Tap *y, *x;       // (height), (width) of the enlarged masks
  int32_t* starts;  // (columns + 1): the number of pixel columns whose first cell is before each column
  size_t bytes = 0;

  // memory: null if only `bytes` is wanted.
  PreparedAxes(int64_t columns, int64_t y_size, int64_t x_size, void* memory) {
    error = allocate<int64_t>(memory, 1);
    y = allocate<Tap>(memory, y_size);
    x = allocate<Tap>(memory, x_size);
    starts = allocate<int32_t>(memory, columns + 1);
  }

 private:
  template <typename T>
  T* allocate(void* memory, int64_t count) {
    const size_t at = (bytes + 15) / 16 * 16;
    bytes = at + sizeof(T) * static_cast<size_t>(count);
    return memory == nullptr ? nullptr : reinterpret_cast<T*>(static_cast<char*>(memory) + at);
  }
};

// The prepared axes, and the parts that `measure` leaves for `write`.
struct Workspace {
  Part* parts;  // (n, num_parts(columns))
  const int64_t* error;
  const Tap *y, *x;
  const int32_t* starts;

  Workspace(const Problem& problem, void* memory) : parts(static_cast<Part*>(memory)) {
    const PreparedAxes prepared(problem.columns, problem.y_size, problem.x_size, const_cast<void*>(problem.axes));
    error = prepared.error;
    y = prepared.y;
    x = prepared.x;
    starts = prepared.starts;
  }
};

// The layout of a block's shared memory.
struct Layout {
  TileShape shape;
  int cached_rows;  // rows of cells that each warp can keep in shared memory
  size_t scratch;   // bytes; used for cells first, then by the writer of runs

  // rows: of cells; other: bytes of scratch that the writer of runs needs.
  Layout(const Frame& frame, int64_t rows, size_t writer_bytes) : shape(frame, kTileColumns, capacity(frame)) {
    // Rows of cells that 32 pixels read on an axis that enlarges evenly, and a few more. Where pixels read more rows
    // than are kept, as in masks that are shrunk a lot, cells are read from global memory.
    constexpr size_t kRow = size_t{4} * kWarps * kCellStride;
    const int64_t rows_per_band = 32 * rows / frame.rows + 4;
    scratch = 0;
    const int64_t max_rows = static_cast<int64_t>((kMaxSharedBytes - bytes()) / kRow);
    cached_rows = static_cast<int>(rows_per_band < max_rows ? rows_per_band : max_rows);
    if (cached_rows > rows) cached_rows = static_cast<int>(rows);
    scratch = kRow * static_cast<size_t>(cached_rows);
    if (scratch < writer_bytes) scratch = writer_bytes;
  }
  size_t bytes() const { return sizeof(Tap) * kTileColumns + 4 * (kCells + 4) + shape.bytes() + bands() + scratch; }
  // Bytes for the kinds of bands, one each.
  __host__ __device__ size_t bands() const { return (static_cast<size_t>(shape.words) + 15) / 16 * 16; }

 private:
  // Words for a tile's bits, beside its bands. A tile of few tall columns has many bands.
  static int capacity(const Frame& frame) {
    const int64_t max_bands = frame.words() < kTileWords ? frame.words() : kTileWords;
    return kTileWords - static_cast<int>(max_bands + 3) / 4;
  }
};

// One block's part of a mask, and its shared memory.
struct BlockState {
  Tap* taps;        // of the tile's columns; their cells are relative to first_cell
  int32_t* starts;  // (kCells + 1) first pixel column of each column of cells, and the end of the last
  uint32_t* bits;   // of the tile's mixed bands
  uint8_t* bands;   // a Band for each band of the tile
  char* scratch;
  const float* logits;
  int64_t first_cell;

  __device__ BlockState(char* memory, const Problem& problem, const Workspace& workspace, const Layout& layout,
                        int64_t mask, int64_t part)
      : taps(reinterpret_cast<Tap*>(memory)),
        starts(reinterpret_cast<int32_t*>(taps + kTileColumns)),
        bits(reinterpret_cast<uint32_t*>(starts + kCells + 4)),
        bands(reinterpret_cast<uint8_t*>(bits + layout.shape.words * layout.shape.stride)),
        scratch(reinterpret_cast<char*>(bands + layout.bands())),
        logits(problem.logits + mask * problem.rows * problem.columns),
        first_cell(part * kCells) {
    if (threadIdx.x <= kCells) {
      starts[threadIdx.x] = workspace.starts[min(first_cell + threadIdx.x, problem.columns)];
    }
  }
};

// Numbers of pixels above the upper (inner) and the lower (outer) level.
struct LevelCounts {
  int64_t inner = 0, outer = 0;
};

// The last pixel of column x - 1, where the block's first column is x. It precedes that column if the mask is as high
// as the image (Frame::joined).
__device__ inline unsigned pixel_before(const Problem& problem, const Workspace& workspace, const float* logits,
                                        int64_t x) {
  const Tap across = workspace.x[x - 1], down = workspace.y[problem.y_size - 1];
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

}  // namespace fastsam::masks::cuda
