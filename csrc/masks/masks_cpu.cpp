// Runs, boxes and sizes of masks from their low-resolution logits, on the CPU.
//
// A mask is walked down its columns, in the order of its runs. In each column of cells, pixels need no evaluation where
// all cells around them lie above the upper level or below the lower one. The remaining pixels, mostly a band around
// the boundary, are evaluated. In the worst case, as with noise, every pixel is evaluated in one pass of plain
// arithmetic.
#include "masks/masks.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <utility>

#include "common/fork_join.h"
#include "common/isa.h"
#include "masks/masks_axis.h"
#include "rle/rle_bits.h"

namespace fastsam::masks {
namespace {

// A known stretch of fewer pixels than this, just above an evaluated one, is evaluated with it.
constexpr int64_t kMaxMergedGap = 16;
// Floats that kernels may read or write beyond those in use.
constexpr int64_t kSlack = 80;
// Fewer masks per thread are not worth a thread.
constexpr int64_t kMasksPerThread = 2;
// Parts per thread for load balance: one mask may take many times as long as another.
constexpr int64_t kPartsPerThread = 4;

// What is known of pixels: none is above the lower level, all are above the upper level, or they must be evaluated.
enum class Kind : uint8_t { kBelow, kAbove, kMixed };

struct Segment {
  int64_t begin, end;  // rows of pixels
  Kind kind;
};

// Consecutive segments of one column, from top to bottom without gaps. Mixed ones begin at multiples of
// PreparedAxis::kBlock.
class Segments {
 public:
  void clear() { list_.clear(); }
  const std::vector<Segment>& list() const { return list_; }

  void append(int64_t begin, int64_t end, Kind kind) {
    if (begin == end) return;
    if (kind == Kind::kMixed) {
      begin = aligned(begin);
      while (!list_.empty() && list_.back().kind != Kind::kMixed && begin - list_.back().begin < kMaxMergedGap) {
        begin = aligned(std::min(begin, list_.back().begin));
        list_.pop_back();
      }
      if (!list_.empty() && list_.back().kind != Kind::kMixed) list_.back().end = begin;
    }
    if (!list_.empty() && list_.back().kind == kind) {
      list_.back().end = end;
    } else {
      list_.push_back({begin, end, kind});
    }
  }

 private:
  static int64_t aligned(int64_t position) { return position / PreparedAxis::kBlock * PreparedAxis::kBlock; }

  std::vector<Segment> list_;
};

// A column of cells enlarged along y, as far as it was needed.
struct InterpolatedColumn {
  int64_t column = -1, begin = 0, end = 0;  // rows [begin, end) were computed last
  std::vector<float> values;
};

// The working memory of one thread.
struct Scratch {
  std::vector<float> cells;            // columns of cells, Worker::stride_ floats apart
  InterpolatedColumn interpolated[3];  // column c is at c % 3
  std::vector<uint64_t> above_high, maybe_above_low, bits;
  std::vector<int64_t> counts;  // run lengths of all masks so far
  Segments segments;
};

// A cache of working memory for later calls: page faults of fresh memory can take longer than a call. Slots are
// exchanged atomically, not locked, so that the process may fork at any time.
class ScratchCache {
 public:
  static std::unique_ptr<Scratch> acquire() {
    for (std::atomic<Scratch*>& slot : slots) {
      if (Scratch* found = slot.exchange(nullptr)) return std::unique_ptr<Scratch>(found);
    }
    return std::make_unique<Scratch>();
  }

  static void release(std::unique_ptr<Scratch> scratch) {
    if (scratch->cells.capacity() > kMaxElements || scratch->counts.capacity() > kMaxElements) return;
    for (std::atomic<Scratch*>& slot : slots) {
      Scratch* empty = nullptr;
      if (slot.compare_exchange_strong(empty, scratch.get())) {
        scratch.release();
        return;
      }
    }
  }

 private:
  static constexpr size_t kMaxElements = size_t{1} << 19;  // elements: 4 MiB of counts
  static std::atomic<Scratch*> slots[4];
};

std::atomic<Scratch*> ScratchCache::slots[4];

// Measures masks one after the other; each thread has its own.
class Worker {
 public:
  Worker(const PreparedAxis& y, const PreparedAxis& x, const Axis& x_axis, const Levels& levels,
         const Placement& placement)
      : y_(y), x_(x), x_weights_(x_axis.weights), y_taps_(y.taps()), levels_(levels), placement_(placement) {
    // Longer than the cells in use, since kernels read rows in whole words of 64, and two rows beyond.
    stride_ = (y_.num_cells_read() + 63) / 64 * 64 + kSlack;
    cells_.resize(static_cast<size_t>(x_.num_cells_read() * stride_));
    for (InterpolatedColumn& column : interpolated_) column.values.resize(static_cast<size_t>(y_.size() + kSlack));
    bits_.resize(static_cast<size_t>(y_.size() / 64 + 2));
    above_high_.resize(static_cast<size_t>(stride_ / 64 + 1));
    maybe_above_low_.resize(above_high_.size());
  }
  ~Worker() { ScratchCache::release(std::move(scratch_)); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Number of counts of each mask measured so far; counts() holds these, num_counts() in all.
  const std::vector<int64_t>& lengths() const { return lengths_; }
  const int64_t* counts() const { return counts_.data(); }
  int64_t num_counts() const { return num_counts_; }

  // Measures the next mask: appends its counts, and writes box (4) and sizes (3) as in MaskMeasurements.
  void measure(const float* logits, int64_t rows, int64_t columns, int64_t* box, int64_t* sizes) {
    load(logits, rows, columns);
    first_count_ = num_counts_;
    inner_ = outer_ = 0;
    top_ = y_.size();
    left_ = x_.size();
    bottom_ = right_ = 0;
    const int64_t cell_columns = x_.num_cells_read() - 2;
    for (int64_t c = 0; c < cell_columns; ++c) process_cell_column(c);
    sizes[0] = finish();
    sizes[1] = inner_;
    sizes[2] = outer_;
    const bool has_pixels = sizes[0] > 0;
    box[0] = has_pixels ? left_ : 0;
    box[1] = has_pixels ? top_ : 0;
    box[2] = has_pixels ? right_ : 0;
    box[3] = has_pixels ? bottom_ - 1 : 0;
  }

 private:
  // Transposes the logits to cells_. Cells beyond the last row and column repeat it, as Axis defines.
  void load(const float* logits, int64_t rows, int64_t columns) {
    const int64_t used_rows = std::min(rows, y_.num_cells_read()),
                  used_columns = std::min(columns, x_.num_cells_read());
    float* cells = cells_.data();
    isa_.transpose_limited(logits, columns, used_rows, used_columns, kHugeLogit, cells, stride_);
    for (int64_t c = 0; c < used_columns; ++c) {
      for (int64_t r = used_rows; r < y_.num_cells_read(); ++r)
        cells[c * stride_ + r] = cells[c * stride_ + used_rows - 1];
    }
    for (int64_t c = used_columns; c < x_.num_cells_read(); ++c) {
      std::copy_n(cells + (used_columns - 1) * stride_, stride_, cells + c * stride_);
    }
    for (InterpolatedColumn& column : interpolated_) column.column = -1;
  }

  // Processes all pixel columns whose first cell is column c.
  void process_cell_column(int64_t c) {
    const int64_t first = x_.first_position_at(c), end = x_.first_position_at(c + 1);
    if (first == end) return;
    const bool has_pixels = find_segments(c);
    if (!has_pixels) return;
    const float* columns[3] = {};
    for (int k = 0; k < 3; ++k) columns[k] = interpolate(c + k);
    for (const Segment& segment : segments_.list()) {
      if (segment.kind != Kind::kAbove) continue;
      inner_ += (segment.end - segment.begin) * (end - first);
      outer_ += (segment.end - segment.begin) * (end - first);
    }
    for (int64_t x = first; x < end; ++x) process_pixel_column(x, columns);
  }

  // Finds the segments of pixel columns whose first cell is column c. Returns false if no pixel of them can be above
  // the lower level.
  bool find_segments(int64_t c) {
    const float* cells = cells_.data() + c * stride_;
    const int64_t rows = y_.num_cells_read() - 2;
    isa_.classify(cells, cells + stride_, cells + 2 * stride_, rows, levels_.high, levels_.low, above_high_.data(),
                  maybe_above_low_.data());
    segments_.clear();
    Kind kind = kind_at(0);
    int64_t begin = 0;
    for (int64_t r = 0; r < rows;) {
      // Find the next row of another kind in this word.
      const int64_t word = r / 64;
      const uint64_t above = above_high_[static_cast<size_t>(word)],
                     maybe_above = maybe_above_low_[static_cast<size_t>(word)];
      const uint64_t differs =
          (kind == Kind::kAbove ? ~above : above) | (kind == Kind::kBelow ? maybe_above : ~maybe_above);
      const uint64_t left = differs & (~uint64_t{0} << (r % 64));
      if (left == 0) {
        r = (word + 1) * 64;
        continue;
      }
      r = word * 64 + __builtin_ctzll(left);
      if (r >= rows) break;
      segments_.append(y_.first_position_at(begin), y_.first_position_at(r), kind);
      begin = r;
      kind = kind_at(r);
    }
    segments_.append(y_.first_position_at(begin), y_.size(), kind);
    return segments_.list().size() > 1 || segments_.list()[0].kind != Kind::kBelow;
  }

  Kind kind_at(int64_t r) const {
    const size_t word = static_cast<size_t>(r / 64);
    if (above_high_[word] >> (r % 64) & 1) return Kind::kAbove;
    return maybe_above_low_[word] >> (r % 64) & 1 ? Kind::kMixed : Kind::kBelow;
  }

  // Enlarges a column of cells along y in the mixed segments, unless that has been done.
  const float* interpolate(int64_t column) {
    InterpolatedColumn& interpolated = interpolated_[column % 3];
    for (const Segment& segment : segments_.list()) {
      if (segment.kind != Kind::kMixed) continue;
      if (interpolated.column == column && interpolated.begin <= segment.begin && segment.end <= interpolated.end)
        continue;
      isa_.interpolate_column(cells_.data() + column * stride_, &y_taps_, segment.begin, segment.end,
                              interpolated.values.data());
      interpolated.column = column;
      interpolated.begin = segment.begin;
      interpolated.end = segment.end;
    }
    return interpolated.values.data();
  }

  // Appends the positions at which pixel column x changes, and updates the box and the sizes. columns: the three
  // interpolated columns of cells that it reads.
  void process_pixel_column(int64_t x, const float* const* columns) {
    // Room for a change at each pixel, one at the column's end, and the mask's last count.
    const size_t needed = static_cast<size_t>(num_counts_ + y_.size() + 2);
    if (counts_.size() < needed) counts_.resize(std::max(needed, counts_.size() * 2));
    const int64_t base = (x + placement_.left) * placement_.height + placement_.top;
    int64_t* const start = counts_.data() + num_counts_;
    int64_t* out = start;
    uint64_t value = 0;  // of the previous pixel
    for (const Segment& segment : segments_.list()) {
      if (segment.kind != Kind::kMixed) {
        const uint64_t is_above = segment.kind == Kind::kAbove;
        if (value != is_above) *out++ = base + segment.begin;
        value = is_above;
        continue;
      }
      const float* at[3] = {columns[0] + segment.begin, columns[1] + segment.begin, columns[2] + segment.begin};
      const int64_t n = segment.end - segment.begin;
      int64_t level_counts[2] = {0, 0};
      isa_.threshold(at, x_weights_ + 3 * x, n, levels_.threshold, levels_.high, levels_.low, bits_.data(),
                     level_counts);
      inner_ += level_counts[0];
      outer_ += level_counts[1];
      for (int64_t i = 0; i < n; i += 64) {
        const uint64_t word = bits_[static_cast<size_t>(i / 64)];
        uint64_t changes = rle::changes_in(word, value);
        if (n - i < 64) changes &= ~(~uint64_t{0} << (n - i));
        for (; changes != 0; changes &= changes - 1) *out++ = base + segment.begin + i + __builtin_ctzll(changes);
        value = word >> (std::min<int64_t>(n - i, 64) - 1) & 1;
      }
    }
    if (value != 0) *out++ = base + y_.size();
    if (out == start) return;
    left_ = std::min(left_, x);
    right_ = x;
    top_ = std::min(top_, start[0] - base);
    bottom_ = std::max(bottom_, out[-1] - base);
    if (num_counts_ > first_count_ && start[-1] == start[0]) {
      // The previous column ends in a run that this one continues: drop its end and the start found here.
      std::copy(start + 1, out, start - 1);
      out -= 2;
    }
    num_counts_ = out - counts_.data();
  }

  // Turns the mask's change positions into run lengths. Returns the number of set pixels.
  int64_t finish() {
    const size_t needed = static_cast<size_t>(num_counts_ + 1);
    if (counts_.size() < needed) counts_.resize(std::max(needed, counts_.size() * 2));
    int64_t* const first = counts_.data() + first_count_;
    const int64_t n = num_counts_ - first_count_, pixels = placement_.height * placement_.width;
    int64_t area = 0, before = 0;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t at = first[i];
      first[i] = at - before;
      before = at;
      area += i % 2 == 1 ? first[i] : 0;
    }
    if (before != pixels) first[n] = pixels - before, ++num_counts_;
    lengths_.push_back(num_counts_ - first_count_);
    return area;
  }

  const MasksKernels& isa_ = kernels().masks;
  const PreparedAxis &y_, &x_;
  const float* x_weights_;
  const MaskTaps y_taps_;
  const Levels levels_;
  const Placement placement_;
  int64_t stride_ = 0;
  std::unique_ptr<Scratch> scratch_ = ScratchCache::acquire();
  std::vector<float>& cells_ = scratch_->cells;
  InterpolatedColumn (&interpolated_)[3] = scratch_->interpolated;
  std::vector<uint64_t>&above_high_ = scratch_->above_high, &maybe_above_low_ = scratch_->maybe_above_low,
  &bits_ = scratch_->bits;
  std::vector<int64_t>& counts_ = scratch_->counts;
  Segments& segments_ = scratch_->segments;
  std::vector<int64_t> lengths_;
  int64_t first_count_ = 0, num_counts_ = 0;  // in counts_: where this mask begins, and where the next value goes
  // Pixels of this mask above the upper and the lower level, and its box; bottom_ is exclusive.
  int64_t inner_ = 0, outer_ = 0, left_ = 0, top_ = 0, right_ = 0, bottom_ = 0;
};

void check(const Axis& y, const Axis& x, const Levels& levels, const Placement& placement) {
  if (y.size < 1 || x.size < 1) throw std::invalid_argument("masks must be enlarged to at least one pixel");
  if (levels.high < levels.threshold || levels.low > levels.threshold) {
    throw std::invalid_argument("the stability offset must be 0 or more");
  }
  if (!rle::is_valid_size(placement.height, placement.width) || placement.left < 0 || placement.top < 0 ||
      placement.left > placement.width - x.size || placement.top > placement.height - y.size) {
    throw std::invalid_argument("the enlarged masks must lie within the image");
  }
}

}  // namespace

MaskMeasurements measure(const float* logits, int64_t n, int64_t rows, int64_t columns, const Axis& y, const Axis& x,
                         const Levels& levels, const Placement& placement, int64_t threads) {
  check(y, x, levels, placement);
  const PreparedAxis prepared_y(y, rows, "y"), prepared_x(x, columns, "x");
  MaskMeasurements result;
  result.boxes.resize(static_cast<size_t>(4 * n));
  result.sizes.resize(static_cast<size_t>(3 * n));
  std::vector<std::unique_ptr<Worker>> workers(static_cast<size_t>(n));  // each at the index of its first mask
  const auto part = [&](int64_t begin, int64_t end) {
    auto worker = std::make_unique<Worker>(prepared_y, prepared_x, x, levels, placement);
    for (int64_t i = begin; i < end; ++i) {
      worker->measure(logits + i * rows * columns, rows, columns, result.boxes.data() + 4 * i,
                      result.sizes.data() + 3 * i);
    }
    workers[static_cast<size_t>(begin)] = std::move(worker);
  };
  fork_join(threads, n, kMasksPerThread, part, kPartsPerThread);
  int64_t total = 0;
  for (const std::unique_ptr<Worker>& worker : workers) total += worker ? worker->num_counts() : 0;
  result.runs.counts.reserve(static_cast<size_t>(total));
  for (const std::unique_ptr<Worker>& worker : workers) {
    if (!worker) continue;
    result.runs.counts.insert(result.runs.counts.end(), worker->counts(), worker->counts() + worker->num_counts());
    for (const int64_t length : worker->lengths()) {
      result.runs.offsets.push_back(result.runs.offsets.back() + length);
    }
  }
  return result;
}

}  // namespace fastsam::masks
