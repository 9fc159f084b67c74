// Fork-join over std::thread: threads are started for one call, and none works on after it. No pool stays behind, so a
// fork() of the process at any time leaves the child able to call again, and no second threading runtime enters it.
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

// Helpers that were started and have not had a processor yet. Each belongs to a call that may be over.
inline std::atomic<int64_t> late_helpers{0};
// For a moment so many may be late on an idle machine, of calls that begin together.
inline const auto processors = static_cast<int64_t>(std::thread::hardware_concurrency());
#ifndef _WIN32
// A child has none of its parent's threads.
inline const int forget_helpers_in_child = pthread_atfork(nullptr, nullptr, [] { late_helpers = 0; });
#endif

// The parts of one call, which the caller and its helpers claim one after the other. On a busy machine a helper may
// wait milliseconds for a processor: the caller does its part then, and the helper, who finds nothing left, touches
// nothing of the caller's.
class Parts {
 public:
  // run(work, part) does a part. `work` must live until `wait` returns.
  Parts(int64_t count, void (*run)(const void* work, int64_t part), const void* work)
      : count_(count), run_(run), work_(work), errors_(static_cast<size_t>(count)) {}

  void claim_all() noexcept {
    for (;;) {
      const int64_t part = next_.fetch_add(1);
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

  bool any_left() const { return next_ < count_; }

  // Returns when every part has been done. The first part's exception is thrown again.
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return done_ == count_; });
    // The caller's own now: a late helper may be the last to let go of this.
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
  std::atomic<int64_t> next_{0}, done_{0};
  std::vector<std::exception_ptr> errors_;
  std::mutex mutex_;
  std::condition_variable all_done_;
};

// Starts `wanted` helpers, or fewer: none where no part is left, or where `most_late` are late already, as another
// would be late too. Each starts half of those that are still to come, so that many don't wait for one another to be
// started.
inline void start_helpers(const std::shared_ptr<Parts>& parts, int64_t wanted, int64_t most_late) {
  try {
    while (wanted > 0 && parts->any_left() && late_helpers < most_late) {
      const int64_t others = (wanted - 1) / 2;
      ++late_helpers;
      try {
        std::thread([parts, others, most_late] {
          --late_helpers;
          start_helpers(parts, others, most_late);
          parts->claim_all();
        }).detach();
      } catch (...) {
        --late_helpers;
        throw;
      }
      wanted -= 1 + others;
    }
  } catch (const std::exception&) {
    // The system gives no more threads, or no memory for one: those that are there do what is left.
  }
}

// Calls work(begin, end) on contiguous parts of [0, items), none smaller than `grain` items (the point below which
// starting a thread costs more than it saves), on at most `threads` threads. Each has a part, or `parts_per_thread`
// where some items take much longer than others. The first exception that any part throws is thrown again here, after
// all parts have ended.
template <typename Work>
void fork_join(int64_t threads, int64_t items, int64_t grain, const Work& work, int64_t parts_per_thread = 1) {
  if (items <= 0) return;
  const int64_t most = threads <= 1 ? 1 : threads * parts_per_thread;
  const int64_t count = std::max<int64_t>(1, std::min(most, items / std::max<int64_t>(1, grain)));
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
  const auto run = [](const void* of_call, int64_t index) { (*static_cast<const Part*>(of_call))(index); };
  const auto parts = std::make_shared<Parts>(count, run, &part);
  const int64_t helpers = std::min(threads, count) - 1;
  start_helpers(parts, helpers, std::max(2 * helpers, processors));
  parts->claim_all();
  parts->wait();
}

}  // namespace fastsam
