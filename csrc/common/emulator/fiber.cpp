// Fibers (fiber.h): by a few instructions of assembly on x86-64 with the System V ABI, by ucontext elsewhere. Under
// AddressSanitizer, each switch is announced to it.
#include "common/emulator/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace fastsam::emulator {

#ifdef __SANITIZE_ADDRESS__
namespace {

// The fiber that was switched away from last.
Fiber* previous = nullptr;

}  // namespace
#endif

void Stacks::reserve(size_t count) {
  if (count <= count_) return;
  if (base_ != nullptr) {
#ifdef __SANITIZE_ADDRESS__
    // Stack frames that never returned are still poisoned, and the next mapping at this address would inherit that.
    __asan_unpoison_memory_region(base_, count_ * kStride);
#endif
    munmap(base_, count_ * kStride);
  }
  base_ = nullptr;
  count_ = 0;
  // Reserves only address space; physical pages are allocated when first touched.
  void* memory = mmap(nullptr, count * kStride, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<char*>(memory);
  count_ = count;
  for (size_t i = 0; i < count; ++i) {
    if (mprotect(stack(i), kBytes, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
  }
}

void Fiber::set_stack(void* stack, size_t bytes) {
  stack_ = stack;
  stack_bytes_ = bytes;
#ifdef __SANITIZE_ADDRESS__
  // The frames of a thread that an error stopped are still poisoned.
  __asan_unpoison_memory_region(stack, bytes);
#endif
}

void Fiber::finish_first_switch() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &previous->stack_, &previous->stack_bytes_);
#endif
}

void Fiber::resume(Fiber& from) {
#ifdef __SANITIZE_ADDRESS__
  void* frames = nullptr;
  previous = &from;
  __sanitizer_start_switch_fiber(&frames, stack_, stack_bytes_);
  switch_from(from);
  __sanitizer_finish_switch_fiber(frames, &previous->stack_, &previous->stack_bytes_);
#else
  switch_from(from);
#endif
}

#ifdef FASTSAM_ASM_SWITCH

// Push the callee-saved registers of the System V ABI on the current stack, store its pointer in *saved, and pop the
// registers from the stack that is entered. To C++ this is an ordinary call. The floating-point control words, which
// are callee-saved too, are not switched: kernels don't change them.
extern "C" void fastsam_switch_stack(void** saved, void* target);
asm(R"(
.text
.globl fastsam_switch_stack
.hidden fastsam_switch_stack
.type fastsam_switch_stack, @function
fastsam_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastsam_switch_stack, .-fastsam_switch_stack
)");

void Fiber::prepare(void* stack, size_t bytes, void (*entry)()) {
  set_stack(stack, bytes);
  // The frame that fastsam_switch_stack pops: six registers, then `entry` as its return address. Above stands the
  // return address of `entry` itself, which is never used, but which the ABI requires to lie 8 below a multiple of 16.
  auto* top = reinterpret_cast<uintptr_t*>(static_cast<char*>(stack) + bytes) - 1;
  top[0] = 0;
  top[-1] = reinterpret_cast<uintptr_t>(entry);
  for (int i = 2; i <= 7; ++i) top[-i] = 0;
  stack_pointer_ = top - 7;
}

void Fiber::switch_from(Fiber& from) { fastsam_switch_stack(&from.stack_pointer_, stack_pointer_); }

#else

void Fiber::prepare(void* stack, size_t bytes, void (*entry)()) {
  set_stack(stack, bytes);
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = bytes;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
}

void Fiber::switch_from(Fiber& from) { swapcontext(&from.context_, &context_); }

#endif

}  // namespace fastsam::emulator
