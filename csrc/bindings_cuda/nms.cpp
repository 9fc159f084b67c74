// Python bindings of nms/nms_cuda.h; see pointers.h for what callers guarantee.
#include "nms/nms_cuda.h"

#include "bindings_cuda/pointers.h"

namespace fastsam::bindings {

namespace {

int64_t nms_scratch_bytes(int64_t n, bool wide_boxes) {
  require(n >= 0, "n must not be negative");
  return wide_boxes ? nms::scratch_bytes<double>(n) : nms::scratch_bytes<float>(n);
}

template <typename T>
void run(Address boxes, Address order, Address classes, int64_t n, Address best, bool wide_scores, double threshold,
         Address scratch, Address kept, Address status, Address stream) {
  nms::nms_cuda(pointer<const T>(boxes), pointer<const int64_t>(order), pointer<const int64_t>(classes), n,
                pointer<const void>(best), wide_scores, threshold, pointer<void>(scratch), pointer<int64_t>(kept),
                pointer<int64_t>(status), pointer<void>(stream));
}

void nms(Address boxes, bool wide_boxes, Address order, Address classes, int64_t n, Address best, bool wide_scores,
         double threshold, Address scratch, int64_t scratch_size, Address kept, Address status, Address stream) {
  require(n >= 1, "there must be boxes");
  require(threshold >= 0 && threshold <= 1, "threshold must be from 0 to 1");
  require(boxes % 16 == 0 && scratch % 16 == 0, "boxes and scratch must begin at a multiple of 16 bytes");
  require(scratch_size >= nms_scratch_bytes(n, wide_boxes), "scratch is too small");
  (wide_boxes ? run<double> : run<float>)(boxes, order, classes, n, best, wide_scores, threshold, scratch, kept, status,
                                          stream);
}

}  // namespace

void bind_nms(py::module_& m) {
  m.def("nms_scratch_bytes", &nms_scratch_bytes, py::arg("n"), py::arg("wide_boxes"));
  m.def("nms", &nms, py::arg("boxes"), py::arg("wide_boxes"), py::arg("order"), py::arg("classes"), py::arg("n"),
        py::arg("best"), py::arg("wide_scores"), py::arg("threshold"), py::arg("scratch"), py::arg("scratch_size"),
        py::arg("kept"), py::arg("status"), py::arg("stream"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace fastsam::bindings
