// Masks as run lengths: alternating background and foreground, starting with background, down the columns
// (column-major, as in COCO). Position p of a mask of height H is the pixel y = p % H, x = p / H.
//
// Every function checks what it is given before it reads or allocates by it, and throws std::invalid_argument.
#pragma once

#include <cstdint>
#include <vector>

#include "common/tensor_view.h"

namespace fastsam::rle {

using RunsView = RaggedView<int64_t>;

// Run ends and pixel numbers stay below this, so that a sum of two can't leave int64.
constexpr int64_t kMaxPixels = (int64_t{1} << 62) - 1;

// Whether these are the sides of a mask.
inline bool are_sides(int64_t height, int64_t width) {
  return height >= 0 && width >= 0 && (width == 0 || height <= kMaxPixels / width);
}

struct Runs {
  std::vector<int64_t> counts;
  std::vector<int64_t> offsets{0};  // (n + 1)
};

struct Text {
  std::vector<uint8_t> characters;
  std::vector<int64_t> offsets{0};  // (n + 1)
};

// Throws unless offsets rise from 0 to size.
void check_offsets(const int64_t* offsets, int64_t n, int64_t size);
// Throws unless the offsets fit, no run is negative and no mask has more than kMaxPixels. Gives each mask's sum.
std::vector<int64_t> check_runs(const RunsView& runs);
// As check_runs, and throws unless each mask's runs sum to `pixels`.
void check_runs(const RunsView& runs, int64_t pixels);

// Throws unless all are `wanted`.
void check_equal(const std::vector<int64_t>& totals, int64_t wanted);

Runs encode(const MaskView& masks, int64_t threads);

// Writes masks of 0 and 1 to out, which holds zeros, (n, width, height) if column_major, else (n, height, width).
void decode(const RunsView& runs, int64_t height, int64_t width, bool column_major, uint8_t* out, int64_t threads);

// Foreground pixels, (n).
std::vector<int64_t> area(const RunsView& runs);

// x, y, width, height of the foreground, (n, 4); zeros where there is none.
std::vector<int64_t> to_bbox(const RunsView& runs, const int64_t* heights);

// Intersection over union of all pairs, (dt.n, gt.n). Where iscrowd (gt.n) is set, the union is dt's area.
std::vector<double> iou(const RunsView& dt, const RunsView& gt, const bool* iscrowd, int64_t threads);

// Runs of the union, or intersection, of all masks; none for no masks.
std::vector<int64_t> merge(const RunsView& runs, bool intersect);

// Pairs of masks, (n): bit (a + 2 b) of `truth` says whether a pixel that is a in the one and b in the other mask
// belongs to the result. Bit 0 is not set.
Runs combine(const RunsView& a, const RunsView& b, int64_t truth, int64_t threads);

// A part of the plane; where it leaves the mask it shows background.
struct Window {
  int64_t x, y, width, height;
};

// What windows (n) show of masks of these heights (n).
Runs crop(const RunsView& runs, const int64_t* heights, const Window* windows, int64_t threads);

// Filled polygons; points holds x, y of all vertices, offsets count vertices.
Runs from_polygon(const RaggedView<double>& points, int64_t height, int64_t width, int64_t threads);

// COCO's compressed text.
Text to_string(const RunsView& runs);
// pixels (n) is what each mask's runs must sum to.
Runs from_string(const RaggedView<uint8_t>& text, const int64_t* pixels);

}  // namespace fastsam::rle
