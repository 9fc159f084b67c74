// Fork-join over std::thread: threads live for one call and are joined before it returns. No pool stays behind, so a
// fork() of the process at any time leaves the child able to call again, and no second threading runtime enters it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace fastsam {

// Calls work(begin, end) on contiguous parts of [0, items), one part per thread, at most `threads` of them and none
// smaller than `grain` items (the point below which starting a thread costs more than it saves). The first exception
// that any part throws is thrown again here, after all parts have ended.
template <typename Work>
void fork_join(int64_t threads, int64_t items, int64_t grain, const Work& work) {
  if (items <= 0) return;
  const int64_t parts = std::max<int64_t>(1, std::min(threads, items / std::max<int64_t>(1, grain)));
  if (parts == 1) {
    work(int64_t{0}, items);
    return;
  }
  std::vector<std::exception_ptr> errors(static_cast<size_t>(parts));
  const auto run = [&](int64_t part) noexcept {
    try {
      // Split as evenly as possible: the first `items % parts` parts get one more.
      const int64_t size = items / parts, extra = items % parts;
      const int64_t begin = part * size + std::min(part, extra);
      work(begin, begin + size + (part < extra ? 1 : 0));
    } catch (...) {
      errors[static_cast<size_t>(part)] = std::current_exception();
    }
  };
  std::vector<std::thread> helpers;
  helpers.reserve(static_cast<size_t>(parts - 1));
  int64_t next = 1;
  try {
    for (; next < parts; ++next) helpers.emplace_back(run, next);
  } catch (...) {
    // The system gives no more threads, or no memory for one: what is left runs here.
  }
  run(0);
  for (; next < parts; ++next) run(next);
  for (std::thread& helper : helpers) helper.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace fastsam
