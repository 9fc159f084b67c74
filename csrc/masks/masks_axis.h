// One axis of an enlargement, prepared for the kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "masks/masks.h"
#include "masks/masks_table.h"

namespace fastsam::masks {

class PreparedAxis {
 public:
  static constexpr int64_t kBlock = 8;

  // Throws std::invalid_argument unless the axis, which has a position, is one of `cells` cells; `name` is for the
  // message.
  PreparedAxis(const Axis& axis, int64_t cells, const char* name);

  MaskTaps taps() const;

  int64_t size() const { return size_; }
  // Cells, from the first one on, that the positions take from, with up to 2 beyond the last cell.
  int64_t reach() const { return first_.back() + int64_t{3}; }
  // Number of leading positions whose first cell is below `cell`, for cells from 0 to reach().
  int64_t start(int64_t cell) const { return starts_[static_cast<size_t>(cell)]; }

 private:
  int64_t size_;
  std::vector<int32_t> first_, lanes_;
  std::vector<float> weights_[3];
  std::vector<int64_t> starts_;
  bool narrow_ = true;
};

}  // namespace fastsam::masks
