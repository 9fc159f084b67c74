// Shared code of the kernels that find runs, here and in masks/masks_cuda.cu. A block processes its part of a mask's
// columns tile by tile. It sets one bit of shared memory per pixel, and then counts the positions at which pixels
// change, or writes the runs between them. No intermediate data of a mask's size goes to global memory: the counts of
// the parts before a part tell where its runs begin.
#pragma once

#include <climits>

#include "common/cuda.h"
#include "rle/rle_bits.h"
#include "rle/rle_cuda.h"

namespace fastsam::rle::cuda {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr unsigned kAllLanes = fastsam::cuda::kAllLanes;

// Where the pixels of a mask lie in the image that the runs describe.
struct Frame {
  int64_t rows, columns;      // of the mask
  int64_t height, left, top;  // height of the image, and position of the mask in it

  // Whether each column of the mask continues where the one before ends, in the order of runs.
  __host__ __device__ bool columns_are_contiguous() const { return rows == height; }
  __host__ __device__ int64_t words() const { return (rows + 31) / 32; }  // words of 32 pixels per column
};

// The pixels of a mask in columns x + i, i < columns, and rows 32 * word + j, j < 32 * words. A tile of several columns
// has whole columns. The k-th words of all columns are stored side by side.
struct Tile {
  int64_t x, word;
  int columns, words;
  int stride;  // words from k to k + 1; odd, so that lanes that go down a column use 32 different banks

  // Index of the k-th word of column i in the bits.
  __device__ int word_index(int i, int k) const { return k * stride + i; }

  // Number of bits of the k-th words that are pixels of the mask: 32 except in a column's last word.
  __device__ int valid(const Frame& frame, int k) const {
    const int64_t remaining = frame.rows - 32 * (word + k);
    return remaining < 32 ? static_cast<int>(remaining) : 32;
  }
};

// A word whose lowest n bits are set, n up to 32.
__device__ inline uint32_t low_mask(int n) { return n == 32 ? ~0u : (1u << n) - 1u; }

// The number of columns, and of words of each, that fit into `capacity` words of shared memory.
struct TileShape {
  int columns, words, stride;
  TileShape(const Frame& frame, int max_columns, int capacity) {
    const int64_t words_per_column = frame.words();
    words = static_cast<int>(words_per_column < capacity ? words_per_column : capacity);
    columns = capacity / words < max_columns ? capacity / words : max_columns;
    if (columns % 2 == 0 && columns < max_columns) --columns;  // else the odd stride could exceed the capacity
    stride = columns | 1;
  }
  size_t bytes() const { return size_t{4} * static_cast<size_t>(words) * static_cast<size_t>(stride); }
};

// Divides the columns of a mask into bands of equally many columns, which one block each encodes or decodes.
struct Bands {
  Frame frame;
  TileShape shape;
  int64_t per_mask;

  // At most 64 columns, as far as they fit 32 KiB. That is small enough for a multiprocessor to run as many threads as
  // it can hold.
  Bands(int64_t height, int64_t width) : frame{height, width, height, 0, 0}, shape(frame, 64, 8192) {
    if (shape.columns > 32) shape.columns = shape.columns / 32 * 32;
    per_mask = (width + shape.columns - 1) / shape.columns;
  }
  // The tile of a band from `word` of each column on: the whole band, unless a column exceeds the capacity.
  __device__ Tile tile(int64_t band, int64_t word) const;
};

// Combines the values of all lanes of a warp; every lane gets the result.
template <typename T, typename Operation>
__device__ T warp_reduce(T value, Operation operation) {
  for (int step = 16; step > 0; step /= 2) value = operation(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Min {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};
struct Max {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

__device__ inline Tile Bands::tile(int64_t band, int64_t word) const {
  const int64_t x = band * shape.columns;
  return {x, word, static_cast<int>(min(frame.columns - x, int64_t{shape.columns})),
          static_cast<int>(min(frame.words() - word, int64_t{shape.words})), shape.stride};
}

// Iterates over a tile's words, numbered down its columns, from word `first` in steps of `step`.
class WordIterator {
 public:
  __device__ WordIterator(const Tile& tile, int first, int step)
      : words_(tile.words),
        x_(first / tile.words),
        k_(first % tile.words),
        dx_(step / tile.words),
        dk_(step % tile.words) {}
  __device__ int x() const { return x_; }
  __device__ int k() const { return k_; }
  __device__ void advance() {
    x_ += dx_;
    k_ += dk_;
    if (k_ >= words_) {
      k_ -= words_;
      ++x_;
    }
  }

 private:
  int words_, x_, k_, dx_, dk_;
};

// Bit j is set if pixel 32 * (tile.word + k) + j of the tile's column x differs from the one before it. The bit after
// the last pixel is set if a set run ends there and no pixel of the mask follows directly. carry: the pixel before the
// tile.
__device__ inline uint64_t changes_at(const Frame& frame, const Tile& tile, const uint32_t* bits, unsigned carry, int x,
                                      int k) {
  unsigned before = 0;
  if (k > 0) {
    before = bits[tile.word_index(x, k - 1)] >> 31;
  } else if (tile.word > 0) {
    before = carry;
  } else if (frame.columns_are_contiguous() && tile.x + x > 0) {
    before = x > 0 ? bits[tile.word_index(x - 1, tile.words - 1)] >> ((frame.rows - 1) % 32) & 1u : carry;
  }
  const bool ends =
      tile.word + k == frame.words() - 1 && (!frame.columns_are_contiguous() || tile.x + x == frame.columns - 1);
  const int places = tile.valid(frame, k) + ends;
  return changes_in(bits[tile.word_index(x, k)], before) & ((uint64_t{2} << (places - 1)) - 1);
}

// The last pixel of the tile, which is the carry of the next one.
__device__ inline unsigned last_pixel(const Frame& frame, const Tile& tile, const uint32_t* bits) {
  const int k = tile.words - 1;
  return bits[tile.word_index(tile.columns - 1, k)] >> (tile.valid(frame, k) - 1) & 1u;
}

// Position in the image of bit 0 of a word.
__device__ inline int64_t position_of(const Frame& frame, const Tile& tile, int x, int k) {
  return (frame.left + tile.x + x) * frame.height + frame.top + 32 * (tile.word + k);
}

// What one thread has counted of a part; the fields are those of Part.
struct Tally {
  int64_t changes = 0, last = 0, pixels = 0;
  int left = INT_MAX, top = INT_MAX, right = -1, bottom = -1;

  // Counts this thread's words of a tile. The bits must be complete, with a barrier after their last write.
  __device__ void add(const Frame& frame, const Tile& tile, const uint32_t* bits, unsigned carry) {
    const int total = tile.columns * tile.words;
    WordIterator iterator(tile, static_cast<int>(threadIdx.x), kThreads);
    for (int i = static_cast<int>(threadIdx.x); i < total; i += kThreads, iterator.advance()) {
      const uint64_t change_bits = changes_at(frame, tile, bits, carry, iterator.x(), iterator.k());
      if (change_bits != 0) {
        changes += __popcll(change_bits);
        last = position_of(frame, tile, iterator.x(), iterator.k()) + 63 - __clzll(static_cast<long long>(change_bits));
      }
      const uint32_t set = bits[tile.word_index(iterator.x(), iterator.k())];
      if (set == 0) continue;
      pixels += __popc(set);
      const int x = static_cast<int>(tile.x) + iterator.x(), y = static_cast<int>(32 * (tile.word + iterator.k()));
      left = left < x ? left : x;
      right = right > x ? right : x;
      const int first = y + __ffs(static_cast<int>(set)) - 1, end = y + 31 - __clz(static_cast<int>(set));
      top = top < first ? top : first;
      bottom = bottom > end ? bottom : end;
    }
  }
};

// A part in which no pixel is set, and that follows no set pixel.
__host__ __device__ inline Part empty_part() {
  Part part{};
  part.left = part.top = INT_MAX;
  part.right = part.bottom = -1;
  return part;
}

// Adds a part to a sum of the parts before it; rank and before stay as they are.
__device__ inline void merge(Part& sum, const Part& part) {
  sum.changes += part.changes;
  sum.last = max(sum.last, part.last);
  sum.pixels += part.pixels;
  sum.inner += part.inner;
  sum.outer += part.outer;
  sum.left = min(sum.left, part.left);
  sum.top = min(sum.top, part.top);
  sum.right = max(sum.right, part.right);
  sum.bottom = max(sum.bottom, part.bottom);
}

// Inclusive scan over the block: combines the values of all threads up to this one. `sums` (kWarps) is in shared
// memory; a barrier must precede its next use.
template <typename T, typename Operation>
__device__ T block_inclusive_scan(T value, T* sums, Operation operation) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int step = 1; step < 32; step *= 2) {
    const T other = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value = operation(other, value);
  }
  if (lane == 31) sums[warp] = value;
  __syncthreads();
  for (int i = 0; i < warp; ++i) value = operation(value, sums[i]);
  return value;
}

// Sums the tallies of a block's threads, and their further counts `inner` and `outer`, and stores the result in *part.
__device__ inline void store_part(const Tally& tally, int64_t inner, int64_t outer, Part* part) {
  __shared__ Part parts[kWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  Part sum{};
  sum.changes = warp_reduce(tally.changes, Sum());
  sum.last = warp_reduce(tally.last, Max());
  sum.pixels = warp_reduce(tally.pixels, Sum());
  sum.inner = warp_reduce(inner, Sum());
  sum.outer = warp_reduce(outer, Sum());
  sum.left = warp_reduce(tally.left, Min());
  sum.top = warp_reduce(tally.top, Min());
  sum.right = warp_reduce(tally.right, Max());
  sum.bottom = warp_reduce(tally.bottom, Max());
  if (threadIdx.x % 32 == 0) parts[warp] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kWarps; ++i) merge(sum, parts[i]);
  *part = sum;
}

// Whether a run follows the last change. If the image's last pixel is set, no empty background run follows.
__device__ inline bool has_trailing_run(int64_t changes, int64_t last, int64_t pixels) {
  return changes == 0 || last != pixels;
}

// Writes the run from a mask's last change to the end of the image, if there is one. For one thread of the block of the
// mask's last part.
template <typename Count>
__device__ void write_trailing_run(const Part& part, int64_t pixels, Count* counts) {
  const int64_t changes = part.rank + part.changes, last = max(part.before, part.last);
  if (has_trailing_run(changes, last, pixels)) counts[changes] = static_cast<Count>(pixels - last);
}

// Writes the counts of one part, tile after tile. A count belongs to the part that holds the change at its end.
template <typename Count>
class RunWriter {
 public:
  // Elements of `change_slots` per warp, for the changes of 32 words, and bytes of it for the block.
  static constexpr int kChangesPerWarp = 32 * 33;
  static constexpr size_t kBytes = sizeof(uint16_t) * kChangesPerWarp * kWarps;

  struct Shared {
    int64_t rank, last;  // number of changes before the tile, and position of the last of them
    int64_t warp_last[kWarps];
    int warp_changes[kWarps];
  };

  // shared and places are in shared memory; counts are the mask's. Call with all threads; a barrier must follow.
  __device__ RunWriter(Shared* shared, uint16_t* change_slots, Count* counts, const Part& part)
      : shared_(shared),
        change_slots_(change_slots + static_cast<int>(threadIdx.x) / 32 * kChangesPerWarp),
        counts_(counts) {
    if (threadIdx.x != 0) return;
    shared->rank = part.rank;
    shared->last = part.before;
  }

  // Writes the counts that end in this tile. Call with all threads, after a barrier that follows the last write of the
  // bits and any other use of `change_slots`.
  __device__ void add(const Frame& frame, const Tile& tile, const uint32_t* bits, unsigned carry) {
    const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    const int total = tile.columns * tile.words, words_per_warp = (total + kThreads - 1) / kThreads * 32;
    const int begin = warp * words_per_warp < total ? warp * words_per_warp : total;
    const int end = begin + words_per_warp < total ? begin + words_per_warp : total;
    int changes = 0;
    int64_t last = 0;
    WordIterator iterator(tile, begin + lane, 32);
    for (int i = begin + lane; i < end; i += 32, iterator.advance()) {
      const uint64_t change_bits = changes_at(frame, tile, bits, carry, iterator.x(), iterator.k());
      if (change_bits == 0) continue;
      changes += __popcll(change_bits);
      last = position_of(frame, tile, iterator.x(), iterator.k()) + 63 - __clzll(static_cast<long long>(change_bits));
    }
    changes = warp_reduce(changes, Sum());
    last = warp_reduce(last, Max());
    if (lane == 0) {
      shared_->warp_changes[warp] = changes;
      shared_->warp_last[warp] = last;
    }
    __syncthreads();
    int64_t rank = shared_->rank, before = shared_->last;
    for (int i = 0; i < warp; ++i) {
      rank += shared_->warp_changes[i];
      before = max(before, shared_->warp_last[i]);
    }
    if (changes > 0) write(frame, tile, bits, carry, begin, end, rank, before);
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int i = 0; i < kWarps; ++i) {
      shared_->rank += shared_->warp_changes[i];
      shared_->last = max(shared_->last, shared_->warp_last[i]);
    }
  }

 private:
  // Writes the counts that end in words [begin, end), with one warp. Changes are first put in order in shared memory,
  // so that neighbouring lanes write neighbouring counts.
  __device__ void write(const Frame& frame, const Tile& tile, const uint32_t* bits, unsigned carry, int begin, int end,
                        int64_t rank, int64_t before) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    WordIterator iterator(tile, begin + lane, 32);
    for (int start = begin; start < end; start += 32, iterator.advance()) {
      const bool in_range = start + lane < end;
      uint64_t change_bits = in_range ? changes_at(frame, tile, bits, carry, iterator.x(), iterator.k()) : 0;
      if (!__any_sync(kAllLanes, change_bits != 0)) continue;
      const int n = __popcll(change_bits);
      int slot = n;  // becomes the slot of this lane's first change
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(kAllLanes, slot, step);
        slot += lane >= step ? other : 0;
      }
      const int total = __shfl_sync(kAllLanes, slot, 31);
      slot -= n;
      for (; change_bits != 0; change_bits &= change_bits - 1) {
        change_slots_[slot++] = static_cast<uint16_t>(lane * 64 + __ffsll(static_cast<long long>(change_bits)) - 1);
      }
      __syncwarp();
      const int64_t first = in_range ? position_of(frame, tile, iterator.x(), iterator.k()) : 0;  // of this lane's word
      for (int j = 0; j < total; j += 32) {
        const int entry = change_slots_[j + lane < total ? j + lane : total - 1];
        const int64_t position = __shfl_sync(kAllLanes, first, entry / 64) + entry % 64;
        const int64_t left = __shfl_up_sync(kAllLanes, position, 1);
        if (j + lane < total) counts_[rank + j + lane] = static_cast<Count>(position - (lane > 0 ? left : before));
        before = __shfl_sync(kAllLanes, position, 31);
      }
      rank += total;
      __syncwarp();
    }
  }

  Shared* shared_;
  uint16_t* change_slots_;
  Count* counts_;
};

}  // namespace fastsam::rle::cuda
