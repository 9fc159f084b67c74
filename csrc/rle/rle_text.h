// Reading COCO's compressed text: numbers in signed groups of 5 bits, lowest first, one character each, with a
// continuation bit; from the fourth run on the difference to the run of the same colour before, which is mostly small.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "rle/rle.h"

namespace fastsam::rle {

constexpr int kTextBits = 5;
constexpr uint8_t kTextFirst = '0';         // character of the group 0
constexpr uint8_t kTextContinues = 1 << 5;  // more groups follow

// Reads a number of any length; `at` is moved behind it, and is not the end.
int64_t read_long_number(const uint8_t*& at, const uint8_t* end);

// Calls use(run) for each run of a mask of `pixels` pixels. Throws std::invalid_argument for text that is malformed and
// for runs that don't sum to pixels, which may be after some calls.
template <typename Use>
void read_runs(const uint8_t* at, const uint8_t* end, int64_t pixels, int64_t mask, const Use& use) {
  if (pixels < 0 || pixels > kMaxPixels) {
    throw std::invalid_argument("pixels must be from 0 to " + std::to_string(kMaxPixels));
  }
  int64_t total = 0, before = 0, two_before = 0;  // the last two runs
  for (int64_t number = 0; at != end; ++number) {
    // Nearly all numbers have one or two characters, in no order that could be foretold: both are read without a
    // branch.
    const uint32_t low = static_cast<uint8_t>(*at - kTextFirst);
    const uint32_t high = end - at > 1 ? static_cast<uint8_t>(at[1] - kTextFirst) : 255u;
    const uint32_t more = low >> kTextBits;  // above 1 for characters that no RLE has
    const uint32_t bare = low & 16 ? 31 : 0;
    int64_t run = 0;
    if ((more == 0) | ((more == 1) & (high < kTextContinues) & (high != bare))) {
      const int32_t value = static_cast<int32_t>((low & 31) | ((high << kTextBits) & (0u - more)));
      const int32_t sign = 16 << (kTextBits * more);
      run = (value ^ sign) - sign;
      at += 1 + more;
    } else {
      run = read_long_number(at, end);
    }
    // The sum of two can't leave int64, that of three could: both parts are within 2^62, and so is the total.
    if (number > 2) run += two_before;
    if (run < 0) throw std::invalid_argument("the text holds a negative run length");
    if (run > pixels - total) {
      throw std::invalid_argument("the runs of mask " + std::to_string(mask) + " sum to more than the " +
                                  std::to_string(pixels) + " pixels of its size");
    }
    total += run;
    two_before = before;
    before = run;
    use(run);
  }
  if (total != pixels) {
    throw std::invalid_argument("the runs of mask " + std::to_string(mask) + " sum to " + std::to_string(total) +
                                ", but its size has " + std::to_string(pixels) + " pixels");
  }
}

// Appends the text of runs to `out`, which counts as valid runs; see check_runs.
void write_runs(const int64_t* runs, int64_t n, std::vector<uint8_t>& out);

}  // namespace fastsam::rle
