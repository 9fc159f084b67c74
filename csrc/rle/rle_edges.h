// A mask as the positions where it changes, ascending, with background before the first: even places begin foreground,
// odd places end it. Their number is even.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "rle/rle.h"

namespace fastsam::rle {

using Edges = std::vector<int64_t>;

// Collects edges from runs that are given one after the other.
class EdgeCollector {
 public:
  void add(int64_t run) {
    // An empty run between two leaves them one.
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

inline Edges edges_of(const RunsView& runs, int64_t i) {
  EdgeCollector collector;
  collector.reserve(static_cast<size_t>(runs.length(i)));
  for (const int64_t* run = runs.begin(i); run != runs.end(i); ++run) collector.add(*run);
  return collector.take();
}

// Where masks change, (n). The last edge is left out where it is the mask's end.
std::vector<Edges> find_edges(const MaskView& masks, int64_t threads);

// The set operation, as a truth table: bit (a + 2 b) says whether a pixel that is a in the one and b in the other mask
// belongs to the result. No operation may set bit 0.
Edges combine(const Edges& a, const Edges& b, unsigned truth);

// The union or intersection of all; they are used up.
Edges combine_all(std::vector<Edges>&& masks, bool intersect);

// Appends the mask's runs. A mask that is set to its last pixel ends there; there is no empty background run after it.
void append_runs(const Edges& edges, int64_t pixels, std::vector<int64_t>& counts);

}  // namespace fastsam::rle
