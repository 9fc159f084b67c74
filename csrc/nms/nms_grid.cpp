// Kept boxes lie in grids, one for each size class that occurs: a range of widths and a range of heights, each of one
// to three octaves. For two boxes with left sides x1 and x2, widths w1 and w2, and an IoU above t,
//
//   IoU <= (width of the intersection) / max(w1, w2), hence
//   w2 lies in (t w1, w1 / t), and x2 - x1 in (-(1 - t) w2, (1 - t) w1).
//
// The same holds for upper sides and heights. So a box is compared with few size classes, and in each with few cells.
// The bounds hold in exact arithmetic. The code uses a slightly smaller t, by a margin far above the rounding error of
// the IoU.
#include "nms/nms_grid.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>
#include <vector>

#include "common/isa.h"
#include "nms/nms_table.h"

namespace fastsam::nms {
namespace {

template <typename T>
struct Limits;
template <>
struct Limits<float> {
  static constexpr int kExponent = 100;   // largest magnitude of a side's binary exponent
  static constexpr int kArea = -80;       // exponent of the smallest area; rounding of smaller ones isn't relative
  static constexpr double kSlack = 1e-4;  // many times the relative error of an IoU
};
template <>
struct Limits<double> {
  static constexpr int kExponent = 450;
  static constexpr int kArea = -450;
  static constexpr double kSlack = 1e-9;
};

// The boxes of one size class: a width is in [max_width / 2^octaves, max_width), a height likewise.
struct SizeClass {
  double max_width = 0, max_height = 0;                                         // powers of two, exclusive
  double per_cell_x = 0, per_cell_y = 0;                                        // 1 / side of a cell, a power of two
  double first_x = std::numeric_limits<double>::infinity(), first_y = first_x;  // range of cells that occur
  double last_x = -first_x, last_y = -first_x;
  size_t boxes = 0;  // most boxes that it will hold
  size_t begin = 0;  // its first place in the columns
  size_t first_bucket = 0;
  int bucket_bits = 0;  // it has 2^bucket_bits buckets
};

struct Bucket {
  uint32_t begin = 0;     // its first place in the columns
  uint32_t num_kept = 0;  // kept boxes in it so far
};

// The bucket of cell (x, y), by hashing. Cells that share a bucket only cost time, since any kept box that overlaps
// enough is a valid hit.
inline size_t find_bucket(const SizeClass& size, int64_t x, int64_t y) {
  const uint64_t mixed =
      static_cast<uint64_t>(x) * 0x9E3779B97F4A7C15u + static_cast<uint64_t>(y) * 0xC2B2AE3D27D4EB4Fu;
  const uint64_t folded = (mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9u;
  return size.first_bucket + (size.bucket_bits ? static_cast<size_t>(folded >> (64 - size.bucket_bits)) : 0);
}

// The boxes of one call, and the grids of those that are kept so far. Boxes are numbered in the order of visits.
template <typename T>
class Grid {
 public:
  Grid(const T* boxes, const int64_t* order, size_t n, T threshold) : n_(n), threshold_(threshold) {
    boxes_.reserve(4 * n);
    for (size_t k = 0; k < n; ++k) boxes_.insert(boxes_.end(), boxes + 4 * order[k], boxes + 4 * order[k] + 4);
    bound_ = std::max(0.0, static_cast<double>(threshold) - Limits<T>::kSlack);
    // The smaller the threshold, the more sizes of boxes a box is compared with: wider classes keep them few.
    octaves_ = bound_ >= 0.45 ? 1 : bound_ >= 0.2 ? 2 : 3;
    min_side_ratio_ = std::ldexp(1.0, -octaves_);
    // A cell is about as wide as the range that a box of the same size searches, but at least 1/64 of max_width.
    cell_shift_ = std::max(-6, static_cast<int>(std::ceil(std::log2(2 * (1 - bound_)))));
  }

  // Sorts the boxes into size classes. Returns false if one is outside the range in which the bounds hold.
  bool build() {
    box_bucket_.assign(n_, kNoBucket);
    class_of_.assign(n_, 0);
    std::unordered_map<int, uint32_t> class_indices;
    for (size_t k = 0; k < n_; ++k) {
      const T* box = box_at(k);
      const T width = box[2] - box[0], height = box[3] - box[1], area = width * height;
      // Boxes without an area, or whose area overflows T, have an IoU of 0 or NaN with every other box.
      if (!(width > 0 && height > 0 && area <= std::numeric_limits<T>::max())) continue;
      int w = 0, h = 0;
      std::frexp(width, &w);
      std::frexp(height, &h);
      if (std::abs(w) > Limits<T>::kExponent || std::abs(h) > Limits<T>::kExponent) return false;
      if (static_cast<double>(area) < std::ldexp(1.0, Limits<T>::kArea)) return false;
      w = round_up(w);
      h = round_up(h);
      const auto found = class_indices.emplace(w * 4096 + h, static_cast<uint32_t>(classes_.size()));
      if (found.second) classes_.push_back(make_size_class(w, h));
      SizeClass& size = classes_[found.first->second];
      const double x = std::floor(static_cast<double>(box[0]) * size.per_cell_x);
      const double y = std::floor(static_cast<double>(box[1]) * size.per_cell_y);
      size.first_x = std::min(size.first_x, x);
      size.last_x = std::max(size.last_x, x);
      size.first_y = std::min(size.first_y, y);
      size.last_y = std::max(size.last_y, y);
      ++size.boxes;
      class_of_[k] = found.first->second;
      box_bucket_[k] = 0;
    }
    assign_buckets();
    return true;
  }

  bool has_area(size_t k) const { return box_bucket_[k] != kNoBucket; }

  // Whether a kept box suppresses box k.
  bool is_suppressed(const NmsKernelsOf<T>& isa, size_t k) const {
    const T* box = box_at(k);
    const double x = static_cast<double>(box[0]), y = static_cast<double>(box[1]);
    const double width = static_cast<double>(box[2] - box[0]), height = static_cast<double>(box[3] - box[1]);
    const double reach_x = x + (1 - bound_) * width, reach_y = y + (1 - bound_) * height;
    const double limit_width = bound_ > 0 ? width / bound_ : std::numeric_limits<double>::infinity();
    const double limit_height = bound_ > 0 ? height / bound_ : std::numeric_limits<double>::infinity();
    const double limit_area = limit_width * height, min_area = bound_ * width * height;
    const BoxColumns<T> kept_boxes = columns();
    for (const SizeClass& size : classes_) {
      const double w = size.max_width, h = size.max_height;
      if (w <= bound_ * width || h <= bound_ * height || w * min_side_ratio_ >= limit_width ||
          h * min_side_ratio_ >= limit_height || w * h <= min_area ||
          w * h * min_side_ratio_ * min_side_ratio_ >= limit_area) {
        continue;
      }
      // Rounding is monotonic, so that the rounded ends of a range still enclose every coordinate in it.
      const double left = x - (1 - bound_) * std::min(w, limit_width);
      const double top = y - (1 - bound_) * std::min(h, limit_height);
      const double x0 = std::max(size.first_x, std::floor(left * size.per_cell_x));
      const double x1 = std::min(size.last_x, std::floor(reach_x * size.per_cell_x));
      const double y0 = std::max(size.first_y, std::floor(top * size.per_cell_y));
      const double y1 = std::min(size.last_y, std::floor(reach_y * size.per_cell_y));
      if (!(x0 <= x1 && y0 <= y1)) continue;
      if ((x1 - x0 + 1) * (y1 - y0 + 1) * kCellCost > static_cast<double>(size.boxes)) {
        if (isa.overlaps_any(kept_boxes, size.begin, size.begin + size.boxes, box, threshold_)) return true;
        continue;
      }
      for (int64_t cy = static_cast<int64_t>(y0); cy <= static_cast<int64_t>(y1); ++cy) {
        for (int64_t cx = static_cast<int64_t>(x0); cx <= static_cast<int64_t>(x1); ++cx) {
          const Bucket& bucket = buckets_[find_bucket(size, cx, cy)];
          if (bucket.num_kept &&
              isa.overlaps_any(kept_boxes, bucket.begin, bucket.begin + bucket.num_kept, box, threshold_))
            return true;
        }
      }
    }
    return false;
  }

  // Adds box k to the kept ones.
  void insert(size_t k) {
    Bucket& bucket = buckets_[box_bucket_[k]];
    const size_t at = bucket.begin + bucket.num_kept++;
    const T* box = box_at(k);
    x1_[at] = box[0];
    y1_[at] = box[1];
    x2_[at] = box[2];
    y2_[at] = box[3];
    area_[at] = (box[2] - box[0]) * (box[3] - box[1]);
  }

 private:
  static constexpr uint32_t kNoBucket = std::numeric_limits<uint32_t>::max();
  // Looking up a cell takes about as long as comparing with this many consecutive boxes.
  static constexpr double kCellCost = 16;

  const T* box_at(size_t k) const { return boxes_.data() + 4 * k; }
  BoxColumns<T> columns() const { return {x1_.data(), y1_.data(), x2_.data(), y2_.data(), area_.data()}; }

  // The exponent of the exclusive bound of the class that a side of this exponent belongs to: the next multiple of
  // octaves_.
  int round_up(int exponent) const {
    const int above = exponent + 4 * Limits<T>::kExponent * octaves_;  // not negative
    return exponent + (octaves_ - above % octaves_) % octaves_;
  }

  SizeClass make_size_class(int w, int h) const {
    SizeClass size;
    size.max_width = std::ldexp(1.0, w);
    size.max_height = std::ldexp(1.0, h);
    size.per_cell_x = std::ldexp(1.0, -w - cell_shift_);
    size.per_cell_y = std::ldexp(1.0, -h - cell_shift_);
    return size;
  }

  // Assigns the boxes to buckets, and gives every bucket room for all of its boxes.
  void assign_buckets() {
    size_t boxes = 0, buckets = 0;
    for (SizeClass& size : classes_) {
      while ((size_t{1} << size.bucket_bits) < size.boxes) ++size.bucket_bits;
      size.begin = boxes;
      size.first_bucket = buckets;
      boxes += size.boxes;
      buckets += size_t{1} << size.bucket_bits;
    }
    buckets_.resize(buckets);
    for (size_t k = 0; k < n_; ++k) {
      if (!has_area(k)) continue;
      const SizeClass& size = classes_[class_of_[k]];
      const T* box = box_at(k);
      box_bucket_[k] = static_cast<uint32_t>(
          find_bucket(size, static_cast<int64_t>(std::floor(static_cast<double>(box[0]) * size.per_cell_x)),
                      static_cast<int64_t>(std::floor(static_cast<double>(box[1]) * size.per_cell_y))));
      ++buckets_[box_bucket_[k]].num_kept;
    }
    uint32_t begin = 0;
    for (Bucket& bucket : buckets_) {
      bucket.begin = begin;
      begin += bucket.num_kept;
      bucket.num_kept = 0;
    }
    // Places without a kept box hold one that overlaps nothing.
    const T far = std::numeric_limits<T>::max() / 4;
    for (std::vector<T>* column : {&x1_, &y1_}) column->assign(boxes + kNmsBlock, far);
    for (std::vector<T>* column : {&x2_, &y2_}) column->assign(boxes + kNmsBlock, -far);
    area_.assign(boxes + kNmsBlock, T(1));
  }

  std::vector<T> boxes_;  // (n_, 4) in the order of visits
  size_t n_;
  T threshold_;
  double bound_ = 0;
  int cell_shift_ = 0;
  int octaves_ = 1;            // of a class
  double min_side_ratio_ = 0;  // smallest side of a class as a fraction of its bound
  std::vector<SizeClass> classes_;
  std::vector<Bucket> buckets_;
  std::vector<uint32_t> box_bucket_;         // bucket of each box; kNoBucket if it has no usable area
  std::vector<uint32_t> class_of_;           // size class of each box
  std::vector<T> x1_, y1_, x2_, y2_, area_;  // the columns: kept boxes, bucket after bucket
};

}  // namespace

template <typename T>
bool suppress_on_grid(const T* boxes, const int64_t* order, size_t n, T threshold, uint8_t* keep) {
  if (n >= std::numeric_limits<uint32_t>::max() / 4) return false;
  Grid<T> grid(boxes, order, n, threshold);
  if (!grid.build()) return false;
  const NmsKernelsOf<T>& isa = kernels().nms;
  for (size_t k = 0; k < n; ++k) {
    if (!grid.has_area(k)) {
      keep[order[k]] = 1;
    } else if (!grid.is_suppressed(isa, k)) {
      keep[order[k]] = 1;
      grid.insert(k);
    }
  }
  return true;
}

template bool suppress_on_grid<float>(const float*, const int64_t*, size_t, float, uint8_t*);
template bool suppress_on_grid<double>(const double*, const int64_t*, size_t, double, uint8_t*);

}  // namespace fastsam::nms
