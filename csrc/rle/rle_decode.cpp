// Decoding of runs to masks, and areas and bounding boxes of masks from their runs.
#include <algorithm>
#include <cstring>

#include "common/fork_join.h"
#include "common/isa.h"
#include "rle/rle.h"
#include "rle/rle_bbox.h"

namespace fastsam::rle {
namespace {

// Masks below this many bytes per thread are not worth a thread.
constexpr int64_t kBytesPerThread = int64_t{1} << 20;

// The output already holds zeros, so only foreground is written. Large outputs come from the operating system as zero
// pages, which cost nothing until they are written to.
void decode_columns(const RunsView& runs, int64_t image, uint8_t* mask) {
  bool inside = false;
  for (const int64_t* run = runs.begin(image); run != runs.end(image); ++run, inside = !inside) {
    if (inside) std::memset(mask, 1, static_cast<size_t>(*run));
    mask += *run;
  }
}

void decode_rows(const RunsView& runs, int64_t image, int64_t height, int64_t width, uint8_t* mask) {
  // First mark each pixel that differs from the one above it, with background above the mask. Then xor each row with
  // the row above, which is plain arithmetic in one pass.
  BoxCollector box(height);
  int64_t x = 0, y = 0;  // where the next run begins; y is below height
  bool inside = false;
  for (const int64_t* run = runs.begin(image); run != runs.end(image); ++run, inside = !inside) {
    box.add(*run);
    const int64_t first = x, top = y;
    y += *run;
    if (y >= height) {
      // Most runs end in their own column or in the next, which avoids a division that costs more than all the rest.
      const int64_t columns = y < 2 * height ? 1 : y / height;
      x += columns, y -= columns * height;
    }
    if (!inside || *run == 0) continue;
    mask[top * width + first] ^= 1;
    const int64_t last = y == 0 ? x - 1 : x;
    for (int64_t next = first + 1; next <= last; ++next) mask[next] ^= 1;
    if (y != 0) mask[y * width + x] ^= 1;
  }
  if (box.empty()) return;
  const RleKernels& isa = kernels().rle;
  const size_t n = static_cast<size_t>(box.right() - box.left() + 1);
  // The row below the box holds marks too, where foreground ends.
  const int64_t last = std::min(box.bottom() + 1, height - 1);
  for (int64_t y = box.top() + 1; y <= last; ++y) {
    uint8_t* row = mask + y * width + box.left();
    isa.xor_rows(row - width, row, n);
  }
}

}  // namespace

void decode(const RunsView& runs, int64_t height, int64_t width, bool column_major, uint8_t* out, int64_t threads) {
  check_runs(runs, height * width);
  const int64_t pixels = height * width;
  if (pixels == 0) return;
  fork_join(threads, runs.n, kBytesPerThread / pixels + 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      uint8_t* mask = out + i * pixels;
      column_major ? decode_columns(runs, i, mask) : decode_rows(runs, i, height, width, mask);
    }
  });
}

std::vector<int64_t> area(const RunsView& runs) {
  check_runs(runs);
  std::vector<int64_t> areas;
  areas.reserve(static_cast<size_t>(runs.n));
  for (int64_t i = 0; i < runs.n; ++i) {
    int64_t pixels = 0;
    for (int64_t k = 1; k < runs.length(i); k += 2) pixels += runs.begin(i)[k];
    areas.push_back(pixels);
  }
  return areas;
}

std::vector<int64_t> to_bbox(const RunsView& runs, const int64_t* heights) {
  check_runs(runs);
  std::vector<int64_t> boxes(static_cast<size_t>(runs.n) * 4, 0);
  for (int64_t i = 0; i < runs.n; ++i) {
    BoxCollector box(heights[i]);
    for (const int64_t* run = runs.begin(i); run != runs.end(i); ++run) box.add(*run);
    box.write(boxes.data() + 4 * i);
  }
  return boxes;
}

}  // namespace fastsam::rle
