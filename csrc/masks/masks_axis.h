// One axis of an enlargement, checked and laid out for the CPU kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "masks/masks.h"
#include "masks/masks_table.h"

namespace fastsam::masks {

class PreparedAxis {
 public:
  static constexpr int64_t kBlock = 8;

  // axis.size must be positive. Throws std::invalid_argument unless the axis refers to `cells` cells as Axis describes;
  // `name`, "x" or "y", is for the message.
  PreparedAxis(const Axis& axis, int64_t cells, const char* name);

  MaskTaps taps() const;

  int64_t size() const { return size_; }
  // Number of leading cells that the positions read, including up to 2 beyond the last cell.
  int64_t num_cells_read() const { return first_.back() + int64_t{3}; }
  // Index of the first position whose first cell is `cell` or later, size() if there is none; for cells 0 to
  // num_cells_read().
  int64_t first_position_at(int64_t cell) const { return first_positions_[static_cast<size_t>(cell)]; }

 private:
  int64_t size_;
  std::vector<int32_t> first_, lane_offsets_;
  std::vector<float> weights_[3];
  std::vector<int64_t> first_positions_;
  bool fits_in_register_ = true;
};

}  // namespace fastsam::masks
