// Python bindings of norm/norm_cuda.h; see pointers.h for what callers guarantee.
#include "norm/norm_cuda.h"

#include "bindings_cuda/pointers.h"

namespace fastsam::bindings {

namespace {

void add_norm(int dtype, Address x, Address delta, Address weight, Address bias, int64_t rows, int64_t columns,
              float eps, Address stream) {
  require(rows >= 0 && columns >= 0, "sizes must not be negative");
  require((x | delta | weight | bias) % 16 == 0, "tensors must begin at a multiple of 16 bytes");
  norm::add_norm_cuda(static_cast<DType>(dtype), pointer<void>(x), pointer<void>(delta), pointer<const void>(weight),
                      pointer<const void>(bias), rows, columns, eps, pointer<void>(stream));
}

}  // namespace

void bind_norm(py::module_& m) {
  m.def("add_norm_has_kernel", &norm::has_kernel, py::arg("columns"));
  m.def("add_norm", &add_norm, py::arg("dtype"), py::arg("x"), py::arg("delta"), py::arg("weight"), py::arg("bias"),
        py::arg("rows"), py::arg("columns"), py::arg("eps"), py::arg("stream"),
        py::call_guard<py::gil_scoped_release>());
}

}  // namespace fastsam::bindings
