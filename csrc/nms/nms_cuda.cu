// Kernels of nms_cuda.h. Boxes are decided in chunks of their order. For each chunk, cover_kernel compares its boxes
// with all boxes kept from earlier chunks; meet_kernel compares each box with those before it in the chunk, one bit per
// pair; and settle_kernel, a single block, walks through the chunk and decides. So memory grows with the number of
// boxes, not with its square, and the host never waits for a count.
#include "nms/nms_cuda.h"

#include <limits>

#include "common/cuda.h"
#include "nms/threshold.h"

namespace fastsam::nms {
namespace {

using cuda::kAllLanes;
using cuda::kWarp;
using Word = unsigned long long;

// Boxes per word of bits.
constexpr int kTile = 64;
constexpr int64_t kChunk = 4096;
constexpr int kWords = kChunk / kTile;

constexpr int kPrepareThreads = 256;
constexpr int kCoverThreads = 128;
// Kept boxes that one block of cover_kernel compares its boxes with. Few, to have many blocks, since only one chunk is
// processed at a time.
constexpr int64_t kShown = 1024;
// settle_kernel has kParts threads per box of a tile, which test the box's words in parallel.
constexpr int kSettleThreads = 512;
constexpr int kParts = kSettleThreads / kTile;
constexpr int kWordsPerPart = kWords / kParts;

template <typename T>
struct alignas(16) Box {
  T x1, y1, x2, y2;
};

// Operations that are rounded one by one and never fused, so that results equal the CPU's to the bit.
__device__ float multiply(float a, float b) { return __fmul_rn(a, b); }
__device__ double multiply(double a, double b) { return __dmul_rn(a, b); }
__device__ float divide(float a, float b) { return __fdiv_rn(a, b); }
__device__ double divide(double a, double b) { return __ddiv_rn(a, b); }

template <typename T>
__device__ T area_of(const Box<T>& box) {
  return multiply(box.x2 - box.x1, box.y2 - box.y1);
}

// Whether the IoU of two boxes is above `limit`; false if their overlap is NaN.
template <typename T>
__device__ bool overlap(const Box<T>& a, T area_a, const Box<T>& b, T area_b, T limit) {
  const T width = (b.x2 < a.x2 ? b.x2 : a.x2) - (b.x1 > a.x1 ? b.x1 : a.x1);
  const T height = (b.y2 < a.y2 ? b.y2 : a.y2) - (b.y1 > a.y1 ? b.y1 : a.y1);
  if (!(width > 0 && height > 0)) return false;
  const T shared = multiply(width, height);
  return divide(shared, area_a + area_b - shared) > limit;
}

// Boxes in shared memory that all threads of a block compare theirs with, with areas and classes.
template <typename T, int kBoxes>
struct Shown {
  Box<T> boxes[kBoxes];
  T areas[kBoxes];
  int64_t classes[kBoxes];

  __device__ void put(int place, const Box<T>* sorted, const int64_t* class_of, int64_t from) {
    boxes[place] = sorted[from];
    areas[place] = area_of(boxes[place]);
    classes[place] = class_of == nullptr ? 0 : class_of[from];
  }
};

template <typename T>
__device__ bool finite(T value) {
  return value - value == T(0);
}

// Copies the boxes in the order of visits to `sorted`, clears `covered`, and checks values. One thread per box.
template <typename T>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_kernel(const T* __restrict__ boxes, const int64_t* __restrict__ order, int64_t n, const void* best,
                   bool wide, Box<T>* __restrict__ sorted, unsigned* __restrict__ covered, Word* status) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPrepareThreads + threadIdx.x;
  if (i >= n) return;
  const Box<T> box = reinterpret_cast<const Box<T>*>(boxes)[order[i]];
  sorted[i] = box;
  if (i % kWarp == 0) covered[i / kWarp] = 0;
  Word faults = finite(box.x1) && finite(box.y1) && finite(box.x2) && finite(box.y2) ? 0 : kBoxNotFinite;
  if (i == 0) {
    const double score = wide ? *static_cast<const double*>(best) : *static_cast<const float*>(best);
    if (score != score) faults |= kScoreNaN;
  }
  if (faults != 0) atomicOr(status + 1, faults);
}

// Sets the bits in `covered` of those boxes in [begin, end) that a kept box suppresses. All kept boxes are from earlier
// chunks. Block b compares part b / tiles of them with tile b % tiles of the chunk, a tile being kCoverThreads boxes
// here.
template <typename T>
__global__ void __launch_bounds__(kCoverThreads)
    cover_kernel(const Box<T>* __restrict__ sorted, const int64_t* __restrict__ classes,
                 const int64_t* __restrict__ kept, const Word* __restrict__ status, int64_t begin, int64_t end,
                 unsigned tiles, T limit, unsigned* __restrict__ covered) {
  const auto total = static_cast<int64_t>(status[0]);
  const int64_t first = blockIdx.x / tiles * kShown, last = first + kShown < total ? first + kShown : total;
  if (first >= last) return;
  const int64_t start = begin + static_cast<int64_t>(blockIdx.x % tiles) * kCoverThreads;
  const int64_t stop = start + kCoverThreads < end ? start + kCoverThreads : end;
  const int64_t i = start + threadIdx.x;
  const bool mine = i < stop;
  const Box<T> box = sorted[mine ? i : start];
  const T area = area_of(box);
  const int64_t label = classes == nullptr ? 0 : classes[mine ? i : start];
  __shared__ Shown<T, kCoverThreads> shown;
  bool hit = false;
  for (int64_t from = first; from < last; from += kCoverThreads) {
    const int count = last - from < kCoverThreads ? static_cast<int>(last - from) : kCoverThreads;
    // Kept boxes and the chunk are both sorted by class, so that most ranges have no class in common.
    if (classes != nullptr &&
        (classes[kept[from + count - 1]] < classes[start] || classes[kept[from]] > classes[stop - 1])) {
      continue;
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < count) {
      shown.put(static_cast<int>(threadIdx.x), sorted, classes, kept[from + threadIdx.x]);
    }
    __syncthreads();
    for (int k = 0; mine && !hit && k < count; ++k) {
      hit = shown.classes[k] == label && overlap(shown.boxes[k], shown.areas[k], box, area, limit);
    }
  }
  const unsigned hits = __ballot_sync(kAllLanes, hit);
  if (threadIdx.x % kWarp == 0 && hits != 0) atomicOr(covered + i / kWarp, hits);
}

// Finds which boxes of tile `a` suppress each box i of tile `b`, for all tiles a <= b of a chunk of `count` boxes. Bit
// j of words[i * kWords + a] is set if box j of tile a precedes box i and suppresses it. One block per pair of tiles.
template <typename T>
__global__ void __launch_bounds__(kTile)
    meet_kernel(const Box<T>* __restrict__ sorted, const int64_t* __restrict__ classes, int count, T limit,
                Word* __restrict__ words) {
  // Blocks number the pairs of tiles row by row: (0, 0), (1, 0), (1, 1), (2, 0)...
  const int pair = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x);
  int b = static_cast<int>((sqrtf(8.0f * static_cast<float>(pair) + 1.0f) - 1.0f) / 2.0f);
  while (b * (b + 1) / 2 > pair) --b;
  while ((b + 1) * (b + 2) / 2 <= pair) ++b;
  const int a = pair - b * (b + 1) / 2, i = b * kTile + lane;
  __shared__ Shown<T, kTile> shown;
  if (a * kTile + lane < count) shown.put(lane, sorted, classes, a * kTile + lane);
  __syncthreads();
  if (i >= count) return;
  const Box<T> box = sorted[i];
  const T area = area_of(box);
  const int64_t label = classes == nullptr ? 0 : classes[i];
  const int before = a < b ? kTile : lane;
  Word word = 0;
  for (int j = 0; j < before; ++j) {
    const bool hit = shown.classes[j] == label && overlap(shown.boxes[j], shown.areas[j], box, area, limit);
    word |= static_cast<Word>(hit) << j;
  }
  words[i * kWords + a] = word;
}

// The bits of a tile's 64 boxes as a word. Each lane passes those of boxes `lane` and `lane + 32`.
__device__ Word ballot(bool low, bool high) {
  const Word upper = __ballot_sync(kAllLanes, high);
  return upper << kWarp | __ballot_sync(kAllLanes, low);
}

// Returns the boxes of a tile that are kept. Call with one whole warp. waiting: boxes that no box before the tile
// suppresses; low, high: which of the tile's own boxes suppress box `lane` and box `lane + 32`. Each round decides the
// boxes whose suppressors are decided.
__device__ Word settle_tile(Word waiting, Word low, Word high) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  Word keep = 0;
  while (waiting != 0) {
    const bool low_waits = (waiting >> lane & 1) != 0, high_waits = (waiting >> (lane + kWarp) & 1) != 0;
    const bool low_goes = low_waits && (low & keep) != 0, high_goes = high_waits && (high & keep) != 0;
    const bool low_stays = low_waits && (low & (keep | waiting)) == 0;
    const bool high_stays = high_waits && (high & (keep | waiting)) == 0;
    const Word stay = ballot(low_stays, high_stays), go = ballot(low_goes, high_goes);
    keep |= stay;
    waiting &= ~(stay | go);
  }
  return keep;
}

// One block walks through a chunk tile by tile and appends the boxes that are kept to `kept`. kParts threads handle one
// box of the tile. While a tile is decided, the words of the next one are loaded.
__global__ void __launch_bounds__(kSettleThreads)
    settle_kernel(const Word* __restrict__ words, const unsigned* __restrict__ covered, int64_t begin, int count,
                  int64_t* __restrict__ kept, Word* status) {
  __shared__ Word keep[kWords];
  __shared__ bool suppressed[kTile];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  const int row = thread / kParts, part = thread % kParts;
  const int tiles = (count + kTile - 1) / kTile;
  const bool first_warp = thread < kWarp;
  // next: words of box `row` of the tile, for tiles before it. next_low, next_high: in the first warp, words for the
  // tile itself.
  Word next[kWordsPerPart], next_low = 0, next_high = 0;
  const auto fetch = [&](int tile) {
#pragma unroll
    for (int k = 0; k < kWordsPerPart; ++k) {
      const int a = part + k * kParts, i = tile * kTile + row;
      next[k] = a < tile && i < count ? words[i * kWords + a] : 0;
    }
    if (first_warp) {
      const int low = tile * kTile + lane, high = low + kWarp;
      next_low = low < count ? words[low * kWords + tile] : 0;
      next_high = high < count ? words[high * kWords + tile] : 0;
    }
  };
  if (thread < kWords) keep[thread] = 0;
  auto total = static_cast<int64_t>(status[0]);
  fetch(0);
  __syncthreads();
  for (int tile = 0; tile < tiles; ++tile) {
    bool hit = false;
#pragma unroll
    for (int k = 0; k < kWordsPerPart; ++k) hit = hit || (next[k] & keep[part + k * kParts]) != 0;
    const Word low = next_low, high = next_high;
    if (tile + 1 < tiles) fetch(tile + 1);
    const unsigned hits = __ballot_sync(kAllLanes, hit);
    if (part == 0) suppressed[row] = (hits >> lane & ((1u << kParts) - 1)) != 0;
    __syncthreads();
    if (first_warp) {
      const int here = tile * kTile + lane;
      const unsigned* bits = covered + (begin + tile * kTile) / kWarp;
      const bool low_waits = here < count && !suppressed[lane] && (bits[0] >> lane & 1) == 0;
      const bool high_waits = here + kWarp < count && !suppressed[lane + kWarp] && (bits[1] >> lane & 1) == 0;
      const Word stay = settle_tile(ballot(low_waits, high_waits), low, high);
      if (lane == 0) keep[tile] = stay;
      const Word before_low = (Word{1} << lane) - 1, before_high = (Word{1} << (lane + kWarp)) - 1;
      if ((stay >> lane & 1) != 0) kept[total + __popcll(stay & before_low)] = begin + here;
      if ((stay >> (lane + kWarp) & 1) != 0) kept[total + __popcll(stay & before_high)] = begin + here + kWarp;
      total += __popcll(stay);
    }
    __syncthreads();
  }
  if (thread == 0) status[0] = static_cast<Word>(total);
}

// The layout of the scratch memory.
template <typename T>
struct Plan {
  Box<T>* sorted;
  unsigned* covered;
  Word* words;
  int64_t bytes;

  Plan(int64_t n, void* scratch) {
    const auto place = reinterpret_cast<uintptr_t>(scratch);
    const int64_t tiles = (n + kTile - 1) / kTile, in_chunk = tiles < kWords ? tiles : kWords;
    const auto boxes = n * static_cast<int64_t>(sizeof(Box<T>));
    const auto bits = (tiles * static_cast<int64_t>(sizeof(Word)) + 15) / 16 * 16;
    sorted = reinterpret_cast<Box<T>*>(place);
    covered = reinterpret_cast<unsigned*>(place + static_cast<uintptr_t>(boxes));
    words = reinterpret_cast<Word*>(place + static_cast<uintptr_t>(boxes + bits));
    bytes = boxes + bits + in_chunk * kTile * kWords * static_cast<int64_t>(sizeof(Word));
  }
};

}  // namespace

template <typename T>
int64_t scratch_bytes(int64_t n) {
  return Plan<T>(n, nullptr).bytes;
}

template <typename T>
void nms_cuda(const T* boxes, const int64_t* order, const int64_t* classes, int64_t n, const void* best, bool wide,
              double threshold, void* scratch, int64_t* kept, int64_t* status, void* stream) {
  const auto queue = static_cast<cudaStream_t>(stream);
  const Plan<T> plan(n, scratch);
  auto* counts = reinterpret_cast<Word*>(status);
  // Rounding can make an IoU exceed 1, but a threshold of 1 must not suppress anything.
  const T rounded = round_down<T>(threshold), limit = rounded >= 1 ? std::numeric_limits<T>::infinity() : rounded;
  launch(prepare_kernel<T>, cuda::blocks_for(n, kPrepareThreads), kPrepareThreads, 0, queue, boxes, order, n, best,
         wide, plan.sorted, plan.covered, counts);
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t count = n - begin < kChunk ? n - begin : kChunk;
    if (begin > 0) {
      const unsigned tiles = cuda::blocks_for(count, kCoverThreads), parts = cuda::blocks_for(begin, kShown);
      launch(cover_kernel<T>, cuda::blocks_for(int64_t{tiles} * parts, 1), kCoverThreads, 0, queue, plan.sorted,
             classes, kept, counts, begin, begin + count, tiles, limit, plan.covered);
    }
    const unsigned tiles = cuda::blocks_for(count, kTile);
    launch(meet_kernel<T>, tiles * (tiles + 1) / 2, kTile, 0, queue, plan.sorted + begin,
           classes == nullptr ? nullptr : classes + begin, static_cast<int>(count), limit, plan.words);
    launch(settle_kernel, 1, kSettleThreads, 0, queue, plan.words, plan.covered, begin, static_cast<int>(count), kept,
           counts);
  }
}

template int64_t scratch_bytes<float>(int64_t);
template int64_t scratch_bytes<double>(int64_t);
template void nms_cuda<float>(const float*, const int64_t*, const int64_t*, int64_t, const void*, bool, double, void*,
                              int64_t*, int64_t*, void*);
template void nms_cuda<double>(const double*, const int64_t*, const int64_t*, int64_t, const void*, bool, double, void*,
                               int64_t*, int64_t*, void*);

}  // namespace fastsam::nms
