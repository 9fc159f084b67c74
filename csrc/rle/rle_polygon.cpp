// Masks of filled polygons, equal pixel for pixel to those of COCO's rasteriser.
//
// COCO draws every edge on a grid of fifths of a pixel, one dot per step along its longer axis. Where the dots pass
// from one grid column to the next in the middle of a pixel column, a run begins or ends at the first pixel below. Only
// these passages are computed here, so that the cost of an edge grows with the pixel columns of the mask that it
// crosses, not with its length.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "common/fork_join.h"
#include "rle/rle.h"

namespace fastsam::rle {
namespace {

constexpr int64_t kGrid = 5;
// Beyond this, a coordinate times kGrid leaves int32, in which COCO's rasteriser stores it.
constexpr double kMaxCoordinate = 400'000'000;
// Most passages of one polygon; their positions take 8 bytes each.
constexpr int64_t kMaxPassages = int64_t{1} << 28;
constexpr int64_t kVerticesPerThread = 4096;

struct Edge {
  int64_t x0, y0, x1, y1;  // on the grid, drawn from its smaller end along its longer axis
  bool flat;               // at least as wide as high

  Edge(int64_t ax, int64_t ay, int64_t bx, int64_t by) : x0(ax), y0(ay), x1(bx), y1(by) {
    flat = std::abs(bx - ax) >= std::abs(by - ay);
    if (flat ? x0 > x1 : y0 > y1) {
      std::swap(x0, x1);
      std::swap(y0, y1);
    }
  }

  // Pixel columns whose middle, between the grid columns 5 x + 2 and 5 x + 3, the edge passes: [first, last].
  int64_t first_column() const {
    const int64_t left = std::min(x0, x1);
    return left <= 2 ? 0 : (left + kGrid - 3) / kGrid;
  }
  int64_t last_column(int64_t width) const {
    const int64_t right = std::max(x0, x1);
    return right < 3 ? -1 : std::min((right - 3) / kGrid, width - 1);
  }

  // The edge passes from grid column `column` to the next between two dots; returns the grid row of the upper dot.
  int64_t passage_row(int64_t column) const {
    if (flat) {
      const double slope = static_cast<double>(y1 - y0) / static_cast<double>(x1 - x0);
      const double y = static_cast<double>(y0), step = static_cast<double>(column - x0);
      return static_cast<int64_t>(
          std::min(std::trunc(y + slope * step + 0.5), std::trunc(y + slope * (step + 1) + 0.5)));
    }
    const double slope = static_cast<double>(x1 - x0) / static_cast<double>(y1 - y0);
    const double x = static_cast<double>(x0);
    int64_t low = 0, high = y1 - y0;  // the first dot past the passage lies in (low, high]
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      const int64_t dot = static_cast<int64_t>(x + slope * static_cast<double>(middle) + 0.5);
      (x1 > x0 ? dot > column : dot <= column) ? high = middle : low = middle;
    }
    return y0 + high - 1;
  }
};

// The positions at which pixels toggle between background and foreground, ascending; a position may occur repeatedly.
std::vector<int64_t> find_toggles(const double* points, int64_t n, int64_t height, int64_t width) {
  std::vector<Edge> edges;
  edges.reserve(static_cast<size_t>(n));
  const auto grid = [](double value) { return static_cast<int64_t>(value * kGrid + 0.5); };
  int64_t passages = 0;
  for (int64_t k = 0; k < n; ++k) {
    const double *a = points + 2 * k, *b = points + 2 * ((k + 1) % n);
    edges.emplace_back(grid(a[0]), grid(a[1]), grid(b[0]), grid(b[1]));
    passages += std::max<int64_t>(0, edges.back().last_column(width) - edges.back().first_column() + 1);
    if (passages > kMaxPassages) {
      throw std::invalid_argument("a polygon crosses more than " + std::to_string(kMaxPassages) + " pixel columns");
    }
  }
  std::vector<int64_t> toggles;
  toggles.reserve(static_cast<size_t>(passages));
  for (const Edge& edge : edges) {
    const int64_t last = edge.last_column(width);
    for (int64_t x = edge.first_column(); x <= last; ++x) {
      const double row = (static_cast<double>(edge.passage_row(kGrid * x + 2)) + 0.5) / kGrid - 0.5;
      const double inside = std::min(std::max(row, 0.0), static_cast<double>(height));
      toggles.push_back(x * height + static_cast<int64_t>(std::ceil(inside)));
    }
  }
  std::sort(toggles.begin(), toggles.end());
  return toggles;
}

// The runs between toggles.
std::vector<int64_t> toggles_to_runs(const std::vector<int64_t>& toggles, int64_t pixels) {
  std::vector<int64_t> runs;
  int64_t last = 0;
  for (size_t k = 0; k < toggles.size();) {
    const int64_t position = toggles[k];
    size_t times = 0;
    for (; k < toggles.size() && toggles[k] == position; ++k) ++times;
    // Two passages at the same position cancel out.
    if (times % 2 == 0 || position >= pixels) continue;
    runs.push_back(position - last);
    last = position;
  }
  runs.push_back(pixels - last);
  return runs;
}

}  // namespace

Runs from_polygon(const RaggedView<double>& points, int64_t height, int64_t width, int64_t threads) {
  check_offsets(points.offsets, points.n, points.size);
  for (int64_t k = 0; k < 2 * points.size; ++k) {
    // The negation also catches NaN.
    if (!(std::abs(points.values[k]) <= kMaxCoordinate)) {
      throw std::invalid_argument("polygon coordinates must be finite and at most 400000000 in magnitude");
    }
  }
  std::vector<std::vector<int64_t>> polygons(static_cast<size_t>(points.n));
  const int64_t mean = points.n ? points.size / points.n : 0;
  fork_join(threads, points.n, kVerticesPerThread / (mean + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const double* first = points.values + 2 * points.offsets[i];
      std::vector<int64_t> toggles;
      if (height * width > 0) toggles = find_toggles(first, points.length(i), height, width);
      polygons[static_cast<size_t>(i)] = toggles_to_runs(toggles, height * width);
    }
  });
  Runs runs;
  for (const std::vector<int64_t>& polygon : polygons) {
    runs.counts.insert(runs.counts.end(), polygon.begin(), polygon.end());
    runs.offsets.push_back(static_cast<int64_t>(runs.counts.size()));
  }
  return runs;
}

}  // namespace fastsam::rle
