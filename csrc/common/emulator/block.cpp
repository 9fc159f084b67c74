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
#include "common/emulator/products.h"
#include "common/emulator/races.h"

// The bounds of static shared memory, defined by shared.ld. Null in a program whose kernels have none.
extern "C" {
extern char fastsam_shared_begin[] __attribute__((weak, visibility("hidden")));
extern char fastsam_shared_end[] __attribute__((weak, visibility("hidden")));
}

namespace fastsam::emulator {
namespace {

constexpr unsigned kMaxThreads = 1024;
constexpr size_t kMaxShared = 227 * 1024;  // the limit of a block on an H100
constexpr size_t kFence = 1024;            // guard bytes after dynamic shared memory, to detect writes beyond its end
constexpr int kSpoilt = 0xff, kFenceByte = 0xa5;
constexpr size_t kSharedAlignment = 1024;

struct Copy {
  void* to;
  const void* from;
  size_t bytes, zeros;
};

struct Thread {
  Fiber fiber;
  uint3 index;
  const char* waits_for = nullptr;  // operation it waits at; null if it can run or has ended
  bool in_block_barrier = false;
  bool ended = false;
  uint32_t mask = 0;
  void* operand = nullptr;
  void (*act)(const Lanes&) = nullptr;
  std::vector<Copy> copies;                 // not yet committed
  std::deque<std::vector<Copy>> committed;  // committed groups, oldest first
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
  int counted = 0;                   // how many of these threads passed a true predicate
  int result = 0;                    // `counted` of the last completed barrier
  std::exception_ptr error;
  Fiber outside;
  char* shared = nullptr;
  size_t shared_bytes = 0;
};

// Only one kernel runs at a time in the process, so this state can be global instead of per host thread, which keeps
// switching stacks simple.
std::mutex one_at_a_time;
Block block;
std::vector<Thread> threads;
Stacks stacks;
bool backward = false;
std::set<std::string> names;  // kernels that have run, see launched()

std::string text(const uint3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

std::string sentence(unsigned thread, const std::string& what) {
  return thread_text(thread) + " of block " + text(block.index) + " of the CUDA kernel " + block.kernel + " " + what;
}

int first_lane(uint32_t lanes) { return backward ? 31 - __builtin_clz(lanes) : __builtin_ctz(lanes); }

// Return the next thread that can run, in cyclic order after the current one, or -1 if none can.
int next_ready() {
  const unsigned warps = (block.threads + 31) / 32, warp = block.current / 32, at = block.current % 32;
  const uint32_t later = backward ? (1u << at) - 1u : (at == 31 ? 0u : ~0u << (at + 1));
  if (const uint32_t lanes = block.ready[warp] & later; lanes != 0)
    return static_cast<int>(warp) * 32 + first_lane(lanes);
  for (unsigned step = 1; step <= warps; ++step) {
    const unsigned other = backward ? (warp + warps - step) % warps : (warp + step) % warps;
    if (block.ready[other] != 0) return static_cast<int>(other) * 32 + first_lane(block.ready[other]);
  }
  return -1;
}

Thread& current() { return threads[block.current]; }
void set_ready(unsigned thread) { block.ready[thread / 32] |= 1u << thread % 32; }
void clear_ready(unsigned thread) { block.ready[thread / 32] &= ~(1u << thread % 32); }

// Switch from this thread to one that can run, or back to run_block if none can or one has failed.
void leave() {
  Thread& from = current();
  const int next = block.error ? -1 : next_ready();
  if (next < 0) {
    block.outside.resume(from.fiber);
  } else if (static_cast<unsigned>(next) != block.current) {
    block.current = static_cast<unsigned>(next);
    threads[block.current].fiber.resume(from.fiber);
  }
}

void release(unsigned thread) {
  threads[thread].waits_for = nullptr;
  set_ready(thread);
}

void open_block_barrier() {
  races::order_block();
  block.result = block.counted;
  block.arrived = 0;
  block.counted = 0;
  for (unsigned i = 0; i < block.threads; ++i) {
    if (!threads[i].in_block_barrier) continue;
    threads[i].in_block_barrier = false;
    release(i);
  }
}

// If all lanes of one.mask that haven't ended wait at the same operation as `one`, carry the operation out, release
// them and return true.
bool complete_warp(const Thread& one, unsigned warp) {
  if ((block.ready[warp] & one.mask) != 0) return false;  // a lane of the mask is still running
  Lanes lanes{};
  for (unsigned i = 0; i < 32; ++i) {
    const unsigned at = warp * 32 + i;
    if ((one.mask >> i & 1u) == 0 || at >= block.threads || threads[at].ended) continue;
    const Thread& other = threads[at];
    if (other.waits_for == nullptr || other.in_block_barrier || other.mask != one.mask ||
        (other.waits_for != one.waits_for && std::strcmp(other.waits_for, one.waits_for) != 0)) {
      return false;
    }
    lanes.present |= 1u << i;
    lanes.operands[i] = other.operand;
  }
  races::pause();
  one.act(lanes);
  races::go_on();
  for (unsigned i = 0; i < 32; ++i) {
    if ((lanes.present >> i & 1u) != 0) release(warp * 32 + i);
  }
  return true;
}

void end_thread() {
  Thread& thread = current();
  thread.ended = true;
  clear_ready(block.current);
  --block.alive;
  if (block.error) return;
  if (block.alive > 0 && block.arrived == block.alive) open_block_barrier();
  const unsigned warp = block.current / 32;
  for (unsigned at = warp * 32; at < std::min(block.threads, warp * 32 + 32); ++at) {
    if (threads[at].waits_for != nullptr && !threads[at].in_block_barrier) {
      complete_warp(threads[at], warp);
    }
  }
}

void thread_main() {
  Fiber::arrived();
  try {
    (*block.body)();
    end_thread();
  } catch (...) {
    block.error = std::current_exception();
  }
  leave();
  std::terminate();  // unreachable: a thread that has ended is never resumed
}

// Describe the state of all threads, as "threads 0-31 waiting at __syncthreads(), threads 32-63 ended".
std::string whereabouts() {
  const auto state = [](const Thread& thread) {
    if (thread.ended) return std::string("ended");
    std::string where = std::string("waiting at ") + thread.waits_for;
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
  block.counted = 0;
  std::fill(std::begin(block.ready), std::end(block.ready), 0u);
  std::memset(block.shared, kSpoilt, block.shared_bytes);
  std::memset(block.shared + block.shared_bytes, kFenceByte, kFence);
  if (fastsam_shared_begin != nullptr) {
    std::memset(fastsam_shared_begin, kSpoilt, static_cast<size_t>(fastsam_shared_end - fastsam_shared_begin));
  }
  for (unsigned i = 0; i < block.threads; ++i) {
    Thread& thread = threads[i];
    thread.index = {i % block.size.x, i / block.size.x % block.size.y, i / block.size.x / block.size.y};
    thread.waits_for = nullptr;
    thread.in_block_barrier = thread.ended = false;
    thread.copies.clear();
    thread.committed.clear();
    thread.fiber.prepare(stacks.stack(i), Stacks::kBytes, &thread_main);
    set_ready(i);
  }
  begin_block_of_products();
  races::begin_block(block.threads, {block.shared, block.shared_bytes},
                     {fastsam_shared_begin, static_cast<size_t>(fastsam_shared_end - fastsam_shared_begin)},
                     {static_cast<const char*>(stacks.stack(0)), stacks.bytes()});
  block.current = backward ? block.threads - 1 : 0;
  current().fiber.resume(block.outside);
  if (block.error) std::rethrow_exception(block.error);
  if (block.alive > 0) {
    throw std::runtime_error("block " + text(block.index) + " of the CUDA kernel " + block.kernel +
                             " can't go on: " + whereabouts());
  }
  if (const std::string wrong = end_block_of_products(); !wrong.empty()) {
    throw std::runtime_error("block " + text(block.index) + " of the CUDA kernel " + block.kernel + " " + wrong);
  }
  const char* fence = block.shared + block.shared_bytes;
  if (std::any_of(fence, fence + kFence, [](char c) { return c != static_cast<char>(kFenceByte); })) {
    throw std::runtime_error("block " + text(block.index) + " of the CUDA kernel " + block.kernel +
                             " wrote behind its " + std::to_string(block.shared_bytes) +
                             " bytes of dynamic shared memory");
  }
}

void copy(const std::vector<Copy>& copies) {
  for (const Copy& one : copies) {
    std::memcpy(one.to, one.from, one.bytes);
    std::memset(static_cast<char*>(one.to) + one.bytes, 0, one.zeros);
    races::end_copy(one.to, one.bytes + one.zeros, block.current);
    note_copy(one.to, one.bytes + one.zeros);
  }
}

}  // namespace

const char* refusal(dim3 grid, dim3 size, size_t shared) {
  const uint64_t count = uint64_t{size.x} * size.y * size.z;
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || size.z > 64 || count == 0 || count > kMaxThreads) {
    return "invalid configuration argument";
  }
  return shared > kMaxShared ? "invalid argument" : nullptr;
}

void run(const std::string& kernel, dim3 grid, dim3 size, size_t shared, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const size_t count = size_t{size.x} * size.y * size.z;
  if (threads.size() < count) threads.resize(count);
  stacks.reserve(count);
  std::vector<char> memory(shared + kFence + kSharedAlignment);
  const auto start = reinterpret_cast<uintptr_t>(memory.data());
  block.shared = memory.data() + (kSharedAlignment - start % kSharedAlignment);
  block.shared_bytes = shared;
  block.kernel = kernel;
  block.body = &body;
  block.grid = grid;
  block.size = size;
  block.error = nullptr;
  names.insert(kernel);
  races::begin_launch();
  const struct Watched {
    ~Watched() { races::end_launch(block.error != nullptr || block.alive > 0); }
  } until_the_end;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        block.index = {x, y, z};
        run_block();
      }
    }
  }
}

std::vector<std::string> launched() {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  std::vector<std::string> all(names.begin(), names.end());
  names.clear();
  return all;
}

void set_order(bool to_backward) {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  backward = to_backward;
}

const uint3& thread_index() { return current().index; }
const uint3& block_index() { return block.index; }
const dim3& block_size() { return block.size; }
const dim3& grid_size() { return block.grid; }
void* dynamic_shared() { return block.shared; }
int lane() { return static_cast<int>(block.current % 32); }
unsigned linear_thread() { return block.current; }

int meet_block(const char* barrier, bool predicate) {
  const unsigned me = block.current;
  if (block.arrived == 0) block.first_arrived = me;
  const Thread& first = threads[block.first_arrived];
  if (block.arrived > 0 && std::strcmp(first.waits_for, barrier) != 0) {
    fail(std::string("is at ") + barrier + " while thread " + std::to_string(block.first_arrived) + " is at " +
         first.waits_for);
  }
  threads[me].waits_for = barrier;
  threads[me].in_block_barrier = true;
  clear_ready(me);
  block.counted += predicate;
  if (++block.arrived == block.alive) {
    open_block_barrier();
  } else {
    leave();
  }
  return block.result;
}

void meet_warp(const char* operation, uint32_t mask, void* operand, void (*act)(const Lanes&)) {
  const unsigned me = block.current;
  if ((mask >> me % 32 & 1u) == 0)
    fail(std::string("calls ") + operation + " with a mask that does not include the thread");
  Thread& thread = threads[me];
  thread.waits_for = operation;
  thread.mask = mask;
  thread.operand = operand;
  thread.act = act;
  clear_ready(me);
  if (!complete_warp(thread, me / 32)) leave();
}

void yield() {
  if (next_ready() >= 0) leave();
}

std::string thread_text(unsigned thread) { return "thread " + text(threads[thread].index); }

void fail(const std::string& what) { throw std::runtime_error(sentence(block.current, what)); }

void stop(unsigned thread, const std::string& what) {
  block.error = std::make_exception_ptr(std::runtime_error(sentence(thread, what)));
  leave();
  std::terminate();  // unreachable: a thread of a block that has failed is never resumed
}

void order_lanes(const Lanes& lanes) { races::order_lanes(block.current / 32, lanes.present); }

bool is_shared(const void* address, size_t bytes) {
  const auto within = [&](const char* begin, const char* end) {
    const auto at = reinterpret_cast<uintptr_t>(address);
    return at >= reinterpret_cast<uintptr_t>(begin) && at + bytes <= reinterpret_cast<uintptr_t>(end);
  };
  return within(block.shared, block.shared + block.shared_bytes) || within(fastsam_shared_begin, fastsam_shared_end);
}

void defer_copy(void* to, const void* from, size_t bytes, size_t zeros) {
  races::begin_copy(to, from, bytes, zeros, block.current);
  current().copies.push_back({to, from, bytes, zeros});
}

void commit_copies() {
  current().committed.push_back(std::move(current().copies));
  current().copies.clear();
}

void wait_copies(size_t pending) {
  std::deque<std::vector<Copy>>& groups = current().committed;
  for (; groups.size() > pending; groups.pop_front()) copy(groups.front());
}

}  // namespace fastsam::emulator
