// Fills small holes and removes small islands of masks given as runs. Regions are found by joining the runs of
// neighbouring columns, so that the cost grows with the length of a mask's boundary, not with its area.
#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "common/fork_join.h"
#include "masks/masks.h"

namespace fastsam::masks {
namespace {

// Fewer runs per thread are not worth a thread.
constexpr int64_t kRunsPerThread = 1 << 14;

// Rows [top, bottom) of one column.
struct Run {
  int64_t top, bottom;
};

// The runs of a mask, cut at the ends of columns, column by column from left to right.
struct Columns {
  std::vector<Run> runs;
  std::vector<int64_t> ends;  // (width) end of each column's runs in `runs`

  int64_t begin(int64_t x) const { return x == 0 ? 0 : ends[static_cast<size_t>(x - 1)]; }
  int64_t end(int64_t x) const { return ends[static_cast<size_t>(x)]; }
  const Run& run(int64_t i) const { return runs[static_cast<size_t>(i)]; }

  // Appends a run, joined with the previous one if that touches it in the same column. first_of_column: index of the
  // column's first run.
  void append(int64_t first_of_column, Run run) {
    if (static_cast<int64_t>(runs.size()) > first_of_column && runs.back().bottom == run.top) {
      runs.back().bottom = run.bottom;
    } else {
      runs.push_back(run);
    }
  }
  void end_column() { ends.push_back(static_cast<int64_t>(runs.size())); }
};

Columns find_foreground(const int64_t* counts, int64_t n, int64_t height, int64_t width) {
  Columns foreground;
  foreground.ends.reserve(static_cast<size_t>(width));
  int64_t x = 0, position = 0;
  for (int64_t k = 0; k + 1 < n; k += 2) {
    const int64_t begin = position + counts[k], end = begin + counts[k + 1];
    position = end;
    for (int64_t at = begin; at < end;) {
      const int64_t column = at / height, stop = std::min(end, (column + 1) * height);
      for (; x < column; ++x) foreground.end_column();
      foreground.append(foreground.begin(x), {at - column * height, stop - column * height});
      at = stop;
    }
  }
  for (; x < width; ++x) foreground.end_column();
  return foreground;
}

Columns find_background(const Columns& foreground, int64_t height, int64_t width) {
  Columns background;
  background.ends.reserve(static_cast<size_t>(width));
  for (int64_t x = 0; x < width; ++x) {
    int64_t top = 0;
    for (int64_t i = foreground.begin(x); i < foreground.end(x); ++i) {
      if (foreground.run(i).top > top) background.runs.push_back({top, foreground.run(i).top});
      top = foreground.run(i).bottom;
    }
    if (top < height) background.runs.push_back({top, height});
    background.end_column();
  }
  return background;
}

// 8-connected regions: a union-find over runs. A region is identified by the index of its first run.
class Regions {
 public:
  Regions(const Columns& columns, int64_t width)
      : parents_(columns.runs.size()), areas_(columns.runs.size(), 0), blocks_(columns.runs.size()) {
    std::iota(parents_.begin(), parents_.end(), int64_t{0});
    for (int64_t x = 1; x < width; ++x) {
      int64_t i = columns.begin(x - 1), j = columns.begin(x);
      while (i < columns.end(x - 1) && j < columns.end(x)) {
        const Run &left = columns.run(i), &right = columns.run(j);
        if (left.top <= right.bottom && right.top <= left.bottom) join(i, j);
        if (left.bottom < right.bottom) {
          ++i;
        } else {
          ++j;
        }
      }
    }
    const int64_t blocks_x = (width + 1) / 2;
    for (int64_t x = 0; x < width; ++x) {
      for (int64_t i = columns.begin(x); i < columns.end(x); ++i) {
        const size_t region = static_cast<size_t>(find(i));
        const int64_t block = columns.run(i).top / 2 * blocks_x + x / 2;
        blocks_[region] = areas_[region] == 0 ? block : std::min(blocks_[region], block);
        areas_[region] += columns.run(i).bottom - columns.run(i).top;
      }
    }
  }

  int64_t region(int64_t run) { return find(run); }
  int64_t area(int64_t region) const { return areas_[static_cast<size_t>(region)]; }

  bool has_small(double min_area) const {
    return std::any_of(areas_.begin(), areas_.end(),
                       [=](int64_t area) { return area > 0 && static_cast<double>(area) < min_area; });
  }

  // The largest region, the one with the first block among equally large ones; -1 if there is none.
  int64_t largest() const {
    int64_t best = -1;
    for (size_t i = 0; i < areas_.size(); ++i) {
      if (areas_[i] == 0) continue;
      const size_t top = static_cast<size_t>(best);
      if (best < 0 || areas_[i] > areas_[top] || (areas_[i] == areas_[top] && blocks_[i] < blocks_[top])) {
        best = static_cast<int64_t>(i);
      }
    }
    return best;
  }

 private:
  int64_t find(int64_t i) {
    while (parents_[static_cast<size_t>(i)] != i) {
      int64_t& parent = parents_[static_cast<size_t>(i)];
      parent = parents_[static_cast<size_t>(parent)];
      i = parent;
    }
    return i;
  }

  void join(int64_t i, int64_t j) {
    const int64_t a = find(i), b = find(j);
    parents_[static_cast<size_t>(std::max(a, b))] = std::min(a, b);
  }

  std::vector<int64_t> parents_;
  std::vector<int64_t> areas_;   // at each region's first run; 0 elsewhere
  std::vector<int64_t> blocks_;  // first block of 2 x 2 pixels, in row-major order, that holds a pixel of the region
};

// Fills the holes of fewer than min_area pixels. Returns false, and leaves `foreground` as it is, if there are none.
bool fill_holes(Columns& foreground, int64_t height, int64_t width, double min_area) {
  const Columns background = find_background(foreground, height, width);
  Regions regions(background, width);
  if (!regions.has_small(min_area)) return false;
  Columns filled;
  filled.ends.reserve(static_cast<size_t>(width));
  for (int64_t x = 0; x < width; ++x) {
    const int64_t first = static_cast<int64_t>(filled.runs.size());
    int64_t i = foreground.begin(x), j = background.begin(x);
    while (i < foreground.end(x) || j < background.end(x)) {
      if (j == background.end(x) || (i < foreground.end(x) && foreground.run(i).top < background.run(j).top)) {
        filled.append(first, foreground.run(i++));
      } else {
        if (static_cast<double>(regions.area(regions.region(j))) < min_area) filled.append(first, background.run(j));
        ++j;
      }
    }
    filled.end_column();
  }
  foreground = std::move(filled);
  return true;
}

// Removes the islands of fewer than min_area pixels, except the largest if all are small. Returns false, and leaves
// `foreground` as it is, if no island is small.
bool drop_islands(Columns& foreground, int64_t width, double min_area) {
  Regions regions(foreground, width);
  if (!regions.has_small(min_area)) return false;
  const int64_t largest = regions.largest();
  Columns remaining;
  remaining.ends.reserve(static_cast<size_t>(width));
  for (int64_t x = 0; x < width; ++x) {
    for (int64_t i = foreground.begin(x); i < foreground.end(x); ++i) {
      const int64_t region = regions.region(i);
      // The largest island is only small if all are; it stays then.
      if (region == largest || static_cast<double>(regions.area(region)) >= min_area)
        remaining.runs.push_back(foreground.run(i));
    }
    remaining.end_column();
  }
  foreground = std::move(remaining);
  return true;
}

std::vector<int64_t> to_counts(const Columns& foreground, int64_t height, int64_t width) {
  std::vector<int64_t> counts;
  counts.reserve(2 * foreground.runs.size() + 1);
  int64_t position = 0;
  for (int64_t x = 0; x < width; ++x) {
    for (int64_t i = foreground.begin(x); i < foreground.end(x); ++i) {
      const int64_t begin = x * height + foreground.run(i).top, end = x * height + foreground.run(i).bottom;
      if (begin == position && !counts.empty()) {
        counts.back() += end - begin;  // continues the run at the bottom of the previous column
      } else {
        counts.push_back(begin - position);
        counts.push_back(end - begin);
      }
      position = end;
    }
  }
  if (counts.empty() || position < height * width) counts.push_back(height * width - position);
  return counts;
}

}  // namespace

CleanedMasks remove_small_regions(const rle::RunsView& runs, int64_t height, int64_t width, double min_area,
                                  int64_t threads) {
  rle::check_runs(runs, height * width);
  std::vector<std::vector<int64_t>> cleaned(static_cast<size_t>(runs.n));
  CleanedMasks result;
  result.changed.resize(static_cast<size_t>(runs.n));
  const int64_t grain = kRunsPerThread * runs.n / (runs.size + width * runs.n + 1) + 1;
  fork_join(threads, runs.n, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      std::vector<int64_t>& counts = cleaned[static_cast<size_t>(i)];
      counts.assign(runs.begin(i), runs.end(i));
      if (height * width == 0) continue;
      Columns foreground = find_foreground(runs.begin(i), runs.length(i), height, width);
      const bool filled = fill_holes(foreground, height, width, min_area);
      const bool dropped = drop_islands(foreground, width, min_area);
      if (!filled && !dropped) continue;
      result.changed[static_cast<size_t>(i)] = 1;
      counts = to_counts(foreground, height, width);
    }
  });
  for (const std::vector<int64_t>& counts : cleaned) {
    result.runs.counts.insert(result.runs.counts.end(), counts.begin(), counts.end());
    result.runs.offsets.push_back(static_cast<int64_t>(result.runs.counts.size()));
  }
  return result;
}

}  // namespace fastsam::masks
