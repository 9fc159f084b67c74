// Scratch memory that a large operation uses again at its next call: fresh pages cost more than the work on them.
#pragma once

#include <cstdint>

namespace fastsam {

// At least `count` floats at a multiple of 64 bytes, uninitialised, for the life of this object. One block of at most
// 64 MB is kept for the next one who asks; more than one at a time is served, also after a fork.
class Scratch {
 public:
  explicit Scratch(int64_t count);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* data() const;

 private:
  void* block_;
};

}  // namespace fastsam
