// Computes the bounding box of a mask's foreground from its runs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "rle/rle.h"

namespace fastsam::rle {

// Add all runs of a mask of this height in order, then read the box. `add` throws std::invalid_argument for foreground
// in a mask whose height isn't positive.
class BoxCollector {
 public:
  explicit BoxCollector(int64_t height) : height_(height) {}

  void add(int64_t run) {
    if (inside_ && run > 0) add_foreground(position_, position_ + run);
    position_ += run;
    inside_ = !inside_;
  }
  bool empty() const { return right_ < 0; }
  int64_t left() const { return left_; }
  int64_t top() const { return top_; }
  int64_t right() const { return right_; }    // inclusive
  int64_t bottom() const { return bottom_; }  // inclusive

  // Writes x, y, width, height; zeros without foreground.
  void write(int64_t* box) const {
    box[0] = empty() ? 0 : left_;
    box[1] = empty() ? 0 : top_;
    box[2] = empty() ? 0 : right_ - left_ + 1;
    box[3] = empty() ? 0 : bottom_ - top_ + 1;
  }

 private:
  void add_foreground(int64_t begin, int64_t end) {
    if (height_ <= 0) {
      throw std::invalid_argument("a mask of height 0 has foreground runs; its height must be positive");
    }
    // Most runs begin in the previous run's column or in the next, which avoids a division that costs more than all the
    // rest.
    if (begin - column_ >= height_) {
      const int64_t next = column_ + height_;
      const bool near = begin - next < height_;
      x_ = near ? x_ + 1 : begin / height_;
      column_ = near ? next : x_ * height_;
    }
    left_ = std::min(left_, x_);
    if (end - column_ <= height_) {
      right_ = std::max(right_, x_);
      top_ = std::min(top_, begin - column_);
      bottom_ = std::max(bottom_, end - 1 - column_);
    } else {
      // A run that reaches a second column touches the bottom of one and the top of the next.
      right_ = std::max(right_, (end - 1) / height_);
      top_ = 0;
      bottom_ = height_ - 1;
    }
  }

  int64_t height_;
  int64_t position_ = 0, x_ = 0, column_ = 0;  // column_ is where column x_ begins
  bool inside_ = false;
  int64_t left_ = kMaxPixels, top_ = kMaxPixels, right_ = -1, bottom_ = -1;
};

}  // namespace fastsam::rle
