// The order in which boxes are visited: a stable radix sort, since comparing through indices costs more than all of the
// suppression of well separated boxes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastsam::nms {

// Sorts `order` by keys[order[k]], ascending and stable.
void sort_by_key(const std::vector<uint64_t>& keys, std::vector<int64_t>& order);

// Box numbers by score descending, equal scores by number; no score is NaN.
std::vector<int64_t> rank_scores(const double* scores, int64_t n);

}  // namespace fastsam::nms
