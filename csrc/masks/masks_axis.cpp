// Checks an Axis and prepares it for the CPU kernels.
#include "masks/masks_axis.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace fastsam::masks {

PreparedAxis::PreparedAxis(const Axis& axis, int64_t cells, const char* name) : size_(axis.size) {
  if (cells > std::numeric_limits<int32_t>::max() - 3) {
    throw std::invalid_argument("mask logits of more than 2147483644 cells a side can't be enlarged");
  }
  const int64_t padded = (size_ + kBlock - 1) / kBlock * kBlock;
  first_.reserve(static_cast<size_t>(padded));
  lane_offsets_.reserve(static_cast<size_t>(padded));
  for (std::vector<float>& column : weights_) column.reserve(static_cast<size_t>(padded));
  int64_t previous = 0;
  for (int64_t i = 0; i < padded; ++i) {
    const int64_t at = i < size_ ? i : size_ - 1;
    const int64_t cell = axis.first[at];
    const float* weights = axis.weights + 3 * at;
    if (cell < previous || cell >= cells) {
      throw std::invalid_argument(std::string(name) + "_cells must ascend, within 0.." + std::to_string(cells - 1));
    }
    // The kernels skip pixels that no mean of the cells can set, which is only right if each position is a mean.
    const bool is_non_negative = weights[0] >= 0 && weights[1] >= 0 && weights[2] >= 0;
    if (!is_non_negative || !(std::fabs(weights[0] + weights[1] + weights[2] - 1.0f) <= 1e-6f)) {
      throw std::invalid_argument(std::string(name) + "_weights must not be negative, and sum to 1 in each row");
    }
    previous = cell;
    first_.push_back(static_cast<int32_t>(cell));
    const int32_t lane_offset = first_.back() - first_[static_cast<size_t>(i / kBlock * kBlock)];
    lane_offsets_.push_back(lane_offset);
    fits_in_register_ = fits_in_register_ && lane_offset + 2 < kBlock;
    for (int k = 0; k < 3; ++k) weights_[k].push_back(weights[k]);
  }
  first_positions_.assign(static_cast<size_t>(num_cells_read()) + 1, size_);
  int64_t cell = 0;
  for (int64_t i = 0; i < size_; ++i) {
    for (; cell <= first_[static_cast<size_t>(i)]; ++cell) first_positions_[static_cast<size_t>(cell)] = i;
  }
}

MaskTaps PreparedAxis::taps() const {
  return {first_.data(),
          lane_offsets_.data(),
          {weights_[0].data(), weights_[1].data(), weights_[2].data()},
          fits_in_register_};
}

}  // namespace fastsam::masks
