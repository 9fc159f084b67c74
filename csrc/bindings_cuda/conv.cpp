// Python bindings of conv/depthwise_cuda.h; see pointers.h for what callers guarantee.
#include "bindings_cuda/pointers.h"
#include "conv/depthwise_cuda.h"

namespace fastsam::bindings {

namespace {

void depthwise(int dtype, Address x, Address weight, Address bias, Address shift, Address out, int64_t batch,
               int64_t height, int64_t width, int64_t channels, int64_t stride, bool gelu, Address stream) {
  // The kernel counts rows, and work items within a row, in 32 bits.
  constexpr int64_t kMaxSize = int64_t{1} << 30;
  require(batch >= 0 && height > 0 && width > 0 && height < kMaxSize && width < kMaxSize,
          "sizes must be positive and less than 2^30");
  require(channels > 0 && channels % 8 == 0 && channels < kMaxSize,
          "channels must be a multiple of 8 and less than 2^30");
  require((width + 1) * channels / 8 < kMaxSize, "rows are too long");
  require(stride == 1 || stride == 2, "stride must be 1 or 2");
  require((x | weight | bias | shift | out) % 16 == 0, "tensors must begin at a multiple of 16 bytes");
  const conv::DepthwiseParams params{pointer<const void>(x),
                                     pointer<const void>(weight),
                                     pointer<const void>(bias),
                                     pointer<const void>(shift),
                                     pointer<void>(out),
                                     batch,
                                     height,
                                     width,
                                     channels,
                                     stride,
                                     gelu};
  conv::depthwise_cuda(static_cast<DType>(dtype), params, pointer<void>(stream));
}

}  // namespace

void bind_conv(py::module_& m) {
  m.def("depthwise", &depthwise, py::arg("dtype"), py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("shift"),
        py::arg("out"), py::arg("batch"), py::arg("height"), py::arg("width"), py::arg("channels"), py::arg("stride"),
        py::arg("gelu"), py::arg("stream"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace fastsam::bindings
