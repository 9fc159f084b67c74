// What one instruction set offers to linear. Plain data only: see common/kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastsam {

// Which function follows the product; the values are part of the Python interface.
enum LinearActivation : int32_t { kLinearNone = 0, kLinearGelu = 1, kLinearRelu = 2 };

// What happens to a product before it is written: out = activation(product + bias) + residual.
struct LinearFinish {
  const float* bias;  // (n), or null
  int32_t activation;
  const float* residual;  // (rows, n), or null; may be out itself
  int64_t residual_stride;
  float* out;  // (rows, n)
  int64_t out_stride;
};

struct LinearKernels {
  int64_t tile_rows;     // rows of the register tile: blocks that are a multiple of it leave no remainder
  int64_t group_panels;  // panels of 16 columns that `block` takes at a time

  // Writes the rows of `weight` (columns <= 16, k) as one panel (k, 16); columns beyond are zero.
  void (*pack)(const float* weight, int64_t stride, int64_t columns, int64_t k, float* panel);
  // LayerNorm over the k values of each row.
  void (*layer_norm)(const float* x, int64_t stride, int64_t rows, int64_t k, const float* weight, const float* bias,
                     float eps, float* out, int64_t out_stride);
  // a (rows, k) times packed panels [ceil(n / 16)][k][16]; `partial` is scratch of rows * group_panels * 16.
  void (*block)(const float* a, int64_t a_stride, int64_t rows, int64_t k, const float* panels, int64_t n,
                float* partial, const LinearFinish& finish);
  // The same for few rows, straight from `weight` (n, k), columns [begin, end) of the result alone; begin is a multiple
  // of 16, `partial` is scratch of rows * 16.
  void (*narrow)(const float* a, int64_t a_stride, int64_t rows, int64_t k, const float* weight, int64_t weight_stride,
                 int64_t begin, int64_t end, float* partial, const LinearFinish& finish);
};

}  // namespace fastsam
