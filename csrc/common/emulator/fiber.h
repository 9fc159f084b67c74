// Fibers for the emulator: a stack for each CUDA thread, and switches from one stack to another.
#pragma once

#include <cstddef>

#if defined(__x86_64__) && !defined(FASTSAM_PORTABLE_FIBERS)
#define FASTSAM_ASM_SWITCH 1
#else
#include <ucontext.h>
#endif

namespace fastsam::emulator {

// The saved execution state of a thread that was switched away from. A default-constructed one stands for code that
// already has a stack, such as the caller of a kernel.
class Fiber {
 public:
  // Make the next switch to this fiber call `entry`, which must never return, on the given stack.
  void prepare(void* stack, size_t bytes, void (*entry)());
  // Save the current state in `from`, and continue this fiber.
  void resume(Fiber& from);

  // `entry` must call this first.
  static void finish_first_switch();

 private:
  void set_stack(void* stack, size_t bytes);
  void switch_from(Fiber& from);

#ifdef FASTSAM_ASM_SWITCH
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
  // For AddressSanitizer, which must be told the bounds of the current stack; unknown until the first switch away.
  const void* stack_ = nullptr;
  size_t stack_bytes_ = 0;
};

// Stacks of equal size, each preceded by an inaccessible guard page. They live until the process ends.
class Stacks {
 public:
  static constexpr size_t kBytes = 256 * 1024;
  // Ensure that there are at least `count` stacks. If there were fewer, all are mapped anew and old ones are invalid.
  void reserve(size_t count);
  void* stack(size_t i) const { return base_ + i * kStride + kGuard; }
  // Number of bytes from the beginning of the first stack to the end of the last.
  size_t bytes() const { return count_ * kStride - kGuard; }

 private:
  static constexpr size_t kGuard = 64 * 1024;  // the largest page size of any supported machine
  static constexpr size_t kStride = kBytes + kGuard;
  char* base_ = nullptr;
  size_t count_ = 0;
};

}  // namespace fastsam::emulator
