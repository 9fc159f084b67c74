#include "preprocess/axis_taps.h"

#include <algorithm>
#include <cmath>

namespace fastsam::preprocess {

namespace {

// A triangle of half-width `support` around the output's centre, sampled at the middles of the inputs under it.
// The order of the operations is what makes the weights equal to Pillow's.
int64_t sample(int64_t in, int64_t out, int64_t i, std::vector<double>& weights) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double support = std::max(scale, 1.0), shrink = 1.0 / support;
  const double centre = (static_cast<double>(i) + 0.5) * scale;
  const auto begin = std::max<int64_t>(0, static_cast<int64_t>(centre - support + 0.5));
  const auto end = std::min<int64_t>(in, static_cast<int64_t>(centre + support + 0.5));
  weights.clear();
  double total = 0.0;
  for (int64_t x = begin; x < end; ++x) {
    const double distance = std::fabs((static_cast<double>(x) - centre + 0.5) * shrink);
    weights.push_back(distance < 1.0 ? 1.0 - distance : 0.0);
    total += weights.back();
  }
  if (total != 0.0) {
    for (double& weight : weights) weight /= total;
  }
  return begin;
}

}  // namespace

Axis::Axis(int64_t in, int64_t out) : identity_(in == out) {
  const auto support =
      static_cast<int64_t>(std::ceil(std::max(static_cast<double>(in) / static_cast<double>(out), 1.0)));
  stride_ = (std::min(2 * support + 1, in) + 3) / 4 * 4;
  const auto outputs = static_cast<size_t>(out);
  first_.resize(outputs);
  count_.resize(outputs);
  weights_.assign(outputs * static_cast<size_t>(stride_), 0);
  halves_.resize(weights_.size() * 2);
  std::vector<double> exact;
  for (int64_t i = 0; i < out; ++i) {
    const auto at = static_cast<size_t>(i);
    first_[at] = static_cast<int32_t>(sample(in, out, i, exact));
    int32_t* row = weights_.data() + i * stride_;
    int64_t count = 1;
    for (size_t t = 0; t < exact.size(); ++t) {
      row[t] = static_cast<int32_t>(0.5 + exact[t] * (1 << 22));
      if (row[t] != 0) count = static_cast<int64_t>(t) + 1;
    }
    count_[at] = static_cast<int32_t>(count);
    max_count_ = std::max(max_count_, count);
    int16_t* halves = halves_.data() + 2 * i * stride_;
    for (int64_t t = 0; t < stride_; ++t) {
      halves[t / 4 * 8 + t % 4] = static_cast<int16_t>(row[t] >> 15);
      halves[t / 4 * 8 + t % 4 + 4] = static_cast<int16_t>(row[t] & 0x7fff);
    }
  }
}

AxisTaps Axis::taps() const {
  return {static_cast<int64_t>(first_.size()), stride_, first_.data(), count_.data(), weights_.data(), halves_.data()};
}

}  // namespace fastsam::preprocess
