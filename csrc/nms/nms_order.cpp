// A radix sort by 64-bit keys, in passes of 11 bits.
#include "nms/nms_order.h"

#include <cstring>
#include <numeric>
#include <utility>

namespace fastsam::nms {
namespace {

constexpr int kDigitBits = 11;
constexpr size_t kDigits = size_t{1} << kDigitBits;
constexpr int kPasses = (64 + kDigitBits - 1) / kDigitBits;

}  // namespace

void sort_by_key(const std::vector<uint64_t>& keys, std::vector<int64_t>& order) {
  const auto digit = [](uint64_t key, int pass) { return static_cast<size_t>(key >> (pass * kDigitBits)) % kDigits; };
  std::vector<std::array<size_t, kDigits>> counts(kPasses);  // zeros
  for (const int64_t i : order) {
    for (int pass = 0; pass < kPasses; ++pass) {
      ++counts[static_cast<size_t>(pass)][digit(keys[static_cast<size_t>(i)], pass)];
    }
  }
  std::vector<int64_t> buffer(order.size());
  for (int pass = 0; pass < kPasses; ++pass) {
    std::array<size_t, kDigits>& ends = counts[static_cast<size_t>(pass)];
    // Skip digits that are equal in all keys, as most are in class numbers and in float32 scores stored as double.
    if (order.empty() || ends[digit(keys[static_cast<size_t>(order.front())], pass)] == order.size()) continue;
    size_t sum = 0;
    for (size_t& end : ends) sum += std::exchange(end, sum);
    for (const int64_t i : order) buffer[ends[digit(keys[static_cast<size_t>(i)], pass)]++] = i;
    order.swap(buffer);
  }
}

std::vector<int64_t> rank_scores(const double* scores, int64_t n) {
  std::vector<uint64_t> keys(static_cast<size_t>(n));
  for (size_t i = 0; i < keys.size(); ++i) {
    const double score = scores[i] + 0.0;  // negative zero ties with zero
    uint64_t bits = 0;
    std::memcpy(&bits, &score, sizeof bits);
    // Ascending in these bits is descending in the score.
    keys[i] = bits >> 63 ? bits : ~bits & ~(uint64_t{1} << 63);
  }
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  sort_by_key(keys, order);
  return order;
}

}  // namespace fastsam::nms
