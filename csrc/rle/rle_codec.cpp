// Converts runs to COCO's compressed text and back (rle_text.h).
#include <stdexcept>
#include <string>

#include "rle/rle.h"
#include "rle/rle_text.h"

namespace fastsam::rle {
namespace {

constexpr int64_t kMaxGroups = 13;  // of 5 bits: enough for any int64

void write_number(int64_t value, std::vector<uint8_t>& out) {
  if (value >= -16 && value < 16) {  // by far the most frequent
    out.push_back(static_cast<uint8_t>((value & 31) + kTextBase));
    return;
  }
  bool more = true;
  while (more) {
    uint8_t code = static_cast<uint8_t>(value & 31);
    value >>= kTextBits;
    more = (code & 16) ? value != -1 : value != 0;
    if (more) code |= kTextContinues;
    out.push_back(static_cast<uint8_t>(code + kTextBase));
  }
}

}  // namespace

int64_t read_long_number(const uint8_t*& cursor, const uint8_t* end) {
  uint64_t bits = 0;
  int groups = 0;
  uint8_t code = 0, before = 0;
  do {
    if (cursor == end) throw std::invalid_argument("the last number of the text is unterminated: the text was cut off");
    if (groups == kMaxGroups) {
      throw std::invalid_argument("the text holds an over-long number: more characters than any run length needs");
    }
    before = code;
    code = static_cast<uint8_t>(*cursor++ - kTextBase);
    if (code > 63) {
      throw std::invalid_argument("the text holds characters that are invalid in an RLE; accepted: '0' to 'o'");
    }
    bits |= static_cast<uint64_t>(code & 31) << (kTextBits * groups);
    ++groups;
  } while (code & kTextContinues);
  // A last group that only repeats the sign bit of the one before is superfluous. Twelve groups hold 60 bits, and a
  // thirteenth may add three with the sign, which suffices for kMaxPixels.
  const bool is_redundant = groups > 1 && ((code == 0 && !(before & 16)) || (code == 31 && (before & 16)));
  if (is_redundant || (groups == kMaxGroups && code > 3 && code < 28)) {
    throw std::invalid_argument("the text holds an over-long number: more characters than its value needs");
  }
  if ((code & 16) && groups < kMaxGroups) bits |= ~uint64_t{0} << (kTextBits * groups);
  return static_cast<int64_t>(bits);
}

void write_runs(const int64_t* runs, int64_t n, std::vector<uint8_t>& out) {
  for (int64_t k = 0; k < n; ++k) write_number(k > 2 ? runs[k] - runs[k - 2] : runs[k], out);
}

CompressedText to_string(const RunsView& runs) {
  check_runs(runs);
  CompressedText text;
  text.characters.reserve(static_cast<size_t>(runs.size) * 2);
  text.offsets.reserve(static_cast<size_t>(runs.n) + 1);
  for (int64_t i = 0; i < runs.n; ++i) {
    write_runs(runs.begin(i), runs.length(i), text.characters);
    text.offsets.push_back(static_cast<int64_t>(text.characters.size()));
  }
  return text;
}

Runs from_string(const RaggedView<uint8_t>& text, const int64_t* pixels) {
  check_offsets(text.offsets, text.n, text.size);
  Runs runs;
  runs.counts.reserve(static_cast<size_t>(text.size));  // a run takes at least one character
  runs.offsets.reserve(static_cast<size_t>(text.n) + 1);
  for (int64_t i = 0; i < text.n; ++i) {
    read_runs(text.begin(i), text.end(i), pixels[i], i, [&](int64_t run) { runs.counts.push_back(run); });
    runs.offsets.push_back(static_cast<int64_t>(runs.counts.size()));
  }
  return runs;
}

}  // namespace fastsam::rle
