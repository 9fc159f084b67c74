// What races.cpp remembers of the memory that kernels touch: of shared memory everything since the last barrier, of
// other memory who in this launch has written it.
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
// Behind the threads, what does the products of each warp beside it.
constexpr unsigned kActors = kMaxThreads + kMaxWarps;

// When somebody did something: how many of all blocks' barriers were before (32 bits), the epoch of the actor's own,
// which begins anew whenever others learn of it (21 bits), and the actor (11). Nobody's is 0.
using Stamp = uint64_t;
constexpr int kActorBits = 11, kEpochBits = 21;
static_assert(kActors <= 1 << kActorBits);
inline Stamp make_stamp(uint32_t barrier, uint32_t epoch, unsigned actor) {
  return Stamp{barrier} << (kActorBits + kEpochBits) | Stamp{epoch} << kActorBits | actor;
}
inline uint32_t barrier_of(Stamp stamp) { return static_cast<uint32_t>(stamp >> (kActorBits + kEpochBits)); }
inline uint32_t epoch_of(Stamp stamp) { return stamp >> kActorBits & ((1u << kEpochBits) - 1); }
inline unsigned actor_of(Stamp stamp) { return stamp & ((1u << kActorBits) - 1); }

// Of shared memory.
struct Cell {
  Stamp written = 0;
  Stamp read[2] = {};     // of several since the last barrier, two, and of two warps if there are
  Stamp copy = 0;         // by whom it is being written, until that has been waited for
  uint16_t products = 0;  // that read it and haven't been waited for
  bool by_atomic = false;
};

// A byte of other memory that a kernel of this launch has written.
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

  // "of global memory"
  std::string place_of(const char* address) const {
    const bool fixed = within(static_shared_, address);
    if (!fixed && !within(dynamic_shared_, address)) return "of global memory";
    const char* const begin = fixed ? static_shared_.begin : dynamic_shared_.begin;
    return "at " + std::to_string(address - begin) + " of the " + (fixed ? "static" : "dynamic") + " shared memory";
  }

  // Calls `act` with the cells of what an access touches in shared memory; whether it is there at all.
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

  // Calls `act` with each byte of an access outside shared memory whose page has been written, or is now.
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

  // Four bytes of shared memory: one cell until one of them is touched without the others.
  struct Word {
    Cell whole;
    std::unique_ptr<Cell[]> bytes;
  };

  static bool within(const Region& region, const char* address) {
    return static_cast<size_t>(address - region.begin) < region.bytes;
  }

  // Bytes of a page outside shared memory; null where nobody has written any and `make` is false.
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
  // The pages that were asked for last, those that nobody has written among them.
  struct Asked {
    uintptr_t number = 0;
    Written* page = nullptr;
  } asked_[64];
};

}  // namespace fastsam::emulator::races
