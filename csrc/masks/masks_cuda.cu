// Kernels of masks_cuda.h: runs, boxes and sizes of masks from their low-resolution logits.
//
// A block processes 32 columns of cells of one mask, in bands of 32 pixel rows (masks_bands.cuh). First, its warps
// classify the bands by the cells under them. Bands that are clear or set as a whole need no look at their pixels; if
// all are clear, the block is done. Second, the warps evaluate the mixed bands (masks_rows.cuh). Columns of cells whose
// pixels are all known are filled in. In the others, each lane enlarges the cells of its pixel row once and then
// evaluates the pixels between them; the warp's votes are the words of bits. Finally, a thread walks down each column
// of pixels and skips the bands in which nothing can change.
//
// Expected cost on an H200 (132 multiprocessors, 4.8 TB/s) for 3,072 masks of 256 x 256 cells at 1800 x 1200 pixels,
// estimated from bytes and from instructions of the compiled code, of which a multiprocessor issues 2.4 per cycle:
//
// * Reading logits: those inside the image, 0.5 GB, are read from memory once by `measure`, 0.1 ms, and again by
//   `write` for masks that pass the filters. Rows and columns that two warps need come from the cache.
// * Classifying: about 90 instructions per 32 columns of cells and 32 rows of pixels, and about 250 to start a warp:
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

constexpr int64_t kMaxSide = INT32_MAX - 64;
// Blocks resident on a multiprocessor, as many as its shared memory allows. With four, the registers don't suffice, and
// the compiler spills some, once per tile.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kMinBlocksPerMultiprocessor = 3;
#else
constexpr int kMinBlocksPerMultiprocessor = 4;
#endif
// A part of at most kSparseChangesPerColumn * kTileColumns changes is written with a thread per pixel column
// (ColumnWriter). With more changes, neighbouring lanes write neighbouring counts (RunWriter).
constexpr int kSparseChangesPerColumn = 32;

// Sets the bits `what` of *error.
__device__ void set_error(int64_t* error, int64_t what) {
  atomicOr(reinterpret_cast<unsigned long long*>(error), static_cast<unsigned long long>(what));
}

// Checks position i of an axis over `cells` cells and stores it in taps[i].
__device__ void prepare_tap(const Axis& axis, int64_t cells, int64_t i, Tap* taps, int64_t bad_cells,
                            int64_t bad_weights, int64_t* error) {
  const int64_t cell = axis.first[i], previous = i > 0 ? axis.first[i - 1] : 0;
  const float near = axis.weights[3 * i], middle = axis.weights[3 * i + 1], far = axis.weights[3 * i + 2];
  if (cell < previous || cell >= cells) set_error(error, bad_cells);
  const bool is_non_negative = near >= 0 && middle >= 0 && far >= 0;
  if (!is_non_negative || !(fabsf(near + middle + far - 1.0f) <= 1e-6f)) set_error(error, bad_weights);
  // Clamped, so that no later kernel reads outside the logits, even for an invalid axis.
  const int64_t clamped_cell = min(max(cell, int64_t{0}), cells - 1);
  taps[i] = {near, middle, far, static_cast<int32_t>(clamped_cell)};
}

// One thread per position of y, per position of x, and per entry of prepared.starts.
__global__ void prepare_kernel(Axis y, Axis x, int64_t rows, int64_t columns, PreparedAxes prepared) {
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
__device__ uint32_t ballot_bands(const Tile& tile, const BlockState& block, int start, Band kind) {
  const int k = start + static_cast<int>(threadIdx.x) % 32;
  return __ballot_sync(rle::cuda::kAllLanes, k < tile.words && block.bands[k] == kind);
}

// Sets the bits of a tile's mixed bands and counts its pixels. The mixed bands are divided evenly among the warps,
// whichever warp classified them. Ends with a barrier if there are mixed bands. Returns whether any pixel of the tile
// may be set.
__device__ bool evaluate_tile(const Problem& problem, const Workspace& workspace, const Layout& layout,
                              const Frame& frame, const BlockState& block, const Tile& tile, LevelCounts& counts) {
  int set = 0, mixed = 0;
  for (int start = 0; start < tile.words; start += 32) {
    set += __popc(ballot_bands(tile, block, start, kSet));
    mixed += __popc(ballot_bands(tile, block, start, kMixed));
  }
  if (set > 0 && threadIdx.x == 0) {
    const int last = tile.words - 1;
    const int rows = 32 * set - (block.bands[last] == kSet ? 32 - tile.valid(frame, last) : 0);
    counts.inner += rows * tile.columns;
    counts.outer += rows * tile.columns;
  }
  if (mixed == 0) return set > 0;
  for (int i = static_cast<int>(threadIdx.x); i < tile.columns; i += kThreads) {
    Tap tap = workspace.x[tile.x + i];
    tap.cell -= static_cast<int>(block.first_cell);
    block.taps[i] = tap;
  }
  __syncthreads();
  int band_index = static_cast<int>(threadIdx.x) / 32;
  for (int start = 0; start < tile.words; start += 32) {
    for (uint32_t left = ballot_bands(tile, block, start, kMixed); left != 0; left &= left - 1, --band_index) {
      if (band_index % kWarps != 0) continue;
      BandEvaluator(problem, workspace, layout, block, tile, frame, start + __ffs(static_cast<int>(left)) - 1)
          .fill(counts);
    }
  }
  __syncthreads();
  return true;
}

// Calls visit(pixels, carry) for each tile of a block that isn't clear or that follows a set pixel, in order. carry:
// that previous pixel. Returns whether there was such a tile, the same in all threads.
template <typename Visit>
__device__ bool for_each_tile(const Problem& problem, const Workspace& workspace, const Layout& layout,
                              const Frame& frame, const BlockState& block, LevelCounts& counts, Visit visit) {
  __shared__ unsigned first_carry;
  __syncthreads();  // block.starts is complete
  const int begin = block.starts[0], end = block.starts[kCells];
  if (threadIdx.x == 0) {
    first_carry = frame.columns_are_contiguous() && 0 < begin && begin < end
                      ? pixel_before(problem, workspace, block.logits, begin)
                      : 0;
  }
  const BandClassifier classifier(problem, workspace, block);
  unsigned carry = 0;
  bool any_pixels = false;
  for (int x = begin; x < end; x += layout.shape.columns) {
    for (int64_t word = 0; word < frame.words(); word += layout.shape.words) {
      const Tile tile{x, word, min(end - x, layout.shape.columns),
                      static_cast<int>(min(frame.words() - word, int64_t{layout.shape.words})), layout.shape.stride};
      classifier.classify(tile);
      __syncthreads();
      if (x == begin && word == 0) carry = first_carry;
      if (word == 0 && !frame.columns_are_contiguous()) carry = 0;
      const bool has_pixels = evaluate_tile(problem, workspace, layout, frame, block, tile, counts);
      if (!has_pixels && carry == 0) {
        if (x + tile.columns < end || word + tile.words < frame.words()) __syncthreads();
        continue;
      }
      any_pixels = true;
      const TilePixels pixels(frame, tile, block, carry);
      visit(pixels, carry);
      carry = pixels.last(tile.columns - 1);
      __syncthreads();
    }
  }
  return any_pixels;
}

__global__ void __launch_bounds__(kThreads, kMinBlocksPerMultiprocessor)
    measure_kernel(const __grid_constant__ Problem problem, const __grid_constant__ Workspace workspace,
                   const __grid_constant__ Layout layout, const __grid_constant__ Frame frame, int64_t per_mask) {
  DYNAMIC_SHARED(char, memory);
  LevelCounts counts;
  rle::cuda::Tally tally;
  bool any_pixels = false;
  // After an error the part is stored as empty: the parts are summed in any case, and their memory is uninitialised.
  if (*workspace.error == 0) {
    const BlockState block(memory, problem, workspace, layout, blockIdx.x / per_mask, blockIdx.x % per_mask);
    any_pixels = for_each_tile(problem, workspace, layout, frame, block, counts,
                               [&](const TilePixels& pixels, unsigned) { tally_tile(pixels, tally); });
  }
  if (any_pixels) {
    rle::cuda::store_part(tally, counts.inner, counts.outer, workspace.parts + blockIdx.x);
  } else if (threadIdx.x == 0) {
    workspace.parts[blockIdx.x] = rle::cuda::empty_part();
  }
}

template <typename Count>
__global__ void __launch_bounds__(kThreads)
    write_kernel(const __grid_constant__ Problem problem, const __grid_constant__ Workspace workspace,
                 const __grid_constant__ Layout layout, const __grid_constant__ Frame frame, int64_t per_mask,
                 const int64_t* selected, const int64_t* offsets, Count* counts) {
  DYNAMIC_SHARED(char, memory);
  __shared__ typename rle::cuda::RunWriter<Count>::Shared run_writer_shared;
  __shared__ typename ColumnWriter<Count>::Shared column_writer_shared;
  const int64_t i = blockIdx.x / per_mask, part_index = blockIdx.x % per_mask;
  const int64_t mask = selected != nullptr ? selected[i] : i;
  const Part& part = workspace.parts[mask * per_mask + part_index];
  counts += offsets[i];
  if (part_index == per_mask - 1 && threadIdx.x == 0) {
    rle::cuda::write_trailing_run(part, problem.placement.height * problem.placement.width, counts);
  }
  if (part.changes == 0) return;
  const BlockState block(memory, problem, workspace, layout, mask, part_index);
  LevelCounts unused_counts;
  ColumnWriter<Count> column_writer(&column_writer_shared, counts, part);
  rle::cuda::RunWriter<Count> run_writer(&run_writer_shared, reinterpret_cast<uint16_t*>(block.scratch), counts, part);
  const bool is_sparse = part.changes <= int64_t{kSparseChangesPerColumn} * kTileColumns;
  for_each_tile(problem, workspace, layout, frame, block, unused_counts, [&](const TilePixels& pixels, unsigned carry) {
    if (is_sparse) {
      column_writer.add(pixels);
      return;
    }
    pixels.fill_uniform_bands(block.bits);
    __syncthreads();
    run_writer.add(frame, pixels.tile(), block.bits, carry);
  });
}

Frame make_frame(const Problem& problem) {
  return {problem.y_size, problem.x_size, problem.placement.height, problem.placement.left, problem.placement.top};
}

cudaStream_t to_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

template <typename Count>
void launch_write(const Problem& problem, const void* memory, const int64_t* selected, int64_t k,
                  const int64_t* offsets, Count* counts, void* stream) {
  const Frame frame = make_frame(problem);
  const Layout layout(frame, problem.rows, rle::cuda::RunWriter<Count>::kBytes);
  const int64_t per_mask = num_parts(problem.columns);
  launch(write_kernel<Count>, blocks_for(k * per_mask, 1), kThreads, layout.bytes(), to_stream(stream), problem,
         Workspace(problem, const_cast<void*>(memory)), layout, frame, per_mask, selected, offsets, counts);
}

void check_sizes(int64_t rows, int64_t columns, int64_t y_size, int64_t x_size) {
  if (y_size < 1 || x_size < 1) throw std::invalid_argument("masks must be enlarged to at least one pixel");
  if (y_size > kMaxSide || x_size > kMaxSide) {
    throw std::invalid_argument("masks can't be enlarged to more than " + std::to_string(kMaxSide) +
                                " pixels a side on a GPU");
  }
  if (rows < 1 || columns < 1 || rows > kMaxSide || columns > kMaxSide) {
    throw std::invalid_argument("mask logits must have 1 to " + std::to_string(kMaxSide) + " cells a side");
  }
}

}  // namespace

size_t axes_bytes(int64_t columns, int64_t y_size, int64_t x_size) {
  return PreparedAxes(columns, y_size, x_size, nullptr).bytes;
}

void prepare(const Axis& y, const Axis& x, int64_t rows, int64_t columns, void* axes, void* stream) {
  check_sizes(rows, columns, y.size, x.size);
  const PreparedAxes prepared(columns, y.size, x.size, axes);
  fastsam::cuda::check(cudaMemsetAsync(prepared.error, 0, sizeof(*prepared.error), to_stream(stream)),
                       "cudaMemsetAsync");
  launch(prepare_kernel, blocks_for(y.size + x.size + columns + 1, kThreads), kThreads, 0, to_stream(stream), y, x,
         rows, columns, prepared);
}

void check(const Problem& problem) {
  check_sizes(problem.rows, problem.columns, problem.y_size, problem.x_size);
  if (problem.levels.high < problem.levels.threshold || problem.levels.low > problem.levels.threshold) {
    throw std::invalid_argument("the stability offset must be 0 or more");
  }
}

size_t workspace_bytes(const Problem& problem) {
  return sizeof(Part) * static_cast<size_t>(problem.n * num_parts(problem.columns));
}

void measure(const Problem& problem, void* memory, int64_t* lengths, int64_t* boxes, int64_t* sizes, void* stream) {
  const Workspace workspace(problem, memory);
  const Frame frame = make_frame(problem);
  const Layout layout(frame, problem.rows, 0);
  const int64_t per_mask = num_parts(problem.columns);
  launch(measure_kernel, blocks_for(problem.n * per_mask, 1), kThreads, layout.bytes(), to_stream(stream), problem,
         workspace, layout, frame, per_mask);
  rle::cuda::reduce_parts(workspace.parts, problem.n, per_mask, problem.placement.height * problem.placement.width,
                          {lengths, boxes, sizes}, stream);
}

void write(const Problem& problem, const void* workspace, const int64_t* selected, int64_t k, const int64_t* offsets,
           void* counts, bool use_int32, void* stream) {
  if (use_int32) {
    launch_write(problem, workspace, selected, k, offsets, static_cast<int32_t*>(counts), stream);
  } else {
    launch_write(problem, workspace, selected, k, offsets, static_cast<int64_t*>(counts), stream);
  }
}

}  // namespace fastsam::masks::cuda
