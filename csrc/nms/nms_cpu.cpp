// Validation, ranking and threading of nms.h; small classes are compared box by box here, large ones in nms_grid.cpp.
#include "nms/nms.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "common/fork_join.h"
#include "common/isa.h"
#include "nms/nms_grid.h"
#include "nms/nms_order.h"
#include "nms/threshold.h"

namespace fastsam::nms {
namespace {

// Boxes are decided in tiles. Within a tile they are decided one by one; then the tile's kept boxes are compared with
// all boxes after it.
constexpr size_t kTile = 256;
// The boxes after a tile are visited in blocks that stay in the L1 cache while the tile's kept boxes are compared with
// them.
constexpr size_t kBlock = 512;
// Pairs of boxes below this many per thread are not worth a thread.
constexpr size_t kPairsPerThread = size_t{1} << 21;
// From this many boxes of a class on, a grid is faster (nms_grid.h).
constexpr size_t kGridBoxes = 1024;

// The boxes of one class that are not decided yet, best first.
template <typename T>
struct Candidates {
  std::vector<T> x1, y1, x2, y2, area;
  std::vector<int64_t> index;       // in the caller's boxes
  std::vector<uint8_t> suppressed;  // 1 if suppressed

  Candidates(const T* boxes, const int64_t* order, size_t n) : index(order, order + n), suppressed(n, 0) {
    for (std::vector<T>* column : {&x1, &y1, &x2, &y2, &area}) column->reserve(n);
    for (const int64_t i : index) {
      const T* box = boxes + 4 * i;
      x1.push_back(box[0]);
      y1.push_back(box[1]);
      x2.push_back(box[2]);
      y2.push_back(box[3]);
      area.push_back((box[2] - box[0]) * (box[3] - box[1]));
    }
  }

  BoxColumns<T> columns() const { return {x1.data(), y1.data(), x2.data(), y2.data(), area.data()}; }

  // Removes the first `decided` boxes and the suppressed ones.
  void compact(size_t decided) {
    size_t out = 0;
    for (size_t i = decided; i < index.size(); ++i) {
      if (suppressed[i]) continue;
      x1[out] = x1[i];
      y1[out] = y1[i];
      x2[out] = x2[i];
      y2[out] = y2[i];
      area[out] = area[i];
      index[out] = index[i];
      ++out;
    }
    index.resize(out);
    suppressed.assign(out, 0);
  }
};

// Sets keep[i] = 1 for each box i of `candidates` that survives.
template <typename T>
void suppress_by_tiles(Candidates<T> candidates, T threshold, int64_t threads, uint8_t* keep) {
  const NmsKernelsOf<T>& isa = kernels().nms;
  while (!candidates.index.empty()) {
    const BoxColumns<T> boxes = candidates.columns();
    const size_t n = candidates.index.size(), tile = std::min(kTile, n);
    uint8_t* suppressed = candidates.suppressed.data();
    std::vector<size_t> kept;
    for (size_t i = 0; i < tile; ++i) {
      if (suppressed[i]) continue;
      kept.push_back(i);
      keep[candidates.index[i]] = 1;
      isa.suppress(boxes, i, i + 1, tile, threshold, suppressed);
    }
    const size_t blocks = (n - tile + kBlock - 1) / kBlock;
    const size_t grain = kPairsPerThread / (kept.size() * kBlock) + 1;
    fork_join(threads, static_cast<int64_t>(blocks), static_cast<int64_t>(grain), [&](int64_t first, int64_t last) {
      for (size_t block = static_cast<size_t>(first); block < static_cast<size_t>(last); ++block) {
        const size_t begin = tile + block * kBlock, end = std::min(begin + kBlock, n);
        for (const size_t i : kept) isa.suppress(boxes, i, begin, end, threshold, suppressed);
      }
    });
    candidates.compact(tile);
  }
}

}  // namespace

template <typename T>
std::vector<int64_t> nms(const T* boxes, const double* scores, const int64_t* classes, int64_t n, double threshold,
                         int64_t threads) {
  for (int64_t i = 0; i < 4 * n; ++i) {
    if (!std::isfinite(boxes[i])) throw std::invalid_argument("boxes hold NaN or infinity; drop those rows first");
  }
  for (int64_t i = 0; i < n; ++i) {
    if (std::isnan(scores[i])) throw std::invalid_argument("scores hold NaN; drop those rows first");
  }
  const std::vector<int64_t> ranked = rank_scores(scores, n);

  // The ranking of each class, class after class: boxes of different classes don't suppress each other.
  std::vector<int64_t> order = ranked;
  std::vector<std::pair<size_t, size_t>> groups;
  if (classes != nullptr) {
    std::vector<uint64_t> keys(static_cast<size_t>(n));
    for (size_t i = 0; i < keys.size(); ++i) keys[i] = static_cast<uint64_t>(classes[i]);
    sort_by_key(keys, order);
  }
  for (size_t begin = 0; begin < order.size();) {
    size_t end = order.size();
    if (classes != nullptr) {
      end = begin + 1;
      while (end < order.size() && classes[order[end]] == classes[order[begin]]) ++end;
    }
    groups.emplace_back(begin, end);
    begin = end;
  }
  const T limit = round_down<T>(threshold);
  std::vector<uint8_t> keep(static_cast<size_t>(n), 0);
  const auto suppress_class = [&](const std::pair<size_t, size_t>& group, int64_t inner_threads) {
    const size_t size = group.second - group.first;
    const int64_t* first = order.data() + group.first;
    if (limit >= 1 || size == 1) {  // no IoU is above 1
      for (size_t k = 0; k < size; ++k) keep[first[k]] = 1;
      return;
    }
    if (size >= kGridBoxes && suppress_on_grid(boxes, first, size, limit, keep.data())) return;
    suppress_by_tiles(Candidates<T>(boxes, first, size), limit, inner_threads, keep.data());
  };
  if (groups.size() == 1) {
    suppress_class(groups.front(), threads);
  } else {
    const size_t mean = order.size() / std::max<size_t>(1, groups.size());
    const size_t grain = kPairsPerThread / (mean * mean + 1) + 1;
    fork_join(threads, static_cast<int64_t>(groups.size()), static_cast<int64_t>(grain),
              [&](int64_t first, int64_t last) {
                for (int64_t g = first; g < last; ++g) suppress_class(groups[static_cast<size_t>(g)], 1);
              });
  }
  std::vector<int64_t> kept;
  for (const int64_t i : ranked) {
    if (keep[static_cast<size_t>(i)]) kept.push_back(i);
  }
  return kept;
}

template std::vector<int64_t> nms<float>(const float*, const double*, const int64_t*, int64_t, double, int64_t);
template std::vector<int64_t> nms<double>(const double*, const double*, const int64_t*, int64_t, double, int64_t);

}  // namespace fastsam::nms
