// The kernels of fully connected layers of one instruction set. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

// The activation after a product. The Python bindings pass these numbers.
enum LinearActivation : int32_t { kLinearNone = 0, kLinearGelu = 1, kLinearRelu = 2 };

// What is applied to a product as it is written: out = activation(product + bias) + residual. Strides count floats.
struct LinearEpilogue {
  const float* bias;  // (n), or null
  int32_t activation;
  const float* residual;  // (rows, n), or null; may be out itself
  int64_t residual_stride;
  float* out;  // (rows, n)
  int64_t out_stride;
};

struct LinearKernels {
  int64_t tile_rows;     // rows of the register tile; blocks of a multiple of it leave no remainder
  int64_t group_panels;  // panels of 16 columns that `block` takes at a time

  // Transposes `weight` (columns, k), columns <= 16, to one panel (k, 16). Missing columns become zero.
  void (*pack)(const float* weight, int64_t stride, int64_t columns, int64_t k, float* panel);
  // Writes the LayerNorm over the k values of each row of x to out.
  void (*layer_norm)(const float* x, int64_t stride, int64_t rows, int64_t k, const float* weight, const float* bias,
                     float eps, float* out, int64_t out_stride);
  // Multiplies a (rows, k) with packed panels (ceil(n / 16), k, 16) and finishes the result. `partial` is scratch of
  // rows * group_panels * 16 floats.
  void (*block)(const float* a, int64_t a_stride, int64_t rows, int64_t k, const float* panels, int64_t n,
                float* partial, const LinearEpilogue& epilogue);
  // The same for few rows, with unpacked `weight` (n, k), for columns [begin, end) of the result. begin is a multiple
  // of 16; `partial` is scratch of rows * 16 floats.
  void (*skinny)(const float* a, int64_t a_stride, int64_t rows, int64_t k, const float* weight, int64_t weight_stride,
                 int64_t begin, int64_t end, float* partial, const LinearEpilogue& epilogue);
};

}  // namespace fastsam
