// Tests fork_join by itself: each item is processed once, exceptions propagate, calls nest, and nothing is lost when
// the system refuses threads or has no processors to run them. Built with -fsanitize=thread by `make sanitize`, and
// without by tests/test_native_programs.py.
#include "common/fork_join.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if !defined(__SANITIZE_THREAD__)
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

// This program defines pthread_create, in place of the system's function, to control thread creation:
static std::atomic<int> threads_left{1 << 30};  // how many more calls succeed
static std::atomic<bool> threads_held{false};   // while true, new threads wait before they run
static std::atomic<int> started{0};             // threads created so far

struct ThreadStart {
  void* (*run)(void*);
  void* data;
};

static void* run_when_released(void* argument) {
  const ThreadStart start = *static_cast<ThreadStart*>(argument);
  delete static_cast<ThreadStart*>(argument);
  while (threads_held) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return start.run(start.data);
}

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* data) {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const Create create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  if (threads_left.fetch_sub(1) <= 0) return EAGAIN;
  ++started;
  return create(thread, attributes, run_when_released, new ThreadStart{start, data});
}
#endif

namespace {

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what.c_str());
  std::exit(1);
}

// Every item is processed exactly once, in at most `threads` contiguous parts; several have at least `grain` items.
void each_item_processed_once() {
  for (const int64_t threads : {-1, 0, 1, 2, 3, 7, 64}) {
    for (const int64_t items : {-5, 0, 1, 2, 3, 10, 63, 1000}) {
      for (const int64_t grain : {-1, 0, 1, 2, 9, 5000}) {
        std::vector<int> touched(items > 0 ? static_cast<size_t>(items) : 0, 0);  // unsynchronised: parts are disjoint
        std::atomic<int64_t> parts{0};
        fastsam::fork_join(threads, items, grain, [&](int64_t begin, int64_t end) {
          require(begin < end && begin >= 0 && end <= items, "each part lies within the items");
          for (int64_t i = begin; i < end; ++i) ++touched[static_cast<size_t>(i)];
          ++parts;
        });
        for (const int count : touched) require(count == 1, "each item is processed once");
        require(parts <= std::max<int64_t>(1, threads), "there are no more parts than threads");
        require(items <= 0 ? parts == 0 : parts >= 1, "there are parts if and only if there are items");
        if (parts > 1) require(items / parts >= grain, "each of several parts has at least `grain` items");
      }
    }
  }
}

// Items of uneven cost may be split into more parts than there are threads.
void more_parts_than_threads() {
  for (const int64_t threads : {1, 2, 7}) {
    std::vector<int> touched(100, 0);
    std::atomic<int64_t> parts{0};
    const auto work = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++touched[static_cast<size_t>(i)];
      ++parts;
    };
    fastsam::fork_join(threads, 100, 6, work, 4);
    for (const int count : touched) require(count == 1, "each item is processed once");
    require(parts == (threads == 1 ? 1 : std::min<int64_t>(4 * threads, 100 / 6)), "number of parts");
  }
}

void wait_for_helpers() {
  while (fastsam::pending_helpers > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// Each part waits until all others have begun, which needs one thread per part.
void parts_run_concurrently() {
  for (const int64_t threads : {2, 3, 8, 32}) {
    wait_for_helpers();
    std::atomic<int64_t> begun{0};
    fastsam::fork_join(threads, threads, 1, [&](int64_t, int64_t) {
      ++begun;
      for (int waited = 0; begun < threads; ++waited) {
        require(waited < 60'000, "all threads run at the same time");
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  }
}

// What the parts wrote is visible to the caller afterwards, without further synchronisation.
void results_are_visible() {
  std::vector<int64_t> sums(8, 0);
  for (int round = 0; round < 200; ++round) {
    fastsam::fork_join(8, 8, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sums[static_cast<size_t>(i)] += i;
    });
    require(std::accumulate(sums.begin(), sums.end(), int64_t{0}) == 28 * (round + 1), "sums after each round");
  }
}

void exceptions_are_rethrown() {
  for (int64_t failing = 0; failing < 6; ++failing) {
    std::atomic<int64_t> done{0};
    bool caught = false;
    try {
      fastsam::fork_join(6, 6, 1, [&](int64_t begin, int64_t) {
        if (begin == failing) throw std::invalid_argument(std::to_string(begin));
        ++done;
      });
    } catch (const std::invalid_argument& error) {
      caught = std::to_string(failing) == error.what();
    }
    require(caught, "the exception of a part is rethrown to the caller");
    require(done == 5, "the other parts run to their end");
  }
  std::string message;
  try {
    fastsam::fork_join(5, 5, 1, [&](int64_t begin, int64_t) { throw std::runtime_error(std::to_string(begin)); });
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  require(message == "0", "of several exceptions, that of the first part is rethrown");
}

void nested_calls() {
  std::vector<int> touched(120, 0);
  fastsam::fork_join(4, 12, 1, [&](int64_t begin, int64_t end) {
    for (int64_t outer = begin; outer < end; ++outer) {
      fastsam::fork_join(3, 10, 1, [&, outer](int64_t first, int64_t last) {
        for (int64_t inner = first; inner < last; ++inner) ++touched[static_cast<size_t>(outer * 10 + inner)];
      });
    }
  });
  for (const int count : touched) require(count == 1, "each item of each inner call is processed once");
}

void concurrent_calls() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) callers.emplace_back(results_are_visible);
  for (std::thread& caller : callers) caller.join();
}

#if !defined(__SANITIZE_THREAD__)
void threads_refused() {
  for (int left = 0; left < 5; ++left) {
    threads_left = left;
    std::vector<int> touched(50, 0);
    fastsam::fork_join(5, 50, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++touched[static_cast<size_t>(i)];
    });
    for (const int count : touched) require(count == 1, "each item is processed once if threads are refused");
    threads_left = left;
    bool caught = false;
    try {
      fastsam::fork_join(5, 5, 1, [&](int64_t begin, int64_t) {
        if (begin == 4) throw std::invalid_argument("the last part");
      });
    } catch (const std::invalid_argument&) {
      caught = true;
    }
    require(caught, "the exception of a part whose thread was refused is rethrown");
  }
  threads_left = 1 << 30;
}

// A call starts as many helpers as it has threads beside the caller's, however many parts remain.
void number_of_helpers() {
  for (const int64_t threads : {2, 3, 4, 5, 8}) {
    wait_for_helpers();
    started = 0;
    const auto work = [&](int64_t, int64_t) {
      for (int waited = 0; started < threads - 1; ++waited) {
        require(waited < 60'000, "all helpers are started");
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    };
    fastsam::fork_join(threads, 4000, 1, work, 1000);
    wait_for_helpers();
    require(started == threads - 1, "no further helpers are started");
  }
}

void check_fifty_items() {
  std::vector<int> touched(50, 0);
  fastsam::fork_join(5, 50, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++touched[static_cast<size_t>(i)];
  });
  for (const int count : touched) require(count == 1, "each item is processed once if helper threads are late");
}

// The caller processes the parts that its helper threads don't get to, and late helpers find nothing left to do. While
// helpers are late, only a few more are started.
void helpers_are_late() {
  wait_for_helpers();
  threads_held = true, started = 0;
  for (int round = 0; round < 200; ++round) check_fifty_items();
  require(started >= 1 && started <= std::max<int64_t>(8, fastsam::num_processors),
          "the number of late helpers is limited");
  require(fastsam::pending_helpers == started, "all helpers are late");
  const pid_t child = fork();
  if (child == 0) {
    threads_held = false;
    parts_run_concurrently();  // the parent's late helpers must not count in the child
    _exit(0);
  }
  int status = 1;
  require(waitpid(child, &status, 0) == child && status == 0, "a forked child starts its own helpers");
  threads_held = false;
  wait_for_helpers();
  parts_run_concurrently();
}
#endif

}  // namespace

int main() {
  each_item_processed_once();
  more_parts_than_threads();
  parts_run_concurrently();
  results_are_visible();
  exceptions_are_rethrown();
  nested_calls();
  concurrent_calls();
#if !defined(__SANITIZE_THREAD__)
  threads_refused();
  number_of_helpers();
  helpers_are_late();
#endif
  std::puts("fork_join: ok");
  return 0;
}
