// Runs, boxes and sizes of masks from their low-resolution logits.
//
// A block has 32 columns of cells of one mask. A warp takes 32 rows of pixels: it reads the few rows of cells that
// these take from, as they lie in memory, and keeps them. Columns of cells that are wholly above the upper level or
// below the lower one, with all that surrounds them in these rows, are known without a look at their pixels; in the
// others a lane enlarges its row's cells once, then goes along the pixels between them, and the warp's votes are the
// words of bits from which runs are read off (rle/rle_tile.cuh).
//
// What it costs on an H200 (132 multiprocessors, 4.8 TB/s), for 3,072 masks of 256 x 256 cells at 1800 x 1200:
// - The logits, 0.8 GB, are read from memory once to measure (0.2 ms; rows and columns that two warps need come from
// the
//   cache), and once more to write the runs of the masks that pass the filters.
// - Sorting columns into known and mixed: some 60 instructions for 32 columns and 32 rows, 0.06 ms. Reading off words:
//   some 15 for 32 words, 0.1 ms.
// - Pixels that are looked at: some 20 instructions for 32 of them. Masks with a boundary a few hundred cells long have
//   one column in 50 mixed, 0.1 ms. Noise in every cell of every mask is the worst case: all 6.6 G pixels, 4 ms.
// - Runs are written once, each 4 or 8 bytes.
#include "masks/masks_cuda.h"

#include <stdexcept>
#include <string>

#include "masks/masks_table.h"
#include "rle/rle_tile.cuh"

namespace fastsam::masks::cuda {
namespace {

#include "masks/masks_math.inc"

using fastsam::cuda::blocks_for;
using rle::cuda::Frame;
using rle::cuda::kAllLanes;
using rle::cuda::kThreads;
using rle::cuda::kWarps;
using rle::cuda::Least;
using rle::cuda::Most;
using rle::cuda::Part;
using rle::cuda::Tile;
using rle::cuda::TileShape;

// Columns of cells that a block has, and the two after them that their pixels take from.
constexpr int kCells = 32, kReach = kCells + 2;
// From row to row of a warp's cells: odd, so that lanes on different rows of one column meet 32 banks.
constexpr int kCellStride = kReach + 1;
// Rows of cells that a warp keeps; where pixels take from more (in shrunk masks), it reads them where they are.
constexpr int kMostRows = 36;
// A tile's bits, 36 KiB: all pixels of 32 columns of cells at 1800 x 1200.
constexpr int kTileColumns = 256, kTileWords = 9216;
constexpr int64_t kMostPixels = INT32_MAX - 64;

// A position of an axis: its cell, and the weights of that and the next two.
struct alignas(16) Tap {
  float near, middle, far;
  int32_t cell;
};

// What `measure` leaves to `write`, in `work`.
struct Work {
  Tap *y, *x;       // (height), (width) of the enlarged masks
  int32_t* starts;  // (columns + 1): the number of pixel columns whose first cell is before each column
  Part* parts;      // (n, parts_of(columns))
  size_t bytes;

  Work(const Problem& problem, void* memory);
};

int64_t parts_of(int64_t columns) { return (columns + kCells - 1) / kCells; }

template <typename T>
T* take(char* memory, size_t& used, int64_t count) {
  used = (used + 15) / 16 * 16;
  const size_t at = used;
  used += sizeof(T) * static_cast<size_t>(count);
  return memory == nullptr ? nullptr : reinterpret_cast<T*>(memory + at);
}

Work::Work(const Problem& problem, void* memory) : bytes(0) {
  char* const from = static_cast<char*>(memory);
  parts = take<Part>(from, bytes, problem.n * parts_of(problem.columns));
  y = take<Tap>(from, bytes, problem.y.size);
  x = take<Tap>(from, bytes, problem.x.size);
  starts = take<int32_t>(from, bytes, problem.columns + 1);
}

__device__ void report(int64_t* error, int64_t what) {
  atomicOr(reinterpret_cast<unsigned long long*>(error), static_cast<unsigned long long>(what));
}

__device__ void prepare_tap(const Axis& axis, int64_t cells, int64_t i, Tap* taps, int64_t bad_cells,
                            int64_t bad_weights, int64_t* error) {
  const int64_t cell = axis.first[i], before = i > 0 ? axis.first[i - 1] : 0;
  const float near = axis.weights[3 * i], middle = axis.weights[3 * i + 1], far = axis.weights[3 * i + 2];
  if (cell < before || cell >= cells) report(error, bad_cells);
  const bool positive = near >= 0 && middle >= 0 && far >= 0;
  if (!positive || !(fabsf(near + middle + far - 1.0f) <= 1e-6f)) report(error, bad_weights);
  // Within the mask whatever was given.
  const int64_t within = min(max(cell, int64_t{0}), cells - 1);
  taps[i] = {near, middle, far, static_cast<int32_t>(within)};
}

__global__ void prepare_kernel(Problem problem, Work work, int64_t* error) {
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < problem.y.size) {
    prepare_tap(problem.y, problem.rows, i, work.y, kBadRows, kBadRowWeights, error);
    return;
  }
  i -= problem.y.size;
  if (i < problem.x.size) {
    prepare_tap(problem.x, problem.columns, i, work.x, kBadColumns, kBadColumnWeights, error);
    return;
  }
  i -= problem.x.size;
  if (i > problem.columns) return;
  int64_t low = 0, high = problem.x.size;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (problem.x.first[middle] < i) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  work.starts[i] = static_cast<int32_t>(low);
}

// How a block is laid out in shared memory.
struct Layout {
  TileShape shape;
  int kept_rows;   // of cells, for each warp
  size_t scratch;  // bytes, of cells at first and then of what the tile's bits are read off with

  Layout(const Frame& frame, int64_t rows, size_t other) : shape(frame, kTileColumns, kTileWords) {
    // What 32 pixels take from in an axis that enlarges evenly, and a little more; others are served more slowly.
    const int64_t even = 32 * rows / frame.rows + 4;
    kept_rows = static_cast<int>(even < kMostRows ? even : kMostRows);
    if (kept_rows > rows) kept_rows = static_cast<int>(rows);
    scratch = size_t{4} * kWarps * kCellStride * static_cast<size_t>(kept_rows);
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
__device__ unsigned pixel_before(const Problem& problem, const Work& work, const float* logits, int64_t x) {
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
    const float all_least = over_three<Least>(least, least_beyond), all_most = over_three<Most>(most, most_beyond);
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

// Gives `visit` the tiles of a block one after the other, with their bits and the pixel before them.
template <typename Visit>
__device__ void go_through(const Problem& problem, const Work& work, const Layout& layout, const Frame& frame,
                           const Block& block, Counts& counts, Visit visit) {
  __shared__ unsigned before_first;
  __syncthreads();  // the block's memory is set up
  const int begin = block.starts[0], end = block.starts[kCells];
  if (threadIdx.x == 0) {
    before_first = frame.joined() && 0 < begin && begin < end ? pixel_before(problem, work, block.logits, begin) : 0;
  }
  unsigned carry = 0;
  for (int x = begin; x < end; x += layout.shape.columns) {
    for (int64_t word = 0; word < frame.words(); word += layout.shape.words) {
      const Tile tile{x, word, min(end - x, layout.shape.columns),
                      static_cast<int>(min(frame.words() - word, int64_t{layout.shape.words})), layout.shape.stride};
      for (int i = static_cast<int>(threadIdx.x); i < tile.columns; i += kThreads) {
        Tap tap = work.x[x + i];
        tap.cell -= static_cast<int>(block.first_cell);
        block.taps[i] = tap;
      }
      __syncthreads();
      for (int k = static_cast<int>(threadIdx.x) / 32; k < tile.words; k += kWarps) {
        Rows(problem, work, layout, block, tile, frame, k).fill(counts);
      }
      __syncthreads();
      visit(tile, x == begin && word == 0 ? before_first : carry);
      carry = rle::cuda::last_pixel(frame, tile, block.bits);
      __syncthreads();
    }
  }
}

__global__ void __launch_bounds__(kThreads, 3)
    measure_kernel(const __grid_constant__ Problem problem, const __grid_constant__ Work work,
                   const __grid_constant__ Layout layout, const __grid_constant__ Frame frame, int64_t per_mask,
                   const int64_t* error) {
  DYNAMIC_SHARED(char, memory);
  if (*error != 0) return;
  const Block block(memory, problem, work, layout, blockIdx.x / per_mask, blockIdx.x % per_mask);
  Counts counts;
  rle::cuda::Tally tally;
  go_through(problem, work, layout, frame, block, counts,
             [&](const Tile& tile, unsigned carry) { tally.add(frame, tile, block.bits, carry); });
  rle::cuda::store_part(tally, counts.inner, counts.outer, work.parts + blockIdx.x);
}

template <typename Count>
__global__ void __launch_bounds__(kThreads)
    write_kernel(const __grid_constant__ Problem problem, const __grid_constant__ Work work,
                 const __grid_constant__ Layout layout, const __grid_constant__ Frame frame, int64_t per_mask,
                 const int64_t* chosen, const int64_t* offsets, Count* counts) {
  using Writer = rle::cuda::RunWriter<Count>;
  DYNAMIC_SHARED(char, memory);
  __shared__ typename Writer::Shared shared;
  const int64_t i = blockIdx.x / per_mask, number = blockIdx.x % per_mask;
  const int64_t mask = chosen != nullptr ? chosen[i] : i;
  const Part& part = work.parts[mask * per_mask + number];
  counts += offsets[i];
  if (number == per_mask - 1 && threadIdx.x == 0) {
    rle::cuda::write_rest(part, problem.place.height * problem.place.width, counts);
  }
  if (part.changes == 0) return;
  const Block block(memory, problem, work, layout, mask, number);
  Counts unused;
  Writer writer(&shared, reinterpret_cast<uint16_t*>(block.scratch), counts, part);
  go_through(problem, work, layout, frame, block, unused,
             [&](const Tile& tile, unsigned carry) { writer.add(frame, tile, block.bits, carry); });
}

Frame frame_of(const Problem& problem) {
  return {problem.y.size, problem.x.size, problem.place.height, problem.place.left, problem.place.top};
}

cudaStream_t on(void* stream) { return static_cast<cudaStream_t>(stream); }

template <typename Count>
void launch_write(const Problem& problem, const void* memory, const int64_t* chosen, int64_t k, const int64_t* offsets,
                  Count* counts, void* stream) {
  const Frame frame = frame_of(problem);
  const Layout layout(frame, problem.rows, rle::cuda::RunWriter<Count>::kBytes);
  const int64_t per_mask = parts_of(problem.columns);
  launch(write_kernel<Count>, blocks_for(k * per_mask, 1), kThreads, layout.bytes(), on(stream), problem,
         Work(problem, const_cast<void*>(memory)), layout, frame, per_mask, chosen, offsets, counts);
}

}  // namespace

void check(const Problem& problem) {
  const auto refuse = [](const std::string& why) { throw std::invalid_argument(why); };
  if (problem.y.size < 1 || problem.x.size < 1) refuse("masks must be enlarged to one pixel at least");
  if (problem.y.size > kMostPixels || problem.x.size > kMostPixels) {
    refuse("masks can't be enlarged to more than " + std::to_string(kMostPixels) + " pixels a side on a GPU");
  }
  if (problem.rows < 1 || problem.columns < 1 || problem.rows > kMostPixels || problem.columns > kMostPixels) {
    refuse("mask logits must have 1 to " + std::to_string(kMostPixels) + " cells a side");
  }
  if (problem.levels.high < problem.levels.threshold || problem.levels.low > problem.levels.threshold) {
    refuse("the stability offset must be 0 or more");
  }
}

size_t work_bytes(const Problem& problem) { return Work(problem, nullptr).bytes; }

void measure(const Problem& problem, void* memory, int64_t* lengths, int64_t* boxes, int64_t* sizes, int64_t* error,
             void* stream) {
  const Work work(problem, memory);
  const Frame frame = frame_of(problem);
  const Layout layout(frame, problem.rows, 0);
  const int64_t per_mask = parts_of(problem.columns);
  fastsam::cuda::check(cudaMemsetAsync(error, 0, sizeof(*error), on(stream)), "cudaMemsetAsync");
  launch(prepare_kernel, blocks_for(problem.y.size + problem.x.size + problem.columns + 1, kThreads), kThreads, 0,
         on(stream), problem, work, error);
  launch(measure_kernel, blocks_for(problem.n * per_mask, 1), kThreads, layout.bytes(), on(stream), problem, work,
         layout, frame, per_mask, error);
  rle::cuda::finish_parts(work.parts, problem.n, per_mask, problem.place.height * problem.place.width,
                          {lengths, boxes, sizes}, stream);
}

void write(const Problem& problem, const void* work, const int64_t* chosen, int64_t k, const int64_t* offsets,
           void* counts, bool narrow, void* stream) {
  if (narrow) {
    launch_write(problem, work, chosen, k, offsets, static_cast<int32_t*>(counts), stream);
  } else {
    launch_write(problem, work, chosen, k, offsets, static_cast<int64_t*>(counts), stream);
  }
}

}  // namespace fastsam::masks::cuda
