// An aligned, owning buffer of floats.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace fastsam {

// Uninitialised memory for `size` floats that begins at a cache line (64 bytes). With AVX2, every second 32-byte load
// from an unaligned panel would straddle two lines.
class Floats {
 public:
  explicit Floats(int64_t size)
      : data_(static_cast<float*>(::operator new(sizeof(float) * static_cast<size_t>(size), kCacheLine))) {}
  float* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kCacheLine{64};
  struct Deleter {
    void operator()(float* data) const { ::operator delete(data, kCacheLine); }
  };
  std::unique_ptr<float, Deleter> data_;
};

}  // namespace fastsam
