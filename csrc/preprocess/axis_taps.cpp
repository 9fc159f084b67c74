// Computes the weights of one axis of a resize, for the CPU kernels.
#include "preprocess/axis_taps.h"

#include <algorithm>

namespace fastsam::preprocess {

ResampledAxis::ResampledAxis(int64_t in, int64_t out) : identity_(in == out) {
  stride_ = (max_taps(in, out) + 3) / 4 * 4;
  const auto outputs = static_cast<size_t>(out);
  first_.resize(outputs);
  count_.resize(outputs);
  weights_.assign(outputs * static_cast<size_t>(stride_), 0);
  halves_.resize(weights_.size() * 2);
  for (int64_t i = 0; i < out; ++i) {
    const auto index = static_cast<size_t>(i);
    const TriangleFilter filter = make_triangle(in, out, i);
    const double total = filter.total();
    first_[index] = static_cast<int32_t>(filter.begin);
    int32_t* row = weights_.data() + i * stride_;
    int64_t count = 1;
    for (int64_t t = 0; t < filter.end - filter.begin; ++t) {
      row[t] = filter.weight(filter.begin + t, total);
      if (row[t] != 0) count = t + 1;
    }
    count_[index] = static_cast<int32_t>(count);
    max_count_ = std::max(max_count_, count);
    int16_t* halves = halves_.data() + 2 * i * stride_;
    for (int64_t t = 0; t < stride_; ++t) {
      halves[t / 4 * 8 + t % 4] = static_cast<int16_t>(row[t] >> 15);
      halves[t / 4 * 8 + t % 4 + 4] = static_cast<int16_t>(row[t] & 0x7fff);
    }
  }
}

AxisTaps ResampledAxis::taps() const {
  return {static_cast<int64_t>(first_.size()), stride_, first_.data(), count_.data(), weights_.data(), halves_.data()};
}

}  // namespace fastsam::preprocess
