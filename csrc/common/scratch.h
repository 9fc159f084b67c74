// Scratch memory that large operations reuse from call to call, because faulting in fresh pages costs more than the
// work done in them.
#pragma once

#include <cstdint>

namespace fastsam {

// At least `count` uninitialised floats, aligned to 64 bytes, for the life of this object. On destruction, a block of
// at most 64 MB is cached for the next object. Several objects may exist at a time, in any threads, also after a fork.
// Throws std::bad_alloc for a negative or impossible size.
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
