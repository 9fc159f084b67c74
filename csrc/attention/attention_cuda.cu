// Attention on the GPU (attention_cuda.h): checks sizes and dispatches on the element type.
#include "attention/attention_cuda.h"

#include <stdexcept>

#include "attention/attention_cuda_call.cuh"
#include "common/cuda.h"

namespace fastsam::attention {
namespace {

// Positions in a window are 32-bit integers in the kernels.
constexpr int64_t kMaxTokens = int64_t{1} << 28;

void check_size(const Grid& grid) {
  const bool fits = grid.rows <= kMaxTokens && grid.columns <= kMaxTokens && grid.heads <= kMaxTokens &&
                    grid.window_rows <= kMaxTokens / grid.window_columns;
  if (!fits) throw std::invalid_argument("attention: the token grid or its windows have more than 2^28 tokens");
}

template <typename T>
Tensors<T> cast_tensors(const void* qkv, const void* padding, const void* rel_pos_h, const void* rel_pos_w,
                        const void* bias, void* out) {
  return {static_cast<const T*>(qkv),       static_cast<const T*>(padding), static_cast<const T*>(rel_pos_h),
          static_cast<const T*>(rel_pos_w), static_cast<const T*>(bias),    static_cast<T*>(out)};
}

// Call `run` with the pointers cast to the element type that `dtype` names.
template <typename Run>
void dispatch(DType dtype, const void* qkv, const void* padding, const void* rel_pos_h, const void* rel_pos_w,
              const void* bias, void* out, const Run& run) {
  switch (dtype) {
    case DType::float32:
      return run(cast_tensors<float>(qkv, padding, rel_pos_h, rel_pos_w, bias, out));
    case DType::float16:
      return run(cast_tensors<cuda::half>(qkv, padding, rel_pos_h, rel_pos_w, bias, out));
    case DType::bfloat16:
      return run(cast_tensors<cuda::bfloat16>(qkv, padding, rel_pos_h, rel_pos_w, bias, out));
  }
  throw std::invalid_argument("attention: there are no kernels for this dtype");
}

}  // namespace

void with_relative_positions_cuda(const Grid& grid, DType dtype, const void* qkv, const void* padding,
                                  const void* rel_pos_h, const void* rel_pos_w, void* out, int64_t shared_memory,
                                  void* stream) {
  if (!has_positions_kernel(grid.dim))
    throw std::invalid_argument("attention: there are no kernels for this number of channels per head");
  check_size(grid);
  dispatch(dtype, qkv, padding, rel_pos_h, rel_pos_w, nullptr, out,
           [&](const auto& tensors) { launch_with_relative_positions(grid, tensors, shared_memory, stream); });
}

void with_bias_cuda(const Grid& grid, DType dtype, const void* qkv, const void* padding, const void* bias, void* out,
                    void* stream) {
  if (!has_bias_kernel(grid.dim))
    throw std::invalid_argument("attention: there are no kernels for this number of channels per head");
  check_size(grid);
  dispatch(dtype, qkv, padding, nullptr, nullptr, bias, out,
           [&](const auto& tensors) { launch_with_bias(grid, tensors, stream); });
}

}  // namespace fastsam::attention
