// Python bindings of nms/nms.h. They check shapes; the operation checks values.
#include "nms/nms.h"

#include <optional>
#include <vector>

#include "bindings/arrays.h"

namespace fastsam::bindings {

namespace {

template <typename T>
py::array_t<int64_t> nms(const Array<T>& boxes, const Array<double>& scores, const std::optional<Int64s>& classes,
                         double threshold, int64_t threads) {
  const int64_t n = scores.size();
  require(has_shape(scores, {n}), "scores must be (n,)");
  require(has_shape(boxes, {n, 4}), "boxes must be (n, 4)");
  require(!classes || has_shape(*classes, {n}), "classes must be (n,)");
  const T* box_data = boxes.data();
  const double* score_data = scores.data();
  const int64_t* class_data = classes ? classes->data() : nullptr;
  return to_array(
      without_gil([&] { return fastsam::nms::nms<T>(box_data, score_data, class_data, n, threshold, threads); }));
}

}  // namespace

void bind_nms(py::module_& m) {
  const auto boxes = exact("boxes"), scores = exact("scores"), classes = exact("classes");
  m.def("nms", &nms<float>, boxes, scores, classes, py::arg("threshold"), py::arg("threads"));
  m.def("nms", &nms<double>, boxes, scores, classes, py::arg("threshold"), py::arg("threads"));
}

}  // namespace fastsam::bindings
