// Set operations on masks, and cropping of masks to windows. Both work on edges (rle_edges.h).
#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "common/fork_join.h"
#include "rle/rle.h"
#include "rle/rle_edges.h"

namespace fastsam::rle {
namespace {

constexpr unsigned kUnion = 0b1110, kIntersection = 0b1000;
// Runs below this many per thread are not worth a thread.
constexpr int64_t kRunsPerThread = int64_t{1} << 16;
// Limit on the edges of a crop, 8 GiB. A crop may have more runs than its mask, since a run that spans columns is cut
// in each of them.
constexpr int64_t kMaxRuns = int64_t{1} << 30;

// The runs of all masks, with pixels[i] pixels each. Frees the edges.
Runs to_runs(std::vector<Edges>& masks, const std::vector<int64_t>& pixels) {
  Runs runs;
  for (size_t i = 0; i < masks.size(); ++i) {
    append_runs(masks[i], pixels[i], runs.counts);
    runs.offsets.push_back(static_cast<int64_t>(runs.counts.size()));
    Edges().swap(masks[i]);
  }
  return runs;
}

// Collects the edges of a window's content. `add` takes the foreground runs [begin, end) of its mask in order.
class WindowCollector {
 public:
  WindowCollector(const Window& window, int64_t height) : window_(window), height_(height) {}

  void add(int64_t begin, int64_t end) {
    const int64_t low = std::max<int64_t>(0, window_.y), high = std::min(height_, window_.y + window_.height);
    if (low >= high) return;
    const int64_t first = std::max(begin / height_, window_.x);
    const int64_t last = std::min((end - 1) / height_, window_.x + window_.width - 1);
    if (low == 0 && high == height_ && window_.height == height_ && first <= last) {
      // Whole columns: a run stays one run.
      const int64_t shift = window_.x * height_;
      push(std::max(begin, first * height_) - shift, std::min(end, (last + 1) * height_) - shift);
      return;
    }
    if (last - first >= kMaxRuns) throw std::invalid_argument("a run spans more columns than can be cut here");
    for (int64_t x = first; x <= last; ++x) {
      const int64_t top = std::max(low, begin - x * height_), bottom = std::min(high, end - x * height_);
      if (top >= bottom) continue;
      const int64_t shift = (x - window_.x) * window_.height - window_.y;
      push(top + shift, bottom + shift);
    }
  }
  Edges take() { return std::move(edges_); }

 private:
  void push(int64_t begin, int64_t end) {
    if (!edges_.empty() && edges_.back() == begin) {  // continues at the top of the window's next column
      edges_.back() = end;
      return;
    }
    if (static_cast<int64_t>(edges_.size()) > kMaxRuns) {
      throw std::invalid_argument("the window cuts a mask into more than " + std::to_string(kMaxRuns) + " runs");
    }
    edges_.push_back(begin);
    edges_.push_back(end);
  }

  const Window& window_;
  int64_t height_;
  Edges edges_;
};

}  // namespace

Edges combine(const Edges& a, const Edges& b, unsigned truth) {
  // Without branches on the values, because it is unpredictable which mask changes next. Each position is written, and
  // kept by advancing k; the extra element takes a last write that isn't kept.
  Edges edges(a.size() + b.size() + 1);
  size_t i = 0, j = 0, k = 0;
  while (i < a.size() && j < b.size()) {
    const int64_t next_a = a[i], next_b = b[j];
    const int64_t position = std::min(next_a, next_b);
    i += next_a == position;
    j += next_b == position;
    const unsigned inside = (truth >> ((i & 1) + 2 * (j & 1))) & 1;
    edges[k] = position;
    k += inside != (k & 1);
  }
  // At least one mask has no more edges, and is background from here on.
  const bool only_a = (truth >> 1) & 1, only_b = (truth >> 2) & 1;
  for (; i < a.size(); ++i) {
    edges[k] = a[i];
    k += (only_a && !(i & 1)) != ((k & 1) != 0);
  }
  for (; j < b.size(); ++j) {
    edges[k] = b[j];
    k += (only_b && !(j & 1)) != ((k & 1) != 0);
  }
  edges.resize(k);
  return edges;
}

Edges combine_all(std::vector<Edges>&& masks, bool intersect) {
  // Combine pairs in rounds, so that no mask takes part in more than ceil(log2(n)) operations.
  while (masks.size() > 1) {
    const size_t half = (masks.size() + 1) / 2;
    for (size_t i = 0; i + half < masks.size(); ++i) {
      masks[i] = combine(masks[i], masks[i + half], intersect ? kIntersection : kUnion);
    }
    masks.resize(half);
  }
  return std::move(masks.front());
}

void append_runs(const Edges& edges, int64_t pixels, std::vector<int64_t>& counts) {
  counts.reserve(counts.size() + edges.size() + 1);
  int64_t last = 0;
  for (const int64_t edge : edges) {
    counts.push_back(edge - last);
    last = edge;
  }
  if (last < pixels || edges.empty()) counts.push_back(pixels - last);
}

std::vector<int64_t> merge(const RunsView& runs, bool intersect) {
  const std::vector<int64_t> totals = check_runs(runs);
  if (totals.empty()) return {};
  check_equal(totals, totals.front());
  std::vector<Edges> masks;
  masks.reserve(static_cast<size_t>(runs.n));
  for (int64_t i = 0; i < runs.n; ++i) masks.push_back(to_edges(runs, i));
  std::vector<int64_t> merged;
  append_runs(combine_all(std::move(masks), intersect), totals.front(), merged);
  return merged;
}

Runs combine(const RunsView& a, const RunsView& b, int64_t truth, int64_t threads) {
  if (truth < 0 || truth > 15 || (truth & 1)) {
    throw std::invalid_argument("the operation must be one of 2, 4, ..., 14: background stays background");
  }
  const std::vector<int64_t> a_totals = check_runs(a), b_totals = check_runs(b);
  if (a.n != b.n) throw std::invalid_argument("both sides must have the same number of masks");
  for (size_t i = 0; i < a_totals.size(); ++i) check_equal({b_totals[i]}, a_totals[i]);
  std::vector<Edges> masks(a_totals.size());
  const int64_t mean = a.n ? (a.size + b.size) / a.n : 0;
  fork_join(threads, a.n, kRunsPerThread / (mean + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      masks[static_cast<size_t>(i)] = combine(to_edges(a, i), to_edges(b, i), static_cast<unsigned>(truth));
    }
  });
  return to_runs(masks, a_totals);
}

Runs crop(const RunsView& runs, const int64_t* heights, const Window* windows, int64_t threads) {
  const std::vector<int64_t> totals = check_runs(runs);
  std::vector<int64_t> pixels(totals.size());
  for (size_t i = 0; i < totals.size(); ++i) {
    const Window& window = windows[i];
    for (const int64_t corner : {window.x, window.y}) {
      if (corner < -kMaxPixels / 2 || corner > kMaxPixels / 2) {
        throw std::invalid_argument("the corner of a window is too far away");
      }
    }
    if (!is_valid_size(window.height, window.width) || std::max(window.width, window.height) > kMaxPixels / 2) {
      throw std::invalid_argument("the sides of a window must not be negative, nor their product too large");
    }
    pixels[i] = window.width * window.height;
    if (totals[i] > 0 && (heights[i] <= 0 || totals[i] % heights[i] != 0)) {
      throw std::invalid_argument("the runs of mask " + std::to_string(i) + " sum to no multiple of its height");
    }
  }
  std::vector<Edges> masks(totals.size());
  const int64_t mean = runs.n ? runs.size / runs.n : 0;
  fork_join(threads, runs.n, kRunsPerThread / (mean + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const size_t index = static_cast<size_t>(i);
      if (pixels[index] == 0) continue;
      WindowCollector collector(windows[i], heights[i]);
      const Edges edges = to_edges(runs, i);
      for (size_t k = 0; k + 1 < edges.size(); k += 2) collector.add(edges[k], edges[k + 1]);
      masks[index] = collector.take();
    }
  });
  return to_runs(masks, pixels);
}

}  // namespace fastsam::rle
