#include "rle/rle_cuda.h"

#include <algorithm>

#include "common/cuda.h"
#include "rle/rle.h"

namespace fastsam::rle {
namespace {

using cuda::kAllLanes;
using cuda::kWarp;

constexpr int kThreads = 256;
constexpr int64_t kMasksPerBlock = kThreads / kWarp;

// Sums of runs stop growing here, beyond what is allowed: two of these still fit.
constexpr unsigned long long kTooLarge = static_cast<unsigned long long>(kMaxPixels) + 1;

__device__ unsigned long long add_limited(unsigned long long a, unsigned long long b) { return min(a + b, kTooLarge); }

// One warp per mask: its runs are read side by side.
__global__ void __launch_bounds__(kThreads)
    area_kernel(const int64_t* __restrict__ counts, int64_t size, const int64_t* __restrict__ offsets, int64_t n,
                int64_t* __restrict__ areas, int32_t* __restrict__ error) {
  const int64_t mask = blockIdx.x * kMasksPerBlock + threadIdx.x / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (blockIdx.x == 0 && threadIdx.x == 0 && (offsets[0] != 0 || offsets[n] != size)) {
    atomicMin(error, static_cast<int32_t>(kBadOffsets));
  }
  if (mask >= n) return;
  const int64_t begin = offsets[mask], end = offsets[mask + 1];
  if (begin < 0 || begin > end || end > size) {
    if (lane == 0) atomicMin(error, static_cast<int32_t>(kBadOffsets));
    return;
  }
  unsigned long long total = 0, foreground = 0;
  bool good = true;
  for (int64_t i = begin + lane; i < end; i += kWarp) {
    const int64_t run = counts[i];
    good = good && 0 <= run && run <= kMaxPixels;
    const auto length = static_cast<unsigned long long>(run);
    total = add_limited(total, length);
    if ((i - begin) % 2 != 0) foreground = add_limited(foreground, length);
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    total = add_limited(total, __shfl_xor_sync(kAllLanes, total, step));
    foreground = add_limited(foreground, __shfl_xor_sync(kAllLanes, foreground, step));
  }
  good = __all_sync(kAllLanes, good);
  if (lane != 0) return;
  if (!good) atomicMin(error, static_cast<int32_t>(kBadLength));
  if (total == kTooLarge) atomicMin(error, static_cast<int32_t>(kBadSum));
  areas[mask] = static_cast<int64_t>(foreground);
}

}  // namespace

void area_cuda(const int64_t* counts, int64_t size, const int64_t* offsets, int64_t n, int64_t* areas, int32_t* error,
               void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  cuda::check(cudaMemsetAsync(error, kFine & 0xff, sizeof(*error), queue), "clearing an error flag");
  // One block also for no masks, whose offsets are looked at all the same.
  launch(area_kernel, cuda::blocks_for(std::max<int64_t>(n, 1), kMasksPerBlock), kThreads, 0, queue, counts, size,
         offsets, n, areas, error);
}

}  // namespace fastsam::rle
