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
constexpr int64_t kGroup = 12;
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

int64_t bytes_of(DType dtype) {
  if (dtype == DType::float16) throw std::invalid_argument("attention on the CPU takes float32 and bfloat16");
  return dtype == DType::float32 ? 4 : 2;
}

// The windows of all images. Work is counted in groups of kGroup queries, ordered by window, then head.
class Windows {
 public:
  Windows(const Grid& grid, const Tokens& tokens, const float* positions, const float* bias)
      : grid_(grid), tokens_(tokens), bytes_(bytes_of(tokens.dtype)), positions_(positions), bias_(bias) {
    const int64_t down = (grid.rows + grid.window_rows - 1) / grid.window_rows;
    const int64_t across = (grid.columns + grid.window_columns - 1) / grid.window_columns;
    for (int64_t image = 0; image < grid.batch; ++image) {
      for (int64_t y = 0; y < down; ++y) {
        for (int64_t x = 0; x < across; ++x) {
          corners_.push_back({image, y * grid.window_rows, x * grid.window_columns});
          const int64_t queries = std::min(grid.window_rows, grid.rows - y * grid.window_rows) *
                                  std::min(grid.window_columns, grid.columns - x * grid.window_columns);
          starts_.push_back(starts_.back() + grid.heads * ((queries + kGroup - 1) / kGroup));
        }
      }
    }
  }

  // Total number of groups of queries, over all heads of all windows.
  int64_t groups() const { return starts_.back(); }

  // Compute groups [begin, end). Each thread that has queries of a window and head packs their keys and values itself.
  // How the groups are split between threads does not change the result of any query.
  void attend(int64_t begin, int64_t end) const {
    const AttentionKernels& isa = tokens_.dtype == DType::float32 ? kernels().attention : kernels().attention_bfloat16;
    const int64_t keys_of_window = grid_.window_rows * grid_.window_columns;
    const Floats keys(padded(keys_of_window) * grid_.dim);
    const Floats values(padded(grid_.dim) * keys_of_window);
    const Floats scratch(isa.scratch(at(0, 0)));
    auto window = static_cast<size_t>(std::upper_bound(starts_.begin(), starts_.end(), begin) - starts_.begin()) - 1;
    while (begin < end) {
      const int64_t of_head = (starts_[window + 1] - starts_[window]) / grid_.heads;
      const int64_t head = (begin - starts_[window]) / of_head, first = (begin - starts_[window]) % of_head;
      const int64_t last = std::min(of_head, first + end - begin);
      const AttentionWindow w = at(window, head);
      isa.pack(w, keys.data(), values.data());
      isa.attend(w, keys.data(), values.data(), first * kGroup, std::min(last * kGroup, w.grid_rows * w.grid_columns),
                 scratch.data());
      begin += last - first;
      if (begin == starts_[window + 1]) ++window;
    }
  }

 private:
  struct Corner {
    int64_t image, y, x;
  };

  AttentionWindow at(size_t window, int64_t head) const {
    const Corner& corner = corners_[window];
    const int64_t out_token = grid_.heads * grid_.dim, token = 3 * out_token;
    const int64_t first = (corner.image * grid_.rows + corner.y) * grid_.columns + corner.x;
    const int64_t keys = grid_.window_rows * grid_.window_columns;
    AttentionWindow w{};
    w.qkv = static_cast<const char*>(tokens_.qkv) + bytes_ * (first * token + head * grid_.head);
    const auto* padding = static_cast<const char*>(tokens_.padding);
    w.padding = padding == nullptr ? nullptr : padding + bytes_ * head * grid_.head;
    w.out = static_cast<char*>(tokens_.out) + bytes_ * (first * out_token + head * grid_.dim);
    w.token = token, w.line = grid_.columns * token;
    w.out_token = out_token, w.out_line = grid_.columns * out_token;
    w.key = grid_.key, w.value = grid_.value, w.dim = grid_.dim;
    w.rows = grid_.window_rows, w.columns = grid_.window_columns;
    w.grid_rows = std::min(w.rows, grid_.rows - corner.y),
    w.grid_columns = std::min(w.columns, grid_.columns - corner.x);
    w.scale = static_cast<float>(kLog2E / std::sqrt(static_cast<double>(grid_.dim)));
    w.positions = positions_;
    w.bias = bias_ == nullptr ? nullptr : bias_ + head * keys * keys;
    return w;
  }

  const Grid& grid_;
  const Tokens& tokens_;
  const int64_t bytes_;  // size of an element
  const float *positions_, *bias_;
  std::vector<Corner> corners_;
  std::vector<int64_t> starts_{0};  // the first group of each window, then the total number of groups
};

void run(const Grid& grid, const Windows& windows, int64_t threads) {
  const int64_t group_work = 2 * kGroup * grid.window_rows * grid.window_columns * grid.dim;
  fork_join(threads, windows.groups(), kWorkPerThread / group_work + 1,
            [&](int64_t begin, int64_t end) { windows.attend(begin, end); });
}

}  // namespace

void with_relative_positions(const Grid& grid, const Tokens& tokens, const float* rows_table,
                             const float* columns_table, int64_t threads) {
  // The kernels scale all scores by 1 / sqrt(dim), but products with the tables must not be scaled: compensate here.
  const auto factor = static_cast<float>(std::sqrt(static_cast<double>(grid.dim)));
  const int64_t of_rows = padded(2 * grid.window_rows - 1) * grid.dim;
  const int64_t of_columns = padded(2 * grid.window_columns - 1) * grid.dim;
  const Floats positions(of_rows + of_columns);
  pack_positions(rows_table, grid.window_rows, grid.dim, factor, positions.data());
  pack_positions(columns_table, grid.window_columns, grid.dim, factor, positions.data() + of_rows);
  run(grid, Windows(grid, tokens, positions.data(), nullptr), threads);
}

void with_bias(const Grid& grid, const Tokens& tokens, const float* bias, int64_t threads) {
  run(grid, Windows(grid, tokens, nullptr, bias), threads);
}

}  // namespace fastsam::attention
