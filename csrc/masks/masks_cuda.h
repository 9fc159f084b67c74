// Runs, boxes and sizes of masks from their low-resolution logits on a GPU: see masks.h for what they are. All pointers
// are the device's, and everything is queued on the stream: nothing here waits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "masks/masks.h"

namespace fastsam::masks::cuda {

// Bits of what `error` says of the axes' values.
enum AxisError : int64_t { kBadRows = 1, kBadRowWeights = 2, kBadColumns = 4, kBadColumnWeights = 8 };

struct Problem {
  const float* logits;  // (n, rows, columns) contiguous
  int64_t n, rows, columns;
  Axis y, x;
  Levels levels;
  Placement place;
};

// Throws std::invalid_argument for sizes that don't fit together, or that are too large for a GPU.
void check(const Problem& problem);

// How much memory `work` takes: what `write` needs to know from `measure`.
size_t work_bytes(const Problem& problem);

// Results are undefined where `error` (1) becomes other than 0. lengths (n): how many counts each mask has; boxes and
// sizes: as in masks.h.
void measure(const Problem& problem, void* work, int64_t* lengths, int64_t* boxes, int64_t* sizes, int64_t* error,
             void* stream);

// Counts of k masks of those that were measured, or of all where `chosen` (k) is null: mask chosen[i]'s from
// counts[offsets[i]] on. The logits and axes are still there. counts are int32 where `narrow`, and then the picture
// has fewer than 2^31 pixels; else int64.
void write(const Problem& problem, const void* work, const int64_t* chosen, int64_t k, const int64_t* offsets,
           void* counts, bool narrow, void* stream);

}  // namespace fastsam::masks::cuda
