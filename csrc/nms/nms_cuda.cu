// Kernels of nms_cuda.h. Boxes are decided in chunks of their order. For each chunk, suppress_by_kept_kernel compares
// its boxes with all boxes kept from earlier chunks; compare_in_chunk_kernel compares each box with those before it in
// the chunk, one bit per pair; and select_kernel, a single block, walks through the chunk and decides. So memory grows
// with the number of boxes, not with its square, and the host never waits for a count.
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
constexpr int kSuppressThreads = 128;
// Kept boxes that one block of suppress_by_kept_kernel compares its boxes with. Few, to have many blocks, since only
// one chunk is processed at a time.
constexpr int64_t kKeptPerBlock = 1024;
// select_kernel has kParts threads per box of a tile, which test the box's words in parallel.
constexpr int kSelectThreads = 512;
constexpr int kParts = kSelectThreads / kTile;
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
__device__ T box_area(const Box<T>& box) {
  return multiply(box.x2 - box.x1, box.y2 - box.y1);
}

// Whether the IoU of two boxes is above `limit`; false if their overlap is NaN.
template <typename T>
__device__ bool overlap(const Box<T>& a, T area_a, const Box<T>& b, T area_b, T limit) {
  const T width = (b.x2 < a.x2 ? b.x2 : a.x2) - (b.x1 > a.x1 ? b.x1 : a.x1);
  const T height = (b.y2 < a.y2 ? b.y2 : a.y2) - (b.y1 > a.y1 ? b.y1 : a.y1);
  if (!(width > 0 && height > 0)) return false;
  const T intersection = multiply(width, height);
  return divide(intersection, area_a + area_b - intersection) > limit;
}

// Boxes in shared memory that all threads of a block compare theirs with, with areas and classes.
template <typename T, int kBoxes>
struct SharedBoxes {
  Box<T> boxes[kBoxes];
  T areas[kBoxes];
  int64_t classes[kBoxes];

  __device__ void load(int slot, const Box<T>* sorted, const int64_t* class_of, int64_t from) {
    boxes[slot] = sorted[from];
    areas[slot] = box_area(boxes[slot]);
    classes[slot] = class_of == nullptr ? 0 : class_of[from];
  }
};

template <typename T>
__device__ bool is_finite(T value) {
  return value - value == T(0);
}

// Copies the boxes in the order of visits to `sorted`, clears `suppressed`, and checks values. One thread per box.
template <typename T>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_kernel(const T* __restrict__ boxes, const int64_t* __restrict__ order, int64_t n, const void* max_score,
                   bool score_is_double, Box<T>* __restrict__ sorted, unsigned* __restrict__ suppressed, Word* status) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPrepareThreads + threadIdx.x;
  if (i >= n) return;
  const Box<T> box = reinterpret_cast<const Box<T>*>(boxes)[order[i]];
  sorted[i] = box;
  if (i % kWarp == 0) suppressed[i / kWarp] = 0;
  Word faults = is_finite(box.x1) && is_finite(box.y1) && is_finite(box.x2) && is_finite(box.y2) ? 0 : kBoxNotFinite;
  if (i == 0) {
    const double score =
        score_is_double ? *static_cast<const double*>(max_score) : *static_cast<const float*>(max_score);
    if (score != score) faults |= kScoreNaN;
  }
  if (faults != 0) atomicOr(status + 1, faults);
}

// Sets the bits in `suppressed` of those boxes in [begin, end) that a kept box suppresses. All kept boxes are from
// earlier chunks. Block b compares part b / tiles of them with tile b % tiles of the chunk, a tile being
// kSuppressThreads boxes here.
template <typename T>
__global__ void __launch_bounds__(kSuppressThreads)
    suppress_by_kept_kernel(const Box<T>* __restrict__ sorted, const int64_t* __restrict__ classes,
                            const int64_t* __restrict__ kept, const Word* __restrict__ status, int64_t begin,
                            int64_t end, unsigned tiles, T limit, unsigned* __restrict__ suppressed) {
  const auto total = static_cast<int64_t>(status[0]);
  const int64_t first = blockIdx.x / tiles * kKeptPerBlock,
                last = first + kKeptPerBlock < total ? first + kKeptPerBlock : total;
  if (first >= last) return;
  const int64_t start = begin + static_cast<int64_t>(blockIdx.x % tiles) * kSuppressThreads;
  const int64_t stop = start + kSuppressThreads < end ? start + kSuppressThreads : end;
  const int64_t i = start + threadIdx.x;
  const bool in_range = i < stop;
  const Box<T> box = sorted[in_range ? i : start];
  const T area = box_area(box);
  const int64_t label = classes == nullptr ? 0 : classes[in_range ? i : start];
  __shared__ SharedBoxes<T, kSuppressThreads> shared_boxes;
  bool is_suppressed = false;
  for (int64_t from = first; from < last; from += kSuppressThreads) {
    const int count = last - from < kSuppressThreads ? static_cast<int>(last - from) : kSuppressThreads;
    // Kept boxes and the chunk are both sorted by class, so that most ranges have no class in common.
    if (classes != nullptr &&
        (classes[kept[from + count - 1]] < classes[start] || classes[kept[from]] > classes[stop - 1])) {
      continue;
    }
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < count) {
      shared_boxes.load(static_cast<int>(threadIdx.x), sorted, classes, kept[from + threadIdx.x]);
    }
    __syncthreads();
    for (int k = 0; in_range && !is_suppressed && k < count; ++k) {
      is_suppressed =
          shared_boxes.classes[k] == label && overlap(shared_boxes.boxes[k], shared_boxes.areas[k], box, area, limit);
    }
  }
  const unsigned suppressed_bits = __ballot_sync(kAllLanes, is_suppressed);
  if (threadIdx.x % kWarp == 0 && suppressed_bits != 0) atomicOr(suppressed + i / kWarp, suppressed_bits);
}

// Finds which boxes of tile `a` suppress each box i of tile `b`, for all tiles a <= b of a chunk of `count` boxes. Bit
// j of words[i * kWords + a] is set if box j of tile a precedes box i and suppresses it. One block per pair of tiles.
template <typename T>
__global__ void __launch_bounds__(kTile)
    compare_in_chunk_kernel(const Box<T>* __restrict__ sorted, const int64_t* __restrict__ classes, int count, T limit,
                            Word* __restrict__ words) {
  // Blocks number the pairs of tiles row by row: (0, 0), (1, 0), (1, 1), (2, 0)...
  const int pair = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x);
  int b = static_cast<int>((sqrtf(8.0f * static_cast<float>(pair) + 1.0f) - 1.0f) / 2.0f);
  while (b * (b + 1) / 2 > pair) --b;
  while ((b + 1) * (b + 2) / 2 <= pair) ++b;
  const int a = pair - b * (b + 1) / 2, i = b * kTile + lane;
  __shared__ SharedBoxes<T, kTile> shared_boxes;
  if (a * kTile + lane < count) shared_boxes.load(lane, sorted, classes, a * kTile + lane);
  __syncthreads();
  if (i >= count) return;
  const Box<T> box = sorted[i];
  const T area = box_area(box);
  const int64_t label = classes == nullptr ? 0 : classes[i];
  const int before = a < b ? kTile : lane;
  Word word = 0;
  for (int j = 0; j < before; ++j) {
    const bool is_suppressed =
        shared_boxes.classes[j] == label && overlap(shared_boxes.boxes[j], shared_boxes.areas[j], box, area, limit);
    word |= static_cast<Word>(is_suppressed) << j;
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
__device__ Word select_in_tile(Word undecided, Word low, Word high) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  Word keep = 0;
  while (undecided != 0) {
    const bool low_undecided = (undecided >> lane & 1) != 0, high_undecided = (undecided >> (lane + kWarp) & 1) != 0;
    const bool low_dropped = low_undecided && (low & keep) != 0, high_dropped = high_undecided && (high & keep) != 0;
    const bool low_kept = low_undecided && (low & (keep | undecided)) == 0;
    const bool high_kept = high_undecided && (high & (keep | undecided)) == 0;
    const Word newly_kept = ballot(low_kept, high_kept), newly_dropped = ballot(low_dropped, high_dropped);
    keep |= newly_kept;
    undecided &= ~(newly_kept | newly_dropped);
  }
  return keep;
}

// One block walks through a chunk tile by tile and appends the boxes that are kept to `kept`. kParts threads handle one
// box of the tile. While a tile is decided, the words of the next one are loaded.
__global__ void __launch_bounds__(kSelectThreads)
    select_kernel(const Word* __restrict__ words, const unsigned* __restrict__ suppressed, int64_t begin, int count,
                  int64_t* __restrict__ kept, Word* status) {
  __shared__ Word keep[kWords];
  __shared__ bool tile_suppressed[kTile];
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
    bool is_suppressed = false;
#pragma unroll
    for (int k = 0; k < kWordsPerPart; ++k) is_suppressed = is_suppressed || (next[k] & keep[part + k * kParts]) != 0;
    const Word low = next_low, high = next_high;
    if (tile + 1 < tiles) fetch(tile + 1);
    const unsigned suppressed_bits = __ballot_sync(kAllLanes, is_suppressed);
    if (part == 0) tile_suppressed[row] = (suppressed_bits >> lane & ((1u << kParts) - 1)) != 0;
    __syncthreads();
    if (first_warp) {
      const int low_box = tile * kTile + lane;
      const unsigned* bits = suppressed + (begin + tile * kTile) / kWarp;
      const bool low_undecided = low_box < count && !tile_suppressed[lane] && (bits[0] >> lane & 1) == 0;
      const bool high_undecided =
          low_box + kWarp < count && !tile_suppressed[lane + kWarp] && (bits[1] >> lane & 1) == 0;
      const Word newly_kept = select_in_tile(ballot(low_undecided, high_undecided), low, high);
      if (lane == 0) keep[tile] = newly_kept;
      const Word below_low = (Word{1} << lane) - 1, below_high = (Word{1} << (lane + kWarp)) - 1;
      if ((newly_kept >> lane & 1) != 0) kept[total + __popcll(newly_kept & below_low)] = begin + low_box;
      if ((newly_kept >> (lane + kWarp) & 1) != 0)
        kept[total + __popcll(newly_kept & below_high)] = begin + low_box + kWarp;
      total += __popcll(newly_kept);
    }
    __syncthreads();
  }
  if (thread == 0) status[0] = static_cast<Word>(total);
}

// The layout of the scratch memory.
template <typename T>
struct ScratchLayout {
  Box<T>* sorted;
  unsigned* suppressed;
  Word* words;
  int64_t bytes;

  ScratchLayout(int64_t n, void* scratch) {
    const auto base = reinterpret_cast<uintptr_t>(scratch);
    const int64_t tiles = (n + kTile - 1) / kTile, tiles_in_chunk = tiles < kWords ? tiles : kWords;
    const auto boxes = n * static_cast<int64_t>(sizeof(Box<T>));
    const auto bits = (tiles * static_cast<int64_t>(sizeof(Word)) + 15) / 16 * 16;
    sorted = reinterpret_cast<Box<T>*>(base);
    suppressed = reinterpret_cast<unsigned*>(base + static_cast<uintptr_t>(boxes));
    words = reinterpret_cast<Word*>(base + static_cast<uintptr_t>(boxes + bits));
    bytes = boxes + bits + tiles_in_chunk * kTile * kWords * static_cast<int64_t>(sizeof(Word));
  }
};

}  // namespace

template <typename T>
int64_t scratch_bytes(int64_t n) {
  return ScratchLayout<T>(n, nullptr).bytes;
}

template <typename T>
void nms_cuda(const T* boxes, const int64_t* order, const int64_t* classes, int64_t n, const void* max_score,
              bool score_is_double, double threshold, void* scratch, int64_t* kept, int64_t* status, void* stream) {
  const auto cuda_stream = static_cast<cudaStream_t>(stream);
  const ScratchLayout<T> layout(n, scratch);
  auto* counts = reinterpret_cast<Word*>(status);
  // Rounding can make an IoU exceed 1, but a threshold of 1 must not suppress anything.
  const T rounded = round_down<T>(threshold), limit = rounded >= 1 ? std::numeric_limits<T>::infinity() : rounded;
  launch(prepare_kernel<T>, cuda::blocks_for(n, kPrepareThreads), kPrepareThreads, 0, cuda_stream, boxes, order, n,
         max_score, score_is_double, layout.sorted, layout.suppressed, counts);
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t count = n - begin < kChunk ? n - begin : kChunk;
    if (begin > 0) {
      const unsigned tiles = cuda::blocks_for(count, kSuppressThreads), parts = cuda::blocks_for(begin, kKeptPerBlock);
      launch(suppress_by_kept_kernel<T>, cuda::blocks_for(int64_t{tiles} * parts, 1), kSuppressThreads, 0, cuda_stream,
             layout.sorted, classes, kept, counts, begin, begin + count, tiles, limit, layout.suppressed);
    }
    const unsigned tiles = cuda::blocks_for(count, kTile);
    launch(compare_in_chunk_kernel<T>, tiles * (tiles + 1) / 2, kTile, 0, cuda_stream, layout.sorted + begin,
           classes == nullptr ? nullptr : classes + begin, static_cast<int>(count), limit, layout.words);
    launch(select_kernel, 1, kSelectThreads, 0, cuda_stream, layout.words, layout.suppressed, begin,
           static_cast<int>(count), kept, counts);
  }
}

template int64_t scratch_bytes<float>(int64_t);
template int64_t scratch_bytes<double>(int64_t);
template void nms_cuda<float>(const float*, const int64_t*, const int64_t*, int64_t, const void*, bool, double, void*,
                              int64_t*, int64_t*, void*);
template void nms_cuda<double>(const double*, const int64_t*, const int64_t*, int64_t, const void*, bool, double, void*,
                               int64_t*, int64_t*, void*);

}  // namespace fastsam::nms
