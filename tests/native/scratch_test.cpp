// Tests Scratch by itself: alignment, room, reuse of one block of limited size, and sizes that are refused.
#include "common/scratch.cpp"

#include <cstdio>
#include <cstdlib>
#include <string>

// This program defines aligned new and delete, in place of the library's, to count the blocks in use.
static int blocks = 0;

void* operator new(size_t bytes, std::align_val_t alignment) {
  // aligned_alloc requires a multiple of the alignment, which Scratch asks for.
  void* block = bytes < (size_t{1} << 40) ? std::aligned_alloc(static_cast<size_t>(alignment), bytes) : nullptr;
  if (block == nullptr) throw std::bad_alloc();
  ++blocks;
  return block;
}

void operator delete(void* block, std::align_val_t) noexcept {
  if (block != nullptr) --blocks;
  std::free(block);
}

namespace {

using fastsam::Scratch;

constexpr int64_t kLargestCached = ((int64_t{1} << 26) - 64) / 4;  // floats

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what.c_str());
  std::exit(1);
}

void fill(const Scratch& scratch, int64_t count) {
  for (int64_t i = 0; i < count; ++i) scratch.data()[i] = static_cast<float>(i);
}

void floats_are_aligned_and_may_all_be_written() {
  for (const int64_t count : {0, 1, 16, 17, 1000, (1 << 19) - 17, (1 << 19) - 16, (1 << 19) - 15, 1 << 19, 1 << 20}) {
    const Scratch first(count), second(count);
    for (const Scratch* scratch : {&first, &second}) {
      require(reinterpret_cast<uintptr_t>(scratch->data()) % 64 == 0, "floats are aligned to cache lines");
      fill(*scratch, count);
    }
    require(blocks == 2, "two objects at a time have a block each");
    require(count == 0 || first.data()[count - 1] == static_cast<float>(count - 1), "blocks don't overlap");
  }
  require(blocks == 1, "one block is cached");
}

void blocks_are_reused_where_they_suffice() {
  const float* data = nullptr;
  {
    const Scratch scratch(100'000);
    data = scratch.data();
    fill(scratch, 100'000);
  }
  for (const int64_t count : {100'000, 1, 0, 99'999}) {
    const Scratch scratch(count);
    require(scratch.data() == data, "a block that suffices is reused");
  }
  {
    const Scratch scratch(2'000'000);
    fill(scratch, 2'000'000);
    require(blocks == 1, "a block that is too small is freed");
  }
  require(blocks == 1, "the larger block is cached");
}

void large_blocks_are_not_cached() {
  {
    const Scratch scratch(kLargestCached);
  }
  require(blocks == 1, "a block of 64 MB is cached");
  {
    const Scratch scratch(kLargestCached + 1);
  }
  require(blocks == 0, "a larger block is freed");
}

void impossible_sizes_are_refused() {
  for (const int64_t count : {int64_t{-1}, INT64_MIN, int64_t{1} << 60, (int64_t{1} << 60) + 1, INT64_MAX}) {
    bool caught = false;
    try {
      const Scratch scratch(count);
    } catch (const std::bad_alloc&) {
      caught = true;
    }
    require(caught, "an impossible size throws std::bad_alloc");
  }
  require(blocks == 0, "a refused size leaves no block behind");
}

}  // namespace

int main() {
  floats_are_aligned_and_may_all_be_written();
  blocks_are_reused_where_they_suffice();
  large_blocks_are_not_cached();
  impossible_sizes_are_refused();
  std::puts("scratch: ok");
  return 0;
}
