// Python bindings of preprocess/preprocess.h. They check shapes; the operations check the limits on sizes.
#include "preprocess/preprocess.h"

#include "bindings/arrays.h"

namespace fastsam::bindings {

namespace {

preprocess::ImageView to_image_view(const py::array_t<uint8_t>& image, bool swap) {
  require(image.ndim() == 3 && image.shape(2) == 3, "image must be (height, width, 3)");
  return {image.data(), image.shape(0), image.shape(1), image.strides(0), image.strides(1), image.strides(2), swap};
}

void resize_image(const py::array_t<uint8_t>& image, bool bgr, Array<uint8_t> out, int64_t threads) {
  const preprocess::ImageView view = to_image_view(image, bgr);
  require(out.ndim() == 3 && out.shape(2) == 3, "out must be (height, width, 3)");
  const int64_t height = out.shape(0), width = out.shape(1);
  uint8_t* data = out.mutable_data();
  py::gil_scoped_release release;
  preprocess::resize(view, height, width, data, threads);
}

void preprocess_image(const py::array_t<uint8_t>& image, bool bgr, int64_t height, int64_t width,
                      const Array<float>& mean, const Array<float>& std, bool channels_last, Array<float> out,
                      int64_t threads) {
  const preprocess::ImageView view = to_image_view(image, bgr);
  require(has_shape(mean, {3}) && has_shape(std, {3}), "mean and std must be (3,)");
  const int64_t size = out.ndim() == 3 ? out.shape(1) : 0;
  require(channels_last ? has_shape(out, {size, size, 3}) : has_shape(out, {3, size, size}),
          "out must be (3, size, size), or (size, size, 3) if channels_last");
  const float *mean_data = mean.data(), *std_data = std.data();
  float* data = out.mutable_data();
  py::gil_scoped_release release;
  preprocess::normalise(view, height, width, size, mean_data, std_data, channels_last, data, threads);
}

}  // namespace

void bind_preprocess(py::module_& m) {
  const auto image = exact("image"), out = exact("out");
  m.def("resize_image", &resize_image, image, py::arg("bgr"), out, py::arg("threads"));
  m.def("preprocess_image", &preprocess_image, image, py::arg("bgr"), py::arg("height"), py::arg("width"),
        exact("mean"), exact("std"), py::arg("channels_last"), out, py::arg("threads"));
}

}  // namespace fastsam::bindings
