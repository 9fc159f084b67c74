// Uninitialised memory in whole cache lines, handed out piece by piece.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace fastsam::decoder {

class Arena {
 public:
  explicit Arena(int64_t floats)
      : memory_(static_cast<float*>(::operator new(static_cast<size_t>(floats) * sizeof(float), kAlign))),
        next_(memory_.get()) {}
  static int64_t padded(int64_t floats) { return (floats + 15) / 16 * 16; }
  float* take(int64_t floats) {
    float* piece = next_;
    next_ += padded(floats);
    return piece;
  }
  void clear() { next_ = memory_.get(); }

 private:
  static constexpr std::align_val_t kAlign{64};
  struct Free {
    void operator()(float* p) const { ::operator delete(p, kAlign); }
  };
  std::unique_ptr<float, Free> memory_;
  float* next_;
};

}  // namespace fastsam::decoder
