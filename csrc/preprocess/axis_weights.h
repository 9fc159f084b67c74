// The weights of an antialiased bilinear resize, computed alike on the CPU and the GPU. The order and the rounding of
// every operation matter: they make the weights equal to Pillow's.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fastsam::preprocess {

// Largest side of an image. Up to this many taps, a sum of bytes times weights stays within int32.
constexpr int64_t kMaxSide = int64_t{1} << 23;

// Weights are integers in units of 2^-kWeightBits.
constexpr int kWeightBits = 22;

// A product that is not fused with a following sum. On the CPU the build's -ffp-contract=off ensures that.
FASTSAM_HD inline double product(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// Upper bound of the number of inputs of one output when `in` samples are resized to `out`.
FASTSAM_HD inline int64_t max_taps(int64_t in, int64_t out) {
  const int64_t support = in > out ? (in + out - 1) / out : 1;
  return 2 * support + 1 < in ? 2 * support + 1 : in;
}

// The triangle filter of one output: around `centre`, over inputs [begin, end), sampled at their centres.
// inverse_support: 1 / half of its base.
struct TriangleFilter {
  double centre, inverse_support;
  int64_t begin, end;

  FASTSAM_HD double sample(int64_t x) const {
    const double signed_distance = product(static_cast<double>(x) - centre + 0.5, inverse_support);
    const double distance = signed_distance < 0.0 ? -signed_distance : signed_distance;
    return distance < 1.0 ? 1.0 - distance : 0.0;
  }

  // The sum of all samples, by which each weight is divided.
  FASTSAM_HD double total() const {
    double sum = 0.0;
    for (int64_t x = begin; x < end; ++x) sum += sample(x);
    return sum;
  }

  // The weight of input x in units of 2^-kWeightBits.
  FASTSAM_HD int32_t weight(int64_t x, double total) const {
    const double weight_value = total != 0.0 ? sample(x) / total : sample(x);
    return static_cast<int32_t>(0.5 + product(weight_value, 1 << kWeightBits));
  }
};

// The filter of output i when `in` samples are resized to `out`.
FASTSAM_HD inline TriangleFilter make_triangle(int64_t in, int64_t out, int64_t i) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double support = scale > 1.0 ? scale : 1.0;
  const double centre = product(static_cast<double>(i) + 0.5, scale);
  const auto begin = static_cast<int64_t>(centre - support + 0.5), end = static_cast<int64_t>(centre + support + 0.5);
  return {centre, 1.0 / support, begin > 0 ? begin : 0, end < in ? end : in};
}

}  // namespace fastsam::preprocess
