// The threshold of suppression in the type that boxes are compared in.
#pragma once

#include <cmath>
#include <limits>

namespace fastsam::nms {

// The largest T that is at most value: x > value and x > this agree for every x of type T.
template <typename T>
T round_down(double value) {
  const T rounded = static_cast<T>(value);
  return static_cast<double>(rounded) <= value ? rounded : std::nextafter(rounded, -std::numeric_limits<T>::infinity());
}

}  // namespace fastsam::nms
