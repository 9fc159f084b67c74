// Python bindings of nms/nms_cuda.h; see pointers.h for what callers guarantee.
#include "nms/nms_cuda.h"

#include "bindings_cuda/pointers.h"

namespace fastsam::bindings {

namespace {

int64_t nms_scratch_bytes(int64_t n, bool boxes_are_double) {
  require(n >= 0, "n must not be negative");
  return boxes_are_double ? nms::scratch_bytes<double>(n) : nms::scratch_bytes<float>(n);
}

template <typename T>
void run(Address boxes, Address order, Address classes, int64_t n, Address max_score, bool scores_are_double,
         double threshold, Address scratch, Address kept, Address status, Address stream) {
  nms::nms_cuda(pointer<const T>(boxes), pointer<const int64_t>(order), pointer<const int64_t>(classes), n,
                pointer<const void>(max_score), scores_are_double, threshold, pointer<void>(scratch),
                pointer<int64_t>(kept), pointer<int64_t>(status), pointer<void>(stream));
}

void nms(Address boxes, bool boxes_are_double, Address order, Address classes, int64_t n, Address max_score,
         bool scores_are_double, double threshold, Address scratch, int64_t scratch_size, Address kept, Address status,
         Address stream) {
  require(n >= 1, "there must be boxes");
  require(threshold >= 0 && threshold <= 1, "threshold must be from 0 to 1");
  require(boxes % 16 == 0 && scratch % 16 == 0, "boxes and scratch must begin at a multiple of 16 bytes");
  require(scratch_size >= nms_scratch_bytes(n, boxes_are_double), "scratch is too small");
  (boxes_are_double ? run<double> : run<float>)(boxes, order, classes, n, max_score, scores_are_double, threshold,
                                                scratch, kept, status, stream);
}

}  // namespace

void bind_nms(py::module_& m) {
  m.def("nms_scratch_bytes", &nms_scratch_bytes, py::arg("n"), py::arg("boxes_are_double"));
  m.def("nms", &nms, py::arg("boxes"), py::arg("boxes_are_double"), py::arg("order"), py::arg("classes"), py::arg("n"),
        py::arg("max_score"), py::arg("scores_are_double"), py::arg("threshold"), py::arg("scratch"),
        py::arg("scratch_size"), py::arg("kept"), py::arg("status"), py::arg("stream"),
        py::call_guard<py::gil_scoped_release>());
}

}  // namespace fastsam::bindings
