// Kernels of masks_cuda.h: runs, boxes and sizes of masks from their low-resolution logits.
//
// A block processes 32 columns of cells of one mask, in bands of 32 pixel rows (masks_bands.cuh). First, its warps sort
// the bands by the cells under them. Bands that are clear or set as a whole need no look at their pixels; if all are
// clear, the block is done. Second, the warps evaluate the mixed bands (masks_rows.cuh). Columns of cells whose pixels
// are all known are filled in. In the others, each lane enlarges the cells of its pixel row once and then evaluates the
// pixels between them; the warp's votes are the words of bits. Finally, a thread walks down each column of pixels and
// skips the bands in which nothing can change.
//
// Expected cost on an H200 (132 multiprocessors, 4.8 TB/s) for 3,072 masks of 256 x 256 cells at 1800 x 1200 pixels,
// estimated from bytes and from instructions of the compiled code, of which a multiprocessor issues 2.4 per cycle:
//
// * Reading logits: those inside the image, 0.5 GB, are read from memory once by `measure`, 0.1 ms, and again by
//   `write` for masks that pass the filters. Rows and columns that two warps need come from the cache.
// * Sorting: about 90 instructions per 32 columns of cells and 32 rows of pixels, and about 250 to start a warp:
//   43,000 per mask, 0.2 ms.
// * Evaluating pixels: about 25 instructions per 32 pixels, including the enlargement of cells. Masks whose boundary is
//   a few hundred cells long evaluate one pixel in 60: 28,000 instructions per mask, 0.14 ms. The worst case, noise in
//   every cell of every mask, evaluates 6.6 G pixels in 8 ms.
// * Other work on mixed bands and on the columns through them: 20,000 instructions per mask, 0.1 ms.
// * Writing runs: once, 4 or 8 bytes each.
#include "masks/masks_cuda.h"

#include <stdexcept>
#include <string>

#include "masks/masks_bands.cuh"
#include "masks/masks_rows.cuh"

namespace fastsam::masks::cuda {
namespace {

using fastsam::cuda::blocks_for;

constexpr int64_t kMostPixels = INT32_MAX - 64;
// Blocks resident on a multiprocessor, as many as its shared memory allows. With four, the registers don't suffice, and
// the compiler spills some, once per tile.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kBlocksAtOnce = 3;
#else
constexpr int kBlocksAtOnce = 4;
#endif
// A part of at most kFew * kTileColumns changes is written with a thread per pixel column (ColumnWriter). With more
// changes, neighbouring lanes write neighbouring counts (RunWriter).
constexpr int kFew = 32;

// Sets the bits `what` of *error.
__device__ void report(int64_t* error, int64_t what) {
  atomicOr(reinterpret_cast<unsigned long long*>(error), static_cast<unsigned long long>(what));
}

// Checks position i of an axis over `cells` cells and stores it in taps[i].
__device__ void prepare_tap(const Axis& axis, int64_t cells, int64_t i, Tap* taps, int64_t bad_cells,
                            int64_t bad_weights, int64_t* error) {
  const int64_t cell = axis.first[i], before = i > 0 ? axis.first[i - 1] : 0;
  const float near = axis.weights[3 * i], middle = axis.weights[3 * i + 1], far = axis.weights[3 * i + 2];
  if (cell < before || cell >= cells) report(error, bad_cells);
  const bool positive = near >= 0 && middle >= 0 && far >= 0;
  if (!positive || !(fabsf(near + middle + far - 1.0f) <= 1e-6f)) report(error, bad_weights);
  // Clamped, so that no later kernel reads outside the logits, even for an invalid axis.
  const int64_t within = min(max(cell, int64_t{0}), cells - 1);
  taps[i] = {near, middle, far, static_cast<int32_t>(within)};
}

// One thread per position of y, per position of x, and per entry of prepared.starts.
__global__ void prepare_kernel(Axis y, Axis x, int64_t rows, int64_t columns, Prepared prepared) {
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < y.size) {
    prepare_tap(y, rows, i, prepared.y, kBadRows, kBadRowWeights, prepared.error);
    return;
  }
  i -= y.size;
  if (i < x.size) {
    prepare_tap(x, columns, i, prepared.x, kBadColumns, kBadColumnWeights, prepared.error);
    return;
  }
  i -= x.size;
  if (i > columns) return;
  int64_t low = 0, high = x.size;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (x.first[middle] < i) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  prepared.starts[i] = static_cast<int32_t>(low);
}

// Bit i is set if band start + i of the tile is of this kind; for 32 bands. Call with all lanes of a warp.
__device__ uint32_t bands_of(const Tile& tile, const Block& block, int start, Band kind) {
  const int k = start + static_cast<int>(threadIdx.x) % 32;
  return __ballot_sync(rle::cuda::kAllLanes, k < tile.words && block.bands[k] == kind);
}

// Sets the bits of a tile's mixed bands and counts its pixels. The mixed bands are divided evenly among the warps,
// whichever warp sorted them. Ends with a barrier if there are mixed bands. Returns whether any pixel of the tile may
// be set.
__device__ bool fill(const Problem& problem, const Work& work, const Layout& layout, const Frame& frame,
                     const Block& block, const Tile& tile, Counts& counts) {
  int set = 0, mixed = 0;
  for (int start = 0; start < tile.words; start += 32) {
    set += __popc(bands_of(tile, block, start, kSet));
    mixed += __popc(bands_of(tile, block, start, kMixed));
  }
  if (set > 0 && threadIdx.x == 0) {
    const int last = tile.words - 1;
    const int rows = 32 * set - (block.bands[last] == kSet ? 32 - tile.valid(frame, last) : 0);
    counts.inner += rows * tile.columns;
    counts.outer += rows * tile.columns;
  }
  if (mixed == 0) return set > 0;
  for (int i = static_cast<int>(threadIdx.x); i < tile.columns; i += kThreads) {
    Tap tap = work.x[tile.x + i];
    tap.cell -= static_cast<int>(block.first_cell);
    block.taps[i] = tap;
  }
  __syncthreads();
  int number = static_cast<int>(threadIdx.x) / 32;
  for (int start = 0; start < tile.words; start += 32) {
    for (uint32_t left = bands_of(tile, block, start, kMixed); left != 0; left &= left - 1, --number) {
      if (number % kWarps != 0) continue;
      Rows(problem, work, layout, block, tile, frame, start + __ffs(static_cast<int>(left)) - 1).fill(counts);
    }
  }
  __syncthreads();
  return true;
}

// Calls visit(pixels, carry) for each tile of a block that isn't clear or that follows a set pixel, in order. carry:
// that previous pixel. Returns whether there was such a tile, the same in all threads.
template <typename Visit>
__device__ bool go_through(const Problem& problem, const Work& work, const Layout& layout, const Frame& frame,
                           const Block& block, Counts& counts, Visit visit) {
  __shared__ unsigned before_first;
  __syncthreads();  // block.starts is complete
  const int begin = block.starts[0], end = block.starts[kCells];
  if (threadIdx.x == 0) {
    before_first = frame.joined() && 0 < begin && begin < end ? pixel_before(problem, work, block.logits, begin) : 0;
  }
  const Sorter sorter(problem, work, block);
  unsigned carry = 0;
  bool any = false;
  for (int x = begin; x < end; x += layout.shape.columns) {
    for (int64_t word = 0; word < frame.words(); word += layout.shape.words) {
      const Tile tile{x, word, min(end - x, layout.shape.columns),
                      static_cast<int>(min(frame.words() - word, int64_t{layout.shape.words})), layout.shape.stride};
      sorter.sort(tile);
      __syncthreads();
      if (x == begin && word == 0) carry = before_first;
      if (word == 0 && !frame.joined()) carry = 0;
      const bool something = fill(problem, work, layout, frame, block, tile, counts);
      if (!something && carry == 0) {
        if (x + tile.columns < end || word + tile.words < frame.words()) __syncthreads();
        continue;
      }
      any = true;
      const Pixels pixels(frame, tile, block, carry);
      visit(pixels, carry);
      carry = pixels.last(tile.columns - 1);
      __syncthreads();
    }
  }
  return any;
}

__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    measure_kernel(const __grid_constant__ Problem problem, const __grid_constant__ Work work,
                   const __grid_constant__ Layout layout, const __grid_constant__ Frame frame, int64_t per_mask) {
  DYNAMIC_SHARED(char, memory);
  Counts counts;
  rle::cuda::Tally tally;
  bool any = false;
  // After an error the part is stored as empty: the parts are summed in any case, and their memory is uninitialised.
  if (*work.error == 0) {
    const Block block(memory, problem, work, layout, blockIdx.x / per_mask, blockIdx.x % per_mask);
    any = go_through(problem, work, layout, frame, block, counts,
                     [&](const Pixels& pixels, unsigned) { add(pixels, tally); });
  }
  if (any) {
    rle::cuda::store_part(tally, counts.inner, counts.outer, work.parts + blockIdx.x);
  } else if (threadIdx.x == 0) {
    work.parts[blockIdx.x] = rle::cuda::empty_part();
  }
}

template <typename Count>
__global__ void __launch_bounds__(kThreads)
    write_kernel(const __grid_constant__ Problem problem, const __grid_constant__ Work work,
                 const __grid_constant__ Layout layout, const __grid_constant__ Frame frame, int64_t per_mask,
                 const int64_t* chosen, const int64_t* offsets, Count* counts) {
  DYNAMIC_SHARED(char, memory);
  __shared__ typename rle::cuda::RunWriter<Count>::Shared many_shared;
  __shared__ typename ColumnWriter<Count>::Shared few_shared;
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
  ColumnWriter<Count> few(&few_shared, counts, part);
  rle::cuda::RunWriter<Count> many(&many_shared, reinterpret_cast<uint16_t*>(block.scratch), counts, part);
  const bool sparse = part.changes <= int64_t{kFew} * kTileColumns;
  go_through(problem, work, layout, frame, block, unused, [&](const Pixels& pixels, unsigned carry) {
    if (sparse) {
      few.add(pixels);
      return;
    }
    pixels.complete(block.bits);
    __syncthreads();
    many.add(frame, pixels.tile(), block.bits, carry);
  });
}

Frame frame_of(const Problem& problem) {
  return {problem.y_size, problem.x_size, problem.place.height, problem.place.left, problem.place.top};
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

void check_sizes(int64_t rows, int64_t columns, int64_t y_size, int64_t x_size) {
  if (y_size < 1 || x_size < 1) throw std::invalid_argument("masks must be enlarged to at least one pixel");
  if (y_size > kMostPixels || x_size > kMostPixels) {
    throw std::invalid_argument("masks can't be enlarged to more than " + std::to_string(kMostPixels) +
                                " pixels a side on a GPU");
  }
  if (rows < 1 || columns < 1 || rows > kMostPixels || columns > kMostPixels) {
    throw std::invalid_argument("mask logits must have 1 to " + std::to_string(kMostPixels) + " cells a side");
  }
}

}  // namespace

size_t axes_bytes(int64_t columns, int64_t y_size, int64_t x_size) {
  return Prepared(columns, y_size, x_size, nullptr).bytes;
}

void prepare(const Axis& y, const Axis& x, int64_t rows, int64_t columns, void* axes, void* stream) {
  check_sizes(rows, columns, y.size, x.size);
  const Prepared prepared(columns, y.size, x.size, axes);
  fastsam::cuda::check(cudaMemsetAsync(prepared.error, 0, sizeof(*prepared.error), on(stream)), "cudaMemsetAsync");
  launch(prepare_kernel, blocks_for(y.size + x.size + columns + 1, kThreads), kThreads, 0, on(stream), y, x, rows,
         columns, prepared);
}

void check(const Problem& problem) {
  check_sizes(problem.rows, problem.columns, problem.y_size, problem.x_size);
  if (problem.levels.high < problem.levels.threshold || problem.levels.low > problem.levels.threshold) {
    throw std::invalid_argument("the stability offset must be 0 or more");
  }
}

size_t work_bytes(const Problem& problem) {
  return sizeof(Part) * static_cast<size_t>(problem.n * parts_of(problem.columns));
}

void measure(const Problem& problem, void* memory, int64_t* lengths, int64_t* boxes, int64_t* sizes, void* stream) {
  const Work work(problem, memory);
  const Frame frame = frame_of(problem);
  const Layout layout(frame, problem.rows, 0);
  const int64_t per_mask = parts_of(problem.columns);
  launch(measure_kernel, blocks_for(problem.n * per_mask, 1), kThreads, layout.bytes(), on(stream), problem, work,
         layout, frame, per_mask);
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
