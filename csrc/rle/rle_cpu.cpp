// Masks to runs and back, and what can be read off the runs of one mask.
#include "rle/rle.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "common/fork_join.h"
#include "common/isa.h"

namespace fastsam::rle {
namespace {

// Masks below this many bytes per thread are not worth a thread.
constexpr int64_t kBytesPerThread = int64_t{1} << 20;
// find_changes is given this many bytes at most, so that its indices fit 32 bits and its buffer the cache.
constexpr int64_t kChunk = int64_t{1} << 14;

// Turns the ascending positions where the mask changes into runs.
void append_runs(const std::vector<int64_t>& changes, int64_t pixels, std::vector<int64_t>& counts) {
  counts.reserve(counts.size() + changes.size() + 1);
  int64_t begin = 0;
  for (const int64_t change : changes) {
    counts.push_back(change - begin);
    begin = change;
  }
  counts.push_back(pixels - begin);
}

// A mask whose columns are contiguous and follow one another: one walk through memory.
std::vector<int64_t> changes_along_columns(const uint8_t* mask, int64_t pixels) {
  const RleKernels& isa = kernels().rle;
  uint32_t found[kChunk];
  std::vector<int64_t> changes;
  if (mask[0] != 0) changes.push_back(0);
  for (int64_t start = 1; start < pixels; start += kChunk) {
    const int64_t n = std::min(kChunk, pixels - start);
    const size_t count = isa.find_changes(mask + start - 1, mask + start, static_cast<size_t>(n), found);
    for (size_t k = 0; k < count; ++k) changes.push_back(start + found[k]);
  }
  return changes;
}

// A mask whose rows are contiguous: each row is compared with the one above, which meets the changes row by row; a
// counting sort then brings them into column order. No transposed copy of the mask is made.
std::vector<int64_t> changes_along_rows(const uint8_t* mask, int64_t height, int64_t width, int64_t stride_y) {
  const RleKernels& isa = kernels().rle;
  uint32_t found[kChunk];
  std::vector<uint32_t> columns;                                          // of all changes, row after row
  std::vector<int64_t> row_ends(static_cast<size_t>(height));             // into columns
  std::vector<int64_t> column_begins(static_cast<size_t>(width) + 1, 0);  // into the sorted changes
  const auto compare = [&](const uint8_t* before, const uint8_t* after, int64_t first, int64_t n) {
    for (int64_t start = 0; start < n; start += kChunk) {
      const int64_t length = std::min(kChunk, n - start);
      const size_t count = isa.find_changes(before + start, after + start, static_cast<size_t>(length), found);
      const size_t end = columns.size();
      columns.resize(end + count);
      for (size_t k = 0; k < count; ++k) {
        const size_t x = static_cast<size_t>(first + start) + found[k];
        columns[end + k] = static_cast<uint32_t>(x);
        ++column_begins[x + 1];
      }
    }
  };
  // The pixel before the top of a column is the bottom of the column to the left.
  const uint8_t before_first = 0;
  compare(&before_first, mask, 0, 1);
  compare(mask + (height - 1) * stride_y, mask + 1, 1, width - 1);
  row_ends[0] = static_cast<int64_t>(columns.size());
  for (int64_t y = 1; y < height; ++y) {
    compare(mask + (y - 1) * stride_y, mask + y * stride_y, 0, width);
    row_ends[static_cast<size_t>(y)] = static_cast<int64_t>(columns.size());
  }
  for (size_t x = 0; x < static_cast<size_t>(width); ++x) column_begins[x + 1] += column_begins[x];
  std::vector<int64_t> changes(columns.size());
  int64_t next = 0;
  for (int64_t y = 0; y < height; ++y) {
    for (; next < row_ends[static_cast<size_t>(y)]; ++next) {
      const uint32_t x = columns[static_cast<size_t>(next)];
      changes[static_cast<size_t>(column_begins[x]++)] = x * height + y;
    }
  }
  return changes;
}

std::vector<int64_t> find_all_changes(const MaskView& masks, int64_t image) {
  const uint8_t* mask = masks.at(image, 0, 0);
  if (masks.stride_y == 1 && (masks.stride_x == masks.height || masks.width == 1)) {
    return changes_along_columns(mask, masks.height * masks.width);
  }
  if (masks.stride_x == 1 || masks.width == 1) {
    return changes_along_rows(mask, masks.height, masks.width, masks.stride_y);
  }
  std::vector<uint8_t> rows(static_cast<size_t>(masks.height * masks.width));
  uint8_t* out = rows.data();
  for (int64_t y = 0; y < masks.height; ++y) {
    for (int64_t x = 0; x < masks.width; ++x) *out++ = *masks.at(image, y, x);
  }
  return changes_along_rows(rows.data(), masks.height, masks.width, masks.width);
}

// Calls use(begin, end) for each foreground run that is not empty.
template <typename Use>
void for_each_foreground(const RunsView& runs, int64_t image, const Use& use) {
  int64_t position = 0;
  bool foreground = false;
  for (const int64_t* run = runs.begin(image); run != runs.end(image); ++run, foreground = !foreground) {
    if (foreground && *run > 0) use(position, position + *run);
    position += *run;
  }
}

void decode_rows(const RunsView& runs, int64_t image, int64_t height, int64_t width, uint8_t* mask) {
  // A mark where a column's value changes, then each row takes over the one above: one pass of plain row arithmetic.
  std::memset(mask, 0, static_cast<size_t>(height * width));
  for_each_foreground(runs, image, [&](int64_t begin, int64_t end) {
    mask[begin % height * width + begin / height] ^= 1;
    for (int64_t x = begin / height + 1; x <= (end - 1) / height; ++x) mask[x] ^= 1;
    if (end % height != 0) mask[end % height * width + end / height] ^= 1;
  });
  const RleKernels& isa = kernels().rle;
  for (int64_t y = 1; y < height; ++y) {
    isa.xor_rows(mask + (y - 1) * width, mask + y * width, static_cast<size_t>(width));
  }
}

}  // namespace

void check_offsets(const int64_t* offsets, int64_t n, int64_t size) {
  bool rising = offsets[0] == 0 && offsets[n] == size;
  for (int64_t i = 0; i < n && rising; ++i) rising = offsets[i] <= offsets[i + 1];
  if (!rising) {
    throw std::invalid_argument("offsets must rise from 0 to " + std::to_string(size) + ", the number of values");
  }
}

std::vector<int64_t> check_runs(const RunsView& runs) {
  check_offsets(runs.offsets, runs.n, runs.size);
  std::vector<int64_t> totals;
  totals.reserve(static_cast<size_t>(runs.n));
  for (int64_t i = 0; i < runs.n; ++i) {
    int64_t total = 0;
    for (const int64_t* run = runs.begin(i); run != runs.end(i); ++run) {
      if (*run < 0 || *run > kMaxPixels) {
        throw std::invalid_argument("run lengths must be from 0 to " + std::to_string(kMaxPixels));
      }
      total += *run;
      if (total > kMaxPixels) {
        throw std::invalid_argument("the runs of a mask sum to more than " + std::to_string(kMaxPixels));
      }
    }
    totals.push_back(total);
  }
  return totals;
}

void check_runs(const RunsView& runs, int64_t pixels) {
  const std::vector<int64_t> totals = check_runs(runs);
  for (size_t i = 0; i < totals.size(); ++i) {
    if (totals[i] != pixels) {
      throw std::invalid_argument("the runs of mask " + std::to_string(i) + " sum to " + std::to_string(totals[i]) +
                                  ", but its size has " + std::to_string(pixels) + " pixels");
    }
  }
}

Runs encode(const MaskView& masks, int64_t threads) {
  if (masks.width > std::numeric_limits<uint32_t>::max()) {
    throw std::invalid_argument("masks wider than 4294967295 pixels can't be encoded");
  }
  const int64_t pixels = masks.height * masks.width;
  std::vector<std::vector<int64_t>> changes(static_cast<size_t>(masks.n));
  if (pixels > 0) {
    fork_join(threads, masks.n, kBytesPerThread / pixels + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) changes[static_cast<size_t>(i)] = find_all_changes(masks, i);
    });
  }
  Runs runs;
  for (std::vector<int64_t>& of_one : changes) {
    append_runs(of_one, pixels, runs.counts);
    runs.offsets.push_back(static_cast<int64_t>(runs.counts.size()));
    std::vector<int64_t>().swap(of_one);
  }
  return runs;
}

void decode(const RunsView& runs, int64_t height, int64_t width, bool column_major, uint8_t* out, int64_t threads) {
  check_runs(runs, height * width);
  const int64_t pixels = height * width;
  if (pixels == 0) return;
  fork_join(threads, runs.n, kBytesPerThread / pixels + 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      uint8_t* mask = out + i * pixels;
      if (!column_major) {
        decode_rows(runs, i, height, width, mask);
        continue;
      }
      uint8_t value = 0;
      for (const int64_t* run = runs.begin(i); run != runs.end(i); ++run, value ^= 1) {
        std::memset(mask, value, static_cast<size_t>(*run));
        mask += *run;
      }
    }
  });
}

std::vector<int64_t> area(const RunsView& runs) {
  check_runs(runs);
  std::vector<int64_t> areas;
  areas.reserve(static_cast<size_t>(runs.n));
  for (int64_t i = 0; i < runs.n; ++i) {
    int64_t pixels = 0;
    for (int64_t k = 1; k < runs.length(i); k += 2) pixels += runs.begin(i)[k];
    areas.push_back(pixels);
  }
  return areas;
}

std::vector<int64_t> to_bbox(const RunsView& runs, const int64_t* heights) {
  check_runs(runs);
  std::vector<int64_t> boxes(static_cast<size_t>(runs.n) * 4, 0);
  for (int64_t i = 0; i < runs.n; ++i) {
    const int64_t height = heights[i];
    int64_t left = kMaxPixels, top = kMaxPixels, right = -1, bottom = -1;
    for_each_foreground(runs, i, [&](int64_t begin, int64_t end) {
      if (height <= 0) {
        throw std::invalid_argument("a mask without rows has foreground runs; heights must be positive for those");
      }
      const int64_t first = begin / height, last = (end - 1) / height;
      left = std::min(left, first);
      right = std::max(right, last);
      // A run that reaches a second column touches the bottom of one and the top of the next.
      top = first == last ? std::min(top, begin % height) : 0;
      bottom = first == last ? std::max(bottom, (end - 1) % height) : height - 1;
    });
    if (right < 0) continue;
    int64_t* box = boxes.data() + 4 * i;
    box[0] = left;
    box[1] = top;
    box[2] = right - left + 1;
    box[3] = bottom - top + 1;
  }
  return boxes;
}

}  // namespace fastsam::rle
