// A stack of its own for each CUDA thread, and the switch from one to another.
#pragma once

#include <cstddef>

#if defined(__x86_64__) && !defined(FASTSAM_PORTABLE_FIBERS)
#define FASTSAM_OWN_SWITCH 1
#else
#include <ucontext.h>
#endif

namespace fastsam::emulator {

// Where a switched-away thread goes on. Default-made for one that has a stack already.
class Fiber {
 public:
  // The next switch to this one calls `entry`, which never returns, on the given stack.
  void prepare(void* stack, size_t bytes, void (*entry)());
  // Leaves `from`, goes on with this one.
  void resume(Fiber& from);

  // On a fiber's own stack, as the first thing.
  static void arrived();

 private:
  void note_stack(void* stack, size_t bytes);
  void switch_from(Fiber& from);

#ifdef FASTSAM_OWN_SWITCH
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
  // For AddressSanitizer, which wants to know which stack it is on; unknown until the first switch away.
  const void* stack_ = nullptr;
  size_t stack_bytes_ = 0;
};

// Stacks of equal size with a page between them that can't be touched, for the life of the process.
class Stacks {
 public:
  static constexpr size_t kBytes = 256 * 1024;
  // At least `count` of them are there after this.
  void reserve(size_t count);
  void* stack(size_t i) const { return base_ + i * kStride + kGuard; }
  // From the first one's beginning to the last one's end.
  size_t bytes() const { return count_ * kStride - kGuard; }

 private:
  static constexpr size_t kGuard = 64 * 1024;  // a page on every machine
  static constexpr size_t kStride = kBytes + kGuard;
  char* base_ = nullptr;
  size_t count_ = 0;
};

}  // namespace fastsam::emulator
