#include "common/scratch.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastsam {
namespace {

constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kHeader = 64;  // keeps the floats behind it aligned to cache lines
constexpr size_t kKeep = size_t{1} << 26;

struct Block {
  size_t bytes;
};

// Taken and given back by exchange: no lock that a fork could leave locked.
std::atomic<Block*> spare{nullptr};

size_t round_up(size_t value, size_t step) { return (value + step - 1) / step * step; }

Block* allocate(size_t bytes) {
  const size_t alignment = bytes >= kHugePage ? kHugePage : kHeader;
  bytes = round_up(bytes, alignment);
  void* memory = std::aligned_alloc(alignment, bytes);
  if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
  // Where the system grants it, 2 MB at a time instead of 4 KB; where not, nothing is lost.
  if (alignment == kHugePage) (void)madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  Block* block = static_cast<Block*>(memory);
  block->bytes = bytes;
  return block;
}

}  // namespace

Scratch::Scratch(int64_t count) {
  if (count < 0 || static_cast<uint64_t>(count) > (uint64_t{1} << 60)) throw std::bad_alloc();
  const size_t bytes = kHeader + sizeof(float) * static_cast<size_t>(count);
  Block* block = spare.exchange(nullptr, std::memory_order_acquire);
  if (block == nullptr || block->bytes < bytes) {
    std::free(block);
    block = allocate(bytes);
  }
  block_ = block;
}

Scratch::~Scratch() {
  Block* block = static_cast<Block*>(block_);
  if (block->bytes <= kKeep) block = spare.exchange(block, std::memory_order_acq_rel);
  std::free(block);
}

float* Scratch::data() const { return reinterpret_cast<float*>(static_cast<char*>(block_) + kHeader); }

}  // namespace fastsam
