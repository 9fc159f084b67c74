// Python bindings of conv/conv.h. All shapes are checked, since they decide what memory is read and written.
#include "conv/conv.h"

#include "bindings/arrays.h"

namespace fastsam::bindings {

namespace {

using conv::conv_output_size;
using conv::Shape;

// Limits below which the kernels' products of sizes stay within int64.
constexpr int64_t kMaxSide = int64_t{1} << 24, kMaxChannels = int64_t{1} << 20;

Shape to_shape(const Floats& x, bool channels_last) {
  require(x.ndim() == 4, "images must have four dimensions");
  const Shape shape = channels_last ? Shape{x.shape(0), x.shape(1), x.shape(2), x.shape(3)}
                                    : Shape{x.shape(0), x.shape(2), x.shape(3), x.shape(1)};
  require(shape.batch < kMaxSide && shape.height < kMaxSide && shape.width < kMaxSide, "images are too large");
  require(shape.channels > 0 && shape.channels < kMaxChannels, "images must have from 1 to 1048575 channels");
  return shape;
}

void check_dense(const Floats& weight, const Floats& bias, int64_t channels) {
  require(weight.ndim() == 4 && weight.shape(0) > 0 && weight.shape(0) < kMaxChannels && weight.shape(1) == channels &&
              weight.shape(2) == 3 && weight.shape(3) == 3,
          "the weight of a 3 x 3 convolution must be (out_channels, channels, 3, 3)");
  require(has_shape(bias, {weight.shape(0)}), "the bias must have one value per output channel");
}

void check_depthwise(const Floats& weight, const Floats& bias, int64_t channels) {
  require(has_shape(weight, {channels, 3, 3}), "the weight of a depthwise 3 x 3 convolution must be (channels, 3, 3)");
  require(has_shape(bias, {channels}), "the bias must have one value per channel");
}

void check_stride(int64_t stride) { require(stride == 1 || stride == 2, "stride must be 1 or 2"); }

float* output(Floats& out, const Shape& shape, int64_t stride, int64_t channels) {
  require(has_shape(out, {shape.batch, conv_output_size(shape.height, stride), conv_output_size(shape.width, stride),
                          channels}),
          "out must be (batch, height / stride, width / stride, out_channels)");
  return out.mutable_data();
}

void mbconv(const Floats& x, const Floats& expand_weight, const Floats& expand_bias, const Floats& depthwise_weight,
            const Floats& depthwise_bias, const Floats& project_weight, const Floats& project_bias, int64_t stride,
            bool residual, Floats out, int64_t threads) {
  const Shape shape = to_shape(x, true);
  check_stride(stride);
  require(expand_weight.ndim() == 2 && expand_weight.shape(0) > 0 && expand_weight.shape(0) < kMaxChannels &&
              expand_weight.shape(1) == shape.channels,
          "expand_weight must be (hidden, channels)");
  const int64_t hidden = expand_weight.shape(0);
  require(has_shape(expand_bias, {hidden}), "expand_bias must be (hidden,)");
  check_depthwise(depthwise_weight, depthwise_bias, hidden);
  require(project_weight.ndim() == 2 && project_weight.shape(0) > 0 && project_weight.shape(0) < kMaxChannels &&
              project_weight.shape(1) == hidden,
          "project_weight must be (out_channels, hidden)");
  const int64_t n = project_weight.shape(0);
  require(has_shape(project_bias, {n}), "project_bias must be (out_channels,)");
  require(!residual || (stride == 1 && n == shape.channels),
          "a residual needs stride 1 and as many channels out as in");
  const conv::MbconvWeights weights{hidden,
                                    n,
                                    expand_weight.data(),
                                    expand_bias.data(),
                                    depthwise_weight.data(),
                                    depthwise_bias.data(),
                                    project_weight.data(),
                                    project_bias.data()};
  const float* source = x.data();
  float* target = output(out, shape, stride, n);
  py::gil_scoped_release release;
  conv::mbconv(source, shape, weights, stride, residual, target, threads);
}

void depthwise3x3(const Floats& x, const Floats& weight, const Floats& bias, int64_t stride, bool gelu, Floats out,
                  int64_t threads) {
  const Shape shape = to_shape(x, true);
  check_stride(stride);
  check_depthwise(weight, bias, shape.channels);
  const float *source = x.data(), *weights = weight.data(), *offsets = bias.data();
  float* target = output(out, shape, stride, shape.channels);
  py::gil_scoped_release release;
  conv::depthwise3x3(source, shape, weights, offsets, stride, gelu, target, threads);
}

void conv3x3(const Floats& x, const Floats& weight, const Floats& bias, int64_t stride, bool gelu, Floats out,
             int64_t threads) {
  const Shape shape = to_shape(x, true);
  check_stride(stride);
  check_dense(weight, bias, shape.channels);
  const int64_t n = weight.shape(0);
  const float *source = x.data(), *weights = weight.data(), *offsets = bias.data();
  float* target = output(out, shape, stride, n);
  py::gil_scoped_release release;
  conv::conv3x3(source, shape, weights, offsets, n, stride, gelu, target, threads);
}

void conv_stem(const Floats& images, const Floats& first_weight, const Floats& first_bias, const Floats& second_weight,
               const Floats& second_bias, Floats out, int64_t threads) {
  const Shape shape = to_shape(images, false);
  check_dense(first_weight, first_bias, shape.channels);
  const int64_t hidden = first_weight.shape(0);
  check_dense(second_weight, second_bias, hidden);
  const int64_t n = second_weight.shape(0);
  const conv::StemWeights weights{
      hidden, n, first_weight.data(), first_bias.data(), second_weight.data(), second_bias.data()};
  const float* source = images.data();
  float* target = output(out, shape, 4, n);
  py::gil_scoped_release release;
  conv::stem(source, shape, weights, target, threads);
}

}  // namespace

void bind_conv(py::module_& m) {
  const py::arg stride("stride"), gelu("gelu"), threads("threads");
  m.def("mbconv", &mbconv, exact("x"), exact("expand_weight"), exact("expand_bias"), exact("depthwise_weight"),
        exact("depthwise_bias"), exact("project_weight"), exact("project_bias"), stride, py::arg("residual"),
        exact("out"), threads);
  m.def("depthwise3x3", &depthwise3x3, exact("x"), exact("weight"), exact("bias"), stride, gelu, exact("out"), threads);
  m.def("conv3x3", &conv3x3, exact("x"), exact("weight"), exact("bias"), stride, gelu, exact("out"), threads);
  m.def("conv_stem", &conv_stem, exact("images"), exact("first_weight"), exact("first_bias"), exact("second_weight"),
        exact("second_bias"), exact("out"), threads);
}

}  // namespace fastsam::bindings
