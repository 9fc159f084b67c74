// Fully connected layers: out = activation(LayerNorm(x) W^T + bias) + residual, float32.
//
// Weights are read as they are (out features, in features) and packed anew in each call, into scratch memory that calls
// share, so nothing can go stale. Results do not depend on the number of threads.
#pragma once

#include <cstdint>

#include "linear/linear_table.h"

namespace fastsam::linear {

// (rows, columns), rows `stride` floats apart.
struct Rows {
  const float* data;
  int64_t stride;
};

struct Weight {
  const float* data;  // (n, k)
  int64_t stride;
  int64_t n, k;
};

// LayerNorm over a row's k values; none where weight is null.
struct Norm {
  const float* weight = nullptr;  // (k)
  const float* bias = nullptr;    // (k)
  float eps = 0.0f;
};

// out (rows, n) from x (rows, k). finish.residual may be finish.out; else out must not overlap what is read.
void linear(const Rows& x, int64_t rows, const Norm& norm, const Weight& weight, const LinearFinish& finish,
            int64_t threads);

// out = x + W2 gelu(W1 LayerNorm(x) + b1) + b2, some rows at a time, so that the hidden layer never exists as a whole.
// out (rows, second.n) may be x itself; first.n is second.k, and first.k is second.n.
void mlp(const Rows& x, int64_t rows, const Norm& norm, const Weight& first, const float* first_bias,
         const Weight& second, const float* second_bias, float* out, int64_t out_stride, int64_t threads);

}  // namespace fastsam::linear
