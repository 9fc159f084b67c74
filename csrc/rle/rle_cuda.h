// The operations on run lengths that a GPU is good at; see rle.h for what runs are. All pointers are the device's, and
// everything is queued on the stream: nothing here waits.
//
// What a value makes wrong (run lengths, offsets) is written to `error`, bits of RunError, and the results are then
// undefined, but nothing outside of them is read or written.
#pragma once

#include <cstdint>

#include "common/tensor_view.h"
#include "rle/rle.h"

namespace fastsam::rle::cuda {

enum RunError : int64_t { kBadOffsets = 1, kBadRun = 2, kBadSum = 4, kNoRows = 8 };

// What one block has found in its part of a mask's columns. Positions are the picture's.
struct Part {
  int64_t changes, last;         // how many, and where the last one is; 0 without any
  int64_t rank, before;          // the same of all parts before this one
  int64_t pixels;                // set ones
  int64_t inner, outer;          // for the use of masks/masks_cuda.cu
  int left, top, right, bottom;  // the outermost set ones in the mask; right is -1 without any
};

// What masks are found to be from their parts; only the first may not be null.
struct Totals {
  int64_t* lengths;  // (n) how many counts
  int64_t* boxes;    // (n, 4) x1 y1 x2 y2 of the outermost set pixels in the mask; zeros where there are none
  int64_t* sizes;    // (n, 3) set pixels, inner, outer
};

// Fills in rank and before of each of `parts` (n, per_mask), and the totals. pixels: of the picture.
void finish_parts(Part* parts, int64_t n, int64_t per_mask, int64_t pixels, const Totals& totals, void* stream);

// offsets (n + 1) of n lists of these lengths.
void offsets_of(const int64_t* lengths, int64_t n, int64_t* offsets, void* stream);

// How many parts encode_count divides a mask of this size into.
int64_t encode_parts(int64_t height, int64_t width);
// Before the size of the result is known: parts (n, encode_parts), lengths (n).
void encode_count(const MaskView& masks, Part* parts, int64_t* lengths, void* stream);
// counts (offsets[n]).
void encode_write(const MaskView& masks, const Part* parts, const int64_t* offsets, int64_t* counts, void* stream);

// What can be read off the runs of each mask.
struct Readings {
  int64_t* error;          // (1), 0 before, or what an earlier call has found
  int64_t* totals;         // (n) pixels
  int64_t* areas;          // (n) set ones
  int64_t* boxes;          // null, or (n, 4) x y width height; zeros where none is set
  const int64_t* heights;  // (n), for the boxes
  int64_t* ends;           // null, or (size) where each run ends in its mask
  int64_t* set_before;     // (size), where `ends` isn't null: set pixels up to there
};
void read_runs(const RunsView& runs, const Readings& readings, void* stream);

// Writes all pixels of masks of 0 and 1, (n, width, height) if column_major, else (n, height, width). read_runs has
// found `ends`, no error, and height * width pixels in each.
void decode(const RunsView& runs, const int64_t* ends, int64_t height, int64_t width, bool column_major, uint8_t* out,
            void* stream);

// Masks as read_runs has found them, without an error.
struct Measured {
  RunsView runs;
  const int64_t *ends, *set_before, *areas;
};
// Intersection over union of all pairs, (dt.n, gt.n). Where iscrowd (gt.n) is set, the union is dt's area.
void iou(const Measured& dt, const Measured& gt, const uint8_t* iscrowd, double* out, void* stream);

}  // namespace fastsam::rle::cuda
