// The order in which boxes are visited. It is found by a stable radix sort, because a comparison sort through indices
// takes longer than the whole suppression of well separated boxes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastsam::nms {

// Sorts `order` by keys[order[k]], ascending and stable.
void sort_by_key(const std::vector<uint64_t>& keys, std::vector<int64_t>& order);

// Box indices by descending score, and for equal scores by index. No score may be NaN.
std::vector<int64_t> rank_scores(const double* scores, int64_t n);

}  // namespace fastsam::nms
