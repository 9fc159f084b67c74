// COCO's compressed text of run lengths: numbers in signed groups of 5 bits, lowest first, one character each, with a
// continuation bit; from the fourth run on the difference to the run of the same colour before, which is mostly small.
#include <stdexcept>
#include <string>

#include "rle/rle.h"

namespace fastsam::rle {
namespace {

constexpr int kBits = 5;
constexpr uint8_t kFirst = '0';         // character of the group 0
constexpr uint8_t kContinues = 1 << 5;  // more groups follow
constexpr int64_t kMaxGroups = 13;      // 64 bits and a sign

// Reads one number; `at` is moved behind it, and is not the end.
int64_t read_number(const uint8_t*& at, const uint8_t* end) {
  const uint8_t single = static_cast<uint8_t>(*at - kFirst);
  if (single < kContinues) {  // by far the most frequent
    ++at;
    return (single ^ 16) - 16;
  }
  uint64_t bits = 0;
  int groups = 0;
  uint8_t code = 0, before = 0;
  do {
    if (at == end) throw std::invalid_argument("the last number of the text is unterminated: the text was cut off");
    if (groups == kMaxGroups) {
      throw std::invalid_argument("the text holds an over-long number: more characters than any run length needs");
    }
    before = code;
    code = static_cast<uint8_t>(*at++ - kFirst);
    if (code > 63) {
      throw std::invalid_argument("the text holds characters that no RLE has; those from '0' to 'o' are allowed");
    }
    bits |= static_cast<uint64_t>(code & 31) << (kBits * groups);
    ++groups;
  } while (code & kContinues);
  // The top group is bare sign where it is all zeros or all ones like the bit below it. Twelve groups hold 60 bits and
  // a thirteenth may add 3, which kMaxPixels does not exceed.
  const bool bare = groups > 1 && ((code == 0 && !(before & 16)) || (code == 31 && (before & 16)));
  if (bare || (groups == kMaxGroups && code > 3 && code < 28)) {
    throw std::invalid_argument("the text holds an over-long number: more characters than its value needs");
  }
  if ((code & 16) && groups < kMaxGroups) bits |= ~uint64_t{0} << (kBits * groups);
  return static_cast<int64_t>(bits);
}

void write_number(int64_t value, std::vector<uint8_t>& out) {
  if (value >= -16 && value < 16) {  // by far the most frequent
    out.push_back(static_cast<uint8_t>((value & 31) + kFirst));
    return;
  }
  bool more = true;
  while (more) {
    uint8_t code = static_cast<uint8_t>(value & 31);
    value >>= kBits;
    more = (code & 16) ? value != -1 : value != 0;
    if (more) code |= kContinues;
    out.push_back(static_cast<uint8_t>(code + kFirst));
  }
}

}  // namespace

Text to_string(const RunsView& runs) {
  check_runs(runs);
  Text text;
  text.characters.reserve(static_cast<size_t>(runs.size) * 2);
  for (int64_t i = 0; i < runs.n; ++i) {
    const int64_t* counts = runs.begin(i);
    for (int64_t k = 0; k < runs.length(i); ++k) {
      write_number(k > 2 ? counts[k] - counts[k - 2] : counts[k], text.characters);
    }
    text.offsets.push_back(static_cast<int64_t>(text.characters.size()));
  }
  return text;
}

Runs from_string(const RaggedView<uint8_t>& text, const int64_t* pixels) {
  check_offsets(text.offsets, text.n, text.size);
  Runs runs;
  runs.counts.reserve(static_cast<size_t>(text.size));  // a run takes a character at least
  for (int64_t i = 0; i < text.n; ++i) {
    if (pixels[i] < 0 || pixels[i] > kMaxPixels) {
      throw std::invalid_argument("pixels must be from 0 to " + std::to_string(kMaxPixels));
    }
    const size_t first = runs.counts.size();
    int64_t total = 0;
    for (const uint8_t *at = text.begin(i), *end = text.end(i); at != end;) {
      int64_t run = read_number(at, end);
      // Neither this sum nor the total can leave int64: all parts are within 2^62.
      if (runs.counts.size() - first > 2) run += runs.counts[runs.counts.size() - 2];
      if (run < 0) throw std::invalid_argument("the text holds a negative run length");
      total += run;
      if (run > pixels[i] || total > pixels[i]) {
        throw std::invalid_argument("the runs of mask " + std::to_string(i) + " sum to more than the " +
                                    std::to_string(pixels[i]) + " pixels of its size");
      }
      runs.counts.push_back(run);
    }
    if (total != pixels[i]) {
      throw std::invalid_argument("the runs of mask " + std::to_string(i) + " sum to " + std::to_string(total) +
                                  ", but its size has " + std::to_string(pixels[i]) + " pixels");
    }
    runs.offsets.push_back(static_cast<int64_t>(runs.counts.size()));
  }
  return runs;
}

}  // namespace fastsam::rle
