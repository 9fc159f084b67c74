// Python bindings of attention/attention.h. All sizes are checked, since they decide what memory is read and written.
#include "attention/attention.h"

#include <optional>

#include "bindings/arrays.h"

namespace fastsam::bindings {

namespace {

// The DType of qkv, padding and out. NumPy has no bfloat16; int16 arrays hold its bits.
template <typename Number>
constexpr DType kDType = DType::bfloat16;
template <>
constexpr DType kDType<float> = DType::float32;

// The checks that both operations share. window: side of a window in tokens; 0 means that every token attends to the
// whole grid.
template <typename Number>
void check_grid(const Array<Number>& qkv, int64_t heads, int64_t window, const std::optional<Array<Number>>& padding,
                const Array<Number>& out) {
  // Two divisions, because 3 * heads could overflow.
  require(qkv.ndim() == 4 && heads >= 1 && qkv.shape(3) >= 1 && qkv.shape(3) % 3 == 0 && qkv.shape(3) / 3 % heads == 0,
          "qkv must be (batch, height, width, 3 * heads * d)");
  require(has_shape(out, {qkv.shape(0), qkv.shape(1), qkv.shape(2), qkv.shape(3) / 3}),
          "out must be (batch, height, width, heads * d)");
  require(window >= 0, "window must not be negative");
  require(!padding || has_shape(*padding, {qkv.shape(3)}), "padding must be (3 * heads * d,)");
  require(padding || window == 0 || (qkv.shape(1) % window == 0 && qkv.shape(2) % window == 0),
          "windows that extend beyond the grid need a padding vector");
}

template <typename Number>
fastsam::attention::Operands operands_of(const Array<Number>& qkv, const std::optional<Array<Number>>& padding,
                                         Array<Number>& out) {
  return {kDType<Number>, qkv.data(), padding ? padding->data() : nullptr, out.mutable_data()};
}

template <typename Number>
void attention(const Array<Number>& qkv, const Floats& rel_pos_h, const Floats& rel_pos_w, int64_t num_heads,
               int64_t window, const std::optional<Array<Number>>& padding, Array<Number> out, int64_t threads) {
  check_grid(qkv, num_heads, window, padding, out);
  const int64_t dim = qkv.shape(3) / (3 * num_heads);
  const int64_t rows = window == 0 ? qkv.shape(1) : window, columns = window == 0 ? qkv.shape(2) : window;
  if (qkv.size() == 0) return;
  // A table has 2 * size - 1 rows; 2 * size could overflow, so the table's length is halved instead.
  const auto fits = [dim](const Floats& table, int64_t size) {
    return table.ndim() == 2 && table.shape(0) % 2 == 1 && table.shape(0) / 2 + 1 == size && table.shape(1) == dim;
  };
  require(fits(rel_pos_h, rows) && fits(rel_pos_w, columns), "rel_pos_h and rel_pos_w must be (2 * n - 1, d)");
  const auto grid =
      fastsam::attention::grid_bs3hd(qkv.shape(0), qkv.shape(1), qkv.shape(2), num_heads, dim, rows, columns);
  const auto operands = operands_of(qkv, padding, out);
  const float *rel_pos_h_data = rel_pos_h.data(), *rel_pos_w_data = rel_pos_w.data();
  py::gil_scoped_release release;
  fastsam::attention::with_relative_positions(grid, operands, rel_pos_h_data, rel_pos_w_data, threads);
}

template <typename Number>
void windowed_attention(const Array<Number>& qkv, const Floats& bias, int64_t window,
                        const std::optional<Array<Number>>& padding, Array<Number> out, int64_t threads) {
  require(window >= 1, "window must be positive");
  require(bias.ndim() == 3 && bias.shape(0) >= 1 && bias.shape(1) == bias.shape(2) &&
              bias.shape(1) / window == window && bias.shape(1) % window == 0,
          "bias must be (heads, window * window, window * window)");
  check_grid(qkv, bias.shape(0), window, padding, out);
  if (qkv.size() == 0) return;
  const int64_t heads = bias.shape(0), dim = qkv.shape(3) / (3 * heads);
  const auto grid =
      fastsam::attention::grid_bsh3d(qkv.shape(0), qkv.shape(1), qkv.shape(2), heads, dim, window, window);
  const auto operands = operands_of(qkv, padding, out);
  const float* bias_data = bias.data();
  py::gil_scoped_release release;
  fastsam::attention::with_bias(grid, operands, bias_data, threads);
}

template <typename Number>
void bind_for(py::module_& m) {
  const auto qkv = exact("qkv"), padding = exact("padding"), out = exact("out");
  m.def("attention", &attention<Number>, qkv, exact("rel_pos_h"), exact("rel_pos_w"), py::arg("num_heads"),
        py::arg("window"), padding, out, py::arg("threads"));
  m.def("windowed_attention", &windowed_attention<Number>, qkv, exact("bias"), py::arg("window"), padding, out,
        py::arg("threads"));
}

}  // namespace

void bind_attention(py::module_& m) {
  bind_for<float>(m);
  bind_for<int16_t>(m);
}

}  // namespace fastsam::bindings
