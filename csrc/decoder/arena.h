// A bump allocator for floats, whose pieces begin at cache lines. `allocate` does not check the capacity: the caller
// sums up padded(size) of all pieces beforehand.
#pragma once

#include <cstdint>

#include "common/floats.h"
#include "common/panels.h"

namespace fastsam::decoder {

class Arena {
 public:
  explicit Arena(int64_t floats) : memory_(floats), next_(memory_.data()) {}
  float* allocate(int64_t floats) {
    float* piece = next_;
    next_ += padded(floats);
    return piece;
  }
  void clear() { next_ = memory_.data(); }

 private:
  Floats memory_;
  float* next_;
};

}  // namespace fastsam::decoder
