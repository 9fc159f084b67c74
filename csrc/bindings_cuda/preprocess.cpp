// Python bindings of preprocess/preprocess_cuda.h; see pointers.h for what callers guarantee.
#include "preprocess/preprocess_cuda.h"

#include <array>

#include "bindings_cuda/pointers.h"

namespace fastsam::bindings {

namespace {

using Size = std::array<int64_t, 2>;     // height, width
using Strides = std::array<int64_t, 3>;  // in bytes, of rows, pixels and channels

preprocess::ImageView to_image_view(Address image, Size in_size, Strides strides, bool bgr) {
  return {pointer<const uint8_t>(image), in_size[0], in_size[1], strides[0], strides[1], strides[2], bgr};
}

int64_t preprocess_scratch_bytes(Size in_size, Size out_size) {
  return preprocess::scratch_bytes(in_size[0], in_size[1], out_size[0], out_size[1]);
}

void check_scratch(Address scratch, int64_t size, Size in_size, Size out_size) {
  require(scratch % 16 == 0, "scratch must begin at a multiple of 16 bytes");
  require(size >= preprocess_scratch_bytes(in_size, out_size), "scratch is too small");
}

void resize_image(Address image, Size in_size, Strides strides, bool bgr, Size out_size, Address scratch,
                  int64_t scratch_size, Address out, Address stream) {
  check_scratch(scratch, scratch_size, in_size, out_size);
  preprocess::resize_cuda(to_image_view(image, in_size, strides, bgr), out_size[0], out_size[1], pointer<void>(scratch),
                          pointer<uint8_t>(out), pointer<void>(stream));
}

void preprocess_image(Address image, Size in_size, Strides strides, bool bgr, Size out_size, int64_t size,
                      const std::array<float, 3>& mean, const std::array<float, 3>& std, bool channels_last,
                      Address scratch, int64_t scratch_size, Address out, Address stream) {
  check_scratch(scratch, scratch_size, in_size, out_size);
  preprocess::normalise_cuda(to_image_view(image, in_size, strides, bgr), out_size[0], out_size[1], size, mean.data(),
                             std.data(), channels_last, pointer<void>(scratch), pointer<float>(out),
                             pointer<void>(stream));
}

}  // namespace

void bind_preprocess(py::module_& m) {
  m.def("preprocess_scratch_bytes", &preprocess_scratch_bytes, py::arg("in_size"), py::arg("out_size"));
  m.def("resize_image", &resize_image, py::arg("image"), py::arg("in_size"), py::arg("strides"), py::arg("bgr"),
        py::arg("out_size"), py::arg("scratch"), py::arg("scratch_size"), py::arg("out"), py::arg("stream"),
        py::call_guard<py::gil_scoped_release>());
  m.def("preprocess_image", &preprocess_image, py::arg("image"), py::arg("in_size"), py::arg("strides"), py::arg("bgr"),
        py::arg("out_size"), py::arg("size"), py::arg("mean"), py::arg("std"), py::arg("channels_last"),
        py::arg("scratch"), py::arg("scratch_size"), py::arg("out"), py::arg("stream"),
        py::call_guard<py::gil_scoped_release>());
}

}  // namespace fastsam::bindings
