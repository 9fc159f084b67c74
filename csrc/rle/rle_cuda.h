// Those operations on run lengths that gain from a GPU; rle.h defines runs. All pointers are device pointers. Calls
// queue their work on the stream and return before it is done.
//
// measure_runs checks run lengths and offsets, and writes bits of RunError to `error`. If it isn't 0, the results are
// undefined, but nothing outside the arrays is read or written. The other functions trust their input.
#pragma once

#include <cstdint>

#include "common/tensor_view.h"
#include "rle/rle.h"

namespace fastsam::rle::cuda {

// Bits that tell what is wrong with runs: offsets that don't ascend from 0 to the number of runs, a run that is
// negative or above kMaxPixels, a mask of more than kMaxPixels, or foreground in a mask whose height isn't positive.
enum RunError : int64_t { kBadOffsets = 1, kBadRun = 2, kBadSum = 4, kBadHeight = 8 };

// What one block has found in its part of a mask's columns. Positions are those of the image in which the mask lies
// (Frame in rle_tile.cuh).
struct Part {
  int64_t changes, last;         // number of changes, and position of the last one; 0 if there are none
  int64_t rank, before;          // the same for all parts of the mask before this one
  int64_t pixels;                // number of set pixels
  int64_t inner, outer;          // further counts, for masks/masks_cuda.cu
  int left, top, right, bottom;  // the outermost set pixels in the mask; right is -1 if there are none
};

// Results for n masks, summed over their parts. boxes and sizes may be null.
struct Totals {
  int64_t* lengths;  // (n) number of counts
  int64_t* boxes;    // (n, 4) x1, y1, x2, y2 of the outermost set pixels in the mask; zeros if there are none
  int64_t* sizes;    // (n, 3) numbers of set pixels, inner and outer
};

// Fills in rank and before of each of `parts` (n, per_mask), and computes the totals. pixels: number of pixels of the
// image.
void reduce_parts(Part* parts, int64_t n, int64_t per_mask, int64_t pixels, const Totals& totals, void* stream);

// Writes the offsets (n + 1) of n consecutive lists of these lengths.
void compute_offsets(const int64_t* lengths, int64_t n, int64_t* offsets, void* stream);

// Number of parts that encode_count divides a mask of this size into.
int64_t num_encode_parts(int64_t height, int64_t width);
// The first step of encoding: writes parts (n, num_encode_parts) and lengths (n), the number of counts of each mask.
// The caller then allocates the result.
void encode_count(const MaskView& masks, Part* parts, int64_t* lengths, void* stream);
// The second step: writes counts (offsets[n]) from the same masks and parts.
void encode_write(const MaskView& masks, const Part* parts, const int64_t* offsets, int64_t* counts, void* stream);

// The arrays that measure_runs writes for n masks of `size` runs in all, and the heights that it needs.
struct RunStats {
  int64_t* error;          // (1) new errors are added to what it holds; initially 0
  int64_t* totals;         // (n) number of pixels
  int64_t* areas;          // (n) number of set pixels
  int64_t* boxes;          // (n, 4) x, y, width, height of the set pixels, zeros if there are none; may be null
  const int64_t* heights;  // (n) of the masks; null if `boxes` is
  int64_t* ends;           // (size) position in its mask at which each run ends; may be null
  int64_t* set_before;     // (size) number of set pixels up to there; null if `ends` is
};
// Checks the runs and computes these statistics.
void measure_runs(const RunsView& runs, const RunStats& stats, void* stream);

// Decodes masks to bytes of 0 and 1; out is (n, width, height) if column_major, else (n, height, width), and all of it
// is written. `ends` comes from measure_runs, which must have found no error and height * width pixels in each mask.
void decode(const RunsView& runs, const int64_t* ends, int64_t height, int64_t width, bool column_major, uint8_t* out,
            void* stream);

// Runs with their statistics from measure_runs, which must have found no error.
struct MeasuredRuns {
  RunsView runs;
  const int64_t *ends, *set_before, *areas;
};
// Intersection over union of all pairs, (dt.runs.n, gt.runs.n). Where iscrowd (gt.runs.n) is set, the area of dt takes
// the place of the union.
void iou(const MeasuredRuns& dt, const MeasuredRuns& gt, const uint8_t* iscrowd, double* out, void* stream);

}  // namespace fastsam::rle::cuda
