// Encoding of masks, and the checks of runs and offsets.
#include "rle/rle.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "common/fork_join.h"
#include "common/isa.h"
#include "rle/rle_edges.h"

namespace fastsam::rle {
namespace {

// Masks below this many bytes per thread are not worth a thread.
constexpr int64_t kBytesPerThread = int64_t{1} << 20;
// Most bytes per call of find_changes, so that its output buffer stays in the cache and its indices fit 32 bits.
constexpr int64_t kChunk = int64_t{1} << 14;

// The edges of a mask that is contiguous in column-major order, found in one pass through memory.
std::vector<int64_t> find_changes_along_columns(const uint8_t* mask, int64_t pixels) {
  const RleKernels& isa = kernels().rle;
  uint32_t indices[kChunk];
  std::vector<int64_t> changes;
  if (mask[0] != 0) changes.push_back(0);
  for (int64_t start = 1; start < pixels; start += kChunk) {
    const int64_t n = std::min(kChunk, pixels - start);
    const size_t count = isa.find_changes(mask + start - 1, mask + start, static_cast<size_t>(n), indices);
    for (size_t k = 0; k < count; ++k) changes.push_back(start + indices[k]);
  }
  return changes;
}

// The edges of a mask whose rows are contiguous. Each row is compared with the one above, which finds the changes row
// by row. A counting sort then brings them into column order, without a transposed copy of the mask.
std::vector<int64_t> find_changes_along_rows(const uint8_t* mask, int64_t height, int64_t width, int64_t stride_y) {
  const RleKernels& isa = kernels().rle;
  uint32_t indices[kChunk];
  std::vector<uint32_t> columns;                                          // x of all changes, row after row
  std::vector<int64_t> row_ends(static_cast<size_t>(height));             // into columns
  std::vector<int64_t> column_begins(static_cast<size_t>(width) + 1, 0);  // into the sorted changes
  const auto compare = [&](const uint8_t* before, const uint8_t* after, int64_t first, int64_t n) {
    for (int64_t start = 0; start < n; start += kChunk) {
      const int64_t length = std::min(kChunk, n - start);
      const size_t count = isa.find_changes(before + start, after + start, static_cast<size_t>(length), indices);
      const size_t end = columns.size();
      columns.resize(end + count);
      for (size_t k = 0; k < count; ++k) {
        const size_t x = static_cast<size_t>(first + start) + indices[k];
        columns[end + k] = static_cast<uint32_t>(x);
        ++column_begins[x + 1];
      }
    }
  };
  // The pixel that precedes the top of a column is the bottom of the column to its left.
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

// The edges of one mask of any strides.
std::vector<int64_t> find_all_changes(const MaskView& masks, int64_t image) {
  const uint8_t* mask = masks.at(image, 0, 0);
  if (masks.stride_y == 1 && (masks.stride_x == masks.height || masks.width == 1)) {
    return find_changes_along_columns(mask, masks.height * masks.width);
  }
  if (masks.stride_x == 1 || masks.width == 1) {
    return find_changes_along_rows(mask, masks.height, masks.width, masks.stride_y);
  }
  std::vector<uint8_t> rows(static_cast<size_t>(masks.height * masks.width));
  uint8_t* out = rows.data();
  for (int64_t y = 0; y < masks.height; ++y) {
    for (int64_t x = 0; x < masks.width; ++x) *out++ = *masks.at(image, y, x);
  }
  return find_changes_along_rows(rows.data(), masks.height, masks.width, masks.width);
}

}  // namespace

void check_offsets(const int64_t* offsets, int64_t n, int64_t size) {
  bool is_ascending = offsets[0] == 0 && offsets[n] == size;
  for (int64_t i = 0; i < n && is_ascending; ++i) is_ascending = offsets[i] <= offsets[i + 1];
  if (!is_ascending) {
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

void check_equal(const std::vector<int64_t>& totals, int64_t expected) {
  for (const int64_t total : totals) {
    if (total != expected) {
      throw std::invalid_argument("the masks must all have the same size; got pixel counts " +
                                  std::to_string(expected) + " and " + std::to_string(total));
    }
  }
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

std::vector<Edges> find_edges(const MaskView& masks, int64_t threads) {
  if (masks.width > std::numeric_limits<uint32_t>::max()) {
    throw std::invalid_argument("masks wider than 4294967295 pixels can't be encoded");
  }
  const int64_t pixels = masks.height * masks.width;
  std::vector<Edges> changes(static_cast<size_t>(masks.n));
  if (pixels > 0) {
    fork_join(threads, masks.n, kBytesPerThread / pixels + 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) changes[static_cast<size_t>(i)] = find_all_changes(masks, i);
    });
  }
  return changes;
}

Runs encode(const MaskView& masks, int64_t threads) {
  const int64_t pixels = masks.height * masks.width;
  std::vector<Edges> changes = find_edges(masks, threads);
  Runs runs;
  for (Edges& edges : changes) {
    append_runs(edges, pixels, runs.counts);
    runs.offsets.push_back(static_cast<int64_t>(runs.counts.size()));
    Edges().swap(edges);
  }
  return runs;
}

}  // namespace fastsam::rle
