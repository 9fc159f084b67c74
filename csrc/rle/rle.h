// Operations on masks as run lengths, on the CPU. The runs of a mask alternate between background and foreground,
// starting with background, down the columns (column-major, as in COCO). Position p of a mask of height H is the pixel
// y = p % H, x = p / H.
//
// Pointers must refer to arrays of the shapes in the comments. Values are checked before anything is read or allocated
// by them; bad ones throw std::invalid_argument.
#pragma once

#include <cstdint>
#include <vector>

#include "common/tensor_view.h"

namespace fastsam::rle {

using RunsView = RaggedView<int64_t>;

// Largest number of pixels of a mask. The sum of two such numbers fits int64.
constexpr int64_t kMaxPixels = (int64_t{1} << 62) - 1;

// Whether both sides are at least 0 and the mask has at most kMaxPixels.
inline bool is_valid_size(int64_t height, int64_t width) {
  return height >= 0 && width >= 0 && (width == 0 || height <= kMaxPixels / width);
}

// The runs of n masks: those of mask i are counts[offsets[i]] to counts[offsets[i + 1] - 1].
struct Runs {
  std::vector<int64_t> counts;
  std::vector<int64_t> offsets{0};  // (n + 1)
};

// The same for n compressed texts.
struct CompressedText {
  std::vector<uint8_t> characters;
  std::vector<int64_t> offsets{0};  // (n + 1)
};

// Throws unless offsets (n + 1) ascend from 0 to size.
void check_offsets(const int64_t* offsets, int64_t n, int64_t size);
// Throws unless the offsets ascend from 0 to the number of runs, no run is negative and no mask has more than
// kMaxPixels. Returns each mask's number of pixels, (n).
std::vector<int64_t> check_runs(const RunsView& runs);
// The same, and throws unless each mask's runs sum to `pixels`.
void check_runs(const RunsView& runs, int64_t pixels);

// Throws unless all totals, numbers of pixels, are `expected`.
void check_equal(const std::vector<int64_t>& totals, int64_t expected);

// The runs of masks of any strides. Throws for masks wider than 2^32 - 1 pixels.
Runs encode(const MaskView& masks, int64_t threads);

// Decodes masks to bytes of 0 and 1. out is (n, width, height) if column_major, else (n, height, width), and must hold
// zeros.
void decode(const RunsView& runs, int64_t height, int64_t width, bool column_major, uint8_t* out, int64_t threads);

// Number of foreground pixels of each mask, (n).
std::vector<int64_t> area(const RunsView& runs);

// Bounding box of each mask's foreground: x, y, width, height, (n, 4); zeros if there is none. heights (n): of the
// masks. Throws for foreground in a mask whose height isn't positive.
std::vector<int64_t> to_bbox(const RunsView& runs, const int64_t* heights);

// Intersection over union of all pairs, (dt.n, gt.n). Where iscrowd (gt.n) is true, the area of dt takes the place of
// the union. All masks must have the same number of pixels.
std::vector<double> iou(const RunsView& dt, const RunsView& gt, const bool* iscrowd, int64_t threads);

// The runs of the union or the intersection of all masks, which must have the same number of pixels; no runs for no
// masks.
std::vector<int64_t> merge(const RunsView& runs, bool intersect);

// A set operation on pairs of masks a[i] and b[i], (n), by a truth table: bit p + 2 * q of `truth` is the result for a
// pixel that is p (0 or 1) in a[i] and q in b[i]. Bit 0 must be 0. Masks of a pair must have the same number of pixels.
Runs combine(const RunsView& a, const RunsView& b, int64_t truth, int64_t threads);

// A rectangle in pixels of a mask. It may reach beyond the mask, where everything is background.
struct Window {
  int64_t x, y, width, height;
};

// The contents of windows (n), one per mask. heights (n): of the masks.
Runs crop(const RunsView& runs, const int64_t* heights, const Window* windows, int64_t threads);

// Masks of filled polygons. points.values holds x, y of all vertices; points.size and points.offsets count vertices.
// Coordinates must be finite and at most 4e8 in magnitude.
Runs from_polygon(const RaggedView<double>& points, int64_t height, int64_t width, int64_t threads);

// Runs to COCO's compressed text (rle_text.h).
CompressedText to_string(const RunsView& runs);
// The inverse. pixels (n): what each mask's runs must sum to.
Runs from_string(const RaggedView<uint8_t>& text, const int64_t* pixels);

}  // namespace fastsam::rle
