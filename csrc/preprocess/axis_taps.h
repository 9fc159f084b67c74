// The weights of an antialiased bilinear resize along one axis, in the fixed-point format that Pillow uses.
#pragma once

#include <cstdint>
#include <vector>

#include "preprocess/axis_weights.h"
#include "preprocess/preprocess_table.h"

namespace fastsam::preprocess {

class ResampledAxis {
 public:
  // Resizes `in` samples to `out`. The caller guarantees that both are from 1 to kMaxSide.
  ResampledAxis(int64_t in, int64_t out);

  AxisTaps taps() const;
  bool identity() const { return identity_; }
  // Output i is the sum over t < count(i) of weights(i)[t] * input begin(i) + t.
  int64_t begin(int64_t i) const { return first_[static_cast<size_t>(i)]; }
  int64_t count(int64_t i) const { return count_[static_cast<size_t>(i)]; }
  int64_t max_count() const { return max_count_; }
  const int32_t* weights(int64_t i) const { return weights_.data() + i * stride_; }

 private:
  bool identity_;
  int64_t stride_ = 0, max_count_ = 0;
  std::vector<int32_t> first_, count_, weights_;
  std::vector<int16_t> halves_;
};

}  // namespace fastsam::preprocess
