// Global attention with Hopper's wgmma instructions, for 16-bit elements and grids of up to 64 columns: a tile of keys
// is one row of the grid.
//
// A block computes 192 queries of one head. Three consumer warpgroups own 64 queries each. The fourth, the producer,
// copies keys and values into a ring of stages. After the start they synchronise only by mbarriers in shared memory, so
// that one group's softmax overlaps with the products of the others. Queries, scores, weights, the columns' position
// terms and the output stay in registers; the rows' terms lie in shared memory from the start. The fragment layouts,
// position terms and softmax are those of the mma.sync kernel.
//
// As compiled by CUDA 13.0 for sm_90a: 149 of the 160 registers with d = 64, 157 with d = 80, no spills, products not
// serialised; 169 KB and 199 KB of shared memory with 64 rows, one block per multiprocessor. Per tile a warp issues
// some 270 instructions, 34 of them powers of two, which take 8 cycles each, and products of 256 cycles (d = 64). Each
// of the three could be the bottleneck, and the three warps of a scheduler share them.
#pragma once

#include "attention/attention_cuda_positions.cuh"
#include "attention/attention_cuda_softmax.cuh"
#include "common/wgmma.h"

namespace fastsam::attention {

// The layout of a tile of keys or values (64 tokens x kDim channels) for wgmma: consecutive panels of 64 channels,
// whose rows of 128 bytes have the 128-byte swizzle. If 64 doesn't divide kDim, panels have 16 channels, and rows of 32
// bytes with the 32-byte swizzle.
template <int kDim>
struct Panels {
  static constexpr int kKeys = 64;
  static constexpr int kChannels = kDim % 64 == 0 ? 64 : 16, kCount = kDim / kChannels;
  static constexpr int kRowBytes = 2 * kChannels, kVectorsPerRow = kRowBytes / 16;
  static constexpr int kPanelBytes = kKeys * kRowBytes, kBytes = kCount * kPanelBytes;
  static constexpr Swizzle kSwizzle = kRowBytes == 128 ? Swizzle::k128Bytes : Swizzle::k32Bytes;
  static_assert(kDim % kChannels == 0);

  // Byte offset of a row's 16-byte vector in its panel. A panel must begin at a multiple of 1024 bytes.
  static __device__ __forceinline__ int offset(int row, int vector) {
    const int at = row * kRowBytes + vector * 16;
    return at ^ (at >> 3 & (kRowBytes - 16));
  }
  // Descriptor of the right factor of queries x keys: 64 keys as columns, channels [16 * step, 16 * step + 16) as
  // depth.
  static __device__ __forceinline__ uint64_t keys(uint32_t tile, int step) {
    const int channel = 16 * step;
    return wgmma_descriptor(tile + channel / kChannels * kPanelBytes + channel % kChannels * 2, 16, 8 * kRowBytes,
                            kSwizzle);
  }
  // Descriptor of the right factor of weights x values: channels as columns, keys [16 * step, 16 * step + 16) as depth.
  static __device__ __forceinline__ uint64_t values(uint32_t tile, int step) {
    return wgmma_descriptor(tile + 16 * step * kRowBytes, kPanelBytes, 8 * kRowBytes, kSwizzle);
  }
};

// The sizes of the kernel: threads, registers, and shared memory.
template <int kDim>
struct WgmmaTraits {
  static constexpr int kGroups = 3, kConsumerThreads = 128 * kGroups, kThreads = kConsumerThreads + 128;
  static constexpr int kWarps = kConsumerThreads / kWarp, kQueries = 64 * kGroups, kKeys = 64;
  // Registers per thread after reallocation; a multiprocessor has 65536.
  static constexpr int kConsumerRegisters = 160, kProducerRegisters = 32;
  static_assert(kConsumerThreads * kConsumerRegisters + 128 * kProducerRegisters <= 65536);
  static constexpr int kProducerWarps = 4;
  static constexpr int kStages = 6;  // stages of the ring, of one tile of keys and one of values each
  static constexpr int kAlignment = 1024;
  static constexpr int kTileBytes = Panels<kDim>::kBytes, kStageBytes = 2 * kTileBytes;
  static constexpr int kQueryBytes = 2 * kQueries * kDim;
  static_assert(kTileBytes % kAlignment == 0 && kQueryBytes % kAlignment == 0);
  // Each stage has a barrier for "tile has arrived" and one for "tile is consumed"; each warpgroup has one for its
  // queries and one for its turn to issue products.
  static constexpr int kBarriers = 2 * kStages + 2 * kGroups, kBarrierBytes = 256;
  static_assert(kBarrierBytes >= 8 * kBarriers);

  // Number of rows of 16 terms in a warp's scratch memory: one per grid row, at least 64 because the column terms go
  // through the same memory.
  static __host__ __device__ constexpr int term_rows(int rows) {
    return rows <= kKeys ? kKeys : (rows + kTermRows - 1) / kTermRows * kTermRows;
  }
  static constexpr size_t bytes(int rows) {
    // Dynamic shared memory is aligned to 128 bytes; the stages begin at the next multiple of 1024 after the barriers.
    return kBarrierBytes + kAlignment - 128 + kStages * kStageBytes + kQueryBytes +
           sizeof(float) * kWarps * 16 * term_rows(rows);
  }
};

// The block's mbarriers. full(stage): the tile has arrived. empty(stage): the consumers have finished with it.
// queries(group): the warpgroup's queries have arrived. turn(group): the warpgroup may issue its products.
template <int kStages>
struct TileBarriers {
  uint64_t* barriers;
  __device__ __forceinline__ uint64_t* full(int stage) const { return barriers + stage; }
  __device__ __forceinline__ uint64_t* empty(int stage) const { return barriers + kStages + stage; }
  __device__ __forceinline__ uint64_t* queries(int group) const { return barriers + 2 * kStages + 2 * group; }
  __device__ __forceinline__ uint64_t* turn(int group) const { return barriers + 2 * kStages + 2 * group + 1; }
};

// A position in the ring: the stage, and the parity of that stage's current phase.
template <int kStages>
struct PipelineState {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance(int tiles = 1) {
    stage += tiles;
    if (stage >= kStages) stage -= kStages, parity ^= 1;
  }
};

// The producer warpgroup. Each of its four warps copies every fourth tile as soon as its stage is free, and waits for
// the copy before the next, so that up to four tiles are in flight.
template <typename T, int kDim>
__device__ __forceinline__ void run_producer(const Params<T>& params, const Window<T>& window, unsigned char* stages,
                                             const TileBarriers<WgmmaTraits<kDim>::kStages>& barriers) {
  using Traits = WgmmaTraits<kDim>;
  using Tiles = Panels<kDim>;
  constexpr int kRows = kWarp / Tiles::kVectorsPerRow;  // rows of a panel that the warp copies at a time
  const int warp = (static_cast<int>(threadIdx.x) - Traits::kConsumerThreads) / kWarp;
  const int first = lane() / Tiles::kVectorsPerRow, vector = lane() % Tiles::kVectorsPerRow;
  PipelineState<Traits::kStages> pipe_state{warp, 0};
  static_assert(Traits::kProducerWarps <= Traits::kStages);
#pragma unroll 1
  for (int y = warp; y < params.rows; y += Traits::kProducerWarps, pipe_state.advance(Traits::kProducerWarps)) {
    mbarrier_wait(barriers.empty(pipe_state.stage),
                  pipe_state.parity ^ 1);  // returns at once in the first round, when all are free
    unsigned char* const keys = stages + pipe_state.stage * Traits::kStageBytes;
    const T* from = window.tokens + (int64_t{y} * params.columns + first) * params.token_stride + vector * 8;
#pragma unroll 2
    for (int slot = first; slot < Traits::kKeys; slot += kRows) {
      const bool is_key = slot < params.columns;
      const T* const token = is_key ? from : window.tokens;
      const int to = Tiles::offset(slot, vector);
#pragma unroll
      for (int panel = 0; panel < Tiles::kCount; ++panel) {
        unsigned char* const at = keys + to + panel * Tiles::kPanelBytes;
        cp_async_16(at, token + panel * Tiles::kChannels + params.key_offset, is_key);
        cp_async_16(at + Traits::kTileBytes, token + panel * Tiles::kChannels + params.value_offset, is_key);
      }
      from += kRows * params.token_stride;
    }
    cp_async_commit();
    cp_async_wait<0>();
    fence_proxy_async();
    mbarrier_arrive(barriers.full(pipe_state.stage));
  }
}

// Issue scores += queries x keys as one group of asynchronous products. `scores` holds the column terms before.
template <typename T, int kDim>
__device__ __forceinline__ void issue_scores(float (&scores)[8][4], const uint32_t (&queries)[kDim / 16][4],
                                             uint32_t keys) {
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    wgmma<T, false>(scores, queries[step], Panels<kDim>::keys(keys, step));
  }
  wgmma_commit();
}

// Issue out += weights x values as one group of asynchronous products.
template <typename T, int kDim>
__device__ __forceinline__ void issue_values(float (&out)[kDim / 8][4], const uint32_t (&weights)[4][4],
                                             uint32_t values) {
#pragma unroll
  for (int step = 0; step < 4; ++step) wgmma<T, true>(out, weights[step], Panels<kDim>::values(values, step));
  wgmma_commit();
}

// A consumer warpgroup, of which `num_consumers` take part. Each of its warps owns 16 queries. Per tile: turn the
// scores into weights, issue out += weights x values and the next tile's scores together, then wait for both.
template <typename T, int kDim>
__device__ __forceinline__ void run_consumer(const Params<T>& params, const Window<T>& window, int num_consumers,
                                             T* queries, float* block_terms, uint32_t stages,
                                             const TileBarriers<WgmmaTraits<kDim>::kStages>& barriers) {
  using Traits = WgmmaTraits<kDim>;
  // The groups issue their products in turn, so that they don't all compute the softmax at the same time and leave the
  // tensor cores idle. With 80 channels there are not enough registers for this.
  constexpr bool kTakeTurns = kDim == 64;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, row = warp * 16, warpgroup = warp / 4;
  // A group copies its own queries and waits only for them, not for the other groups.
  copy_queries<T, kDim, Traits::kConsumerThreads, 64, Traits::kQueries>(params, window, queries);
  cp_async_commit();
  cp_async_wait<0>();
  mbarrier_arrive(barriers.queries(warpgroup));
  mbarrier_wait(barriers.queries(warpgroup), 0);

  float* const terms = block_terms + warp * 16 * Traits::term_rows(params.rows);
  float columns[8][4], scores[1][8][4];
  compute_column_terms<T, kDim, 64>(params, window, queries, row, 0, terms);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      columns[n][j] = terms[term_index<64>(group() + 8 * (j / 2), n * 8 + 2 * pair() + j % 2)];
    }
  }
  const float factor = params.position_scale * params.scale;
  for (int y = 0; y < params.rows; y += kTermRows) {
    compute_row_terms<T, kDim, 16>(params, window, queries, row, y, factor, terms + 16 * y);
  }
  uint32_t query_fragments[kDim / 16][4], weights[4][4];
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    FragmentA<T> part;
    load_query_fragment<kDim>(part, queries, row, step);
#pragma unroll
    for (int i = 0; i < 4; ++i) query_fragments[step][i] = part.x[i];
  }
  const auto init_scores = [&] {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) scores[0][n][j] = columns[n][j];
    }
  };
  SoftmaxState<kDim, 1> state;
  state.clear();
  // Turn the scores of key row `y` into weights.
  const auto compute_weights = [&](int y) {
    const float* const row_term = terms + 16 * y + group();
    const float shift[1][2] = {{row_term[0], row_term[8]}};
    softmax_step(scores, params.scale, shift, state);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      FragmentA<T> part;
      to_fragment_a(part, scores[0][2 * step], scores[0][2 * step + 1]);
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[step][i] = part.x[i];
    }
  };

  PipelineState<Traits::kStages> pipe_state;
  init_scores();
  wgmma_fence_operand(scores[0]);
  wgmma_fence_operand(query_fragments);
  mbarrier_wait(barriers.full(0), 0);
  wgmma_fence();
  issue_scores<T, kDim>(scores[0], query_fragments, stages);
  wgmma_wait<0>();
  wgmma_fence_operand(scores[0]);
#pragma unroll 1
  for (int y = 0; y < params.rows - 1; ++y) {
    compute_weights(y);
    init_scores();
    wgmma_fence_operand(weights);
    wgmma_fence_operand(state.out[0]);
    wgmma_fence_operand(scores[0]);
    // The parity is flipped for group 0, whose first turn must not wait for the last group.
    if (kTakeTurns) mbarrier_wait(barriers.turn(warpgroup), (y & 1) ^ (warpgroup == 0));
    wgmma_fence();
    const int stage = pipe_state.stage;
    issue_values<T, kDim>(state.out[0], weights, stages + stage * Traits::kStageBytes + Traits::kTileBytes);
    pipe_state.advance();
    mbarrier_wait(barriers.full(pipe_state.stage), pipe_state.parity);
    wgmma_fence();  // ptxas wants it for registers that are live across the wait loop above; it waits for nothing
    issue_scores<T, kDim>(scores[0], query_fragments, stages + pipe_state.stage * Traits::kStageBytes);
    if (kTakeTurns && lane() == 0) mbarrier_arrive(barriers.turn(warpgroup + 1 == num_consumers ? 0 : warpgroup + 1));
    wgmma_wait<0>();
    wgmma_fence_operand(state.out[0]);
    wgmma_fence_operand(scores[0]);
    if (lane() == 0) mbarrier_arrive(barriers.empty(stage));
  }
  compute_weights(params.rows - 1);
  wgmma_fence_operand(weights);
  wgmma_fence_operand(state.out[0]);
  wgmma_fence();
  issue_values<T, kDim>(state.out[0], weights, stages + pipe_state.stage * Traits::kStageBytes + Traits::kTileBytes);
  wgmma_wait<0>();
  wgmma_fence_operand(state.out[0]);
  // Recompute where the output goes, instead of holding it in registers, all of which are in use during the loop.
  store_output<T, kDim, 1>(params, locate_window(params, opaque(Traits::kQueries)), row, state, queries);
}

// The kernel: four warpgroups per block, see the head of this file. Launch it with WgmmaTraits::kThreads threads and
// WgmmaTraits::bytes(rows) bytes of dynamic shared memory.
template <typename T, int kDim>
__global__ void __launch_bounds__(WgmmaTraits<kDim>::kThreads, 1) attend_wgmma(const Params<T> params) {
#ifdef FASTSAM_HAS_WGMMA
  using Traits = WgmmaTraits<kDim>;
  DYNAMIC_SHARED(unsigned char, shared);
  const TileBarriers<Traits::kStages> barriers{reinterpret_cast<uint64_t*>(shared)};
  unsigned char* const after_barriers = shared + Traits::kBarrierBytes;
  unsigned char* const stages = after_barriers + (-shared_address(after_barriers) & (Traits::kAlignment - 1));
  T* const queries = reinterpret_cast<T*>(stages + Traits::kStages * Traits::kStageBytes);
  float* const terms = reinterpret_cast<float*>(queries + Traits::kQueries * kDim);
  const Window<T> window = locate_window(params, Traits::kQueries);
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  // Number of consumer warpgroups that have queries; the others exit at once.
  const int num_consumers = min(Traits::kGroups, (window.count() - window.first + 63) / 64);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Traits::kStages; ++stage) {
      mbarrier_init(barriers.full(stage), kWarp);
      mbarrier_init(barriers.empty(stage), 4 * num_consumers);  // one lane of each warp
    }
    for (int i = 0; i < Traits::kGroups; ++i) {
      mbarrier_init(barriers.queries(i), 128);
      mbarrier_init(barriers.turn(i), 4);
    }
  }
  __syncthreads();  // the barriers are initialised; the only block-wide barrier, as exited groups cannot take part
  if (warpgroup == Traits::kGroups) {
    warpgroup_reg_dealloc<Traits::kProducerRegisters>();
    run_producer<T, kDim>(params, window, stages, barriers);
  } else {
    warpgroup_reg_alloc<Traits::kConsumerRegisters>();
    if (warpgroup < num_consumers) {
      run_consumer<T, kDim>(params, window, num_consumers, queries, terms, shared_address(stages), barriers);
    }
  }
#else
  __trap();  // compiled for another architecture, on which the host does not launch it
#endif
}

}  // namespace fastsam::attention
