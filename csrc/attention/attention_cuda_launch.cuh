// Launches of the mma.sync attention kernel: fills in its parameters, divides a window's keys into tiles, and chooses
// the kernel that suits the window and the device.
#pragma once

#include <algorithm>
#include <cmath>

#include "attention/attention_cuda_call.cuh"
#include "attention/attention_cuda_kernel.cuh"

namespace fastsam::attention {

template <typename T, int kDim, Bias kBias, bool kWide>
void launch_kernel(const Grid& grid, Params<T> params, void* stream) {
  using Traits = KernelTraits<T, kDim, kBias, kWide>;
  const int64_t queries =
      std::min<int64_t>(params.window_rows, params.rows) * std::min(params.window_columns, params.columns);
  params.query_blocks = static_cast<int>((queries + Traits::kQueries - 1) / Traits::kQueries);
  const int64_t windows = grid.batch * params.windows_y * params.windows_x;
  const unsigned blocks = cuda::blocks_for(windows * params.heads * params.query_blocks, 1);
  launch((attend<T, kDim, kBias, kWide>), blocks, Traits::kThreads, Traits::kBytes, static_cast<cudaStream_t>(stream),
         params);
}

template <typename T>
Params<T> make_params(const Grid& grid, const Tensors<T>& tensors) {
  Params<T> params{};
  params.qkv = tensors.qkv, params.padding = tensors.padding;
  params.rel_pos_h = tensors.rel_pos_h, params.rel_pos_w = tensors.rel_pos_w, params.bias = tensors.bias;
  params.out = tensors.out;
  params.token_stride = 3 * grid.heads * grid.dim;
  params.head_stride = grid.head_stride, params.key_offset = grid.key_offset, params.value_offset = grid.value_offset;
  params.heads = static_cast<int>(grid.heads);
  params.rows = static_cast<int>(grid.rows), params.columns = static_cast<int>(grid.columns);
  params.window_rows = static_cast<int>(grid.window_rows),
  params.window_columns = static_cast<int>(grid.window_columns);
  params.windows_y = (params.rows + params.window_rows - 1) / params.window_rows;
  params.windows_x = (params.columns + params.window_columns - 1) / params.window_columns;
  const double root = std::sqrt(static_cast<double>(grid.dim));
  params.scale = static_cast<float>(1.4426950408889634 / root);
  params.position_scale = static_cast<float>(root);
  return params;
}

// Divide a window with position terms into tiles of `slots` keys: several whole rows per tile if at least two fit, each
// padded to a multiple of 8 slots; otherwise one row, or an equal part of one, per tile.
template <typename T>
void plan_key_tiles(Params<T>* params, int slots) {
  const int width = params->window_columns;
  params->row_slots = (width + 7) / 8 * 8;
  if (2 * params->row_slots <= slots) {
    params->tile_rows = slots / params->row_slots;
    params->strip_columns = width;
  } else {
    const int strips = (width + slots - 1) / slots;
    params->tile_rows = 1;
    params->strip_columns = ((width + strips - 1) / strips + 7) / 8 * 8;
    params->row_slots = slots;
  }
  params->inverse_row_slots = static_cast<unsigned>((65536 + params->row_slots - 1) / params->row_slots);
}

template <typename T, int kDim, bool kWide>
void launch_positions(const Grid& grid, Params<T> params, void* stream) {
  plan_key_tiles(&params, KernelTraits<T, kDim, Bias::kOneRow, kWide>::kKeys);
  if (!kWide && params.tile_rows > 1) {
    launch_kernel<T, kDim, Bias::kManyRows, false>(grid, params, stream);
  } else {
    launch_kernel<T, kDim, Bias::kOneRow, kWide>(grid, params, stream);
  }
}

// Return whether two wide blocks fit a multiprocessor with `shared_memory` bytes of shared memory. Each block occupies
// a kilobyte more than it requests.
template <typename T, int kDim>
bool fits_wide_blocks(int64_t shared_memory) {
  return 2 * (KernelTraits<T, kDim, Bias::kOneRow, true>::kBytes + 1024) <= static_cast<uint64_t>(shared_memory);
}

template <typename T, int kDim>
void dispatch_relative_positions(const Grid& grid, const Tensors<T>& tensors, int64_t shared_memory, void* stream) {
  const Params<T> params = make_params(grid, tensors);
  if constexpr (sizeof(T) == 2) {
    // Windows of up to 32 columns would leave much of a wide tile of 64 keys empty.
    if (params.window_columns > 32 && fits_wide_blocks<T, kDim>(shared_memory)) {
      return launch_positions<T, kDim, true>(grid, params, stream);
    }
  }
  launch_positions<T, kDim, false>(grid, params, stream);
}

template <typename T>
void launch_with_relative_positions(const Grid& grid, const Tensors<T>& tensors, int64_t shared_memory, void* stream) {
  if (grid.dim == 64) return dispatch_relative_positions<T, 64>(grid, tensors, shared_memory, stream);
  dispatch_relative_positions<T, 80>(grid, tensors, shared_memory, stream);
}

template <typename T>
void launch_with_bias(const Grid& grid, const Tensors<T>& tensors, void* stream) {
  Params<T> params = make_params(grid, tensors);
  params.tile_rows = 1, params.strip_columns = params.row_slots = KernelTraits<T, 32, Bias::kDense, false>::kKeys;
  launch_kernel<T, 32, Bias::kDense, false>(grid, params, stream);
}

}  // namespace fastsam::attention
