// Python bindings of preprocess/preprocess_cuda.h; see pointers.h for what callers guarantee.
#include "preprocess/preprocess_cuda.h"

#include <array>

#include "bindings_cuda/pointers.h"

namespace fastsam::bindings {

namespace {

using Sides = std::array<int64_t, 2>;    // height, width
using Strides = std::array<int64_t, 3>;  // in bytes, of rows, pixels and channels

preprocess::Picture picture_of(Address image, Sides sides, Strides strides, bool bgr) {
  return {pointer<const uint8_t>(image), sides[0], sides[1], strides[0], strides[1], strides[2], bgr};
}

int64_t preprocess_scratch_bytes(Sides sides, Sides to) {
  return preprocess::scratch_bytes(sides[0], sides[1], to[0], to[1]);
}

void check_scratch(Address scratch, int64_t size, Sides sides, Sides to) {
  require(scratch % 16 == 0, "scratch must begin at a multiple of 16 bytes");
  require(size >= preprocess_scratch_bytes(sides, to), "scratch is too small");
}

void resize_image(Address image, Sides sides, Strides strides, bool bgr, Sides to, Address scratch,
                  int64_t scratch_size, Address out, Address stream) {
  check_scratch(scratch, scratch_size, sides, to);
  preprocess::resize_cuda(picture_of(image, sides, strides, bgr), to[0], to[1], pointer<void>(scratch),
                          pointer<uint8_t>(out), pointer<void>(stream));
}

void preprocess_image(Address image, Sides sides, Strides strides, bool bgr, Sides to, int64_t size,
                      const std::array<float, 3>& mean, const std::array<float, 3>& std, bool channels_last,
                      Address scratch, int64_t scratch_size, Address out, Address stream) {
  check_scratch(scratch, scratch_size, sides, to);
  preprocess::normalise_cuda(picture_of(image, sides, strides, bgr), to[0], to[1], size, mean.data(), std.data(),
                             channels_last, pointer<void>(scratch), pointer<float>(out), pointer<void>(stream));
}

}  // namespace

void bind_preprocess(py::module_& m) {
  m.def("preprocess_scratch_bytes", &preprocess_scratch_bytes, py::arg("sides"), py::arg("to"));
  m.def("resize_image", &resize_image, py::arg("image"), py::arg("sides"), py::arg("strides"), py::arg("bgr"),
        py::arg("to"), py::arg("scratch"), py::arg("scratch_size"), py::arg("out"), py::arg("stream"),
        py::call_guard<py::gil_scoped_release>());
  m.def("preprocess_image", &preprocess_image, py::arg("image"), py::arg("sides"), py::arg("strides"), py::arg("bgr"),
        py::arg("to"), py::arg("size"), py::arg("mean"), py::arg("std"), py::arg("channels_last"), py::arg("scratch"),
        py::arg("scratch_size"), py::arg("out"), py::arg("stream"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace fastsam::bindings
