// Fully connected float32 layers on the CPU: out = activation(LayerNorm(x) W^T + bias) + residual.
//
// Weights have PyTorch's layout (out features, in features). Calls with more than a few rows pack them anew into shared
// scratch memory, so that no packed copy can go stale. Results are bit-identical for every number of threads. The
// caller guarantees the shapes; strides count floats.
#pragma once

#include <cstdint>

#include "linear/linear_table.h"

namespace fastsam::linear {

// A matrix (rows, columns) whose rows are contiguous and start `stride` floats apart.
struct MatrixView {
  const float* data;
  int64_t stride;
};

struct Weight {
  const float* data;  // (n, k)
  int64_t stride;
  int64_t n, k;
};

// A LayerNorm over the k values of each row; no LayerNorm if `weight` is null.
struct Norm {
  const float* weight = nullptr;  // (k)
  const float* bias = nullptr;    // (k)
  float eps = 0.0f;
};

// Computes epilogue.out (rows, n) from x (rows, k). epilogue.residual may be epilogue.out itself; apart from that, the
// output must not overlap any input.
void linear(const MatrixView& x, int64_t rows, const Norm& norm, const Weight& weight, const LinearEpilogue& epilogue,
            int64_t threads);

// Computes out = x + W2 GELU(W1 LayerNorm(x) + b1) + b2 block by block, so that the whole hidden layer is never in
// memory. out (rows, second.n) may be x itself. first.n must equal second.k, and first.k must equal second.n.
void mlp(const MatrixView& x, int64_t rows, const Norm& norm, const Weight& first, const float* first_bias,
         const Weight& second, const float* second_bias, float* out, int64_t out_stride, int64_t threads);

}  // namespace fastsam::linear
