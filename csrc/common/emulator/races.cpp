// The race detector (races.h). Each thread has a vector clock: for every actor, the last of its epochs that the thread
// is ordered after. Shadow memory (shadow.h) records when and by whom memory was accessed. An access races with an
// earlier one if neither a block barrier lies between them, nor the thread's clock covers the earlier one's epoch.
#include "common/emulator/races.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "common/emulator/block.h"
#include "common/emulator/shadow.h"

namespace fastsam::emulator::races {
namespace {

// The detector's state: a happens-before check with vector clocks. An actor is a thread, or the asynchronous products
// of a warp.
struct State {
  uint32_t barrier = 0;  // number of block barriers so far; each block and each launch also begins a new one
  uint32_t launch_began = 0, block_began = 0;
  bool running = false;
  uint32_t epochs[kActors] = {};
  // Vector clocks: thread i is ordered after what actor j did up to its epoch known[i * kActors + j].
  std::vector<uint32_t> clocks = std::vector<uint32_t>(size_t{kMaxThreads} * kActors);
  bool has_cross_warp_clocks = false;  // whether vector clocks may hold entries for actors outside a thread's own warp
  std::map<std::pair<const void*, bool>, std::vector<uint32_t>> barriers;  // clocks of barriers in memory, by phase
  Shadow memory;
};

State* const the_state = new State;  // never destroyed: kernels may run until the process ends
State& state() { return *the_state; }

// Whether any kernel was compiled with instrumentation.
bool is_instrumented = false;
// Whether this host thread is running a kernel; another may be running instrumented code outside a kernel.
__thread bool is_checking __attribute__((tls_model("initial-exec"))) = false;
Region thread_stacks{};  // the stacks of the block's threads

uint32_t* clocks(State& s, unsigned thread) { return s.clocks.data() + size_t{thread} * kActors; }
Stamp current_stamp(const State& s, unsigned actor) { return make_stamp(s.barrier, s.epochs[actor], actor); }

// Return whether `earlier`, a stamp of the current block, is ordered before what `thread` does now.
bool happens_before(State& s, Stamp earlier, unsigned thread) {
  const unsigned actor = actor_of(earlier);
  return barrier_of(earlier) < s.barrier || actor == thread || clocks(s, thread)[actor] >= epoch_of(earlier);
}

// Return the addr2line command for a return address, to append to an error; "" if its module isn't known.
std::string format_location(const void* return_address) {
  Dl_info info{};
  if (return_address == nullptr || dladdr(return_address, &info) == 0 || info.dli_fname == nullptr) return "";
  char offset[32];
  const auto* const begin = static_cast<const char*>(info.dli_fbase);
  // A return address is the instruction after the call; one less lies within the call.
  std::snprintf(offset, sizeof(offset), "0x%zx",
                static_cast<size_t>(static_cast<const char*>(return_address) - begin - 1));
  return std::string("; addr2line -ie ") + info.dli_fname + " " + offset;
}

struct Access {
  const char* verb;  // "reads"
  const char* address;
  size_t bytes;
  unsigned thread;
  const void* return_address;
};

[[noreturn]] void report_race(const State& s, const Access& access, const char* other_verb, Stamp other) {
  std::string what = std::string(access.verb) + " " + std::to_string(access.bytes) + " bytes " +
                     s.memory.describe_address(access.address);
  const unsigned actor = actor_of(other);
  const std::string who = barrier_of(other) < s.block_began ? "another block"
                          : actor < kMaxThreads             ? describe_thread(actor)
                                                            : "warp " + std::to_string(actor - kMaxThreads);
  what += ", which " + who + " " + other_verb;
  is_checking = false;
  abort_kernel(access.thread, what + format_location(access.return_address));
}

constexpr const char* kHasWritten = "has written, with no synchronisation in between";
constexpr const char* kHasRead = "has read, with no synchronisation in between";

void check_written(State& s, const Access& access, Stamp written) {
  if (barrier_of(written) >= s.block_began && !happens_before(s, written, access.thread))
    report_race(s, access, kHasWritten, written);
}

void check_copy(const State& s, const SharedCell& cell, const Access& access) {
  if (barrier_of(cell.pending_copy) >= s.block_began) report_race(s, access, "is still copying to", cell.pending_copy);
}

// Record a read: replace the actor's own earlier read, or one from before the last barrier, or else make the second of
// the two reads one of another warp than the first.
void record_read(const State& s, SharedCell& cell, unsigned actor) {
  Stamp& first = cell.read[0];
  Stamp& second = cell.read[1];
  if (actor_of(first) == actor || barrier_of(first) < s.barrier) {
    first = current_stamp(s, actor);
  } else if (actor_of(second) == actor || barrier_of(second) < s.barrier ||
             actor_of(second) / 32 == actor_of(first) / 32) {
    second = current_stamp(s, actor);
  }
}

void check_read(State& s, SharedCell& cell, const Access& access) {
  check_copy(s, cell, access);
  check_written(s, access, cell.written);
}

void check_write(State& s, SharedCell& cell, const Access& access, bool by_atomic) {
  check_copy(s, cell, access);
  if (cell.pending_products > 0) report_race(s, access, "is still multiplying with", cell.read[0]);
  if (!(by_atomic && cell.by_atomic)) check_written(s, access, cell.written);
  for (const Stamp read : cell.read) {
    if (barrier_of(read) >= s.block_began && !happens_before(s, read, access.thread))
      report_race(s, access, kHasRead, read);
  }
}

void record_write(const State& s, SharedCell& cell, unsigned actor, bool by_atomic) {
  cell.written = current_stamp(s, actor);
  cell.by_atomic = by_atomic;
  cell.read[0] = cell.read[1] = 0;
}

void check_global(State& s, const Access& access, const GlobalCell& byte) {
  const Stamp written = byte.written;
  if (barrier_of(written) < s.launch_began) return;
  if (barrier_of(written) >= s.block_began && happens_before(s, written, access.thread)) return;
  report_race(s, access, kHasWritten, written);
}

void on_read(const Access& access) {
  State& s = state();
  const Stamp current = current_stamp(s, access.thread);
  const bool shared = s.memory.for_each_shared_cell(access.address, access.bytes, [&](SharedCell& cell) {
    // Fast path: skip reads that add nothing. A write clears `read`, so a stamp equal to `current` means that this read
    // was checked since. If the last write precedes the last barrier, no read can race with it, and readers of two
    // warps are enough to detect a later write. Most memory is like that: written before a barrier, then read by many
    // threads.
    const bool is_recorded = cell.read[0] == current || cell.read[1] == current;
    const bool read_by_two_warps = barrier_of(cell.written) < s.barrier && barrier_of(cell.read[0]) == s.barrier &&
                                   barrier_of(cell.read[1]) == s.barrier &&
                                   actor_of(cell.read[0]) / 32 != actor_of(cell.read[1]) / 32;
    if (cell.pending_copy == 0 && (is_recorded || read_by_two_warps)) return;
    check_read(s, cell, access);
    record_read(s, cell, access.thread);
  });
  if (shared) return;
  s.memory.for_each_global_byte(access.address, access.bytes, false,
                                [&](GlobalCell& byte) { check_global(s, access, byte); });
}

void on_write(const Access& access, bool by_atomic) {
  State& s = state();
  const bool shared = s.memory.for_each_shared_cell(access.address, access.bytes, [&](SharedCell& cell) {
    check_write(s, cell, access, by_atomic);
    record_write(s, cell, access.thread, by_atomic);
  });
  if (shared) return;
  s.memory.for_each_global_byte(access.address, access.bytes, true, [&](GlobalCell& byte) {
    if (!(by_atomic && byte.by_atomic)) check_global(s, access, byte);
    byte = {current_stamp(s, access.thread), by_atomic};
  });
}

void on_plain_write(const Access& access) { on_write(access, false); }

Access make_access(const char* verb, const void* address, size_t bytes, unsigned thread) {
  return {verb, static_cast<const char*>(address), bytes, thread, nullptr};
}

}  // namespace

void begin_launch() {
  if (!is_instrumented) return;
  State& s = state();
  if (s.running) s.memory.clear_shared();  // the last launch ended in an error, perhaps with products outstanding
  s.running = true;
  s.launch_began = ++s.barrier;
  s.memory.clear_global();
}

void begin_block(unsigned threads, Region dynamic_shared, Region static_shared, Region stacks) {
  if (!is_instrumented) return;
  State& s = state();
  s.block_began = ++s.barrier;
  s.memory.begin_block(dynamic_shared, static_shared);
  thread_stacks = stacks;
  for (unsigned i = 0; i < kMaxThreads; ++i) {
    uint32_t* const row = clocks(s, i);
    if (s.has_cross_warp_clocks) {
      std::fill(row, row + kActors, 0u);
    } else if (i < threads) {
      std::fill(row + i / 32 * 32, row + i / 32 * 32 + 32, 0u);
      row[kMaxThreads + i / 32] = 0;
    }
  }
  std::fill(std::begin(s.epochs), std::end(s.epochs), 1u);
  s.has_cross_warp_clocks = false;
  s.barriers.clear();
  is_checking = true;
}

void end_launch(bool failed) {
  is_checking = false;
  state().running = failed;
}

void pause_checks() { is_checking = false; }
void resume_checks() { is_checking = is_instrumented; }

void on_block_barrier() {
  if (is_instrumented) ++state().barrier;
}

// Join the clocks of the lanes, including what each has done itself until now, and advance their epochs.
void on_syncwarp(unsigned warp, uint32_t lanes) {
  if (!is_instrumented) return;
  State& s = state();
  const unsigned first = 32 * warp, begin = s.has_cross_warp_clocks ? 0 : first,
                 end = s.has_cross_warp_clocks ? kActors : first + 32;
  uint32_t merged[kActors];
  std::fill(merged + begin, merged + end, 0u);
  const auto for_each_lane = [&](auto action) {
    for (unsigned thread = first; thread < first + 32; ++thread) {
      if ((lanes >> (thread - first) & 1u) != 0) action(thread, clocks(s, thread));
    }
  };
  for_each_lane([&](unsigned, const uint32_t* row) {
    for (unsigned j = begin; j < end; ++j) merged[j] = std::max(merged[j], row[j]);
  });
  for_each_lane([&](unsigned thread, const uint32_t*) { merged[thread] = s.epochs[thread]++; });
  for_each_lane([&](unsigned, uint32_t* row) { std::copy(merged + begin, merged + end, row + begin); });
}

void arrive(const void* barrier, bool phase, unsigned thread) {
  if (!is_instrumented) return;
  State& s = state();
  s.has_cross_warp_clocks = true;
  std::vector<uint32_t>& merged = s.barriers[{barrier, phase}];
  merged.resize(kActors);
  const uint32_t* const row = clocks(s, thread);
  for (unsigned j = 0; j < kActors; ++j) merged[j] = std::max(merged[j], row[j]);
  merged[thread] = s.epochs[thread]++;
}

void wait(const void* barrier, bool phase, unsigned thread) {
  if (!is_instrumented) return;
  State& s = state();
  const auto found = s.barriers.find({barrier, phase});
  if (found == s.barriers.end()) return;
  uint32_t* const row = clocks(s, thread);
  for (unsigned j = 0; j < kActors; ++j) row[j] = std::max(row[j], found->second[j]);
}

void read(const void* address, size_t bytes, unsigned thread) {
  if (is_instrumented) on_read(make_access("reads", address, bytes, thread));
}

void update(const void* address, size_t bytes, unsigned thread) {
  if (is_instrumented) on_write(make_access("updates", address, bytes, thread), true);
}

void begin_product_read(const void* address, size_t bytes, unsigned thread) {
  if (!is_instrumented) return;
  State& s = state();
  const Access access = make_access("multiplies with", address, bytes, thread);
  s.memory.for_each_shared_cell(access.address, bytes, [&](SharedCell& cell) {
    check_read(s, cell, access);
    ++cell.pending_products;
    record_read(s, cell, kMaxThreads + thread / 32);
  });
}

void end_product_read(const void* address, size_t bytes, unsigned thread) {
  if (!is_instrumented) return;
  State& s = state();
  s.memory.for_each_shared_cell(static_cast<const char*>(address), bytes, [&](SharedCell& cell) {
    --cell.pending_products;
    record_read(s, cell, kMaxThreads + thread / 32);
  });
}

void end_products(unsigned warp) {
  if (!is_instrumented) return;
  State& s = state();
  const unsigned actor = kMaxThreads + warp;
  for (unsigned thread = 32 * warp; thread < 32 * warp + 32; ++thread) clocks(s, thread)[actor] = s.epochs[actor];
  ++s.epochs[actor];
}

void begin_copy(const void* to, const void* from, size_t bytes, size_t zeros, unsigned thread) {
  if (!is_instrumented) return;
  State& s = state();
  on_read(make_access("begins to copy from", from, bytes, thread));
  const Access access = make_access("begins to copy to", to, bytes + zeros, thread);
  s.memory.for_each_shared_cell(access.address, access.bytes, [&](SharedCell& cell) {
    check_write(s, cell, access, false);
    cell.pending_copy = current_stamp(s, thread);
  });
}

void end_copy(const void* to, size_t bytes, unsigned thread) {
  if (!is_instrumented) return;
  State& s = state();
  s.memory.for_each_shared_cell(static_cast<const char*>(to), bytes, [&](SharedCell& cell) {
    cell.pending_copy = 0;
    record_write(s, cell, thread, false);
  });
}

}  // namespace fastsam::emulator::races

// The functions that instrumented code calls.
namespace {

using namespace fastsam::emulator::races;

// Return whether an access needs no check. Most are to the threads' stacks, so these are excluded first.
inline bool is_exempt(const char* address) {
  return !is_checking || static_cast<size_t>(address - thread_stacks.begin) < thread_stacks.bytes;
}

}  // namespace

extern "C" {
#define FASTSAM_HOOK __attribute__((visibility("hidden"), used))
#define FASTSAM_CHECK(what, verb, address, size) \
  if (!is_exempt(address)) what({verb, address, size, fastsam::emulator::linear_thread(), __builtin_return_address(0)})
#define FASTSAM_ACCESSES(size)                                                                                 \
  FASTSAM_HOOK void __tsan_read##size(const char* address) { FASTSAM_CHECK(on_read, "reads", address, size); } \
  FASTSAM_HOOK void __tsan_write##size(const char* address) {                                                  \
    FASTSAM_CHECK(on_plain_write, "writes", address, size);                                                    \
  }                                                                                                            \
  FASTSAM_HOOK void __tsan_unaligned_read##size(const char* address) {                                         \
    FASTSAM_CHECK(on_read, "reads", address, size);                                                            \
  }                                                                                                            \
  FASTSAM_HOOK void __tsan_unaligned_write##size(const char* address) {                                        \
    FASTSAM_CHECK(on_plain_write, "writes", address, size);                                                    \
  }
FASTSAM_ACCESSES(1)
FASTSAM_ACCESSES(2)
FASTSAM_ACCESSES(4)
FASTSAM_ACCESSES(8)
FASTSAM_ACCESSES(16)
FASTSAM_HOOK void __tsan_read_range(const char* address, size_t size) {
  FASTSAM_CHECK(on_read, "reads", address, size);
}
FASTSAM_HOOK void __tsan_write_range(const char* address, size_t size) {
  FASTSAM_CHECK(on_plain_write, "writes", address, size);
}
FASTSAM_HOOK void __tsan_init() { is_instrumented = true; }
FASTSAM_HOOK void __tsan_vptr_update(void**, void*) {}
FASTSAM_HOOK void __tsan_vptr_read(void**) {}
FASTSAM_HOOK void __tsan_func_entry(void*) {}
FASTSAM_HOOK void __tsan_func_exit() {}
}
