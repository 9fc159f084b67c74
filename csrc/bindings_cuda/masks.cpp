// Python bindings of masks/masks_cuda.h; see pointers.h for what callers guarantee.
#include "bindings_cuda/pointers.h"
#include "masks/masks_cuda.h"

namespace fastsam::bindings {

namespace {

using fastsam::masks::Axis;
using fastsam::masks::cuda::Problem;

int64_t mask_axes_bytes(int64_t columns, int64_t y_size, int64_t x_size) {
  require(columns >= 0 && y_size >= 0 && x_size >= 0, "sizes must not be negative");
  return static_cast<int64_t>(fastsam::masks::cuda::axes_bytes(columns, y_size, x_size));
}

void mask_prepare_axes(Address y_cells, Address y_weights, int64_t y_size, Address x_cells, Address x_weights,
                       int64_t x_size, int64_t rows, int64_t columns, Address axes, Address stream) {
  const Axis y{pointer<const int64_t>(y_cells), pointer<const float>(y_weights), y_size};
  const Axis x{pointer<const int64_t>(x_cells), pointer<const float>(x_weights), x_size};
  fastsam::masks::cuda::prepare(y, x, rows, columns, pointer<void>(axes), pointer<void>(stream));
}

Problem make_problem(Address logits, int64_t n, int64_t rows, int64_t columns, Address axes, int64_t y_size,
                     int64_t x_size, double threshold, double offset, int64_t height, int64_t width, int64_t left,
                     int64_t top) {
  require(n >= 0, "sizes must not be negative");
  const Problem problem{
      pointer<const float>(logits),
      n,
      rows,
      columns,
      pointer<const void>(axes),
      y_size,
      x_size,
      {static_cast<float>(threshold), static_cast<float>(threshold + offset), static_cast<float>(threshold - offset)},
      {height, width, left, top}};
  fastsam::masks::cuda::check(problem);
  return problem;
}

void measure(const Problem& problem, Address workspace, Address lengths, Address boxes, Address sizes, Address stream) {
  fastsam::masks::cuda::measure(problem, pointer<void>(workspace), pointer<int64_t>(lengths), pointer<int64_t>(boxes),
                                pointer<int64_t>(sizes), pointer<void>(stream));
}

void write(const Problem& problem, Address workspace, Address selected, int64_t k, Address offsets, Address counts,
           bool use_int32, Address stream) {
  require(k >= 0, "sizes must not be negative");
  fastsam::masks::cuda::write(problem, pointer<const void>(workspace), pointer<const int64_t>(selected), k,
                              pointer<const int64_t>(offsets), pointer<void>(counts), use_int32, pointer<void>(stream));
}

}  // namespace

void bind_masks(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> released;
  m.def("mask_axes_bytes", &mask_axes_bytes, py::arg("columns"), py::arg("y_size"), py::arg("x_size"));
  m.def("mask_prepare_axes", &mask_prepare_axes, py::arg("y_cells"), py::arg("y_weights"), py::arg("y_size"),
        py::arg("x_cells"), py::arg("x_weights"), py::arg("x_size"), py::arg("rows"), py::arg("columns"),
        py::arg("axes"), py::arg("stream"), released);
  py::class_<Problem>(m, "MaskProblem")
      .def(py::init(&make_problem), py::arg("logits"), py::arg("n"), py::arg("rows"), py::arg("columns"),
           py::arg("axes"), py::arg("y_size"), py::arg("x_size"), py::arg("threshold"), py::arg("offset"),
           py::arg("height"), py::arg("width"), py::arg("left"), py::arg("top"))
      .def_property_readonly("workspace_bytes", &fastsam::masks::cuda::workspace_bytes)
      .def("measure", &measure, py::arg("workspace"), py::arg("lengths"), py::arg("boxes"), py::arg("sizes"),
           py::arg("stream"), released)
      .def("write", &write, py::arg("workspace"), py::arg("selected"), py::arg("k"), py::arg("offsets"),
           py::arg("counts"), py::arg("use_int32"), py::arg("stream"), released);
  m.attr("MASK_BAD_ROWS") = static_cast<int64_t>(fastsam::masks::cuda::kBadRows);
  m.attr("MASK_BAD_ROW_WEIGHTS") = static_cast<int64_t>(fastsam::masks::cuda::kBadRowWeights);
  m.attr("MASK_BAD_COLUMNS") = static_cast<int64_t>(fastsam::masks::cuda::kBadColumns);
  m.attr("MASK_BAD_COLUMN_WEIGHTS") = static_cast<int64_t>(fastsam::masks::cuda::kBadColumnWeights);
}

}  // namespace fastsam::bindings
