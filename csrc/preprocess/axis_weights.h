// How one output of an antialiased bilinear resize weighs its inputs. The CPU and the GPU share this: the order and the
// rounding of every operation are what makes the weights equal to Pillow's.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fastsam::preprocess {

// Sums of 8-bit values times weights stay in int32 up to this many taps.
constexpr int64_t kMaxSide = int64_t{1} << 23;

// Weights are whole numbers in units of 2^-kWeightBits.
constexpr int kWeightBits = 22;

// A product that no compiler fuses with the sum it goes into.
FASTSAM_HD inline double product(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// More than one output's inputs, when `in` samples become `out`.
FASTSAM_HD inline int64_t max_taps(int64_t in, int64_t out) {
  const int64_t support = in > out ? (in + out - 1) / out : 1;
  return 2 * support + 1 < in ? 2 * support + 1 : in;
}

// A triangle around the output's centre over the inputs from `begin` to `end`, sampled at their middles.
struct Triangle {
  double centre, shrink;
  int64_t begin, end;

  FASTSAM_HD double at(int64_t x) const {
    const double signed_distance = product(static_cast<double>(x) - centre + 0.5, shrink);
    const double distance = signed_distance < 0.0 ? -signed_distance : signed_distance;
    return distance < 1.0 ? 1.0 - distance : 0.0;
  }

  // What the weights are divided by.
  FASTSAM_HD double total() const {
    double sum = 0.0;
    for (int64_t x = begin; x < end; ++x) sum += at(x);
    return sum;
  }

  FASTSAM_HD int32_t weight(int64_t x, double total) const {
    const double exact = total != 0.0 ? at(x) / total : at(x);
    return static_cast<int32_t>(0.5 + product(exact, 1 << kWeightBits));
  }
};

FASTSAM_HD inline Triangle triangle_of(int64_t in, int64_t out, int64_t i) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double support = scale > 1.0 ? scale : 1.0;
  const double centre = product(static_cast<double>(i) + 0.5, scale);
  const auto begin = static_cast<int64_t>(centre - support + 0.5), end = static_cast<int64_t>(centre + support + 0.5);
  return {centre, 1.0 / support, begin > 0 ? begin : 0, end < in ? end : in};
}

}  // namespace fastsam::preprocess
