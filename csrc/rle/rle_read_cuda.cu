// Kernels that check, measure, decode and intersect masks given as runs.
//
// measure_runs reads 8 bytes per run; its time is that of a launch. Decoding writes each byte of the masks once, a
// sector of 32 per request of a warp: for 200 masks of 1800 x 1200 pixels that is 0.43 GB, or 0.1 ms at an H200's 4.8
// TB/s.
#include "rle/rle_cuda.h"
#include "rle/rle_tile.cuh"

namespace fastsam::rle::cuda {
namespace {

using fastsam::cuda::blocks_for;

// Sums saturate at this value, so that they can't wrap around.
constexpr uint64_t kSaturated = static_cast<uint64_t>(kMaxPixels) + 1;

struct SaturatingSum {
  __device__ uint64_t operator()(uint64_t a, uint64_t b) const { return min(a + b, kSaturated); }
};

// Sets a bit of *error.
__device__ void set_error(int64_t* error, RunError what) {
  atomicOr(reinterpret_cast<unsigned long long*>(error), static_cast<unsigned long long>(what));
}

// The bounding box of set runs; right and bottom are inclusive.
struct Box {
  int64_t left, top, right, bottom;

  __device__ void add(int64_t begin, int64_t end, int64_t height) {
    const int64_t first = begin / height, last = (end - 1) / height;
    // A run that reaches a second column touches the bottom of one and the top of the next.
    const bool one_column = first == last;
    left = min(left, first);
    right = max(right, last);
    top = min(top, one_column ? begin - first * height : 0);
    bottom = max(bottom, one_column ? end - 1 - last * height : height - 1);
  }
  __device__ void add(const Box& other) {
    left = min(left, other.left);
    top = min(top, other.top);
    right = max(right, other.right);
    bottom = max(bottom, other.bottom);
  }
};

// Writes x, y, width, height of the union of all threads' boxes; zeros if all are empty. Call with the whole block.
__device__ void store_box(const Box& thread_box, int64_t* out) {
  __shared__ Box boxes[kWarps];
  const Box sum{warp_reduce(thread_box.left, Min()), warp_reduce(thread_box.top, Min()),
                warp_reduce(thread_box.right, Max()), warp_reduce(thread_box.bottom, Max())};
  if (threadIdx.x % 32 == 0) boxes[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  Box box = boxes[0];
  for (int i = 1; i < kWarps; ++i) box.add(boxes[i]);
  const bool has_pixels = box.right >= 0;
  out[0] = has_pixels ? box.left : 0;
  out[1] = has_pixels ? box.top : 0;
  out[2] = has_pixels ? box.right - box.left + 1 : 0;
  out[3] = has_pixels ? box.bottom - box.top + 1 : 0;
}

// One block per mask, or a single one, which checks the offsets, if there is none. A block reads its runs once,
// kThreads at a time.
__global__ void __launch_bounds__(kThreads) measure_runs_kernel(RunsView runs, RunStats stats) {
  __shared__ uint64_t sums[kWarps], set_sums[kWarps], sum, set;
  const int64_t i = blockIdx.x;
  const bool is_valid = i > 0 || (runs.offsets[0] == 0 && runs.offsets[runs.n] == runs.size);
  const int64_t begin = i < runs.n ? runs.offsets[i] : 0, end = i < runs.n ? runs.offsets[i + 1] : 0;
  if (!is_valid || begin < 0 || begin > end || end > runs.size) {
    if (threadIdx.x == 0) set_error(stats.error, kBadOffsets);
    return;
  }
  if (i == runs.n) return;
  const int64_t height = stats.boxes != nullptr ? stats.heights[i] : 1;
  Box box{INT64_MAX, INT64_MAX, -1, -1};
  if (threadIdx.x == 0) sum = set = 0;
  __syncthreads();
  for (int64_t start = begin; start < end; start += kThreads) {
    const int64_t at = start + threadIdx.x;
    const bool inside = (at - begin) % 2 != 0;
    uint64_t run = at < end ? static_cast<uint64_t>(runs.values[at]) : 0;
    if (run >= kSaturated) {  // negative ones too
      set_error(stats.error, kBadRun);
      run = 0;
    }
    const uint64_t last = SaturatingSum()(sum, block_inclusive_scan(run, sums, SaturatingSum()));
    const uint64_t set_last = SaturatingSum()(set, block_inclusive_scan(inside ? run : 0, set_sums, SaturatingSum()));
    if (last == kSaturated) set_error(stats.error, kBadSum);
    if (at < end && stats.ends != nullptr) {
      // Two blocks may write here if offsets are wrong.
      fastsam::cuda::store_contended(stats.ends + at, static_cast<int64_t>(last));
      fastsam::cuda::store_contended(stats.set_before + at, static_cast<int64_t>(set_last));
    }
    if (inside && run > 0) {
      if (height > 0) {
        box.add(static_cast<int64_t>(last - run), static_cast<int64_t>(last), height);
      } else {
        set_error(stats.error, kBadHeight);
      }
    }
    __syncthreads();
    if (threadIdx.x == kThreads - 1) {
      sum = last;
      set = set_last;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    stats.totals[i] = static_cast<int64_t>(sum);
    stats.areas[i] = static_cast<int64_t>(set);
  }
  if (stats.boxes != nullptr) store_box(box, stats.boxes + 4 * i);
}

// The number of values below `value`, of n ascending ones.
__device__ int64_t count_below(const int64_t* values, int64_t n, int64_t value) {
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (values[middle] < value) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Bit j becomes the parity of bits 0 to j.
__device__ uint32_t running_parity(uint32_t bits) {
  for (int step = 1; step < 32; step *= 2) bits ^= bits << step;
  return bits;
}

// Turns the bits of a tile from changes into pixels. Each warp takes consecutive words of the tile. before: the pixel
// before the tile, in bit 0.
__device__ void changes_to_pixels(const Tile& tile, unsigned before, uint32_t* bits) {
  __shared__ unsigned odd_warps[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int total = tile.columns * tile.words, words_per_warp = (total + kThreads - 1) / kThreads * 32;
  const int begin = min(warp * words_per_warp, total), end = min(begin + words_per_warp, total);
  int changes = 0;
  WordIterator iterator(tile, begin + lane, 32);
  for (int i = begin + lane; i < end; i += 32, iterator.advance())
    changes += __popc(bits[tile.word_index(iterator.x(), iterator.k())]);
  changes = warp_reduce(changes, Sum());
  if (lane == 0) odd_warps[warp] = static_cast<unsigned>(changes) & 1u;
  __syncthreads();
  for (int i = 0; i < warp; ++i) before ^= odd_warps[i];
  WordIterator next(tile, begin + lane, 32);
  for (int start = begin; start < end; start += 32, next.advance()) {
    const bool in_range = start + lane < end;
    uint32_t* const word = bits + (in_range ? tile.word_index(next.x(), next.k()) : 0);
    const uint32_t change_bits = in_range ? *word : 0;
    const unsigned odd = __ballot_sync(kAllLanes, __popc(change_bits) & 1);
    const unsigned set = before ^ static_cast<unsigned>(__popc(odd & low_mask(lane)));
    if (in_range) *word = running_parity(change_bits) ^ (set & 1u ? ~0u : 0u);
    before ^= static_cast<unsigned>(__popc(odd));
  }
}

// Writes a tile's bits as bytes. out: the mask's first byte.
__device__ void store_tile(const Frame& frame, const Tile& tile, const uint32_t* bits, bool column_major,
                           uint8_t* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t top = 32 * tile.word;
  if (column_major) {
    for (int item = warp; item < tile.columns * tile.words; item += kWarps) {
      const int x = item / tile.words, k = item % tile.words;
      if (lane >= tile.valid(frame, k)) continue;
      out[(tile.x + x) * frame.rows + top + 32 * k + lane] = bits[tile.word_index(x, k)] >> lane & 1u;
    }
    return;
  }
  const int groups = (tile.columns + 31) / 32;
  for (int item = warp; item < groups * tile.words; item += kWarps) {
    const int x = item % groups * 32 + lane, k = item / groups;
    if (x >= tile.columns) continue;
    uint8_t* at = out + (top + 32 * k) * frame.columns + tile.x + x;
    const uint32_t word = bits[tile.word_index(x, k)];
    const int valid = tile.valid(frame, k);
#pragma unroll 8
    for (int j = 0; j < valid; ++j, at += frame.columns) *at = word >> j & 1u;
  }
}

__global__ void __launch_bounds__(kThreads)
    decode_kernel(RunsView runs, const int64_t* ends, Bands bands, bool column_major, uint8_t* out) {
  DYNAMIC_SHARED(uint32_t, bits);
  const Frame& frame = bands.frame;
  const int64_t image = blockIdx.x / bands.per_mask, band = blockIdx.x % bands.per_mask;
  const int64_t n = runs.length(image);
  ends += runs.offsets[image];
  for (int64_t word = 0; word < frame.words(); word += bands.shape.words) {
    const Tile tile = bands.tile(band, word);
    for (int i = static_cast<int>(threadIdx.x); i < tile.words * tile.stride; i += kThreads) bits[i] = 0;
    // Pixels change where runs end. An empty run ends where the one before it does, and cancels that change.
    const int64_t begin = position_of(frame, tile, 0, 0);
    const int64_t last = position_of(frame, tile, tile.columns - 1, tile.words - 1);
    const int64_t end = last + tile.valid(frame, tile.words - 1);
    const int64_t first = count_below(ends, n, begin);
    __syncthreads();
    for (int64_t i = first + threadIdx.x; i < n && ends[i] < end; i += kThreads) {
      const unsigned offset = static_cast<unsigned>(ends[i] - begin);
      const unsigned x = tile.columns == 1 ? 0 : offset / static_cast<unsigned>(frame.rows);
      const unsigned y = offset - x * static_cast<unsigned>(frame.rows);
      atomicXor(bits + tile.word_index(static_cast<int>(x), static_cast<int>(y / 32)), 1u << y % 32);
    }
    __syncthreads();
    changes_to_pixels(tile, static_cast<unsigned>(first) & 1u, bits);
    __syncthreads();
    store_tile(frame, tile, bits, column_major, out + image * frame.rows * frame.columns);
    __syncthreads();
  }
}

// The number of set pixels of a mask before `position`.
__device__ int64_t count_set_below(const int64_t* ends, const int64_t* set_before, int64_t n, int64_t position) {
  const int64_t run = min(count_below(ends, n, position), n - 1);
  return set_before[run] - (run % 2 != 0 ? ends[run] - position : 0);
}

// One warp per pair. The ends of the runs of the mask with fewer runs are looked up in the other.
__global__ void __launch_bounds__(kThreads)
    iou_kernel(MeasuredRuns dt, MeasuredRuns gt, const uint8_t* iscrowd, double* out) {
  const int64_t pair = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / 32;
  if (pair >= dt.runs.n * gt.runs.n) return;
  const int64_t d = pair / gt.runs.n, g = pair % gt.runs.n;
  const bool swap = dt.runs.length(d) < gt.runs.length(g);
  const int64_t shorter_n = swap ? dt.runs.length(d) : gt.runs.length(g);
  const int64_t longer_n = swap ? gt.runs.length(g) : dt.runs.length(d);
  const int64_t* const shorter_ends = swap ? dt.ends + dt.runs.offsets[d] : gt.ends + gt.runs.offsets[g];
  const int64_t from = swap ? gt.runs.offsets[g] : dt.runs.offsets[d];
  const int64_t* const ends = (swap ? gt.ends : dt.ends) + from;
  const int64_t* const set_before = (swap ? gt.set_before : dt.set_before) + from;
  int64_t shared = 0;
  for (int64_t i = 1 + 2 * (threadIdx.x % 32); i < shorter_n && longer_n > 0; i += 64) {
    shared += count_set_below(ends, set_before, longer_n, shorter_ends[i]) -
              count_set_below(ends, set_before, longer_n, shorter_ends[i - 1]);
  }
  shared = warp_reduce(shared, Sum());
  if (threadIdx.x % 32 != 0) return;
  const int64_t denominator = iscrowd[g] != 0 ? dt.areas[d] : dt.areas[d] + (gt.areas[g] - shared);
  out[pair] = shared == 0 ? 0.0 : static_cast<double>(shared) / static_cast<double>(denominator);
}

cudaStream_t to_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

}  // namespace

void measure_runs(const RunsView& runs, const RunStats& stats, void* stream) {
  launch(measure_runs_kernel, blocks_for(runs.n > 0 ? runs.n : 1, 1), kThreads, 0, to_stream(stream), runs, stats);
}

void decode(const RunsView& runs, const int64_t* ends, int64_t height, int64_t width, bool column_major, uint8_t* out,
            void* stream) {
  if (height * width == 0) return;
  const Bands bands(height, width);
  launch(decode_kernel, blocks_for(runs.n * bands.per_mask, 1), kThreads, bands.shape.bytes(), to_stream(stream), runs,
         ends, bands, column_major, out);
}

void iou(const MeasuredRuns& dt, const MeasuredRuns& gt, const uint8_t* iscrowd, double* out, void* stream) {
  launch(iou_kernel, blocks_for(dt.runs.n * gt.runs.n, kWarps), kThreads, 0, to_stream(stream), dt, gt, iscrowd, out);
}

}  // namespace fastsam::rle::cuda
