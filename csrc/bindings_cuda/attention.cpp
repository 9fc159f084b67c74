// Python bindings of attention/attention_cuda.h; see pointers.h for what callers guarantee.
#include "attention/attention_cuda.h"

#include "bindings_cuda/pointers.h"

namespace fastsam::bindings {

namespace {

// The checks that the operations share. Empty grids are refused; the caller handles them without a launch.
void check_grid(int64_t batch, int64_t rows, int64_t columns, int64_t heads, int64_t dim, int64_t window,
                Address padding) {
  require(batch >= 1 && rows >= 1 && columns >= 1 && heads >= 1 && dim >= 1, "sizes must be positive");
  require(window >= 0, "window must not be negative");
  require(padding != 0 || window == 0 || (rows % window == 0 && columns % window == 0),
          "windows that extend beyond the grid need a padding vector");
}

void attention(int dtype, Address qkv, int64_t batch, int64_t rows, int64_t columns, int64_t heads, int64_t dim,
               Address rel_pos_h, Address rel_pos_w, int64_t window, Address padding, Address out,
               int64_t shared_memory, Address stream) {
  check_grid(batch, rows, columns, heads, dim, window, padding);
  const auto grid = fastsam::attention::grid_bs3hd(batch, rows, columns, heads, dim, window == 0 ? rows : window,
                                                   window == 0 ? columns : window);
  fastsam::attention::with_relative_positions_cuda(grid, static_cast<DType>(dtype), pointer<const void>(qkv),
                                                   pointer<const void>(padding), pointer<const void>(rel_pos_h),
                                                   pointer<const void>(rel_pos_w), pointer<void>(out), shared_memory,
                                                   pointer<void>(stream));
}

bool attention_wgmma_has_kernel(int dtype, int64_t rows, int64_t columns, int64_t dim, int64_t window) {
  const int64_t height = window == 0 ? rows : window, width = window == 0 ? columns : window;
  return fastsam::attention::has_wgmma_kernel(fastsam::attention::grid_bs3hd(1, rows, columns, 1, dim, height, width),
                                              static_cast<DType>(dtype));
}

void attention_wgmma(int dtype, Address qkv, int64_t batch, int64_t rows, int64_t columns, int64_t heads, int64_t dim,
                     Address rel_pos_h, Address rel_pos_w, Address out, Address stream) {
  check_grid(batch, rows, columns, heads, dim, 0, 0);
  const auto grid = fastsam::attention::grid_bs3hd(batch, rows, columns, heads, dim, rows, columns);
  fastsam::attention::with_relative_positions_wgmma(grid, static_cast<DType>(dtype), pointer<const void>(qkv),
                                                    pointer<const void>(rel_pos_h), pointer<const void>(rel_pos_w),
                                                    pointer<void>(out), pointer<void>(stream));
}

void windowed_attention(int dtype, Address qkv, int64_t batch, int64_t rows, int64_t columns, int64_t heads,
                        int64_t dim, Address bias, int64_t window, Address padding, Address out, Address stream) {
  require(window >= 1, "window must be positive");
  check_grid(batch, rows, columns, heads, dim, window, padding);
  const auto grid = fastsam::attention::grid_bsh3d(batch, rows, columns, heads, dim, window, window);
  fastsam::attention::with_bias_cuda(grid, static_cast<DType>(dtype), pointer<const void>(qkv),
                                     pointer<const void>(padding), pointer<const void>(bias), pointer<void>(out),
                                     pointer<void>(stream));
}

}  // namespace

void bind_attention(py::module_& m) {
  m.def("attention_has_kernel", &fastsam::attention::has_positions_kernel, py::arg("dim"));
  m.def("windowed_attention_has_kernel", &fastsam::attention::has_bias_kernel, py::arg("dim"));
  m.def("attention", &attention, py::arg("dtype"), py::arg("qkv"), py::arg("batch"), py::arg("rows"),
        py::arg("columns"), py::arg("heads"), py::arg("dim"), py::arg("rel_pos_h"), py::arg("rel_pos_w"),
        py::arg("window"), py::arg("padding"), py::arg("out"), py::arg("shared_memory"), py::arg("stream"),
        py::call_guard<py::gil_scoped_release>());
  m.def("attention_wgmma_has_kernel", &attention_wgmma_has_kernel, py::arg("dtype"), py::arg("rows"),
        py::arg("columns"), py::arg("dim"), py::arg("window"));
  m.def("attention_wgmma", &attention_wgmma, py::arg("dtype"), py::arg("qkv"), py::arg("batch"), py::arg("rows"),
        py::arg("columns"), py::arg("heads"), py::arg("dim"), py::arg("rel_pos_h"), py::arg("rel_pos_w"),
        py::arg("out"), py::arg("stream"), py::call_guard<py::gil_scoped_release>());
  m.def("windowed_attention", &windowed_attention, py::arg("dtype"), py::arg("qkv"), py::arg("batch"), py::arg("rows"),
        py::arg("columns"), py::arg("heads"), py::arg("dim"), py::arg("bias"), py::arg("window"), py::arg("padding"),
        py::arg("out"), py::arg("stream"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace fastsam::bindings
