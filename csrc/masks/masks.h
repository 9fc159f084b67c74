// Masks of a picture from low-resolution logits, and small regions of masks, without full-resolution arrays.
//
// Every function checks what it is given before it reads or allocates by it, and throws std::invalid_argument.
#pragma once

#include <cstdint>
#include <vector>

#include "rle/rle.h"

namespace fastsam::masks {

// How the positions of one axis of the picture are made of cells: position i is the sum of weights[3 * i + k] times
// cell min(first[i] + k, last cell), k = 0, 1, 2. `first` ascends; the weights are not negative and sum to 1.
struct Axis {
  const int64_t* first;  // (size)
  const float* weights;  // (size, 3)
  int64_t size;
};

// Where the enlarged masks lie in the picture whose runs are wanted.
struct Placement {
  int64_t height, width;  // of the picture
  int64_t left, top;
};

struct Levels {
  float threshold, high, low;  // high is at least threshold, and low at most
};

struct Measured {
  rle::Runs runs;              // in the picture
  std::vector<int64_t> boxes;  // (n, 4) x1, y1, x2, y2 of the outermost pixels in the enlarged mask; zeros where none
  std::vector<int64_t> sizes;  // (n, 3) pixels above threshold, high and low
};

// logits (n, rows, columns) contiguous; y takes from rows, x from columns: first down the columns, then across.
Measured measure(const float* logits, int64_t n, int64_t rows, int64_t columns, const Axis& y, const Axis& x,
                 const Levels& levels, const Placement& place, int64_t threads);

struct Cleaned {
  rle::Runs runs;
  std::vector<uint8_t> changed;  // (n)
};

// Background regions of fewer than min_area pixels become foreground, then foreground regions of fewer go, the largest
// excepted where all are small. Regions are 8-connected. Of equally large ones that stays which OpenCV meets first,
// going through the picture in rows of 2 x 2 blocks.
Cleaned remove_small_regions(const rle::RunsView& runs, int64_t height, int64_t width, double min_area,
                             int64_t threads);

}  // namespace fastsam::masks
