// The emulator's scheduler (block.h). Each CUDA thread is a fiber. It runs until it waits or ends, and then switches
// directly to the next thread that can run; `ready` has a bit for each of these. The thread that completes a barrier or
// a warp operation makes the others ready again. If no thread can run although some have not ended, the block is stuck.
#include "common/emulator/block.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <vector>

#include "common/emulator/fiber.h"
#include "common/emulator/races.h"
#include "common/emulator/wgmma_hooks.h"

// The bounds of static shared memory, defined by shared.ld. Null in a program whose kernels have none.
extern "C" {
extern char fastsam_shared_begin[] __attribute__((weak, visibility("hidden")));
extern char fastsam_shared_end[] __attribute__((weak, visibility("hidden")));
}

namespace fastsam::emulator {
namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr size_t kMaxShared = 227 * 1024;  // the limit of a block on an H100
constexpr size_t kGuardBytes = 1024;       // guard bytes after dynamic shared memory, to detect writes beyond its end
constexpr int kPoisonByte = 0xff, kGuardByte = 0xa5;
constexpr size_t kSharedAlignment = 1024;

struct Copy {
  void* to;
  const void* from;
  size_t bytes, zeros;
};

struct Thread {
  Fiber fiber;
  uint3 index;
  const char* waiting_at = nullptr;  // operation it waits at; null if it can run or has ended
  bool in_block_barrier = false;
  bool ended = false;
  uint32_t mask = 0;
  void* operand = nullptr;
  void (*action)(const Lanes&) = nullptr;
  std::vector<Copy> uncommitted_copies;            // not yet committed
  std::deque<std::vector<Copy>> committed_copies;  // committed groups, oldest first
};

struct Block {
  std::string kernel;
  const std::function<void()>* body = nullptr;
  dim3 grid, size;
  uint3 index;
  unsigned threads = 0, alive = 0, current = 0;
  uint32_t ready[kMaxThreads / 32];  // per warp, a bit for each lane that can run
  unsigned arrived = 0;              // number of threads waiting at the block's barrier
  unsigned first_arrived = 0;        // the first of these threads
  int predicate_count = 0;           // how many of these threads passed a true predicate
  int result = 0;                    // `predicate_count` of the last completed barrier
  std::exception_ptr error;
  Fiber caller;
  char* shared = nullptr;
  size_t shared_bytes = 0;
};

// Only one kernel runs at a time in the process, so this state can be global instead of per host thread, which keeps
// switching stacks simple.
std::mutex launch_mutex;
Block block;
std::vector<Thread> threads;
Stacks stacks;
bool reverse_order = false;
std::set<std::string> launched_kernels;  // kernels that have run, see take_launched_kernels()

std::string format_index(const uint3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

std::string describe_failure(unsigned thread, const std::string& what) {
  return describe_thread(thread) + " of block " + format_index(block.index) + " of the CUDA kernel " + block.kernel +
         " " + what;
}

int first_lane(uint32_t lanes) { return reverse_order ? 31 - __builtin_clz(lanes) : __builtin_ctz(lanes); }

// Return the next thread that can run, in cyclic order after the current one, or -1 if none can.
int next_ready() {
  const unsigned warps = (block.threads + 31) / 32, warp = block.current / 32, at = block.current % 32;
  const uint32_t later = reverse_order ? (1u << at) - 1u : (at == 31 ? 0u : ~0u << (at + 1));
  if (const uint32_t lanes = block.ready[warp] & later; lanes != 0)
    return static_cast<int>(warp) * 32 + first_lane(lanes);
  for (unsigned step = 1; step <= warps; ++step) {
    const unsigned other = reverse_order ? (warp + warps - step) % warps : (warp + step) % warps;
    if (block.ready[other] != 0) return static_cast<int>(other) * 32 + first_lane(block.ready[other]);
  }
  return -1;
}

Thread& current() { return threads[block.current]; }
void set_ready(unsigned thread) { block.ready[thread / 32] |= 1u << thread % 32; }
void clear_ready(unsigned thread) { block.ready[thread / 32] &= ~(1u << thread % 32); }

// Switch from this thread to one that can run, or back to run_block if none can or one has failed.
void switch_thread() {
  Thread& from = current();
  const int next = block.error ? -1 : next_ready();
  if (next < 0) {
    block.caller.resume(from.fiber);
  } else if (static_cast<unsigned>(next) != block.current) {
    block.current = static_cast<unsigned>(next);
    threads[block.current].fiber.resume(from.fiber);
  }
}

void wake(unsigned thread) {
  threads[thread].waiting_at = nullptr;
  set_ready(thread);
}

void complete_block_barrier() {
  races::on_block_barrier();
  block.result = block.predicate_count;
  block.arrived = 0;
  block.predicate_count = 0;
  for (unsigned i = 0; i < block.threads; ++i) {
    if (!threads[i].in_block_barrier) continue;
    threads[i].in_block_barrier = false;
    wake(i);
  }
}

// If all lanes of thread.mask that haven't ended wait at the same operation as `thread`, carry the operation out,
// release them and return true.
bool try_complete_warp(const Thread& thread, unsigned warp) {
  if ((block.ready[warp] & thread.mask) != 0) return false;  // a lane of the mask is still running
  Lanes lanes{};
  for (unsigned i = 0; i < 32; ++i) {
    const unsigned at = warp * 32 + i;
    if ((thread.mask >> i & 1u) == 0 || at >= block.threads || threads[at].ended) continue;
    const Thread& other = threads[at];
    if (other.waiting_at == nullptr || other.in_block_barrier || other.mask != thread.mask ||
        (other.waiting_at != thread.waiting_at && std::strcmp(other.waiting_at, thread.waiting_at) != 0)) {
      return false;
    }
    lanes.present |= 1u << i;
    lanes.operands[i] = other.operand;
  }
  races::pause_checks();
  thread.action(lanes);
  races::resume_checks();
  for (unsigned i = 0; i < 32; ++i) {
    if ((lanes.present >> i & 1u) != 0) wake(warp * 32 + i);
  }
  return true;
}

void finish_thread() {
  Thread& thread = current();
  thread.ended = true;
  clear_ready(block.current);
  --block.alive;
  if (block.error) return;
  if (block.alive > 0 && block.arrived == block.alive) complete_block_barrier();
  const unsigned warp = block.current / 32;
  for (unsigned at = warp * 32; at < std::min(block.threads, warp * 32 + 32); ++at) {
    if (threads[at].waiting_at != nullptr && !threads[at].in_block_barrier) {
      try_complete_warp(threads[at], warp);
    }
  }
}

void thread_main() {
  Fiber::finish_first_switch();
  try {
    (*block.body)();
    finish_thread();
  } catch (...) {
    block.error = std::current_exception();
  }
  switch_thread();
  std::terminate();  // unreachable: a thread that has ended is never resumed
}

// Describe the state of all threads, as "threads 0-31 waiting at __syncthreads(), threads 32-63 ended".
std::string describe_threads() {
  const auto state = [](const Thread& thread) {
    if (thread.ended) return std::string("ended");
    std::string where = std::string("waiting at ") + thread.waiting_at;
    if (!thread.in_block_barrier) {
      char mask[16];
      std::snprintf(mask, sizeof(mask), "0x%08x", thread.mask);
      where += std::string(" with mask ") + mask;
    }
    return where;
  };
  std::string out;
  for (unsigned begin = 0, end = 0; begin < block.threads; begin = end) {
    const std::string common = state(threads[begin]);
    for (end = begin + 1; end < block.threads && state(threads[end]) == common;) ++end;
    out += (begin == 0 ? "" : ", ") + std::string("threads ") + std::to_string(begin) + "-" + std::to_string(end - 1) +
           " " + common;
  }
  return out;
}

void run_block() {
  block.threads = block.alive = block.size.x * block.size.y * block.size.z;
  block.arrived = 0;
  block.predicate_count = 0;
  std::fill(std::begin(block.ready), std::end(block.ready), 0u);
  std::memset(block.shared, kPoisonByte, block.shared_bytes);
  std::memset(block.shared + block.shared_bytes, kGuardByte, kGuardBytes);
  if (fastsam_shared_begin != nullptr) {
    std::memset(fastsam_shared_begin, kPoisonByte, static_cast<size_t>(fastsam_shared_end - fastsam_shared_begin));
  }
  for (unsigned i = 0; i < block.threads; ++i) {
    Thread& thread = threads[i];
    thread.index = {i % block.size.x, i / block.size.x % block.size.y, i / block.size.x / block.size.y};
    thread.waiting_at = nullptr;
    thread.in_block_barrier = thread.ended = false;
    thread.uncommitted_copies.clear();
    thread.committed_copies.clear();
    thread.fiber.prepare(stacks.stack(i), Stacks::kBytes, &thread_main);
    set_ready(i);
  }
  begin_wgmma_block();
  races::begin_block(block.threads, {block.shared, block.shared_bytes},
                     {fastsam_shared_begin, static_cast<size_t>(fastsam_shared_end - fastsam_shared_begin)},
                     {static_cast<const char*>(stacks.stack(0)), stacks.bytes()});
  block.current = reverse_order ? block.threads - 1 : 0;
  current().fiber.resume(block.caller);
  if (block.error) std::rethrow_exception(block.error);
  if (block.alive > 0) {
    throw std::runtime_error("block " + format_index(block.index) + " of the CUDA kernel " + block.kernel +
                             " can't go on: " + describe_threads());
  }
  if (const std::string error = end_wgmma_block(); !error.empty()) {
    throw std::runtime_error("block " + format_index(block.index) + " of the CUDA kernel " + block.kernel + " " +
                             error);
  }
  const char* guard = block.shared + block.shared_bytes;
  if (std::any_of(guard, guard + kGuardBytes, [](char c) { return c != static_cast<char>(kGuardByte); })) {
    throw std::runtime_error("block " + format_index(block.index) + " of the CUDA kernel " + block.kernel +
                             " wrote behind its " + std::to_string(block.shared_bytes) +
                             " bytes of dynamic shared memory");
  }
}

void perform_copies(const std::vector<Copy>& copies) {
  for (const Copy& copy : copies) {
    std::memcpy(copy.to, copy.from, copy.bytes);
    std::memset(static_cast<char*>(copy.to) + copy.bytes, 0, copy.zeros);
    races::end_copy(copy.to, copy.bytes + copy.zeros, block.current);
    on_copy_arrival(copy.to, copy.bytes + copy.zeros);
  }
}

}  // namespace

const char* launch_error(dim3 grid, dim3 size, size_t shared) {
  const uint64_t count = uint64_t{size.x} * size.y * size.z;
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || size.z > 64 || count == 0 || count > kMaxThreads) {
    return "invalid configuration argument";
  }
  return shared > kMaxShared ? "invalid argument" : nullptr;
}

void run(const std::string& kernel, dim3 grid, dim3 size, size_t shared, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  const size_t count = size_t{size.x} * size.y * size.z;
  if (threads.size() < count) threads.resize(count);
  stacks.reserve(count);
  std::vector<char> memory(shared + kGuardBytes + kSharedAlignment);
  const auto start = reinterpret_cast<uintptr_t>(memory.data());
  block.shared = memory.data() + (kSharedAlignment - start % kSharedAlignment);
  block.shared_bytes = shared;
  block.kernel = kernel;
  block.body = &body;
  block.grid = grid;
  block.size = size;
  block.error = nullptr;
  launched_kernels.insert(kernel);
  races::begin_launch();
  const struct RaceCheckScope {
    ~RaceCheckScope() { races::end_launch(block.error != nullptr || block.alive > 0); }
  } race_check_scope;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block.index = {x, y, z};
        run_block();
      }
    }
  }
}

std::vector<std::string> take_launched_kernels() {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  std::vector<std::string> names(launched_kernels.begin(), launched_kernels.end());
  launched_kernels.clear();
  return names;
}

void set_order(bool reverse) {
  const std::lock_guard<std::mutex> lock(launch_mutex);
  reverse_order = reverse;
}

const uint3& thread_index() { return current().index; }
const uint3& block_index() { return block.index; }
const dim3& block_size() { return block.size; }
const dim3& grid_size() { return block.grid; }
void* dynamic_shared() { return block.shared; }
int lane() { return static_cast<int>(block.current % 32); }
unsigned linear_thread() { return block.current; }

int sync_block(const char* barrier, bool predicate) {
  const unsigned me = block.current;
  if (block.arrived == 0) block.first_arrived = me;
  const Thread& first = threads[block.first_arrived];
  if (block.arrived > 0 && std::strcmp(first.waiting_at, barrier) != 0) {
    fail(std::string("is at ") + barrier + " while thread " + std::to_string(block.first_arrived) + " is at " +
         first.waiting_at);
  }
  threads[me].waiting_at = barrier;
  threads[me].in_block_barrier = true;
  clear_ready(me);
  block.predicate_count += predicate;
  if (++block.arrived == block.alive) {
    complete_block_barrier();
  } else {
    switch_thread();
  }
  return block.result;
}

void sync_warp(const char* operation, uint32_t mask, void* operand, void (*action)(const Lanes&)) {
  const unsigned me = block.current;
  if ((mask >> me % 32 & 1u) == 0)
    fail(std::string("calls ") + operation + " with a mask that does not include the thread");
  Thread& thread = threads[me];
  thread.waiting_at = operation;
  thread.mask = mask;
  thread.operand = operand;
  thread.action = action;
  clear_ready(me);
  if (!try_complete_warp(thread, me / 32)) switch_thread();
}

void yield() {
  if (next_ready() >= 0) switch_thread();
}

std::string describe_thread(unsigned thread) { return "thread " + format_index(threads[thread].index); }

void fail(const std::string& what) { throw std::runtime_error(describe_failure(block.current, what)); }

void abort_kernel(unsigned thread, const std::string& what) {
  block.error = std::make_exception_ptr(std::runtime_error(describe_failure(thread, what)));
  switch_thread();
  std::terminate();  // unreachable: a thread of a block that has failed is never resumed
}

void on_syncwarp(const Lanes& lanes) { races::on_syncwarp(block.current / 32, lanes.present); }

bool is_shared(const void* address, size_t bytes) {
  const auto within = [&](const char* begin, const char* end) {
    const auto at = reinterpret_cast<uintptr_t>(address);
    return at >= reinterpret_cast<uintptr_t>(begin) && at + bytes <= reinterpret_cast<uintptr_t>(end);
  };
  return within(block.shared, block.shared + block.shared_bytes) || within(fastsam_shared_begin, fastsam_shared_end);
}

void begin_async_copy(void* to, const void* from, size_t bytes, size_t zeros) {
  races::begin_copy(to, from, bytes, zeros, block.current);
  current().uncommitted_copies.push_back({to, from, bytes, zeros});
}

void commit_copies() {
  current().committed_copies.push_back(std::move(current().uncommitted_copies));
  current().uncommitted_copies.clear();
}

void wait_copies(size_t pending) {
  std::deque<std::vector<Copy>>& groups = current().committed_copies;
  for (; groups.size() > pending; groups.pop_front()) perform_copies(groups.front());
}

}  // namespace fastsam::emulator
