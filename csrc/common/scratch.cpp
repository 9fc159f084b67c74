// A cache of one block of scratch memory (scratch.h). A block begins with a header of 64 bytes, then come the floats.
#include "common/scratch.h"

#include <algorithm>
#include <atomic>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastsam {
namespace {

constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kHeaderBytes = 64;  // bytes before the floats; keeps them aligned to cache lines
constexpr size_t kMaxCachedBytes = size_t{1} << 26;

struct Block {
  size_t bytes;
  std::align_val_t alignment;
};

// The cached block, taken and returned by atomic exchange: a lock could be left locked by a fork.
std::atomic<Block*> cached_block{nullptr};

size_t round_up(size_t value, size_t step) { return (value + step - 1) / step * step; }

Block* allocate(size_t bytes) {
  const size_t granularity = bytes >= kHugePage ? kHugePage : kHeaderBytes;
  bytes = round_up(bytes, granularity);
  const std::align_val_t alignment{granularity};
  void* memory = ::operator new(bytes, alignment);
#if defined(__linux__)
  // Ask for pages of 2 MB instead of 4 KB. If the system refuses, ordinary pages do.
  if (granularity == kHugePage) (void)madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return new (memory) Block{bytes, alignment};
}

void release(Block* block) {
  if (block != nullptr) ::operator delete(block, block->alignment);
}

}  // namespace

Scratch::Scratch(int64_t count) {
  // As an unsigned number, a negative count is too large as well.
  if (static_cast<uint64_t>(count) > (uint64_t{1} << 60)) throw std::bad_alloc();
  const size_t bytes = kHeaderBytes + sizeof(float) * static_cast<size_t>(count);
  Block* block = cached_block.exchange(nullptr, std::memory_order_acquire);
  if (block == nullptr || block->bytes < bytes) {
    release(block);
    block = allocate(bytes);
  }
  block_ = block;
}

Scratch::~Scratch() {
  Block* block = static_cast<Block*>(block_);
  if (block->bytes <= kMaxCachedBytes) block = cached_block.exchange(block, std::memory_order_acq_rel);
  release(block);
}

float* Scratch::data() const { return reinterpret_cast<float*>(static_cast<char*>(block_) + kHeaderBytes); }

}  // namespace fastsam
