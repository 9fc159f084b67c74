// Tiles of masks_cuda.cu, divided into bands of 32 pixel rows. If all pixels of a band are equal, runs can only begin
// or end at its borders; that holds for all bands of most blocks of most masks. So bands are classified first, and only
// the mixed ones have their bits in shared memory.
#pragma once

#include <cstdint>

#include "masks/masks_layout.cuh"

namespace fastsam::masks::cuda {

constexpr int kGroup = 8;           // rows of cells that are read at once
constexpr int kUsualColumns = 256;  // columns of cells for which the code has a constant stride
// BandClassifier bounds rounding errors for logits up to this magnitude; bands with larger ones are mixed.
constexpr float kMaxBoundedLogit = 1024;

// Classifies the bands of a tile by a quick look at all cells under them. kClear and kSet are certain; all other bands
// are kMixed.
class BandClassifier {
 public:
  // Construct it after a barrier that follows the construction of the BlockState.
  __device__ BandClassifier(const Problem& problem, const Workspace& workspace, const BlockState& block)
      : workspace_(workspace),
        block_(block),
        rows_(static_cast<int>(problem.rows)),
        columns_(static_cast<int>(problem.columns)),
        height_(problem.y_size),
        use_fast_path_(problem.rows >= kGroup && problem.rows * problem.columns <= INT32_MAX),
        lane_(static_cast<int>(threadIdx.x) % 32) {
    const int64_t last = problem.columns - 1;
    column_ = block.logits + min(block.first_cell + lane_, last);
    // Cells that no pixel of the block reads must not influence the result.
    const bool is_used = block.starts[max(lane_ - 2, 0)] < block.starts[lane_ + 1];
    const bool is_used_beyond = block.starts[kCells - 2 + lane_ % 2] < block.starts[kCells];
    beyond_ = is_used_beyond ? block.logits + min(block.first_cell + kCells + lane_ % 2, last) : column_;
    beyond_ += lane_ / 2 % kGroup * problem.columns;
#ifdef __CUDA_ARCH__
    asm("" : "+l"(column_), "+l"(beyond_));  // keeps the compiler from recomputing these for each group
#endif
    constexpr float kSlack = kTapRounding * kMaxBoundedLogit, kAny = 2 * kHugeLogit;
    const bool is_read = is_used || is_used_beyond;
    // Levels beyond the bound must not let larger logits pass; written so that NaN stays NaN, and all bands are mixed.
    const float low = problem.levels.low > kMaxBoundedLogit ? kMaxBoundedLogit : problem.levels.low;
    const float high = problem.levels.high < -kMaxBoundedLogit ? -kMaxBoundedLogit : problem.levels.high;
    clear_max_ = is_read ? low - kSlack : kAny;
    clear_min_ = is_read ? -kMaxBoundedLogit : -kAny;
    set_min_ = is_read ? high + kSlack : -kAny;
    set_max_ = is_read ? kMaxBoundedLogit : kAny;
  }

  // Classifies this warp's bands of the tile into block.bands.
  __device__ void classify(const Tile& tile) const {
    columns_ == kUsualColumns ? classify<kUsualColumns>(tile) : classify<0>(tile);
  }

 private:
  struct Group {
    float cells[kGroup], beyond;
  };

  // kColumns: columns of cells of the logits if known at compile time, else 0.
  template <int kColumns>
  __device__ void classify(const Tile& tile) const {
    for (int start = static_cast<int>(threadIdx.x) / 32; start < tile.words; start += 32 * kWarps) {
      // Lane i holds the rows of cells that this warp's i-th band reads, and in the end that band's kind.
      const int band = start + kWarps * lane_;
      const bool has_band = band < tile.words;
      Band kind = kMixed;
      int first = 0, count = 0;
      if (has_band) {
        const int64_t y = 32 * (tile.word + band);
        first = workspace_.y[y].cell;
        count = min(workspace_.y[min(y + 31, height_ - 1)].cell + 3, rows_) - first;
      }
      const int bands = use_fast_path_ ? __popc(__ballot_sync(kAllLanes, has_band)) : 0;
      int rows = __shfl_sync(kAllLanes, count, 0);
      Group group{};
      if (bands > 0) group = load<kColumns>(__shfl_sync(kAllLanes, first, 0), rows, 0);
      bool clear = true, set = true;
      for (int i = 0, r = 0; i < bands;) {
        const bool done = r + kGroup >= rows;
        const int next = min(i + done, bands - 1), next_row = done ? 0 : r + kGroup;
        const int next_rows = __shfl_sync(kAllLanes, count, next);
        // Load the next group while this one is examined.
        const Group next_group = load<kColumns>(__shfl_sync(kAllLanes, first, next), next_rows, next_row);
        update_bands(group, clear, set);
        if (done) {
          const bool all_clear = __all_sync(kAllLanes, clear), all_set = __all_sync(kAllLanes, set);
          if (lane_ == i) kind = all_clear ? kClear : all_set ? kSet : kMixed;
          clear = set = true;
          ++i;
        }
        group = next_group;
        r = next_row;
        rows = next_rows;
      }
      if (has_band) block_.bands[band] = kind;
    }
  }

  // Loads kGroup rows of cells from row `skip` of the `count` rows at `first`. The number is constant, so that all
  // loads are in flight together. If some rows lie outside the band's, they can only make it mixed where it needn't be.
  template <int kColumns>
  __device__ Group load(int first, int count, int skip) const {
    const int columns = kColumns != 0 ? kColumns : columns_;
    const int offset = max(first + min(skip, count - kGroup), 0) * columns;
    Group group;
    const float* const at = column_ + offset;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) group.cells[i] = __ldg(at + int64_t{columns} * i);
    group.beyond = __ldg(beyond_ + offset);
    return group;
  }

  // Clears `clear` and `set` unless all cells of the group lie within their bounds.
  __device__ void update_bands(const Group& group, bool& clear, bool& set) const {
    float min_cell = group.beyond, max_cell = group.beyond, sum = group.beyond;
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      min_cell = fminf(min_cell, group.cells[i]);
      max_cell = fmaxf(max_cell, group.cells[i]);
      sum += group.cells[i];  // NaN if any cell is; fminf and fmaxf ignore NaN
    }
    const bool no_nan = sum == sum;
    clear = clear & no_nan & (max_cell < clear_max_) & (min_cell > clear_min_);
    set = set & no_nan & (min_cell > set_min_) & (max_cell < set_max_);
  }

  const Workspace& workspace_;
  const BlockState& block_;
  const int rows_, columns_;
  const int64_t height_;
  const bool use_fast_path_;
  const int lane_;
  const float *column_, *beyond_;
  float clear_min_, clear_max_, set_min_, set_max_;  // bounds of the cells of clear and of set bands
};

// The pixels of a tile whose bands are classified and whose mixed bands have their bits.
class TilePixels {
 public:
  // carry: the pixel before the tile if a run may continue from it, else 0.
  __device__ TilePixels(const Frame& frame, const Tile& tile, const BlockState& block, unsigned carry)
      : frame_(frame),
        tile_(tile),
        words_(block.bits),
        bands_(block.bands),
        last_(tile.valid(frame, tile.words - 1)),
        last_bits_(rle::cuda::low_mask(last_)),
        carry_(carry) {}

  __device__ const Tile& tile() const { return tile_; }

  // The bits of band k that are pixels of the mask.
  __device__ uint32_t valid(int k) const { return k == tile_.words - 1 ? last_bits_ : ~0u; }

  // The 32 pixels of column x in band k, the first one in bit 0.
  __device__ uint32_t word(int x, int k) const {
    const uint8_t band = bands_[k];
    if (band == kMixed) return words_[tile_.word_index(x, k)];
    return band == kSet ? valid(k) : 0;
  }

  // The last pixel of a column.
  __device__ unsigned last(int x) const { return word(x, tile_.words - 1) >> (last_ - 1) & 1u; }

  // Position of a column's first pixel in the image.
  __device__ int64_t position(int x) const { return rle::cuda::position_of(frame_, tile_, x, 0); }

  // If a set run ends with the last pixel of column x: the row of its end, counted from the tile's first. Else 0. A run
  // that may continue in another tile or column has its end found there.
  __device__ int end(int x) const {
    const bool ends = tile_.word + tile_.words == frame_.words() &&
                      (!frame_.columns_are_contiguous() || tile_.x + x == frame_.columns - 1);
    return ends && last(x) != 0 ? 32 * (tile_.words - 1) + last_ : 0;
  }

  // Calls visit(k, word, before) for those bands k in [first, end) in which column x can change, and for set bands at
  // either end of that range. word: the band's pixels; before: the pixel above them. Skips all other bands, which equal
  // the one before them, and adds the number of set ones among them to set_between. All lanes must call it, with the
  // same first and end. x may lie beyond the tile; the values are meaningless then.
  template <typename Visit>
  __device__ void for_each_changing_band(int x, int first, int end, int& set_between, Visit visit) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    x = min(x, tile_.columns - 1);
    // Skipped bands equal the one before them, so that this stays right across them.
    unsigned before = first > 0 ? word(x, first - 1) >> 31 : pixel_before_column(x);
    for (int start = first; start < end; start += 32) {
      const int band_index = start + lane;
      bool active = false, set = false, mixed = false;
      if (band_index < end) {
        const uint8_t band = bands_[band_index], above = band_index > 0 ? bands_[band_index - 1] : band_before_first();
        mixed = band == kMixed;
        set = band == kSet;
        active = mixed || band != above || (set && (band_index == first || band_index == end - 1));
      }
      const uint32_t all_active = __ballot_sync(kAllLanes, active), all_mixed = __ballot_sync(kAllLanes, mixed),
                     all_set = __ballot_sync(kAllLanes, set);
      set_between += __popc(all_set & ~all_active);
      for (uint32_t remaining = all_active; remaining != 0; remaining &= remaining - 1) {
        const uint32_t lowest = remaining & (0u - remaining);
        const int k = start + 31 - __clz(static_cast<int>(lowest));
        uint32_t word = 0;
        if ((all_mixed & lowest) != 0) {
          word = words_[tile_.word_index(x, k)];
        } else if ((all_set & lowest) != 0) {
          word = valid(k);
        }
        visit(k, word, before);
        before = word >> 31;
      }
    }
  }

  // The pixels of band k that differ from the one before them.
  __device__ uint32_t changes(int k, uint32_t word, unsigned before) const {
    return (word ^ (word << 1 | before)) & valid(k);
  }

  // Writes the bits of the bands that aren't mixed to `words`. A barrier must follow.
  __device__ void fill_uniform_bands(uint32_t* words) const {
    for (int k = static_cast<int>(threadIdx.x) / 32; k < tile_.words; k += kWarps) {
      if (bands_[k] == kMixed) continue;
      for (int x = static_cast<int>(threadIdx.x) % 32; x < tile_.columns; x += 32)
        words[tile_.word_index(x, k)] = word(x, k);
    }
  }

 private:
  // The pixel before the first one of column x.
  __device__ unsigned pixel_before_column(int x) const {
    if (tile_.word > 0 || x == 0) return carry_;
    return frame_.columns_are_contiguous() ? last(x - 1) : 0;
  }

  // The kind of what precedes the first band, over all columns.
  __device__ uint8_t band_before_first() const {
    if (carry_ != 0) return kMixed;
    return tile_.word == 0 && frame_.columns_are_contiguous() ? bands_[tile_.words - 1] : static_cast<uint8_t>(kClear);
  }

  const Frame& frame_;
  const Tile& tile_;
  const uint32_t* const words_;
  const uint8_t* const bands_;
  const int last_;  // number of rows of the last band
  const uint32_t last_bits_;
  const unsigned carry_;
};

// Adds a tile to the thread's tally. Each thread counts a column, or a part of one if there are threads to spare.
__device__ inline void tally_tile(const TilePixels& pixels, rle::cuda::Tally& tally) {
  const Tile& tile = pixels.tile();
  const int padded_columns = (tile.columns + 31) / 32 * 32, parts = kThreads / padded_columns;
  const int part = static_cast<int>(threadIdx.x) / padded_columns, x = static_cast<int>(threadIdx.x) % padded_columns;
  if (part >= parts) return;
  int changes = 0, last = 0, set = 0, set_bands = 0, top = -1, bottom = -1;
  const int end = tile.words * (part + 1) / parts;
  pixels.for_each_changing_band(x, tile.words * part / parts, end, set_bands,
                                [&](int k, uint32_t word, unsigned before) {
                                  const uint32_t change_bits = pixels.changes(k, word, before);
                                  changes += __popc(change_bits);
                                  if (change_bits != 0) last = 32 * k + 31 - __clz(static_cast<int>(change_bits));
                                  set += __popc(word);
                                  if (word != 0) {
                                    if (top < 0) top = 32 * k + __ffs(static_cast<int>(word)) - 1;
                                    bottom = 32 * k + 31 - __clz(static_cast<int>(word));
                                  } else if (before != 0 && k > 0) {
                                    bottom = 32 * k - 1;  // set bands that were skipped end here
                                  }
                                });
  if (x >= tile.columns) return;
  if (end == tile.words) {
    const int stop = pixels.end(x);
    changes += stop != 0;
    last = stop != 0 ? stop : last;
  }
  set += 32 * set_bands;
  tally.changes += changes;
  if (changes != 0) tally.last = max(tally.last, pixels.position(x) + last);
  if (set == 0) return;
  tally.pixels += set;
  const int column = static_cast<int>(tile.x) + x, row = static_cast<int>(32 * tile.word);
  tally.left = min(tally.left, column);
  tally.right = max(tally.right, column);
  tally.top = min(tally.top, row + top);
  tally.bottom = max(tally.bottom, row + bottom);
}

// Writes the counts of one part, each thread those of one column. Suited to columns with few changes; with many,
// rle::cuda::RunWriter is faster, whose lanes write neighbouring counts.
template <typename Count>
class ColumnWriter {
 public:
  struct Shared {
    int64_t rank, last;  // number of changes before the tile, and position of the last of them
    int64_t lasts[kWarps];
    int changes[kWarps];
  };

  // Arguments and barrier as for RunWriter.
  __device__ ColumnWriter(Shared* shared, Count* counts, const Part& part) : shared_(shared), counts_(counts) {
    if (threadIdx.x != 0) return;
    shared->rank = part.rank;
    shared->last = part.before;
  }

  // Writes the counts that end in this tile. Call with all threads, tile after tile.
  __device__ void add(const TilePixels& pixels) {
    const int words = pixels.tile().words, x = static_cast<int>(threadIdx.x);
    const bool in_range = x < pixels.tile().columns;
    int changes = 0, last_change = 0, unused = 0;
    pixels.for_each_changing_band(x, 0, words, unused, [&](int k, uint32_t word, unsigned before) {
      const uint32_t change_bits = pixels.changes(k, word, before);
      changes += __popc(change_bits);
      if (change_bits != 0) last_change = 32 * k + 31 - __clz(static_cast<int>(change_bits));
    });
    const int run_end = in_range ? pixels.end(x) : 0;
    changes = in_range ? changes + (run_end != 0) : 0;
    const int64_t origin = in_range ? pixels.position(x) : 0;
    const int64_t last = changes > 0 ? origin + (run_end != 0 ? run_end : last_change) : 0;
    const int count_up_to = rle::cuda::block_inclusive_scan(changes, shared_->changes, rle::cuda::Sum());
    const int64_t last_up_to = rle::cuda::block_inclusive_scan(last, shared_->lasts, rle::cuda::Max());
    const int64_t rank = shared_->rank;
    // The last change in the columns of the threads before this one.
    int64_t before = __shfl_up_sync(kAllLanes, last_up_to, 1);
    if (threadIdx.x % 32 == 0) before = 0;
    for (int i = 0; i < static_cast<int>(threadIdx.x) / 32; ++i) before = max(before, shared_->lasts[i]);
    before = max(before, shared_->last);
    Count* out = counts_ + rank + count_up_to - changes;
    const auto emit = [&](int64_t position) {
      *out++ = static_cast<Count>(position - before);
      before = position;
    };
    if (__any_sync(kAllLanes, changes > 0)) {
      pixels.for_each_changing_band(x, 0, words, unused, [&](int k, uint32_t word, unsigned previous) {
        if (!in_range) return;
        for (uint32_t change_bits = pixels.changes(k, word, previous); change_bits != 0;
             change_bits &= change_bits - 1) {
          emit(origin + 32 * k + __ffs(static_cast<int>(change_bits)) - 1);
        }
      });
      if (run_end != 0) emit(origin + run_end);
    }
    __syncthreads();
    if (threadIdx.x != kThreads - 1) return;
    shared_->rank = rank + count_up_to;
    shared_->last = max(shared_->last, last_up_to);
  }

 private:
  Shared* shared_;
  Count* counts_;
};

}  // namespace fastsam::masks::cuda
