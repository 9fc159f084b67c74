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
struct Cell {
  Stamp written = 0;
  Stamp read[2] = {};     // two of the reads since the last barrier, by two different warps if there are such
  Stamp copy = 0;         // an asynchronous copy to here that has not been waited for
  uint16_t products = 0;  // number of products that read this and have not been waited for
  bool by_atomic = false;
};

// The last write of this launch to a byte of other memory.
struct Written {
  Stamp written = 0;
  bool by_atomic = false;
};

class Shadow {
 public:
  void forget_shared() {
    dynamic_words_.clear();
    static_words_.clear();
  }

  void forget_global() {
    pages_.clear();
    std::fill(std::begin(asked_), std::end(asked_), Asked{});
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
  std::string place_of(const char* address) const {
    const bool fixed = within(static_shared_, address);
    if (!fixed && !within(dynamic_shared_, address)) return "of global memory";
    const char* const begin = fixed ? static_shared_.begin : dynamic_shared_.begin;
    return "at " + std::to_string(address - begin) + " of the " + (fixed ? "static" : "dynamic") + " shared memory";
  }

  // If an access is to shared memory, call `act` with each cell it touches and return true; otherwise return false.
  template <typename Act>
  bool each_shared_cell(const char* address, size_t bytes, Act act) {
    const bool is_static = within(static_shared_, address);
    if (!is_static && !within(dynamic_shared_, address)) return false;
    Word* const words = (is_static ? static_words_ : dynamic_words_).data();
    size_t at = static_cast<size_t>(address - (is_static ? static_shared_ : dynamic_shared_).begin);
    for (const size_t end = at + bytes; at < end;) {
      Word& word = words[at / kWord];
      if (word.bytes == nullptr && at % kWord == 0 && end - at >= kWord) {
        act(word.whole);
        at += kWord;
        continue;
      }
      if (word.bytes == nullptr) {
        word.bytes = std::make_unique<Cell[]>(kWord);
        std::fill_n(word.bytes.get(), kWord, word.whole);
      }
      act(word.bytes[at % kWord]);
      ++at;
    }
    return true;
  }

  // Call `act` with each byte of an access outside shared memory. Pages that were never written are skipped, unless
  // `make` creates them.
  template <typename Act>
  void each_global_byte(const char* address, size_t bytes, bool make, Act act) {
    while (bytes > 0) {
      const size_t offset = reinterpret_cast<uintptr_t>(address) % kPage, count = std::min(bytes, kPage - offset);
      if (Written* const page = page_of(address, make); page != nullptr) {
        for (size_t i = 0; i < count; ++i) act(page[offset + i]);
      }
      address += count;
      bytes -= count;
    }
  }

 private:
  static constexpr size_t kPage = 4096, kWord = 4;

  // Four bytes of shared memory. They share one cell until an access touches only some of them.
  struct Word {
    Cell whole;
    std::unique_ptr<Cell[]> bytes;
  };

  static bool within(const Region& region, const char* address) {
    return static_cast<size_t>(address - region.begin) < region.bytes;
  }

  // Return the shadow of the page of an address, created if `make` is true; null if it was never written and `make` is
  // false.
  Written* page_of(const char* address, bool make) {
    const uintptr_t number = reinterpret_cast<uintptr_t>(address) / kPage;
    Asked& last = asked_[number % std::size(asked_)];
    if (last.number == number && (last.page != nullptr || !make)) return last.page;
    if (make) {
      std::unique_ptr<Written[]>& page = pages_[number];
      if (page == nullptr) page = std::make_unique<Written[]>(kPage);
      last = {number, page.get()};
    } else {
      const auto found = pages_.find(number);
      last = {number, found == pages_.end() ? nullptr : found->second.get()};
    }
    return last.page;
  }

  Region dynamic_shared_{}, static_shared_{};
  std::vector<Word> dynamic_words_, static_words_;
  std::unordered_map<uintptr_t, std::unique_ptr<Written[]>> pages_;
  // A direct-mapped cache of recent lookups, including those of pages that were never written.
  struct Asked {
    uintptr_t number = 0;
    Written* page = nullptr;
  } asked_[64];
};

}  // namespace fastsam::emulator::races
