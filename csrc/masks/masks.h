// Run lengths of an image's masks computed from low-resolution logits, and removal of small regions from masks, without
// full-resolution arrays.
//
// Pointers must refer to arrays of the shapes in the comments. Values are checked before anything is read or allocated
// by them; bad ones throw std::invalid_argument.
#pragma once

#include <cstdint>
#include <vector>

#include "rle/rle.h"

namespace fastsam::masks {

// How one axis of the enlarged mask is interpolated from cells, the logits' rows or columns. Position i is the sum over
// k = 0, 1, 2 of weights[3 * i + k] times cell min(first[i] + k, last cell). `first` ascends; the weights are not
// negative and sum to 1.
struct Axis {
  const int64_t* first;  // (size)
  const float* weights;  // (size, 3)
  int64_t size;
};

// Where the enlarged masks lie in the image that the runs describe, in pixels.
struct Placement {
  int64_t height, width;  // of the image
  int64_t left, top;
};

// Levels that logits are compared with: a pixel is foreground if it is above `threshold`. low <= threshold <= high.
struct Levels {
  float threshold, high, low;
};

struct MaskMeasurements {
  rle::Runs runs;              // of masks of the image's size
  std::vector<int64_t> boxes;  // (n, 4) x1, y1, x2, y2 of the outermost pixels in the enlarged mask; zeros if none
  std::vector<int64_t> sizes;  // (n, 3) numbers of pixels above threshold, high and low
};

// Enlarges logits (n, rows, columns), contiguous, to masks of y.size rows and x.size columns. y interpolates rows and
// is applied first; x interpolates columns.
MaskMeasurements measure(const float* logits, int64_t n, int64_t rows, int64_t columns, const Axis& y, const Axis& x,
                         const Levels& levels, const Placement& placement, int64_t threads);

struct CleanedMasks {
  rle::Runs runs;
  std::vector<uint8_t> changed;  // (n) 1 if the mask has a small region, even if that one stays
};

// Fills background regions of fewer than min_area pixels, then removes foreground regions of fewer than min_area
// pixels. If all foreground regions are small, the largest stays. Regions are 8-connected. Among equally large ones the
// one stays that OpenCV meets first, which scans the image in rows of 2 x 2 blocks.
CleanedMasks remove_small_regions(const rle::RunsView& runs, int64_t height, int64_t width, double min_area,
                                  int64_t threads);

}  // namespace fastsam::masks
