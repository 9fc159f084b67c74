// Intersections of masks, computed from run lengths. Masks are never decoded for it.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "rle/rle.h"
#include "rle/rle_edges.h"

namespace fastsam::rle {

// A mask in the form that intersections are computed from.
struct Footprint {
  int64_t area = 0;
  Edges edges;

  // The bounding box of the foreground, right and bottom exclusive, in columns of `period` pixels (see make_footprint).
  int64_t left = 0, top = 0, right = 0, bottom = 0;

  // If has_columns: the foreground as spans of rows [top, bottom) within columns x, relative to `left`. tops and
  // bottoms hold the first span of each column; `extra_spans` holds the rest. This form is used if most columns have
  // one or two spans.
  struct Span {
    int32_t x, top, bottom;
  };
  bool has_columns = false;
  std::vector<int32_t> tops, bottoms;  // (right - left), both 0 for a column without foreground
  std::vector<Span> extra_spans;       // by x, then by top
};

// period: the height of the mask. Any other positive number gives the same intersections, if all masks share it, but
// may be slower.
Footprint make_footprint(Edges&& edges, int64_t period);

// Intersection over union of all pairs, (dt.size(), gt.size()); see `iou` in rle.h. All footprints must have the same
// period. If `gt` is the same object as `dt`, each pair is computed once. iscrowd (gt.size()) may be null.
std::vector<double> iou(const std::vector<Footprint>& dt, const std::vector<Footprint>& gt, const bool* iscrowd,
                        int64_t threads);

}  // namespace fastsam::rle
