// What a block of masks_cuda.cu holds in shared memory.
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
// A tile's bits, and a byte for each of its bands, 36 KiB: all pixels of 32 columns of cells at 1800 x 1200.
constexpr int kTileColumns = 256, kTileWords = 9216;
// Of shared memory; the smallest of the GPUs that are compiled for has 64 KiB for a block.
constexpr size_t kMostShared = 62 * 1024;

// What is known of 32 rows of a tile: all pixels are clear, or set and above the upper level, or they may differ.
enum Band : uint8_t { kClear, kSet, kMixed };

// A position of an axis: its cell, and the weights of that and the next two.
struct alignas(16) Tap {
  float near, middle, far;
  int32_t cell;
};

// Blocks for each mask.
inline int64_t parts_of(int64_t columns) { return (columns + kCells - 1) / kCells; }

// What `prepare` makes of the axes, in the caller's memory.
struct Prepared {
  int64_t* error;   // (1)
  Tap *y, *x;       // (height), (width) of the enlarged masks
  int32_t* starts;  // (columns + 1): the number of pixel columns whose first cell is before each column
  size_t bytes = 0;

  // memory: null to learn the number of bytes.
  Prepared(int64_t columns, int64_t y_size, int64_t x_size, void* memory) {
    error = take<int64_t>(memory, 1);
    y = take<Tap>(memory, y_size);
    x = take<Tap>(memory, x_size);
    starts = take<int32_t>(memory, columns + 1);
  }

 private:
  template <typename T>
  T* take(void* memory, int64_t count) {
    const size_t at = (bytes + 15) / 16 * 16;
    bytes = at + sizeof(T) * static_cast<size_t>(count);
    return memory == nullptr ? nullptr : reinterpret_cast<T*>(static_cast<char*>(memory) + at);
  }
};

// That, and what `measure` leaves to `write`.
struct Work {
  Part* parts;  // (n, parts_of(columns))
  const int64_t* error;
  const Tap *y, *x;
  const int32_t* starts;

  Work(const Problem& problem, void* memory) : parts(static_cast<Part*>(memory)) {
    const Prepared prepared(problem.columns, problem.y_size, problem.x_size, const_cast<void*>(problem.axes));
    error = prepared.error;
    y = prepared.y;
    x = prepared.x;
    starts = prepared.starts;
  }
};

// How a block is laid out in shared memory.
struct Layout {
  TileShape shape;
  int kept_rows;   // of cells, for each warp
  size_t scratch;  // bytes, of cells at first and then of what the tile's bits are read off with

  Layout(const Frame& frame, int64_t rows, size_t other) : shape(frame, kTileColumns, capacity(frame)) {
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
  size_t bytes() const { return sizeof(Tap) * kTileColumns + 4 * (kCells + 4) + shape.bytes() + bands() + scratch; }
  // Of bands, a byte for each.
  __host__ __device__ size_t bands() const { return (static_cast<size_t>(shape.words) + 15) / 16 * 16; }

 private:
  // Words of bits. Where columns are tall and a tile has few of them, bands would take much on top.
  static int capacity(const Frame& frame) {
    const int64_t most = frame.words() < kTileWords ? frame.words() : kTileWords;
    return kTileWords - static_cast<int>(most + 3) / 4;
  }
};

// The mask of one block, and its memory.
struct Block {
  Tap* taps;        // of the tile's columns; their cells count from the block's first
  int32_t* starts;  // of the block's columns of cells, and the end of the last
  uint32_t* bits;   // of the tile's mixed bands
  uint8_t* bands;   // of the tile: what Band says of each
  char* scratch;
  const float* logits;
  int64_t first_cell;

  __device__ Block(char* memory, const Problem& problem, const Work& work, const Layout& layout, int64_t mask,
                   int64_t part)
      : taps(reinterpret_cast<Tap*>(memory)),
        starts(reinterpret_cast<int32_t*>(taps + kTileColumns)),
        bits(reinterpret_cast<uint32_t*>(starts + kCells + 4)),
        bands(reinterpret_cast<uint8_t*>(bits + layout.shape.words * layout.shape.stride)),
        scratch(reinterpret_cast<char*>(bands + layout.bands())),
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
  const Tap across = work.x[x - 1], down = work.y[problem.y_size - 1];
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
