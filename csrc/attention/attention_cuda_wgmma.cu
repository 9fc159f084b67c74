// Launches of the wgmma attention kernel (attention_cuda_wgmma.cuh), and the check of which calls it covers.
#include "attention/attention_cuda_wgmma.cuh"

#include "attention/attention_cuda_launch.cuh"

namespace fastsam::attention {
namespace {

constexpr size_t kMaxSharedMemory = 227 * 1024;

template <typename T, int kDim>
void launch_wgmma(const Grid& grid, const Tensors<T>& tensors, void* stream) {
  using Traits = WgmmaTraits<kDim>;
  Params<T> params = make_params(grid, tensors);
  plan_key_tiles(&params, Traits::kKeys);
  const int64_t queries = grid.rows * grid.columns;
  params.query_blocks = static_cast<int>((queries + Traits::kQueries - 1) / Traits::kQueries);
  const unsigned blocks = cuda::blocks_for(grid.batch * grid.heads * params.query_blocks, 1);
  const size_t bytes = Traits::bytes(params.rows);
  launch((attend_wgmma<T, kDim>), blocks, Traits::kThreads, bytes, static_cast<cudaStream_t>(stream), params);
}

template <typename T>
void launch_typed(const Grid& grid, const void* qkv, const void* rel_pos_h, const void* rel_pos_w, void* out,
                  void* stream) {
  const Tensors<T> tensors{static_cast<const T*>(qkv),       nullptr, static_cast<const T*>(rel_pos_h),
                           static_cast<const T*>(rel_pos_w), nullptr, static_cast<T*>(out)};
  if (grid.dim == 64) return launch_wgmma<T, 64>(grid, tensors, stream);
  launch_wgmma<T, 80>(grid, tensors, stream);
}

}  // namespace

bool has_wgmma_kernel(const Grid& grid, DType dtype) {
  if ((dtype != DType::float16 && dtype != DType::bfloat16) || !has_positions_kernel(grid.dim)) return false;
  if (grid.window_rows != grid.rows || grid.window_columns != grid.columns) return false;
  // A narrower grid would leave at least half of each tile of 64 keys empty; a row of a wider one doesn't fit a tile.
  if (grid.columns <= 32 || grid.columns > 64 || grid.rows > 1024) return false;
  const int rows = static_cast<int>(grid.rows);
  return (grid.dim == 64 ? WgmmaTraits<64>::bytes(rows) : WgmmaTraits<80>::bytes(rows)) <= kMaxSharedMemory;
}

void with_relative_positions_wgmma(const Grid& grid, DType dtype, const void* qkv, const void* rel_pos_h,
                                   const void* rel_pos_w, void* out, void* stream) {
  if (!has_wgmma_kernel(grid, dtype)) throw std::invalid_argument("attention: there is no wgmma kernel for this call");
  if (dtype == DType::float16) return launch_typed<half>(grid, qkv, rel_pos_h, rel_pos_w, out, stream);
  launch_typed<bfloat16>(grid, qkv, rel_pos_h, rel_pos_w, out, stream);
}

}  // namespace fastsam::attention
