// Python bindings of the copies and events of common/cuda_device.h; see pointers.h for what callers guarantee.
#include "bindings_cuda/pointers.h"
#include "common/cuda_device.h"

namespace fastsam::bindings {

namespace {

using fastsam::cuda::Event;

void copy_async(Address to, Address from, int64_t bytes, Address stream) {
  require(bytes >= 0, "sizes must not be negative");
  fastsam::cuda::copy_async(pointer<void>(to), pointer<const void>(from), static_cast<size_t>(bytes),
                            pointer<void>(stream));
}

}  // namespace

void bind_copies(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> released;
  m.def("copy_async", &copy_async, py::arg("to"), py::arg("from_"), py::arg("bytes"), py::arg("stream"), released);
  py::class_<Event>(m, "Event")
      .def(py::init<>())
      .def(
          "record", [](Event& self, Address stream) { self.record(pointer<void>(stream)); }, py::arg("stream"))
      .def("synchronize", &Event::synchronize, released);
}

}  // namespace fastsam::bindings
