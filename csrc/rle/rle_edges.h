// Masks as edges: the positions at which pixels change, ascending, starting from background. Edges with an even index
// begin foreground, those with an odd index end it. Unless a comment says otherwise, there is an even number of edges.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "rle/rle.h"

namespace fastsam::rle {

using Edges = std::vector<int64_t>;

// Collects the edges of a mask from its runs, added in order.
class EdgeCollector {
 public:
  void add(int64_t run) {
    // An empty run between two others joins these.
    if (run > 0 && inside_ != ((edges_.size() & 1) != 0)) edges_.push_back(position_);
    position_ += run;
    inside_ = !inside_;
  }
  Edges take() {
    if (edges_.size() & 1) edges_.push_back(position_);
    return std::move(edges_);
  }
  void reserve(size_t runs) { edges_.reserve(runs + 1); }

 private:
  Edges edges_;
  int64_t position_ = 0;
  bool inside_ = false;
};

// The edges of mask i. The runs must be valid (check_runs).
inline Edges to_edges(const RunsView& runs, int64_t i) {
  EdgeCollector collector;
  collector.reserve(static_cast<size_t>(runs.length(i)));
  for (const int64_t* run = runs.begin(i); run != runs.end(i); ++run) collector.add(*run);
  return collector.take();
}

// The edges of n masks of bytes. An edge at the very end of a mask is left out, so that the number of edges may be odd.
// Throws as `encode`.
std::vector<Edges> find_edges(const MaskView& masks, int64_t threads);

// A set operation, by a truth table: bit p + 2 * q is the result for a pixel that is p (0 or 1) in `a` and q in `b`.
// Bit 0 must be 0.
Edges combine(const Edges& a, const Edges& b, unsigned truth);

// The union or the intersection of one or more masks, which are consumed.
Edges combine_all(std::vector<Edges>&& masks, bool intersect);

// Appends the runs of a mask of `pixels` pixels to counts. If the last pixel is set, no empty background run follows.
void append_runs(const Edges& edges, int64_t pixels, std::vector<int64_t>& counts);

}  // namespace fastsam::rle
