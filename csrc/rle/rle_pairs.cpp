// What takes several masks at once: intersection over union, union, intersection. Masks are never decoded for it.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "common/fork_join.h"
#include "rle/rle.h"

namespace fastsam::rle {
namespace {

// Pairs of runs below this many per thread are not worth a thread.
constexpr int64_t kRunsPerThread = int64_t{1} << 17;

void check_equal(const std::vector<int64_t>& totals, int64_t wanted) {
  for (const int64_t total : totals) {
    if (total != wanted) {
      throw std::invalid_argument("the masks must all have the same size; got pixel numbers " + std::to_string(wanted) +
                                  " and " + std::to_string(total));
    }
  }
}

// The foreground of a mask as (begin, end) pairs.
struct Foreground {
  std::vector<std::pair<int64_t, int64_t>> stretches;
  int64_t area = 0;
};

Foreground foreground_of(const RunsView& runs, int64_t i) {
  Foreground found;
  int64_t position = 0;
  bool inside = false;
  for (const int64_t* run = runs.begin(i); run != runs.end(i); ++run, inside = !inside) {
    if (inside && *run > 0) {
      found.stretches.emplace_back(position, position + *run);
      found.area += *run;
    }
    position += *run;
  }
  return found;
}

int64_t shared_area(const Foreground& a, const Foreground& b) {
  if (a.stretches.empty() || b.stretches.empty()) return 0;
  // Masks that lie in different columns, the usual case, are told apart without looking at their runs.
  if (a.stretches.back().second <= b.stretches.front().first) return 0;
  if (b.stretches.back().second <= a.stretches.front().first) return 0;
  int64_t shared = 0;
  auto p = a.stretches.begin(), q = b.stretches.begin();
  while (p != a.stretches.end() && q != b.stretches.end()) {
    const int64_t overlap = std::min(p->second, q->second) - std::max(p->first, q->first);
    if (overlap > 0) shared += overlap;
    p->second < q->second ? static_cast<void>(++p) : static_cast<void>(++q);
  }
  return shared;
}

// Positions where a mask changes, ascending, background before the first.
using Edges = std::vector<int64_t>;

Edges edges_of(const RunsView& runs, int64_t i) {
  Edges edges;
  edges.reserve(static_cast<size_t>(runs.length(i)) + 1);
  int64_t position = 0;
  for (int64_t k = 0; k < runs.length(i); ++k) {
    if (runs.begin(i)[k] > 0) {
      // An empty run between two leaves them one.
      const bool inside = k % 2 == 1, open = edges.size() % 2 == 1;
      if (inside != open) edges.push_back(position);
    }
    position += runs.begin(i)[k];
  }
  if (edges.size() % 2 == 1) edges.push_back(position);
  return edges;
}

Edges combine(const Edges& a, const Edges& b, bool intersect) {
  Edges edges;
  edges.reserve(a.size() + b.size());
  size_t i = 0, j = 0;
  while (i < a.size() || j < b.size()) {
    const int64_t next_a = i < a.size() ? a[i] : kMaxPixels + 1;
    const int64_t next_b = j < b.size() ? b[j] : kMaxPixels + 1;
    const int64_t position = std::min(next_a, next_b);
    i += next_a == position;
    j += next_b == position;
    const bool inside = intersect ? (i & j & 1) : ((i | j) & 1);
    if (inside != (edges.size() % 2 == 1)) edges.push_back(position);
  }
  return edges;
}

}  // namespace

std::vector<double> iou(const RunsView& dt, const RunsView& gt, const bool* iscrowd, int64_t threads) {
  const std::vector<int64_t> dt_totals = check_runs(dt), gt_totals = check_runs(gt);
  if (!dt_totals.empty() || !gt_totals.empty()) {
    const int64_t wanted = dt_totals.empty() ? gt_totals.front() : dt_totals.front();
    check_equal(dt_totals, wanted);
    check_equal(gt_totals, wanted);
  }
  std::vector<Foreground> columns;
  columns.reserve(static_cast<size_t>(gt.n));
  for (int64_t g = 0; g < gt.n; ++g) columns.push_back(foreground_of(gt, g));
  std::vector<double> result(static_cast<size_t>(dt.n * gt.n), 0.0);
  const int64_t runs_per_row = gt.size + gt.n * (dt.n ? dt.size / dt.n : 0);
  fork_join(threads, dt.n, kRunsPerThread / (runs_per_row + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t d = begin; d < end; ++d) {
      const Foreground row = foreground_of(dt, d);
      for (int64_t g = 0; g < gt.n; ++g) {
        const Foreground& column = columns[static_cast<size_t>(g)];
        const int64_t shared = shared_area(row, column);
        if (shared == 0) continue;
        const int64_t whole = iscrowd[g] ? row.area : row.area + (column.area - shared);
        result[static_cast<size_t>(d * gt.n + g)] = static_cast<double>(shared) / static_cast<double>(whole);
      }
    }
  });
  return result;
}

std::vector<int64_t> merge(const RunsView& runs, bool intersect) {
  const std::vector<int64_t> totals = check_runs(runs);
  if (totals.empty()) return {};
  check_equal(totals, totals.front());
  std::vector<Edges> masks;
  masks.reserve(static_cast<size_t>(runs.n));
  for (int64_t i = 0; i < runs.n; ++i) masks.push_back(edges_of(runs, i));
  // In rounds of pairs, so that no mask is walked more than log2(n) times.
  while (masks.size() > 1) {
    const size_t half = (masks.size() + 1) / 2;
    for (size_t i = 0; i + half < masks.size(); ++i) masks[i] = combine(masks[i], masks[i + half], intersect);
    masks.resize(half);
  }
  std::vector<int64_t> merged;
  merged.reserve(masks.front().size() + 1);
  int64_t last = 0;
  for (const int64_t edge : masks.front()) {
    merged.push_back(edge - last);
    last = edge;
  }
  // A mask that is set to its last pixel ends there; there is no empty background run after it.
  if (last < totals.front() || merged.empty()) merged.push_back(totals.front() - last);
  return merged;
}

}  // namespace fastsam::rle
