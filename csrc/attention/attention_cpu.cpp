// Attention on the CPU (attention.h): divides the windows of a call into groups of queries, distributes these to
// threads, and runs the kernels of the selected instruction set (attention_table.h).
#include "attention/attention.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <vector>

#include "common/floats.h"
#include "common/fork_join.h"
#include "common/isa.h"
#include "common/panels.h"

namespace fastsam::attention {
namespace {

// Queries are distributed to threads in groups of this size, a multiple of every instruction set's register tile.
constexpr int64_t kQueryGroup = 12;
// Number of multiply-adds below which a thread costs more than it saves.
constexpr int64_t kWorkPerThread = int64_t{1} << 20;
constexpr double kLog2E = 1.4426950408889634;

// Pack a position table (2 * size - 1, dim), indexed by query - key + size - 1, into panels, multiplied by `factor` and
// in reverse order. Reversed, the entries of one query for the key positions 0, 1, ... are adjacent and ascending.
void pack_positions(const float* table, int64_t size, int64_t dim, float factor, float* panels) {
  const int64_t columns = 2 * size - 1;
  std::fill(panels, panels + padded(columns) * dim, 0.0f);
  for (int64_t j = 0; j < columns; ++j) {
    float* column = panels + (j / kPanel) * kPanel * dim + j % kPanel;
    for (int64_t c = 0; c < dim; ++c) column[c * kPanel] = table[(columns - 1 - j) * dim + c] * factor;
  }
}

int64_t element_size(DType dtype) {
  if (dtype == DType::float16) throw std::invalid_argument("attention on the CPU takes float32 and bfloat16");
  return dtype == DType::float32 ? 4 : 2;
}

// The windows of all images. Work is counted in groups of kQueryGroup queries, ordered by window, then head.
class WindowBatch {
 public:
  WindowBatch(const Grid& grid, const Operands& operands, const float* positions, const float* bias)
      : grid_(grid),
        operands_(operands),
        element_size_(element_size(operands.dtype)),
        positions_(positions),
        bias_(bias) {
    const int64_t windows_y = (grid.rows + grid.window_rows - 1) / grid.window_rows;
    const int64_t windows_x = (grid.columns + grid.window_columns - 1) / grid.window_columns;
    for (int64_t image = 0; image < grid.batch; ++image) {
      for (int64_t y = 0; y < windows_y; ++y) {
        for (int64_t x = 0; x < windows_x; ++x) {
          corners_.push_back({image, y * grid.window_rows, x * grid.window_columns});
          const int64_t queries = std::min(grid.window_rows, grid.rows - y * grid.window_rows) *
                                  std::min(grid.window_columns, grid.columns - x * grid.window_columns);
          first_group_.push_back(first_group_.back() + grid.heads * ((queries + kQueryGroup - 1) / kQueryGroup));
        }
      }
    }
  }

  // Total number of groups of queries, over all heads of all windows.
  int64_t num_groups() const { return first_group_.back(); }

  // Compute groups [begin, end). Each thread that has queries of a window and head packs their keys and values itself.
  // How the groups are split between threads does not change the result of any query.
  void attend(int64_t begin, int64_t end) const {
    const AttentionKernels& isa =
        operands_.dtype == DType::float32 ? kernels().attention : kernels().attention_bfloat16;
    const int64_t num_keys = grid_.window_rows * grid_.window_columns;
    const Floats keys(padded(num_keys) * grid_.dim);
    const Floats values(padded(grid_.dim) * num_keys);
    const Floats scratch(isa.scratch(window_at(0, 0)));
    auto window =
        static_cast<size_t>(std::upper_bound(first_group_.begin(), first_group_.end(), begin) - first_group_.begin()) -
        1;
    while (begin < end) {
      const int64_t groups_per_head = (first_group_[window + 1] - first_group_[window]) / grid_.heads;
      const int64_t head = (begin - first_group_[window]) / groups_per_head,
                    first_group = (begin - first_group_[window]) % groups_per_head;
      const int64_t end_group = std::min(groups_per_head, first_group + end - begin);
      const AttentionWindow w = window_at(window, head);
      isa.pack(w, keys.data(), values.data());
      isa.attend(w, keys.data(), values.data(), first_group * kQueryGroup,
                 std::min(end_group * kQueryGroup, w.grid_rows * w.grid_columns), scratch.data());
      begin += end_group - first_group;
      if (begin == first_group_[window + 1]) ++window;
    }
  }

 private:
  struct Corner {
    int64_t image, y, x;
  };

  AttentionWindow window_at(size_t window, int64_t head) const {
    const Corner& corner = corners_[window];
    const int64_t out_token_stride = grid_.heads * grid_.dim, token_stride = 3 * out_token_stride;
    const int64_t first_token = (corner.image * grid_.rows + corner.y) * grid_.columns + corner.x;
    const int64_t keys = grid_.window_rows * grid_.window_columns;
    AttentionWindow w{};
    w.qkv = static_cast<const char*>(operands_.qkv) +
            element_size_ * (first_token * token_stride + head * grid_.head_stride);
    const auto* padding = static_cast<const char*>(operands_.padding);
    w.padding = padding == nullptr ? nullptr : padding + element_size_ * head * grid_.head_stride;
    w.out = static_cast<char*>(operands_.out) + element_size_ * (first_token * out_token_stride + head * grid_.dim);
    w.token_stride = token_stride, w.row_stride = grid_.columns * token_stride;
    w.out_token_stride = out_token_stride, w.out_row_stride = grid_.columns * out_token_stride;
    w.key_offset = grid_.key_offset, w.value_offset = grid_.value_offset, w.dim = grid_.dim;
    w.rows = grid_.window_rows, w.columns = grid_.window_columns;
    w.grid_rows = std::min(w.rows, grid_.rows - corner.y),
    w.grid_columns = std::min(w.columns, grid_.columns - corner.x);
    w.scale = static_cast<float>(kLog2E / std::sqrt(static_cast<double>(grid_.dim)));
    w.positions = positions_;
    w.bias = bias_ == nullptr ? nullptr : bias_ + head * keys * keys;
    return w;
  }

  const Grid& grid_;
  const Operands& operands_;
  const int64_t element_size_;  // size of an element
  const float *positions_, *bias_;
  std::vector<Corner> corners_;
  std::vector<int64_t> first_group_{0};  // the first group of each window, then the total number of groups
};

void run(const Grid& grid, const WindowBatch& windows, int64_t threads) {
  const int64_t work_per_group = 2 * kQueryGroup * grid.window_rows * grid.window_columns * grid.dim;
  fork_join(threads, windows.num_groups(), kWorkPerThread / work_per_group + 1,
            [&](int64_t begin, int64_t end) { windows.attend(begin, end); });
}

}  // namespace

void with_relative_positions(const Grid& grid, const Operands& operands, const float* rel_pos_h, const float* rel_pos_w,
                             int64_t threads) {
  // The kernels scale all scores by 1 / sqrt(dim), but products with the tables must not be scaled: compensate here.
  const auto factor = static_cast<float>(std::sqrt(static_cast<double>(grid.dim)));
  const int64_t rel_pos_h_size = padded(2 * grid.window_rows - 1) * grid.dim;
  const int64_t rel_pos_w_size = padded(2 * grid.window_columns - 1) * grid.dim;
  const Floats positions(rel_pos_h_size + rel_pos_w_size);
  pack_positions(rel_pos_h, grid.window_rows, grid.dim, factor, positions.data());
  pack_positions(rel_pos_w, grid.window_columns, grid.dim, factor, positions.data() + rel_pos_h_size);
  run(grid, WindowBatch(grid, operands, positions.data(), nullptr), threads);
}

void with_bias(const Grid& grid, const Operands& operands, const float* bias, int64_t threads) {
  run(grid, WindowBatch(grid, operands, nullptr, bias), threads);
}

}  // namespace fastsam::attention
