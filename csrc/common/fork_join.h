// Fork-join over std::thread: threads are started for each call, and none does work after the call has returned.
// Without a persistent pool, a child process can call again after a fork() at any time, and the process needs no second
// threading runtime.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#ifndef _WIN32
#include <pthread.h>
#elif defined(__GLIBCXX__)
#error "the threads of MinGW's libstdc++ have hung as they ended: take a Clang that comes with libc++"
#endif

namespace fastsam {

// Number of helper threads that were started but have not begun to run. The call that started one may be over.
inline std::atomic<int64_t> pending_helpers{0};
// Number of hardware threads. Even on an idle machine this many helpers may briefly be late, if calls begin together.
inline const auto num_processors = static_cast<int64_t>(std::thread::hardware_concurrency());
#ifndef _WIN32
// A forked child has none of its parent's threads.
inline const int reset_helpers_in_child = pthread_atfork(nullptr, nullptr, [] { pending_helpers = 0; });
#endif

// The parts of one call. The caller and its helpers claim them one at a time until none is left. On a busy machine a
// helper may wait milliseconds for a processor; the caller then does its part, and the helper, which finds no part
// left, touches none of the caller's data. Shared ownership keeps this object alive for such late helpers.
class WorkQueue {
 public:
  // run(work, part) executes one part. `work` must live until `wait` returns.
  WorkQueue(int64_t count, void (*run)(const void* work, int64_t part), const void* work)
      : count_(count), run_(run), work_(work), errors_(static_cast<size_t>(count)) {}

  void run_parts() noexcept {
    for (;;) {
      const int64_t part = next_part_.fetch_add(1);
      if (part >= count_) return;
      try {
        run_(work_, part);
      } catch (...) {
        errors_[static_cast<size_t>(part)] = std::current_exception();
      }
      if (done_.fetch_add(1) + 1 == count_) {
        const std::lock_guard<std::mutex> lock(mutex_);
        all_done_.notify_all();
      }
    }
  }

  bool has_remaining() const { return next_part_ < count_; }

  // Wait until every part is done, then rethrow the exception of the lowest-numbered part that failed, if any.
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return done_ == count_; });
    // Moved out, so that the caller destroys them: a late helper may be the last owner of this object.
    const std::vector<std::exception_ptr> errors = std::move(errors_);
    lock.unlock();
    for (const std::exception_ptr& error : errors) {
      if (error) std::rethrow_exception(error);
    }
  }

 private:
  const int64_t count_;
  void (*const run_)(const void* work, int64_t part);
  const void* const work_;
  std::atomic<int64_t> next_part_{0}, done_{0};
  std::vector<std::exception_ptr> errors_;
  std::mutex mutex_;
  std::condition_variable all_done_;
};

// Start up to `num_helpers` helper threads. Stop as soon as no part is left, or while `max_pending` helpers are late
// already, since another would be late too. Each helper starts half of the remaining ones, so the start-up time grows
// with the logarithm of their number.
inline void start_helpers(const std::shared_ptr<WorkQueue>& queue, int64_t num_helpers, int64_t max_pending) {
  try {
    while (num_helpers > 0 && queue->has_remaining() && pending_helpers < max_pending) {
      const int64_t remaining = (num_helpers - 1) / 2;
      ++pending_helpers;
      try {
        std::thread([queue, remaining, max_pending] {
          --pending_helpers;
          start_helpers(queue, remaining, max_pending);
          queue->run_parts();
        }).detach();
      } catch (...) {
        --pending_helpers;
        throw;
      }
      num_helpers -= 1 + remaining;
    }
  } catch (const std::exception&) {
    // No more threads, or no memory for one: the caller and the helpers that run do the remaining parts.
  }
}

// Call work(begin, end) for contiguous parts of [0, items), on at most `threads` threads including the caller's. If
// there are several parts, each has at least `grain_size` items: the size below which starting a thread costs more than
// it saves. There are up to `parts_per_thread` parts per thread; use more than one if some items take much longer than
// others. After all parts have ended, the exception of the lowest-numbered part that threw is rethrown.
template <typename Work>
void fork_join(int64_t threads, int64_t items, int64_t grain_size, const Work& work, int64_t parts_per_thread = 1) {
  if (items <= 0) return;
  const int64_t max_parts = threads <= 1 ? 1 : threads * parts_per_thread;
  const int64_t count = std::max<int64_t>(1, std::min(max_parts, items / std::max<int64_t>(1, grain_size)));
  if (count == 1) {
    work(int64_t{0}, items);
    return;
  }
  const auto part = [&](int64_t index) {
    // Split as evenly as possible: the first `items % count` parts get one more.
    const int64_t size = items / count, extra = items % count, begin = index * size + std::min(index, extra);
    work(begin, begin + size + (index < extra ? 1 : 0));
  };
  using Part = decltype(part);
  const auto run = [](const void* context, int64_t index) { (*static_cast<const Part*>(context))(index); };
  const auto queue = std::make_shared<WorkQueue>(count, run, &part);
  const int64_t helpers = std::min(threads, count) - 1;
  start_helpers(queue, helpers, std::max(2 * helpers, num_processors));
  queue->run_parts();
  queue->wait();
}

}  // namespace fastsam
