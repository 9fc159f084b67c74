// Python bindings of the copies and events of common/cuda_device.h; see pointers.h for what callers guarantee.
#include "bindings_cuda/pointers.h"
#include "common/cuda_device.h"

namespace fastsam::bindings {

namespace {

using fastsam::cuda::Arrival;

void copy(Address to, Address from, int64_t bytes, Address stream) {
  require(bytes >= 0, "sizes must not be negative");
  fastsam::cuda::copy(pointer<void>(to), pointer<const void>(from), static_cast<size_t>(bytes), pointer<void>(stream));
}

}  // namespace

void bind_copies(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> released;
  m.def("copy", &copy, py::arg("to"), py::arg("from_"), py::arg("bytes"), py::arg("stream"), released);
  py::class_<Arrival>(m, "Arrival")
      .def(py::init<>())
      .def(
          "record", [](Arrival& self, Address stream) { self.record(pointer<void>(stream)); }, py::arg("stream"))
      .def("wait", &Arrival::wait, released);
}

}  // namespace fastsam::bindings
