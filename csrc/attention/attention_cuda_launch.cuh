// Launches of the mma.sync attention kernel: fills in its parameters, divides a window's keys into tiles, and chooses
// the kernel that suits the window and the device.
#pragma once

#include <algorithm>
#include <cmath>

#include "attention/attention_cuda_call.cuh"
#include "attention/attention_cuda_kernel.cuh"

namespace fastsam::attention {

template <typename T, int kDim, Bias kBias, bool kWide>
void launch_kernel(const Grid& grid, Job<T> job, void* stream) {
  using Size = Shape<T, kDim, kBias, kWide>;
  const int64_t queries = std::min<int64_t>(job.window_rows, job.rows) * std::min(job.window_columns, job.columns);
  job.query_blocks = static_cast<int>((queries + Size::kQueries - 1) / Size::kQueries);
  const int64_t windows = grid.batch * job.windows_down * job.windows_across;
  const unsigned blocks = cuda::blocks_for(windows * job.heads * job.query_blocks, 1);
  launch((attend<T, kDim, kBias, kWide>), blocks, Size::kThreads, Size::kBytes, static_cast<cudaStream_t>(stream), job);
}

template <typename T>
Job<T> job_of(const Grid& grid, const Tensors<T>& tensors) {
  Job<T> job{};
  job.qkv = tensors.qkv, job.padding = tensors.padding;
  job.rows_table = tensors.rows_table, job.columns_table = tensors.columns_table, job.bias = tensors.bias;
  job.out = tensors.out;
  job.token = 3 * grid.heads * grid.dim;
  job.head = grid.head, job.key = grid.key, job.value = grid.value;
  job.heads = static_cast<int>(grid.heads);
  job.rows = static_cast<int>(grid.rows), job.columns = static_cast<int>(grid.columns);
  job.window_rows = static_cast<int>(grid.window_rows), job.window_columns = static_cast<int>(grid.window_columns);
  job.windows_down = (job.rows + job.window_rows - 1) / job.window_rows;
  job.windows_across = (job.columns + job.window_columns - 1) / job.window_columns;
  const double root = std::sqrt(static_cast<double>(grid.dim));
  job.scale = static_cast<float>(1.4426950408889634 / root);
  job.position_scale = static_cast<float>(root);
  return job;
}

// Divide a window with position terms into tiles of `slots` keys: several whole rows per tile if at least two fit, each
// padded to a multiple of 8 slots; otherwise one row, or an equal part of one, per tile.
template <typename T>
void cut_into_tiles(Job<T>* job, int slots) {
  const int width = job->window_columns;
  job->pitch = (width + 7) / 8 * 8;
  if (2 * job->pitch <= slots) {
    job->tile_rows = slots / job->pitch;
    job->strip = width;
  } else {
    const int strips = (width + slots - 1) / slots;
    job->tile_rows = 1;
    job->strip = ((width + strips - 1) / strips + 7) / 8 * 8;
    job->pitch = slots;
  }
  job->inverse_pitch = static_cast<unsigned>((65536 + job->pitch - 1) / job->pitch);
}

template <typename T, int kDim, bool kWide>
void launch_positions(const Grid& grid, Job<T> job, void* stream) {
  cut_into_tiles(&job, Shape<T, kDim, Bias::kOneRow, kWide>::kKeys);
  if (!kWide && job.tile_rows > 1) {
    launch_kernel<T, kDim, Bias::kManyRows, false>(grid, job, stream);
  } else {
    launch_kernel<T, kDim, Bias::kOneRow, kWide>(grid, job, stream);
  }
}

// Return whether two wide blocks fit a multiprocessor with `shared` bytes of shared memory. Each block occupies a
// kilobyte more than it requests.
template <typename T, int kDim>
bool has_room_for_wide(int64_t shared) {
  return 2 * (Shape<T, kDim, Bias::kOneRow, true>::kBytes + 1024) <= static_cast<uint64_t>(shared);
}

template <typename T, int kDim>
void choose_positions(const Grid& grid, const Tensors<T>& tensors, int64_t shared, void* stream) {
  const Job<T> job = job_of(grid, tensors);
  if constexpr (sizeof(T) == 2) {
    // Windows of up to 32 columns would leave much of a wide tile of 64 keys empty.
    if (job.window_columns > 32 && has_room_for_wide<T, kDim>(shared)) {
      return launch_positions<T, kDim, true>(grid, job, stream);
    }
  }
  launch_positions<T, kDim, false>(grid, job, stream);
}

template <typename T>
void with_relative_positions_of(const Grid& grid, const Tensors<T>& tensors, int64_t shared, void* stream) {
  if (grid.dim == 64) return choose_positions<T, 64>(grid, tensors, shared, stream);
  choose_positions<T, 80>(grid, tensors, shared, stream);
}

template <typename T>
void with_bias_of(const Grid& grid, const Tensors<T>& tensors, void* stream) {
  Job<T> job = job_of(grid, tensors);
  job.tile_rows = 1, job.strip = job.pitch = Shape<T, 32, Bias::kDense, false>::kKeys;
  launch_kernel<T, 32, Bias::kDense, false>(grid, job, stream);
}

}  // namespace fastsam::attention
