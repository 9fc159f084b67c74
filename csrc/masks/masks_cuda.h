// Runs, boxes and sizes of masks from their low-resolution logits on a GPU: see masks.h for what they are. All pointers
// are the device's, and everything is queued on the stream: nothing here waits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "masks/masks.h"

namespace fastsam::masks::cuda {

// Bits of what is wrong with the axes' values.
enum AxisError : int64_t { kBadRows = 1, kBadRowWeights = 2, kBadColumns = 4, kBadColumnWeights = 8 };

// How much memory `prepare` writes.
size_t axes_bytes(int64_t columns, int64_t y_size, int64_t x_size);

// Makes of axes over (rows, columns) cells what problems of masks that are enlarged alike have in common. The first
// int64 of it is AxisError's bits; where it isn't 0 masks are measured as empty ones. Throws std::invalid_argument for
// sizes that are too large for a GPU.
void prepare(const Axis& y, const Axis& x, int64_t rows, int64_t columns, void* axes, void* stream);

struct Problem {
  const float* logits;  // (n, rows, columns) contiguous
  int64_t n, rows, columns;
  const void* axes;  // from `prepare`
  int64_t y_size, x_size;
  Levels levels;
  Placement place;
};

// Throws std::invalid_argument for sizes that don't fit together, or that are too large for a GPU.
void check(const Problem& problem);

// How much memory `work` takes: what `write` needs to know from `measure`.
size_t work_bytes(const Problem& problem);

// lengths (n): how many counts each mask has; boxes and sizes: as in masks.h. These may also lie in the host's memory
// where that is pinned.
void measure(const Problem& problem, void* work, int64_t* lengths, int64_t* boxes, int64_t* sizes, void* stream);

// Counts of k masks of those that were measured, or of all where `chosen` (k) is null: mask chosen[i]'s from
// counts[offsets[i]] on. The logits and the axes' memory are still there. counts are int32 where `narrow`, and then the
// picture has fewer than 2^31 pixels; else int64.
void write(const Problem& problem, const void* work, const int64_t* chosen, int64_t k, const int64_t* offsets,
           void* counts, bool narrow, void* stream);

}  // namespace fastsam::masks::cuda
