// The upscaling kernel, from coefficients to logits (see Upscaling in decoder.h). A warp takes 16 image tokens of one
// prompt through both steps and the product with the masks' weights in registers, one of the first step's four
// sub-cells after another. The prompt's factors and the second step's matrix stay in shared memory; a multiprocessor
// holds one block. From the first GELU on, factors are half, also in bfloat16: they come from a LayerNorm, so none is
// near the largest half. In float32, a block computes only one sub-cell, and factors stay float.
#pragma once

#include "common/half_pairs.h"
#include "decoder/decoder_cuda_fragments.cuh"

namespace fastsam::decoder::cuda {

constexpr int kMasksAtOnce = 8;

template <typename T, int kSteps>
struct UpscaleShape {
  // With 16-bit elements, there are as many warps as shared memory has room for their coefficients. In float32 it has
  // room for the factors of one sub-cell only, and coefficients are loaded directly to registers.
  static constexpr bool kFloat = kSizeFactor<T> > 1;
  static constexpr int kCells = kFloat ? 1 : 4;
  static constexpr int kThreads = kSteps == 8 && !kFloat ? 512 : 384, kWarps = kThreads / kWarp;
  // Sizes in 16-byte vectors.
  static constexpr int kFactors = kCells * kMiddle / 8 * (kSteps / 2) * kWarp * kSizeFactor<T>,
                       kConv2 = 32 * kWarp * kSizeFactor<T>;
  static constexpr int kCoefficients = kFloat ? 0 : kWarps * kSteps * kWarp;
  static constexpr int kFloats = 4 * kMiddle + 2 * kMiddle + 4 * kNarrow;
  static constexpr int kOuts = kWarps * kMasksAtOnce / 2;
  static constexpr size_t kBytes = 16 * size_t{kFactors + kConv2 + kCoefficients + kOuts + kFloats / 4};
};

// GELU, x * Phi(x) with the normal distribution Phi, of two elements. Arguments must be multiplied by kInputScale, and
// results are multiplied by kOutputScale, both powers of two. Results are packed as a pair of half, three bits finer
// than bfloat16, for use as a left factor.
//
// For half and float32: erfc's approximation of Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964),
// 7.1.26, to 1e-7.
template <typename T>
struct Gelu {
  static constexpr float kInputScale = 1.0f, kOutputScale = 1.0f;

  static __device__ __forceinline__ float apply_scalar(float x) {
    const float z = fabsf(x) * 0.70710678f, t = __fdividef(1.0f, fmaf(0.3275911f, z, 1.0f));
    float series = fmaf(1.061405429f, t, -1.453152027f);
    series = fmaf(series, t, 1.421413741f);
    series = fmaf(series, t, -0.284496736f);
    series = fmaf(series, t, 0.254829592f);
    const float beyond = 0.5f * t * series * exp2_approx(-kLog2E * z * z) * x;
    return x > 0.0f ? x - beyond : beyond;
  }
  static __device__ __forceinline__ uint32_t apply(float x, float y) {
    return pack<half>(apply_scalar(x), apply_scalar(y));
  }
};
// For bfloat16: x (1 + tanh(p(x))) / 2, where p is a fit of atanh(erf(x / sqrt(2))) up to |x| = 4; beyond, the tanh is
// 1 to 6e-5. The fit is accurate to 3e-5, to which half precision and the GPU's tanh add an error of 2^-11 of x. The
// argument is x / 4, whose square a saturating product clamps to 1. Returning half of the result saves a doubling.
template <>
struct Gelu<bfloat16> {
  static constexpr float kInputScale = 0.25f, kOutputScale = 0.5f;

  static __device__ __forceinline__ uint32_t apply(float x, float y) {
    const uint32_t both = pack<half>(x, y), square = pair_mul_sat(both, both);
    const uint32_t slope =
        pair_fma(square, pair_fma(square, pack<half>(-0.35996f, -0.35996f), pack<half>(2.36836f, 2.36836f)),
                 pack<half>(3.19003f, 3.19003f));
    return pair_fma(both, pair_tanh(pair_mul(both, slope)), both);
  }
};

template <>
struct Gelu<float> : Gelu<half> {
  static __device__ __forceinline__ float2 apply(float x, float y) {
    return make_float2(apply_scalar(x), apply_scalar(y));
  }
};

// The type of factors from the first GELU on.
template <typename T>
using Factor = std::conditional_t<std::is_same_v<T, float>, float, half>;

// Convert a pair of T to a pair of factors, multiplied by `times`, a power of two.
template <typename T>
__device__ __forceinline__ Pair<Factor<T>> as_factors(Pair<T> both, float times) {
  const float2 two = unpack<T>(both);
  return pack<Factor<T>>(two.x * times, two.y * times);
}

// LayerNorm over the 64 channels of each row, then GELU, packed as a left factor. `weight` and `bias` must be
// multiplied by Gelu<T>::kInputScale.
template <typename T>
__device__ __forceinline__ void norm_gelu(float (&x)[8][4], const float* weight, const float* bias, float eps,
                                          Pair<Factor<T>> (&to)[4][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int n = 0; n < 8; ++n) sum += x[n][2 * half] + x[n][2 * half + 1];
    const float mean = row_sum(sum) * (1.0f / kMiddle);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float centred = x[n][2 * half + j] - mean;
        x[n][2 * half + j] = centred;
        squares = fmaf(centred, centred, squares);
      }
    }
    const float factor = rsqrtf(fmaf(row_sum(squares), 1.0f / kMiddle, eps));
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 by = *reinterpret_cast<const float2*>(weight + 8 * n + 2 * pair());
      const float2 add = *reinterpret_cast<const float2*>(bias + 8 * n + 2 * pair());
      to[n / 2][n % 2 * 2 + half] =
          Gelu<T>::apply(fmaf(x[n][2 * half] * factor, by.x, add.x), fmaf(x[n][2 * half + 1] * factor, by.y, add.y));
    }
  }
}

// One block: one prompt that has masks, `part_panels` panels and, in float32, one sub-cell of the first step. Its warps
// take turns at the panels. Masks are processed kMasksAtOnce at a time, as the columns of the last product.
template <typename T, int kSteps>
__global__ void __launch_bounds__(UpscaleShape<T, kSteps>::kThreads, 1)
    upscale_kernel(const Upscaling up, int part_panels) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using Shape = UpscaleShape<T, kSteps>;
  DYNAMIC_SHARED(uint4, factors);
  uint4* const conv2 = factors + Shape::kFactors;
  auto* const coefficients = reinterpret_cast<uint32_t*>(conv2 + Shape::kConv2) + warp() * kSteps * 4 * kWarp;
  // Where the masks go; each warp keeps a copy of its own.
  auto* const outs = reinterpret_cast<float**>(conv2 + Shape::kConv2 + Shape::kCoefficients) + warp() * kMasksAtOnce;
  auto* const bias = reinterpret_cast<float*>(conv2 + Shape::kConv2 + Shape::kCoefficients + Shape::kOuts);
  float *const norm_weight = bias + 4 * kMiddle, *const norm_bias = norm_weight + kMiddle,
               *const conv2_bias = norm_bias + kMiddle;
  const int64_t tokens = up.height * up.width, panels = (tokens + 15) / 16, parts = count_parts(panels, part_panels);
  constexpr int kGroups = 4 / Shape::kCells;  // blocks that divide the first step's sub-cells
  const int64_t group_of_cells = blockIdx.x / parts, begin = blockIdx.x % parts * part_panels;
  const int64_t selected = group_of_cells / kGroups;
  const int first_cell = static_cast<int>(group_of_cells % kGroups) * Shape::kCells;
  const int64_t end = min(begin + part_panels, panels);
  const int64_t first = up.mask_offsets[selected], last = up.mask_offsets[selected + 1];
  if (first >= last) return;
  const int thread = static_cast<int>(threadIdx.x);
  copy_vectors(factors, static_cast<const uint4*>(up.factors) + group_of_cells * Shape::kFactors, Shape::kFactors,
               thread, Shape::kThreads);
  copy_vectors(conv2, up.conv2, Shape::kConv2, thread, Shape::kThreads);
  copy_floats(bias, up.bias, 4 * kMiddle, thread, Shape::kThreads);
  copy_floats(norm_weight, up.norm_weight, kMiddle, thread, Shape::kThreads, Gelu<T>::kInputScale);
  copy_floats(norm_bias, up.norm_bias, kMiddle, thread, Shape::kThreads, Gelu<T>::kInputScale);
  copy_floats(conv2_bias, up.conv2_bias, 4 * kNarrow, thread, Shape::kThreads, Gelu<T>::kInputScale);
  cp_async_commit();
  cp_async_wait<0>();
  // Convert the second step's matrix to factors, scaled from the results of the first GELU to the arguments of the
  // second. A thread converts only what it has copied itself, so no barrier is needed before.
  if constexpr (!Shape::kFloat) {
    for (int i = thread; i < Shape::kConv2; i += Shape::kThreads) {
      constexpr float kTimes = Gelu<T>::kInputScale / Gelu<T>::kOutputScale;
      const uint4 four = conv2[i];
      conv2[i] = make_uint4(as_factors<T>(four.x, kTimes), as_factors<T>(four.y, kTimes), as_factors<T>(four.z, kTimes),
                            as_factors<T>(four.w, kTimes));
    }
  }
  __syncthreads();
  const auto* const base = static_cast<const uint4*>(up.base);
  const T* const state = static_cast<const T*>(up.state) + up.selected[selected] * panels * up.rows * 16;
  for (int64_t mask = first; mask < last; mask += kMasksAtOnce) {
    const int masks = static_cast<int>(min(last - mask, int64_t{kMasksAtOnce}));
    // The masks' weights as a right factor of depth 32, with masks as columns.
    Pair<Factor<T>> weights[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const T* const from = static_cast<const T*>(up.weights) + (mask + min(group(), masks - 1)) * kNarrow;
      weights[j] =
          as_factors<T>(*reinterpret_cast<const Pair<T>*>(from + 8 * j + 2 * pair()), 1 / Gelu<T>::kOutputScale);
    }
    __syncwarp();  // all lanes have finished with the last masks' `outs`
    if (lane() < masks) outs[lane()] = up.out + up.out_indices[mask + lane()] * 16 * tokens;
    __syncwarp();
    const int width = static_cast<int>(up.width);
    for (int64_t panel = begin + warp(); panel < end; panel += Shape::kWarps) {
      const T* const from = state + panel * up.rows * 16;
      // Prefetch the next panel's coefficients: at most 33 lines of 128 bytes, or twice as many in float32.
      if (panel + Shape::kWarps < end) {
        constexpr int kRow = 16 * sizeof(T);
        const auto* const next = reinterpret_cast<const char*>(from + Shape::kWarps * up.rows * 16);
        for (int i = lane() * 128; i < up.rows * kRow; i += kWarp * 128) prefetch_l2(next + i);
      }
      Pair<T> left[kSteps][4];
      float base_scale[2];
      if constexpr (!Shape::kFloat) {
        for (int i = lane(); i < kSteps * kWarp; i += kWarp) {
          const int row = i / 2;
          uint32_t* const to = coefficients + (row / 16 * 4 + row / 8 % 2 * 2 + i % 2) * kWarp + row % 8 * 4;
          const bool inside = row < up.rows;
          cp_async_16(to, inside ? from + row * 16 + i % 2 * 8 : from, inside);
        }
        cp_async_commit();
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        base_scale[half] = to_float(from[(up.rows - 2) * 16 + group() + 8 * half]);
      }
      if constexpr (!Shape::kFloat) {
        cp_async_wait<0>();
        __syncwarp();
#pragma unroll
        for (int step = 0; step < kSteps; ++step) load_tiles_transposed<T>(left[step], coefficients + step * 4 * kWarp);
        __syncwarp();
      } else {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const T* const rows = from + step * 16 * 16;
          const int count = static_cast<int>(up.rows) - step * 16;
          load_columns(left[step], rows, count, rows + 8 * 16, count - 8);
        }
      }
      const int token = static_cast<int>(panel) * 16 + group();  // fits: there are at most 2^28
      int64_t pixel_offsets[2];                                  // offset of the first pixel of each of the two tokens
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int y = (token + 8 * half) / width, x = token + 8 * half - y * width;
        pixel_offsets[half] = int64_t{16} * y * width + 4 * x;
      }
      // This loop and the inner one must not be unrolled: there would not be enough registers.
#pragma unroll 1
      for (int cell = first_cell; cell < first_cell + Shape::kCells; ++cell) {
        float sums[8][4];
#pragma unroll
        for (int n = 0; n < 8; n += 2) {
          Pair<T> image[4];
          load_fragment(image, base, panel * 16 + cell * 4 + n / 2);
#pragma unroll
          for (int j = 0; j < 4; ++j) {  // rows g and g + 8 of one group of 8 columns, then of the next
            const float2 two = unpack<T>(image[j]);
            const float* const add = bias + cell * kMiddle + (n + j / 2) * 8 + 2 * pair();
            sums[n + j / 2][j % 2 * 2] = fmaf(two.x, base_scale[j % 2], add[0]);
            sums[n + j / 2][j % 2 * 2 + 1] = fmaf(two.y, base_scale[j % 2], add[1]);
          }
        }
#pragma unroll
        for (int step = 0; step < kSteps; step += 2) {
#pragma unroll
          for (int n = 0; n < 8; ++n) {
            const int number = ((cell - first_cell) * 8 + n) * (kSteps / 2) + step / 2;
            multiply<T>(sums[n], left[step], left[step + 1], factors + number * kWarp * kSizeFactor<T>);
          }
        }
        Pair<Factor<T>> cells[4][4];
        norm_gelu<T>(sums, norm_weight, norm_bias, up.norm_eps, cells);
#pragma unroll 1
        for (int down = 0; down < 2; ++down) {
          float logits[2][4] = {};  // of two horizontally adjacent sub-cells
#pragma unroll
          for (int across = 0; across < 2; ++across) {
            const int part = 2 * down + across;
            Pair<Factor<T>> packed[2][4];
#pragma unroll
            for (int n = 0; n < 4; ++n) {
              float conv2_sums[4];
#pragma unroll
              for (int j = 0; j < 4; ++j) conv2_sums[j] = conv2_bias[part * kNarrow + n * 8 + 2 * pair() + j % 2];
              multiply_rows<Factor<T>>(conv2_sums, cells, conv2 + (part * 4 + n) * 2 * kWarp * kSizeFactor<T>);
#pragma unroll
              for (int half = 0; half < 2; ++half) {
                packed[n / 2][n % 2 * 2 + half] = Gelu<T>::apply(conv2_sums[2 * half], conv2_sums[2 * half + 1]);
              }
            }
            multiply<Factor<T>>(logits[across], packed[0], make_right(weights[0], weights[1]));
            multiply<Factor<T>>(logits[across], packed[1], make_right(weights[2], weights[3]));
          }
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            if (2 * pair() + j >= masks) continue;
            float* const mask_out = outs[2 * pair() + j] + (cell / 2 * 2 + down) * 4 * up.width + cell % 2 * 2;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              if (token + 8 * half >= tokens) continue;
              *reinterpret_cast<float2*>(mask_out + pixel_offsets[half]) =
                  make_float2(logits[0][2 * half + j], logits[1][2 * half + j]);
            }
          }
        }
      }
    }
  }
#endif
}

}  // namespace fastsam::decoder::cuda
