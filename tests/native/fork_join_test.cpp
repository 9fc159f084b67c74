// The fork-join by itself: every item once, exceptions, calls within calls, and a system without threads to give, or
// without processors to run them.
// Built with -fsanitize=thread by `make sanitize`, and without by tests/test_native_programs.py.
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

// Stands before the system's function of this name, so that the tests can have it refuse.
static std::atomic<int> threads_left{1 << 30};
// While it holds, threads that were started wait.
static std::atomic<bool> held_back{false};
static std::atomic<int> started{0};

struct Start {
  void* (*run)(void*);
  void* data;
};

static void* run_when_let(void* given) {
  const Start start = *static_cast<Start*>(given);
  delete static_cast<Start*>(given);
  while (held_back) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return start.run(start.data);
}

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* data) {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const Create create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  if (threads_left.fetch_sub(1) <= 0) return EAGAIN;
  ++started;
  return create(thread, attributes, run_when_let, new Start{start, data});
}
#endif

namespace {

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what.c_str());
  std::exit(1);
}

// Every item exactly once, in at most `threads` contiguous parts of `grain` items at least.
void every_item_once() {
  for (const int64_t threads : {-1, 0, 1, 2, 3, 7, 64}) {
    for (const int64_t items : {-5, 0, 1, 2, 3, 10, 63, 1000}) {
      for (const int64_t grain : {-1, 0, 1, 2, 9, 5000}) {
        std::vector<int> touched(items > 0 ? static_cast<size_t>(items) : 0, 0);  // unsynchronised: parts are disjoint
        std::atomic<int64_t> parts{0};
        fastsam::fork_join(threads, items, grain, [&](int64_t begin, int64_t end) {
          require(begin < end && begin >= 0 && end <= items, "a part lies within the items");
          for (int64_t i = begin; i < end; ++i) ++touched[static_cast<size_t>(i)];
          ++parts;
        });
        for (const int count : touched) require(count == 1, "each item is worked on once");
        require(parts <= std::max<int64_t>(1, threads), "no more parts than threads");
        require(items <= 0 ? parts == 0 : parts >= 1, "parts where there are items");
      }
    }
  }
}

// Uneven items may go in more parts than there are threads.
void more_parts_than_threads() {
  for (const int64_t threads : {1, 2, 7}) {
    std::vector<int> touched(100, 0);
    std::atomic<int64_t> parts{0};
    const auto work = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++touched[static_cast<size_t>(i)];
      ++parts;
    };
    fastsam::fork_join(threads, 100, 6, work, 4);
    for (const int count : touched) require(count == 1, "each item is worked on once");
    require(parts == (threads == 1 ? 1 : std::min<int64_t>(4 * threads, 100 / 6)), "parts for each thread");
  }
}

void wait_for_helpers() {
  while (fastsam::late_helpers > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

// Each part waits for all others to have begun, which takes as many threads.
void all_threads_come() {
  for (const int64_t threads : {2, 3, 8, 32}) {
    wait_for_helpers();
    std::atomic<int64_t> begun{0};
    fastsam::fork_join(threads, threads, 1, [&](int64_t, int64_t) {
      ++begun;
      for (int waited = 0; begun < threads; ++waited) {
        require(waited < 60'000, "all threads work at the same time");
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  }
}

// What the parts wrote is visible after the call, without further synchronisation.
void results_are_visible() {
  std::vector<int64_t> sums(8, 0);
  for (int round = 0; round < 200; ++round) {
    fastsam::fork_join(8, 8, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sums[static_cast<size_t>(i)] += i;
    });
    require(std::accumulate(sums.begin(), sums.end(), int64_t{0}) == 28 * (round + 1), "sums after each round");
  }
}

void exceptions_arrive() {
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
    require(caught, "the exception of a part is thrown again");
    require(done == 5, "the other parts come to their end");
  }
  std::string message;
  try {
    fastsam::fork_join(5, 5, 1, [&](int64_t begin, int64_t) { throw std::runtime_error(std::to_string(begin)); });
  } catch (const std::runtime_error& error) {
    message = error.what();
  }
  require(message == "0", "of several exceptions the first part's wins");
}

void calls_within_calls() {
  std::vector<int> touched(120, 0);
  fastsam::fork_join(4, 12, 1, [&](int64_t begin, int64_t end) {
    for (int64_t outer = begin; outer < end; ++outer) {
      fastsam::fork_join(3, 10, 1, [&, outer](int64_t first, int64_t last) {
        for (int64_t inner = first; inner < last; ++inner) ++touched[static_cast<size_t>(outer * 10 + inner)];
      });
    }
  });
  for (const int count : touched) require(count == 1, "each item of each inner call once");
}

void calls_side_by_side() {
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) callers.emplace_back(results_are_visible);
  for (std::thread& caller : callers) caller.join();
}

#if !defined(__SANITIZE_THREAD__)
void no_threads_to_give() {
  for (int left = 0; left < 5; ++left) {
    threads_left = left;
    std::vector<int> touched(50, 0);
    fastsam::fork_join(5, 50, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++touched[static_cast<size_t>(i)];
    });
    for (const int count : touched) require(count == 1, "each item once, with few threads");
    threads_left = left;
    bool caught = false;
    try {
      fastsam::fork_join(5, 5, 1, [&](int64_t begin, int64_t) {
        if (begin == 4) throw std::invalid_argument("the last part");
      });
    } catch (const std::invalid_argument&) {
      caught = true;
    }
    require(caught, "the exception of a part that found no thread");
  }
  threads_left = 1 << 30;
}

void each_item_once() {
  std::vector<int> touched(50, 0);
  fastsam::fork_join(5, 50, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++touched[static_cast<size_t>(i)];
  });
  for (const int count : touched) require(count == 1, "each item once, with late helpers");
}

// The caller does what its helpers don't come to, who then find nothing of it; and it starts no more of them than a few
// while none comes.
void no_processors_for_helpers() {
  wait_for_helpers();
  held_back = true, started = 0;
  for (int round = 0; round < 200; ++round) each_item_once();
  require(started >= 1 && started <= std::max<int64_t>(8, fastsam::processors),
          "helpers that are late are not started again and again");
  require(fastsam::late_helpers == started, "all of them are late");
  const pid_t child = fork();
  if (child == 0) {
    held_back = false;
    all_threads_come();  // its parent's late helpers don't count
    _exit(0);
  }
  int status = 1;
  require(waitpid(child, &status, 0) == child && status == 0, "a child starts helpers of its own");
  held_back = false;
  wait_for_helpers();
  all_threads_come();
}
#endif

}  // namespace

int main() {
  every_item_once();
  more_parts_than_threads();
  all_threads_come();
  results_are_visible();
  exceptions_arrive();
  calls_within_calls();
  calls_side_by_side();
#if !defined(__SANITIZE_THREAD__)
  no_threads_to_give();
  no_processors_for_helpers();
#endif
  std::puts("fork_join: ok");
  return 0;
}
