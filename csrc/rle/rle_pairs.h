// A mask as what intersections are computed from.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "rle/rle.h"
#include "rle/rle_edges.h"

namespace fastsam::rle {

struct Footprint {
  int64_t area = 0;
  Edges edges;

  // The box around the foreground, exclusive at its end; in columns of the period that was given.
  int64_t left = 0, top = 0, right = 0, bottom = 0;

  // Where columns hold one or two stretches mostly: the first of each column [left, right), and all others.
  struct Stretch {
    int32_t x, top, bottom;
  };
  bool by_column = false;
  std::vector<int32_t> tops, bottoms;  // (right - left), both 0 for a column without foreground
  std::vector<Stretch> others;         // by x, then by top
};

// period: the height of the masks. Any other number is as right, but slower.
Footprint footprint_of(Edges&& edges, int64_t period);

// Intersection over union of all pairs, (dt.size(), gt.size()), all of one period. If `gt` is `dt` itself, each pair is
// looked at once. iscrowd (gt.size()), may be null.
std::vector<double> iou(const std::vector<Footprint>& dt, const std::vector<Footprint>& gt, const bool* iscrowd,
                        int64_t threads);

}  // namespace fastsam::rle
