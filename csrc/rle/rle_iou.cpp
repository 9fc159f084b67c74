// Intersection over union of all pairs of masks.
//
// Nearly all columns of a segmenter's masks hold a single span of foreground. The intersection of two masks is then,
// column by column, that of two spans: a few operations for a register full of columns, without a branch that
// depends on the masks. Further spans of a column are stored separately and compared one by one. Masks with many
// spans per column, such as noise, are merged edge by edge instead.
#include "rle/rle_iou.h"

#include <algorithm>

#include "common/fork_join.h"
#include "common/isa.h"

namespace fastsam::rle {
namespace {

// Pairs of edges below this many per thread are not worth a thread.
constexpr int64_t kEdgesPerThread = int64_t{1} << 17;
// Limits of the column form. One call of the kernel sums kColumns columns in 32 bits: kColumns * kMaxPeriod is below
// 2^31.
constexpr int64_t kMaxPeriod = int64_t{1} << 20;
constexpr int64_t kColumns = 1024;
constexpr int64_t kMaxColumns = int64_t{1} << 16;

// Length of the intersection of [begin_a, end_a) and [begin_b, end_b).
int64_t overlap(int64_t begin_a, int64_t end_a, int64_t begin_b, int64_t end_b) {
  return std::max<int64_t>(0, std::min(end_a, end_b) - std::max(begin_a, begin_b));
}

// Fills in the column form (Footprint::has_columns), unless a mask is too large for it, has far more columns than
// spans, or has more than two spans per column on average.
void fill_column_form(Footprint& mask, int64_t period) {
  const int64_t columns = mask.right - mask.left;
  const int64_t spans = static_cast<int64_t>(mask.edges.size()) / 2;
  if (period > kMaxPeriod || columns > kMaxColumns || columns > 8 * spans + 4096) return;
  mask.tops.assign(static_cast<size_t>(columns), 0);
  mask.bottoms.assign(static_cast<size_t>(columns), 0);
  int64_t x = mask.left;
  for (size_t k = 0; k < mask.edges.size(); k += 2) {
    const int64_t begin = mask.edges[k], end = mask.edges[k + 1];
    if (begin >= (x + 1) * period) x = begin < (x + 2) * period ? x + 1 : begin / period;
    for (; x * period < end; ++x) {
      const int32_t top = static_cast<int32_t>(std::max<int64_t>(0, begin - x * period));
      const int32_t bottom = static_cast<int32_t>(std::min(period, end - x * period));
      const size_t index = static_cast<size_t>(x - mask.left);
      if (mask.bottoms[index] == 0) {
        mask.tops[index] = top;
        mask.bottoms[index] = bottom;
      } else {
        mask.extra_spans.push_back({static_cast<int32_t>(x - mask.left), top, bottom});
      }
      if (end < (x + 1) * period) break;  // the next span may begin in this column
    }
    if (mask.extra_spans.size() > mask.tops.size()) return;
  }
  mask.has_columns = true;
}

// Pixels that `a.extra_spans` share with the first spans of b's columns.
int64_t intersect_extra_with_first(const Footprint& a, const Footprint& b) {
  int64_t intersection = 0;
  const int64_t shift = a.left - b.left, columns = b.right - b.left;
  for (const Footprint::Span& span : a.extra_spans) {
    const int64_t x = span.x + shift;
    if (x < 0 || x >= columns) continue;
    const size_t index = static_cast<size_t>(x);
    intersection += overlap(span.top, span.bottom, b.tops[index], b.bottoms[index]);
  }
  return intersection;
}

// Pixels that `a.extra_spans` share with `b.extra_spans`.
int64_t intersect_extra(const Footprint& a, const Footprint& b) {
  int64_t intersection = 0;
  const int64_t shift = a.left - b.left;
  for (size_t i = 0, j = 0; i < a.extra_spans.size() && j < b.extra_spans.size();) {
    const Footprint::Span &p = a.extra_spans[i], &q = b.extra_spans[j];
    const int64_t x = p.x + shift;
    if (x == q.x) intersection += overlap(p.top, p.bottom, q.top, q.bottom);
    const bool p_first = x < q.x || (x == q.x && p.bottom < q.bottom);
    i += p_first;
    j += !p_first;
  }
  return intersection;
}

// Pixels that two masks in column form share.
int64_t intersect_columns(const RleKernels& isa, const Footprint& a, const Footprint& b) {
  int64_t intersection = 0;
  const int64_t right = std::min(a.right, b.right);
  for (int64_t x = std::max(a.left, b.left); x < right; x += kColumns) {
    const size_t i = static_cast<size_t>(x - a.left), j = static_cast<size_t>(x - b.left);
    intersection += isa.overlap(a.tops.data() + i, a.bottoms.data() + i, b.tops.data() + j, b.bottoms.data() + j,
                                static_cast<size_t>(std::min(kColumns, right - x)));
  }
  if (!a.extra_spans.empty()) intersection += intersect_extra_with_first(a, b);
  if (!b.extra_spans.empty()) intersection += intersect_extra_with_first(b, a);
  if (!a.extra_spans.empty() && !b.extra_spans.empty()) intersection += intersect_extra(a, b);
  return intersection;
}

// Number of the first span that ends after `position`.
size_t first_after(const Edges& edges, int64_t position) {
  size_t low = 0, high = edges.size() / 2;
  while (low < high) {
    const size_t middle = (low + high) / 2;
    edges[2 * middle + 1] > position ? high = middle : low = middle + 1;
  }
  return low;
}

// Pixels that two masks share, by merging their edges. Neither may be empty.
int64_t intersect_edges(const Edges& a, const Edges& b) {
  const int64_t begin = std::max(a.front(), b.front()), end = std::min(a.back(), b.back());
  int64_t intersection = 0;
  size_t i = 2 * first_after(a, begin), j = 2 * first_after(b, begin);
  while (i < a.size() && j < b.size() && a[i] < end && b[j] < end) {
    const int64_t end_a = a[i + 1], end_b = b[j + 1];
    intersection += overlap(a[i], end_a, b[j], end_b);
    i += end_a <= end_b ? 2 : 0;
    j += end_b <= end_a ? 2 : 0;
  }
  return intersection;
}

int64_t intersection_area(const RleKernels& isa, const Footprint& a, const Footprint& b) {
  if (a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top) return 0;
  return a.has_columns && b.has_columns ? intersect_columns(isa, a, b) : intersect_edges(a.edges, b.edges);
}

// The IoU of two masks of these areas that share `intersection` pixels; with `crowd`, the shared fraction of dt. 0 if
// nothing is shared.
double compute_iou(int64_t intersection, int64_t dt_area, int64_t gt_area, bool crowd) {
  if (intersection == 0) return 0;
  const int64_t denominator = crowd ? dt_area : dt_area + (gt_area - intersection);
  return static_cast<double>(intersection) / static_cast<double>(denominator);
}

// A guess at the height of the masks: the median distance between the starts of consecutive spans, in the mask with
// the most runs.
int64_t guess_period(const RunsView& runs) {
  int64_t longest = -1;
  for (int64_t i = 0; i < runs.n; ++i) {
    if (longest < 0 || runs.length(i) > runs.length(longest)) longest = i;
  }
  std::vector<int64_t> steps;
  for (int64_t k = 1; longest >= 0 && k + 1 < runs.length(longest) && steps.size() < 255; k += 2) {
    steps.push_back(runs.begin(longest)[k] + runs.begin(longest)[k + 1]);
  }
  if (steps.empty()) return 1024;
  const auto middle = steps.begin() + static_cast<std::ptrdiff_t>(steps.size() / 2);
  std::nth_element(steps.begin(), middle, steps.end());
  return std::max<int64_t>(1, *middle);
}

std::vector<Footprint> make_footprints(const RunsView& runs, int64_t period, int64_t threads) {
  std::vector<Footprint> masks(static_cast<size_t>(runs.n));
  const int64_t mean = runs.n ? runs.size / runs.n : 0;
  fork_join(threads, runs.n, kEdgesPerThread / 4 / (mean + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) masks[static_cast<size_t>(i)] = make_footprint(to_edges(runs, i), period);
  });
  return masks;
}

}  // namespace

Footprint make_footprint(Edges&& edges, int64_t period) {
  Footprint mask;
  mask.edges = std::move(edges);
  if (mask.edges.empty()) return mask;
  mask.left = mask.edges.front() / period;
  mask.right = (mask.edges.back() - 1) / period + 1;
  mask.top = period;
  int64_t column = mask.left * period;
  for (size_t k = 0; k < mask.edges.size(); k += 2) {
    const int64_t begin = mask.edges[k], end = mask.edges[k + 1];
    mask.area += end - begin;
    if (begin - column >= period) {
      column = begin - column < 2 * period ? column + period : begin / period * period;
    }
    const bool one_column = end - column <= period;
    mask.top = one_column ? std::min(mask.top, begin - column) : 0;
    mask.bottom = one_column ? std::max(mask.bottom, end - column) : period;
  }
  fill_column_form(mask, period);
  return mask;
}

std::vector<double> iou(const std::vector<Footprint>& dt, const std::vector<Footprint>& gt, const bool* iscrowd,
                        int64_t threads) {
  const RleKernels& isa = kernels().rle;
  const bool symmetric = &dt == &gt;
  const int64_t rows = static_cast<int64_t>(dt.size()), columns = static_cast<int64_t>(gt.size());
  std::vector<double> result(static_cast<size_t>(rows * columns), 0.0);
  int64_t edges = 0;
  for (const Footprint& mask : gt) edges += static_cast<int64_t>(mask.edges.size());
  const int64_t per_row = edges + (rows ? edges / rows : 0) + columns;
  const auto crowd = [&](int64_t g) { return iscrowd != nullptr && iscrowd[g]; };
  const auto fill_row = [&](int64_t d) {
    const Footprint& mask = dt[static_cast<size_t>(d)];
    for (int64_t g = symmetric ? d : 0; g < columns; ++g) {
      const Footprint& other = gt[static_cast<size_t>(g)];
      const int64_t intersection = symmetric && g == d ? mask.area : intersection_area(isa, mask, other);
      result[static_cast<size_t>(d * columns + g)] = compute_iou(intersection, mask.area, other.area, crowd(g));
      if (symmetric)
        result[static_cast<size_t>(g * columns + d)] = compute_iou(intersection, other.area, mask.area, crowd(d));
    }
  };
  // Pair long rows of the triangle with short ones, so that all threads have the same amount of work.
  const int64_t items = symmetric ? (rows + 1) / 2 : rows;
  fork_join(threads, items, kEdgesPerThread / (per_row + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t d = begin; d < end; ++d) {
      fill_row(d);
      if (symmetric && rows - 1 - d != d) fill_row(rows - 1 - d);
    }
  });
  return result;
}

std::vector<double> iou(const RunsView& dt, const RunsView& gt, const bool* iscrowd, int64_t threads) {
  const std::vector<int64_t> dt_totals = check_runs(dt), gt_totals = check_runs(gt);
  if (!dt_totals.empty() || !gt_totals.empty()) {
    const int64_t expected = dt_totals.empty() ? gt_totals.front() : dt_totals.front();
    check_equal(dt_totals, expected);
    check_equal(gt_totals, expected);
  }
  const int64_t period = guess_period(dt);
  const std::vector<Footprint> rows = make_footprints(dt, period, threads);
  const bool same = dt.values == gt.values && dt.offsets == gt.offsets && dt.n == gt.n;
  if (same) return iou(rows, rows, iscrowd, threads);
  return iou(rows, make_footprints(gt, period, threads), iscrowd, threads);
}

}  // namespace fastsam::rle
