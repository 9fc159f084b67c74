#include "bindings_cuda/pointers.h"
#include "rle/rle_cuda.h"

namespace fastsam::bindings {

namespace {

void rle_area(Address counts, int64_t size, Address offsets, int64_t n, Address areas, Address error, Address stream) {
  require(size >= 0 && n >= 0, "sizes must not be negative");
  rle::area_cuda(pointer<const int64_t>(counts), size, pointer<const int64_t>(offsets), n, pointer<int64_t>(areas),
                 pointer<int32_t>(error), pointer<void>(stream));
}

}  // namespace

void bind_rle(py::module_& m) {
  m.def("rle_area", &rle_area, py::arg("counts"), py::arg("size"), py::arg("offsets"), py::arg("n"), py::arg("areas"),
        py::arg("error"), py::arg("stream"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace fastsam::bindings
