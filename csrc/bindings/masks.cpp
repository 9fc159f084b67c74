// Python bindings of masks/masks.h. They check shapes; the operations check values.
#include "masks/masks.h"

#include <limits>
#include <vector>

#include "bindings/arrays.h"

namespace fastsam::bindings {

namespace {

fastsam::masks::Axis to_axis(const Int64s& cells, const Floats& weights) {
  const int64_t size = cells.size();
  require(has_shape(cells, {size}) && has_shape(weights, {size, 3}),
          "an axis's cells must be (size,), and its weights (size, 3)");
  return {cells.data(), weights.data(), size};
}

py::tuple mask_runs(const Floats& logits, const Int64s& y_cells, const Floats& y_weights, const Int64s& x_cells,
                    const Floats& x_weights, double threshold, double offset, int64_t height, int64_t width,
                    int64_t left, int64_t top, int64_t threads) {
  require(logits.ndim() == 3, "logits must be (n, rows, columns)");
  const int64_t n = logits.shape(0);
  const fastsam::masks::Axis y = to_axis(y_cells, y_weights), x = to_axis(x_cells, x_weights);
  const fastsam::masks::Levels levels{static_cast<float>(threshold), static_cast<float>(threshold + offset),
                                      static_cast<float>(threshold - offset)};
  const float* data = logits.data();
  const int64_t rows = logits.shape(1), columns = logits.shape(2);
  fastsam::masks::MaskMeasurements measured = without_gil([&] {
    return fastsam::masks::measure(data, n, rows, columns, y, x, levels, {height, width, left, top}, threads);
  });
  return py::make_tuple(to_array(std::move(measured.runs.counts)), to_array(std::move(measured.runs.offsets)),
                        to_array(std::move(measured.boxes), n, 4), to_array(std::move(measured.sizes), n, 3));
}

py::tuple mask_remove_small_regions(const Int64s& counts, const Int64s& offsets, int64_t height, int64_t width,
                                    double min_area, int64_t threads) {
  require(counts.ndim() == 1 && offsets.ndim() == 1 && offsets.size() >= 1,
          "counts and offsets must be one-dimensional, offsets not empty");
  require(fastsam::rle::is_valid_size(height, width) && width < std::numeric_limits<int32_t>::max(),
          "height and width must not be negative, nor too large");
  const fastsam::rle::RunsView runs{counts.data(), static_cast<int64_t>(counts.size()), offsets.data(),
                                    static_cast<int64_t>(offsets.size()) - 1};
  fastsam::masks::CleanedMasks cleaned =
      without_gil([&] { return fastsam::masks::remove_small_regions(runs, height, width, min_area, threads); });
  return py::make_tuple(to_array(std::move(cleaned.runs.counts)), to_array(std::move(cleaned.runs.offsets)),
                        to_array(std::move(cleaned.changed)));
}

}  // namespace

void bind_masks(py::module_& m) {
  m.def("mask_runs", &mask_runs, exact("logits"), exact("y_cells"), exact("y_weights"), exact("x_cells"),
        exact("x_weights"), py::arg("threshold"), py::arg("offset"), py::arg("height"), py::arg("width"),
        py::arg("left"), py::arg("top"), py::arg("threads"));
  m.def("mask_remove_small_regions", &mask_remove_small_regions, exact("counts"), exact("offsets"), py::arg("height"),
        py::arg("width"), py::arg("min_area"), py::arg("threads"));
}

}  // namespace fastsam::bindings
