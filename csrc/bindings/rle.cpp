// Python bindings of rle/rle.h. They check shapes; the operations check offsets and run lengths.
#include "rle/rle.h"

#include <optional>
#include <vector>

#include "bindings/arrays.h"

namespace fastsam::bindings {

namespace {

template <typename T>
RaggedView<T> to_ragged_view(const Array<T>& values, const Int64s& offsets) {
  require(offsets.ndim() == 1 && offsets.size() >= 1, "offsets must be one-dimensional and not empty");
  return {values.data(), static_cast<int64_t>(values.shape(0)), offsets.data(),
          static_cast<int64_t>(offsets.size()) - 1};
}

RaggedView<int64_t> to_runs_view(const Int64s& counts, const Int64s& offsets) {
  require(counts.ndim() == 1, "counts must be one-dimensional");
  return to_ragged_view(counts, offsets);
}

void check_size(int64_t height, int64_t width) {
  require(fastsam::rle::is_valid_size(height, width),
          "height and width must not be negative, nor their product too large");
}

py::tuple to_tuple(fastsam::rle::Runs&& runs) {
  return py::make_tuple(to_array(std::move(runs.counts)), to_array(std::move(runs.offsets)));
}

py::tuple rle_encode(const py::array& masks, int64_t threads) {
  require(masks.ndim() == 3 && masks.itemsize() == 1, "masks must be (n, height, width) of one byte per pixel");
  const MaskView view{static_cast<const uint8_t*>(masks.data()),
                      masks.shape(0),
                      masks.shape(1),
                      masks.shape(2),
                      masks.strides(0),
                      masks.strides(1),
                      masks.strides(2)};
  return to_tuple(without_gil([&] { return fastsam::rle::encode(view, threads); }));
}

void rle_check(const Int64s& counts, const Int64s& offsets, int64_t pixels) {
  fastsam::rle::check_runs(to_runs_view(counts, offsets), pixels);
}

void rle_decode(const Int64s& counts, const Int64s& offsets, int64_t height, int64_t width, bool column_major,
                py::array_t<bool, py::array::c_style> out, int64_t threads) {
  check_size(height, width);
  const RaggedView<int64_t> runs = to_runs_view(counts, offsets);
  require(column_major ? has_shape(out, {runs.n, width, height}) : has_shape(out, {runs.n, height, width}),
          "out must be (n, height, width), or (n, width, height) if column_major");
  uint8_t* data = reinterpret_cast<uint8_t*>(out.mutable_data());
  py::gil_scoped_release release;
  fastsam::rle::decode(runs, height, width, column_major, data, threads);
}

py::array_t<int64_t> rle_area(const Int64s& counts, const Int64s& offsets) {
  return to_array(fastsam::rle::area(to_runs_view(counts, offsets)));
}

py::array_t<int64_t> rle_to_bbox(const Int64s& counts, const Int64s& offsets, const Int64s& heights) {
  const RaggedView<int64_t> runs = to_runs_view(counts, offsets);
  require(has_shape(heights, {runs.n}), "heights must be (n,)");
  return to_array(fastsam::rle::to_bbox(runs, heights.data()), runs.n, 4);
}

py::array_t<double> rle_iou(const Int64s& dt_counts, const Int64s& dt_offsets, const Int64s& gt_counts,
                            const Int64s& gt_offsets, const Array<bool>& iscrowd, int64_t threads) {
  const RaggedView<int64_t> dt = to_runs_view(dt_counts, dt_offsets), gt = to_runs_view(gt_counts, gt_offsets);
  require(has_shape(iscrowd, {gt.n}), "iscrowd must be (gt,)");
  const bool* crowd = iscrowd.data();
  return to_array(without_gil([&] { return fastsam::rle::iou(dt, gt, crowd, threads); }), dt.n, gt.n);
}

py::array_t<int64_t> rle_merge(const Int64s& counts, const Int64s& offsets, bool intersect) {
  const RaggedView<int64_t> runs = to_runs_view(counts, offsets);
  return to_array(without_gil([&] { return fastsam::rle::merge(runs, intersect); }));
}

py::tuple rle_combine(const Int64s& a_counts, const Int64s& a_offsets, const Int64s& b_counts, const Int64s& b_offsets,
                      int64_t truth, int64_t threads) {
  const RaggedView<int64_t> a = to_runs_view(a_counts, a_offsets), b = to_runs_view(b_counts, b_offsets);
  return to_tuple(without_gil([&] { return fastsam::rle::combine(a, b, truth, threads); }));
}

py::tuple rle_crop(const Int64s& counts, const Int64s& offsets, const Int64s& heights, const Int64s& windows,
                   int64_t threads) {
  const RaggedView<int64_t> view = to_runs_view(counts, offsets);
  require(has_shape(heights, {view.n}), "heights must be (n,)");
  require(has_shape(windows, {view.n, 4}), "windows must be (n, 4)");
  std::vector<fastsam::rle::Window> window_list;
  for (const int64_t* at = windows.data(); window_list.size() < static_cast<size_t>(view.n); at += 4) {
    window_list.push_back({at[0], at[1], at[2], at[3]});
  }
  const int64_t* height_data = heights.data();
  return to_tuple(without_gil([&] { return fastsam::rle::crop(view, height_data, window_list.data(), threads); }));
}

py::tuple rle_from_polygon(const Array<double>& points, const Int64s& offsets, int64_t height, int64_t width,
                           int64_t threads) {
  check_size(height, width);
  require(points.ndim() == 2 && points.shape(1) == 2, "points must be (p, 2)");
  const RaggedView<double> view = to_ragged_view(points, offsets);
  return to_tuple(without_gil([&] { return fastsam::rle::from_polygon(view, height, width, threads); }));
}

py::tuple rle_to_string(const Int64s& counts, const Int64s& offsets) {
  fastsam::rle::CompressedText text = fastsam::rle::to_string(to_runs_view(counts, offsets));
  return py::make_tuple(to_array(std::move(text.characters)), to_array(std::move(text.offsets)));
}

py::tuple rle_from_string(const Array<uint8_t>& text, const Int64s& offsets, const Int64s& pixels) {
  require(text.ndim() == 1, "text must be one-dimensional");
  const RaggedView<uint8_t> view = to_ragged_view(text, offsets);
  require(has_shape(pixels, {view.n}), "pixels must be (n,)");
  return to_tuple(fastsam::rle::from_string(view, pixels.data()));
}

}  // namespace

void bind_rle(py::module_& m) {
  const auto counts = exact("counts"), offsets = exact("offsets");
  m.def("rle_encode", &rle_encode, exact("masks"), py::arg("threads"));
  m.def("rle_check", &rle_check, counts, offsets, py::arg("pixels"));
  m.def("rle_decode", &rle_decode, counts, offsets, py::arg("height"), py::arg("width"), py::arg("column_major"),
        exact("out"), py::arg("threads"));
  m.def("rle_area", &rle_area, counts, offsets);
  m.def("rle_to_bbox", &rle_to_bbox, counts, offsets, exact("heights"));
  m.def("rle_iou", &rle_iou, exact("dt_counts"), exact("dt_offsets"), exact("gt_counts"), exact("gt_offsets"),
        exact("iscrowd"), py::arg("threads"));
  m.def("rle_merge", &rle_merge, counts, offsets, py::arg("intersect"));
  m.def("rle_combine", &rle_combine, exact("a_counts"), exact("a_offsets"), exact("b_counts"), exact("b_offsets"),
        py::arg("truth"), py::arg("threads"));
  m.def("rle_crop", &rle_crop, counts, offsets, exact("heights"), exact("windows"), py::arg("threads"));
  m.def("rle_from_polygon", &rle_from_polygon, exact("points"), offsets, py::arg("height"), py::arg("width"),
        py::arg("threads"));
  m.def("rle_to_string", &rle_to_string, counts, offsets);
  m.def("rle_from_string", &rle_from_string, exact("text"), offsets, exact("pixels"));
}

}  // namespace fastsam::bindings
