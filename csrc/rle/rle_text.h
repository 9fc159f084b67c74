// Reads and writes COCO's compressed text. A number is split into groups of 5 bits, lowest first, one character each.
// Each group but the last has a continuation bit, and the top bit of the last is the sign. The first three runs are
// stored as they are. Each later one is stored as its difference from the previous run of the same colour, which is
// mostly small.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "rle/rle.h"

namespace fastsam::rle {

constexpr int kTextBits = 5;
constexpr uint8_t kTextBase = '0';          // the character of a last group that is 0
constexpr uint8_t kTextContinues = 1 << 5;  // more groups follow

// Reads a number of any length and moves `cursor` behind it; `cursor` must not be `end`. Throws std::invalid_argument
// for malformed text.
int64_t read_long_number(const uint8_t*& cursor, const uint8_t* end);

// Calls visit(run) for each run in the text [at, end) of a mask of `pixels` pixels. Throws std::invalid_argument if the
// text is malformed or the runs don't sum to `pixels`, possibly after some calls. mask: its index, for the message.
template <typename Visit>
void read_runs(const uint8_t* cursor, const uint8_t* end, int64_t pixels, int64_t mask, const Visit& visit) {
  if (pixels < 0 || pixels > kMaxPixels) {
    throw std::invalid_argument("pixels must be from 0 to " + std::to_string(kMaxPixels));
  }
  int64_t total = 0, before = 0, two_before = 0;  // the last two runs
  for (int64_t number = 0; cursor != end; ++number) {
    // Nearly all numbers have one or two characters. Which of the two is unpredictable, so both kinds are read without
    // a branch.
    const uint32_t low = static_cast<uint8_t>(*cursor - kTextBase);
    const uint32_t high = end - cursor > 1 ? static_cast<uint8_t>(cursor[1] - kTextBase) : 255u;
    const uint32_t more = low >> kTextBits;  // above 1 for an invalid character
    const uint32_t redundant = low & 16 ? 31 : 0;
    int64_t run = 0;
    if ((more == 0) | ((more == 1) & (high < kTextContinues) & (high != redundant))) {
      const int32_t value = static_cast<int32_t>((low & 31) | ((high << kTextBits) & (0u - more)));
      const int32_t sign = 16 << (kTextBits * more);
      run = (value ^ sign) - sign;
      cursor += 1 + more;
    } else {
      run = read_long_number(cursor, end);
    }
    // run, two_before and total are each within 2^62: a sum of two fits int64, a sum of three may not.
    if (number > 2) run += two_before;
    if (run < 0) throw std::invalid_argument("the text holds a negative run length");
    if (run > pixels - total) {
      throw std::invalid_argument("the runs of mask " + std::to_string(mask) + " sum to more than the " +
                                  std::to_string(pixels) + " pixels of its size");
    }
    total += run;
    two_before = before;
    before = run;
    visit(run);
  }
  if (total != pixels) {
    throw std::invalid_argument("the runs of mask " + std::to_string(mask) + " sum to " + std::to_string(total) +
                                ", but its size has " + std::to_string(pixels) + " pixels");
  }
}

// Appends the text of n runs of one mask to `out`. The runs must be valid (check_runs).
void write_runs(const int64_t* runs, int64_t n, std::vector<uint8_t>& out);

}  // namespace fastsam::rle
