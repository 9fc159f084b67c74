// Kernels that encode masks to runs.
//
// A block loads a band of one mask's columns as bits into shared memory. Bytes are read in the order in which they lie
// in memory, a sector of 32 per request of a warp. Runs go down the columns, so the bits are then scanned in words of
// 32 pixels. The bytes are read twice, once for the number of runs and once for the runs: for 200 masks of 1800 x 1200
// pixels that is 0.86 GB, or 0.2 ms at an H200's 4.8 TB/s. Runs take 8 bytes each, little in comparison.
#include "rle/rle_cuda.h"

#include "rle/rle_tile.cuh"

namespace fastsam::rle::cuda {
namespace {

using fastsam::cuda::blocks_for;

// Masks per block of finish_kernel, one per thread.
constexpr int kMasksPerBlock = 64;

__device__ unsigned pixel_at(const MaskView& masks, int64_t image, int64_t y, int64_t x) {
  return *masks.at(image, y, x) != 0;
}

// The pixel that precedes a band's first one, or 0.
__device__ unsigned pixel_before(const MaskView& masks, int64_t image, const Tile& tile) {
  return tile.x > 0 ? pixel_at(masks, image, masks.height - 1, tile.x - 1) : 0;
}

// Loads a tile's bytes as bits. Lanes go along rows or down columns, whichever has the smaller stride.
__device__ void load_tile(const MaskView& masks, int64_t image, const Frame& frame, const Tile& tile, bool row_major,
                          uint32_t* bits) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t top = 32 * tile.word;
  if (row_major) {
    const int groups = (tile.columns + 31) / 32;
    for (int item = warp; item < groups * tile.words; item += kWarps) {
      const int x = item % groups * 32 + lane, k = item / groups;
      if (x >= tile.columns) continue;
      const uint8_t* at = masks.at(image, top + 32 * k, tile.x + x);
      const int valid = tile.valid(frame, k);
      uint32_t word = 0;
#pragma unroll 8
      for (int j = 0; j < valid; ++j, at += masks.stride_y) word |= static_cast<uint32_t>(*at != 0) << j;
      bits[tile.word_index(x, k)] = word;
    }
    return;
  }
  for (int item = warp; item < tile.columns * tile.words; item += kWarps) {
    const int x = item / tile.words, k = item % tile.words;
    const bool set = lane < tile.valid(frame, k) && pixel_at(masks, image, top + 32 * k + lane, tile.x + x) != 0;
    const uint32_t word = __ballot_sync(kAllLanes, set);
    if (lane == 0) bits[tile.word_index(x, k)] = word;
  }
}

// Whether neighbouring pixels of a row are nearer in memory than those of a column.
bool is_row_major(const MaskView& masks) {
  const auto size = [](int64_t stride) { return stride < 0 ? -stride : stride; };
  return masks.width > 1 && (masks.height == 1 || size(masks.stride_x) <= size(masks.stride_y));
}

__global__ void __launch_bounds__(kThreads)
    encode_count_kernel(MaskView masks, Bands bands, bool row_major, Part* parts) {
  DYNAMIC_SHARED(uint32_t, bits);
  const int64_t image = blockIdx.x / bands.per_mask, band = blockIdx.x % bands.per_mask;
  unsigned carry = pixel_before(masks, image, bands.tile(band, 0));
  Tally tally;
  for (int64_t word = 0; word < bands.frame.words(); word += bands.shape.words) {
    const Tile tile = bands.tile(band, word);
    load_tile(masks, image, bands.frame, tile, row_major, bits);
    __syncthreads();
    tally.add(bands.frame, tile, bits, carry);
    carry = last_pixel(bands.frame, tile, bits);
    __syncthreads();
  }
  store_part(tally, 0, 0, parts + blockIdx.x);
}

__global__ void __launch_bounds__(kThreads)
    encode_write_kernel(MaskView masks, Bands bands, bool row_major, const Part* parts, const int64_t* offsets,
                        int64_t* counts) {
  DYNAMIC_SHARED(uint32_t, bits);
  __shared__ RunWriter<int64_t>::Shared shared;
  __shared__ uint16_t change_slots[RunWriter<int64_t>::kChangesPerWarp * kWarps];
  const int64_t image = blockIdx.x / bands.per_mask, band = blockIdx.x % bands.per_mask;
  const Part& part = parts[blockIdx.x];
  counts += offsets[image];
  if (band == bands.per_mask - 1 && threadIdx.x == 0) {
    write_trailing_run(part, bands.frame.rows * bands.frame.columns, counts);
  }
  if (part.changes == 0) return;
  unsigned carry = pixel_before(masks, image, bands.tile(band, 0));
  RunWriter<int64_t> writer(&shared, change_slots, counts, part);
  for (int64_t word = 0; word < bands.frame.words(); word += bands.shape.words) {
    const Tile tile = bands.tile(band, word);
    load_tile(masks, image, bands.frame, tile, row_major, bits);
    __syncthreads();
    writer.add(bands.frame, tile, bits, carry);
    carry = last_pixel(bands.frame, tile, bits);
    __syncthreads();
  }
}

// One thread per mask; see reduce_parts.
__global__ void __launch_bounds__(kMasksPerBlock)
    finish_kernel(Part* parts, int64_t n, int64_t per_mask, int64_t pixels, Totals totals) {
  __shared__ int64_t boxes[4 * kMasksPerBlock], sizes[3 * kMasksPerBlock];
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t first = int64_t{blockIdx.x} * kMasksPerBlock, i = first + thread;
  if (i < n) {
    Part sum = empty_part();
    for (int64_t k = i * per_mask; k < (i + 1) * per_mask; ++k) {
      Part& part = parts[k];
      part.rank = sum.changes;
      part.before = sum.last;
      merge(sum, part);
    }
    totals.lengths[i] = sum.changes + has_trailing_run(sum.changes, sum.last, pixels);
    const bool has_pixels = sum.right >= 0;
    boxes[4 * thread] = has_pixels ? sum.left : 0;
    boxes[4 * thread + 1] = has_pixels ? sum.top : 0;
    boxes[4 * thread + 2] = has_pixels ? sum.right : 0;
    boxes[4 * thread + 3] = has_pixels ? sum.bottom : 0;
    sizes[3 * thread] = sum.pixels;
    sizes[3 * thread + 1] = sum.inner;
    sizes[3 * thread + 2] = sum.outer;
  }
  __syncthreads();
  // Neighbouring threads write neighbouring values, since these may lie in the host's memory.
  const int count = static_cast<int>(min(n - first, int64_t{kMasksPerBlock}));
  if (totals.boxes != nullptr) {
    for (int j = thread; j < 4 * count; j += kMasksPerBlock) totals.boxes[4 * first + j] = boxes[j];
  }
  if (totals.sizes != nullptr) {
    for (int j = thread; j < 3 * count; j += kMasksPerBlock) totals.sizes[3 * first + j] = sizes[j];
  }
}

// Launch with one block.
__global__ void __launch_bounds__(kThreads) offsets_kernel(const int64_t* lengths, int64_t n, int64_t* offsets) {
  __shared__ int64_t sums[kWarps], sum;
  if (threadIdx.x == 0) offsets[0] = sum = 0;
  __syncthreads();
  for (int64_t start = 0; start < n; start += kThreads) {
    const int64_t i = start + threadIdx.x, before = sum;
    const int64_t end = before + block_inclusive_scan(i < n ? lengths[i] : 0, sums, Sum());
    if (i < n) offsets[i + 1] = end;
    __syncthreads();
    if (threadIdx.x == kThreads - 1) sum = end;
    __syncthreads();
  }
}

cudaStream_t to_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

}  // namespace

void reduce_parts(Part* parts, int64_t n, int64_t per_mask, int64_t pixels, const Totals& totals, void* stream) {
  launch(finish_kernel, blocks_for(n, kMasksPerBlock), kMasksPerBlock, 0, to_stream(stream), parts, n, per_mask, pixels,
         totals);
}

void compute_offsets(const int64_t* lengths, int64_t n, int64_t* offsets, void* stream) {
  launch(offsets_kernel, 1, kThreads, 0, to_stream(stream), lengths, n, offsets);
}

int64_t num_encode_parts(int64_t height, int64_t width) { return Bands(height, width).per_mask; }

void encode_count(const MaskView& masks, Part* parts, int64_t* lengths, void* stream) {
  const Bands bands(masks.height, masks.width);
  launch(encode_count_kernel, blocks_for(masks.n * bands.per_mask, 1), kThreads, bands.shape.bytes(), to_stream(stream),
         masks, bands, is_row_major(masks), parts);
  reduce_parts(parts, masks.n, bands.per_mask, masks.height * masks.width, {lengths, nullptr, nullptr}, stream);
}

void encode_write(const MaskView& masks, const Part* parts, const int64_t* offsets, int64_t* counts, void* stream) {
  const Bands bands(masks.height, masks.width);
  launch(encode_write_kernel, blocks_for(masks.n * bands.per_mask, 1), kThreads, bands.shape.bytes(), to_stream(stream),
         masks, bands, is_row_major(masks), parts, offsets, counts);
}

}  // namespace fastsam::rle::cuda
