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
  static constexpr int kRowBytes = 2 * kChannels, kVectors = kRowBytes / 16;
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
struct WgmmaShape {
  static constexpr int kGroups = 3, kAttending = 128 * kGroups, kThreads = kAttending + 128;
  static constexpr int kWarps = kAttending / kWarp, kQueries = 64 * kGroups, kKeys = 64;
  // Registers per thread after reallocation; a multiprocessor has 65536.
  static constexpr int kRegisters = 160, kRegistersOfCopying = 32;
  static_assert(kAttending * kRegisters + 128 * kRegistersOfCopying <= 65536);
  static constexpr int kCopying = 4;  // producer warps
  static constexpr int kStages = 6;   // stages of the ring, of one tile of keys and one of values each
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

// The block's mbarriers. here(stage): the tile has arrived. done(stage): the consumers have finished with it.
// queries(group): the warpgroup's queries have arrived. turn(group): the warpgroup may issue its products.
template <int kStages>
struct Ring {
  uint64_t* barriers;
  __device__ __forceinline__ uint64_t* here(int stage) const { return barriers + stage; }
  __device__ __forceinline__ uint64_t* done(int stage) const { return barriers + kStages + stage; }
  __device__ __forceinline__ uint64_t* queries(int group) const { return barriers + 2 * kStages + 2 * group; }
  __device__ __forceinline__ uint64_t* turn(int group) const { return barriers + 2 * kStages + 2 * group + 1; }
};

// A position in the ring: the stage, and the parity of that stage's current phase.
template <int kStages>
struct Turn {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void next(int tiles = 1) {
    stage += tiles;
    if (stage >= kStages) stage -= kStages, parity ^= 1;
  }
};

// The producer warpgroup. Each of its four warps copies every fourth tile as soon as its stage is free, and waits for
// the copy before the next, so that up to four tiles are in flight.
template <typename T, int kDim>
__device__ __forceinline__ void bring_tiles(const Job<T>& job, const Window<T>& window, unsigned char* stages,
                                            const Ring<WgmmaShape<kDim>::kStages>& ring) {
  using Size = WgmmaShape<kDim>;
  using Tiles = Panels<kDim>;
  constexpr int kRows = kWarp / Tiles::kVectors;  // rows of a panel that the warp copies at a time
  const int warp = (static_cast<int>(threadIdx.x) - Size::kAttending) / kWarp;
  const int first = lane() / Tiles::kVectors, vector = lane() % Tiles::kVectors;
  Turn<Size::kStages> turn{warp, 0};
  static_assert(Size::kCopying <= Size::kStages);
#pragma unroll 1
  for (int y = warp; y < job.rows; y += Size::kCopying, turn.next(Size::kCopying)) {
    mbarrier_wait(ring.done(turn.stage), turn.parity ^ 1);  // returns at once in the first round, when all are free
    unsigned char* const keys = stages + turn.stage * Size::kStageBytes;
    const T* from = window.tokens + (int64_t{y} * job.columns + first) * job.token + vector * 8;
#pragma unroll 2
    for (int slot = first; slot < Size::kKeys; slot += kRows) {
      const bool is_key = slot < job.columns;
      const T* const token = is_key ? from : window.tokens;
      const int to = Tiles::offset(slot, vector);
#pragma unroll
      for (int panel = 0; panel < Tiles::kCount; ++panel) {
        unsigned char* const at = keys + to + panel * Tiles::kPanelBytes;
        cp_async_16(at, token + panel * Tiles::kChannels + job.key, is_key);
        cp_async_16(at + Size::kTileBytes, token + panel * Tiles::kChannels + job.value, is_key);
      }
      from += kRows * job.token;
    }
    cp_async_commit();
    cp_async_wait<0>();
    fence_proxy_async();
    mbarrier_arrive(ring.here(turn.stage));
  }
}

// Issue scores += queries x keys as one group of asynchronous products. `scores` holds the column terms before.
template <typename T, int kDim>
__device__ __forceinline__ void begin_scores(float (&scores)[8][4], const uint32_t (&queries)[kDim / 16][4],
                                             uint32_t keys) {
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    wgmma<T, false>(scores, queries[step], Panels<kDim>::keys(keys, step));
  }
  wgmma_commit();
}

// Issue out += weights x values as one group of asynchronous products.
template <typename T, int kDim>
__device__ __forceinline__ void begin_values(float (&out)[kDim / 8][4], const uint32_t (&weights)[4][4],
                                             uint32_t values) {
#pragma unroll
  for (int step = 0; step < 4; ++step) wgmma<T, true>(out, weights[step], Panels<kDim>::values(values, step));
  wgmma_commit();
}

// A consumer warpgroup, of which `attending` take part. Each of its warps owns 16 queries. Per tile: turn the scores
// into weights, issue out += weights x values and the next tile's scores together, then wait for both.
template <typename T, int kDim>
__device__ __forceinline__ void attend_with_tiles(const Job<T>& job, const Window<T>& window, int attending, T* queries,
                                                  float* all_terms, uint32_t stages,
                                                  const Ring<WgmmaShape<kDim>::kStages>& ring) {
  using Size = WgmmaShape<kDim>;
  // The groups issue their products in turn, so that they don't all compute the softmax at the same time and leave the
  // tensor cores idle. With 80 channels there are not enough registers for this.
  constexpr bool kInTurn = kDim == 64;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, row = warp * 16, group_of_warps = warp / 4;
  // A group copies its own queries and waits only for them, not for the other groups.
  copy_queries<T, kDim, Size::kAttending, 64, Size::kQueries>(job, window, queries);
  cp_async_commit();
  cp_async_wait<0>();
  mbarrier_arrive(ring.queries(group_of_warps));
  mbarrier_wait(ring.queries(group_of_warps), 0);

  float* const terms = all_terms + warp * 16 * Size::term_rows(job.rows);
  float columns[8][4], scores[1][8][4];
  column_terms<T, kDim, 64>(job, window, queries, row, 0, terms);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      columns[n][j] = terms[term_at<64>(group() + 8 * (j / 2), n * 8 + 2 * pair() + j % 2)];
    }
  }
  const float factor = job.position_scale * job.scale;
  for (int y = 0; y < job.rows; y += kTermRows) {
    row_terms<T, kDim, 16>(job, window, queries, row, y, factor, terms + 16 * y);
  }
  uint32_t held[kDim / 16][4], weights[4][4];
#pragma unroll
  for (int step = 0; step < kDim / 16; ++step) {
    Left<T> part;
    load_rows<kDim>(part, queries, row, step);
#pragma unroll
    for (int i = 0; i < 4; ++i) held[step][i] = part.x[i];
  }
  const auto begin_with_columns = [&] {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) scores[0][n][j] = columns[n][j];
    }
  };
  Sums<kDim, 1> sums;
  sums.clear();
  // Turn the scores of key row `y` into weights.
  const auto weigh = [&](int y) {
    const float* const of_row = terms + 16 * y + group();
    const float shift[1][2] = {{of_row[0], of_row[8]}};
    softmax_step(scores, job.scale, shift, sums);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      Left<T> part;
      weights_of(part, scores[0][2 * step], scores[0][2 * step + 1]);
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[step][i] = part.x[i];
    }
  };

  Turn<Size::kStages> turn;
  begin_with_columns();
  wgmma_fence_operand(scores[0]);
  wgmma_fence_operand(held);
  mbarrier_wait(ring.here(0), 0);
  wgmma_fence();
  begin_scores<T, kDim>(scores[0], held, stages);
  wgmma_wait<0>();
  wgmma_fence_operand(scores[0]);
#pragma unroll 1
  for (int y = 0; y < job.rows - 1; ++y) {
    weigh(y);
    begin_with_columns();
    wgmma_fence_operand(weights);
    wgmma_fence_operand(sums.out[0]);
    wgmma_fence_operand(scores[0]);
    // The parity is flipped for group 0, whose first turn must not wait for the last group.
    if (kInTurn) mbarrier_wait(ring.turn(group_of_warps), (y & 1) ^ (group_of_warps == 0));
    wgmma_fence();
    const int stage = turn.stage;
    begin_values<T, kDim>(sums.out[0], weights, stages + stage * Size::kStageBytes + Size::kTileBytes);
    turn.next();
    mbarrier_wait(ring.here(turn.stage), turn.parity);
    wgmma_fence();  // ptxas wants it for registers that are live across the wait loop above; it waits for nothing
    begin_scores<T, kDim>(scores[0], held, stages + turn.stage * Size::kStageBytes);
    if (kInTurn && lane() == 0) mbarrier_arrive(ring.turn(group_of_warps + 1 == attending ? 0 : group_of_warps + 1));
    wgmma_wait<0>();
    wgmma_fence_operand(sums.out[0]);
    wgmma_fence_operand(scores[0]);
    if (lane() == 0) mbarrier_arrive(ring.done(stage));
  }
  weigh(job.rows - 1);
  wgmma_fence_operand(weights);
  wgmma_fence_operand(sums.out[0]);
  wgmma_fence();
  begin_values<T, kDim>(sums.out[0], weights, stages + turn.stage * Size::kStageBytes + Size::kTileBytes);
  wgmma_wait<0>();
  wgmma_fence_operand(sums.out[0]);
  // Recompute where the output goes, instead of holding it in registers, all of which are in use during the loop.
  write_out<T, kDim, 1>(job, window_of_block(job, anew(Size::kQueries)), row, sums, queries);
}

// The kernel: four warpgroups per block, see the head of this file. Launch it with WgmmaShape::kThreads threads and
// WgmmaShape::bytes(rows) bytes of dynamic shared memory.
template <typename T, int kDim>
__global__ void __launch_bounds__(WgmmaShape<kDim>::kThreads, 1) attend_wgmma(const Job<T> job) {
#ifdef FASTSAM_HAS_WGMMA
  using Size = WgmmaShape<kDim>;
  DYNAMIC_SHARED(unsigned char, shared);
  const Ring<Size::kStages> ring{reinterpret_cast<uint64_t*>(shared)};
  unsigned char* const behind = shared + Size::kBarrierBytes;
  unsigned char* const stages = behind + (-shared_address(behind) & (Size::kAlignment - 1));
  T* const queries = reinterpret_cast<T*>(stages + Size::kStages * Size::kStageBytes);
  float* const terms = reinterpret_cast<float*>(queries + Size::kQueries * kDim);
  const Window<T> window = window_of_block(job, Size::kQueries);
  const int group_of_warps = static_cast<int>(threadIdx.x) / 128;
  // Number of consumer warpgroups that have queries; the others exit at once.
  const int attending = min(Size::kGroups, (window.count() - window.first + 63) / 64);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Size::kStages; ++stage) {
      mbarrier_init(ring.here(stage), kWarp);
      mbarrier_init(ring.done(stage), 4 * attending);  // one lane of each warp
    }
    for (int i = 0; i < Size::kGroups; ++i) {
      mbarrier_init(ring.queries(i), 128);
      mbarrier_init(ring.turn(i), 4);
    }
  }
  __syncthreads();  // the barriers are initialised; the only block-wide barrier, as exited groups cannot take part
  if (group_of_warps == Size::kGroups) {
    warpgroup_reg_dealloc<Size::kRegistersOfCopying>();
    bring_tiles<T, kDim>(job, window, stages, ring);
  } else {
    warpgroup_reg_alloc<Size::kRegisters>();
    if (group_of_warps < attending) {
      attend_with_tiles<T, kDim>(job, window, attending, queries, terms, shared_address(stages), ring);
    }
  }
#else
  __trap();  // compiled for another architecture, on which the host does not launch it
#endif
}

}  // namespace fastsam::attention
