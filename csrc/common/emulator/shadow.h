// Shadow memory of the race detector (races.cpp): for shared memory, the last write and up to two reads since the last
// barrier; for other memory, which thread of this launch has written each byte last.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/emulator/races.h"

namespace fastsam::emulator::races {

constexpr unsigned kMaxThreads = 1024, kMaxWarps = kMaxThreads / 32;
// Actors are the threads and, after them, one per warp for its asynchronous wgmma products.
constexpr unsigned kActors = kMaxThreads + kMaxWarps;

// When and by whom an access was made: the number of block barriers before it, over all blocks (32 bits), the actor's
// epoch, which advances whenever other actors synchronise with it (21 bits), and the actor (11 bits). 0 means never.
using Stamp = uint64_t;
constexpr int kActorBits = 11, kEpochBits = 21;
static_assert(kActors <= 1 << kActorBits);
inline Stamp make_stamp(uint32_t barrier, uint32_t epoch, unsigned actor) {
  return Stamp{barrier} << (kActorBits + kEpochBits) | Stamp{epoch} << kActorBits | actor;
}
inline uint32_t barrier_of(Stamp stamp) { return static_cast<uint32_t>(stamp >> (kActorBits + kEpochBits)); }
inline uint32_t epoch_of(Stamp stamp) { return stamp >> kActorBits & ((1u << kEpochBits) - 1); }
inline unsigned actor_of(Stamp stamp) { return stamp & ((1u << kActorBits) - 1); }

// The history of a byte, or of four bytes accessed together, of shared memory.
struct SharedCell {
  Stamp written = 0;
  Stamp read[2] = {};             // two of the reads since the last barrier, by two different warps if there are such
  Stamp pending_copy = 0;         // an asynchronous copy to here that has not been waited for
  uint16_t pending_products = 0;  // number of products that read this and have not been waited for
  bool by_atomic = false;
};

// The last write of this launch to a byte of other memory.
struct GlobalCell {
  Stamp written = 0;
  bool by_atomic = false;
};

class Shadow {
 public:
  void clear_shared() {
    dynamic_words_.clear();
    static_words_.clear();
  }

  void clear_global() {
    pages_.clear();
    std::fill(std::begin(page_cache_), std::end(page_cache_), CachedPage{});
  }

  void begin_block(Region dynamic_shared, Region static_shared) {
    dynamic_shared_ = dynamic_shared;
    static_shared_ = static_shared;
    const auto reserve = [](std::vector<Word>& words, const Region& region) {
      if (words.size() * kWord < region.bytes) words.resize((region.bytes + kWord - 1) / kWord);
    };
    reserve(dynamic_words_, dynamic_shared_);
    reserve(static_words_, static_shared_);
  }

  // Describe an address, as "of global memory" or "at 64 of the dynamic shared memory".
  std::string describe_address(const char* address) const {
    const bool fixed = within(static_shared_, address);
    if (!fixed && !within(dynamic_shared_, address)) return "of global memory";
    const char* const begin = fixed ? static_shared_.begin : dynamic_shared_.begin;
    return "at " + std::to_string(address - begin) + " of the " + (fixed ? "static" : "dynamic") + " shared memory";
  }

  // If an access is to shared memory, call `action` with each cell it touches and return true; otherwise return false.
  template <typename Action>
  bool for_each_shared_cell(const char* address, size_t bytes, Action action) {
    const bool is_static = within(static_shared_, address);
    if (!is_static && !within(dynamic_shared_, address)) return false;
    Word* const words = (is_static ? static_words_ : dynamic_words_).data();
    size_t offset = static_cast<size_t>(address - (is_static ? static_shared_ : dynamic_shared_).begin);
    for (const size_t end = offset + bytes; offset < end;) {
      Word& word = words[offset / kWord];
      if (word.byte_cells == nullptr && offset % kWord == 0 && end - offset >= kWord) {
        action(word.cell);
        offset += kWord;
        continue;
      }
      if (word.byte_cells == nullptr) {
        word.byte_cells = std::make_unique<SharedCell[]>(kWord);
        std::fill_n(word.byte_cells.get(), kWord, word.cell);
      }
      action(word.byte_cells[offset % kWord]);
      ++offset;
    }
    return true;
  }

  // Call `action` with each byte of an access outside shared memory. Pages that were never written are skipped, unless
  // `create` creates them.
  template <typename Action>
  void for_each_global_byte(const char* address, size_t bytes, bool create, Action action) {
    while (bytes > 0) {
      const size_t offset = reinterpret_cast<uintptr_t>(address) % kPage, count = std::min(bytes, kPage - offset);
      if (GlobalCell* const page = find_page(address, create); page != nullptr) {
        for (size_t i = 0; i < count; ++i) action(page[offset + i]);
      }
      address += count;
      bytes -= count;
    }
  }

 private:
  static constexpr size_t kPage = 4096, kWord = 4;

  // Four bytes of shared memory. They share one cell until an access touches only some of them.
  struct Word {
    SharedCell cell;
    std::unique_ptr<SharedCell[]> byte_cells;
  };

  static bool within(const Region& region, const char* address) {
    return static_cast<size_t>(address - region.begin) < region.bytes;
  }

  // Return the shadow of the page of an address, created if `create` is true; null if it was never written and `create`
  // is false.
  GlobalCell* find_page(const char* address, bool create) {
    const uintptr_t page_number = reinterpret_cast<uintptr_t>(address) / kPage;
    CachedPage& cached = page_cache_[page_number % std::size(page_cache_)];
    if (cached.page_number == page_number && (cached.page != nullptr || !create)) return cached.page;
    if (create) {
      std::unique_ptr<GlobalCell[]>& page = pages_[page_number];
      if (page == nullptr) page = std::make_unique<GlobalCell[]>(kPage);
      cached = {page_number, page.get()};
    } else {
      const auto found = pages_.find(page_number);
      cached = {page_number, found == pages_.end() ? nullptr : found->second.get()};
    }
    return cached.page;
  }

  Region dynamic_shared_{}, static_shared_{};
  std::vector<Word> dynamic_words_, static_words_;
  std::unordered_map<uintptr_t, std::unique_ptr<GlobalCell[]>> pages_;
  // A direct-mapped cache of recent lookups, including those of pages that were never written.
  struct CachedPage {
    uintptr_t page_number = 0;
    GlobalCell* page = nullptr;
  } page_cache_[64];
};

}  // namespace fastsam::emulator::races
