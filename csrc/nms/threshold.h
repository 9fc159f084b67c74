// The suppression threshold, converted to the type in which IoUs are computed.
#pragma once

#include <cmath>
#include <limits>

namespace fastsam::nms {

// The largest T that is at most `value`. For every x of type T, x > value and x > round_down<T>(value) agree.
template <typename T>
T round_down(double value) {
  const T rounded = static_cast<T>(value);
  return static_cast<double>(rounded) <= value ? rounded : std::nextafter(rounded, -std::numeric_limits<T>::infinity());
}

}  // namespace fastsam::nms
