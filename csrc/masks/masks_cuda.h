// Runs, boxes and sizes of masks from their low-resolution logits, on the GPU; masks.h defines them. Pointers are
// device pointers. Calls queue their work on the stream and return before it is done. A mask takes three steps:
// `prepare` the axes, `measure`, and, once the caller knows the number of runs, `write`.
#pragma once

#include <cstddef>
#include <cstdint>

#include "masks/masks.h"

namespace fastsam::masks::cuda {

// Bits that tell which values of the axes are invalid.
enum AxisError : int64_t { kBadRows = 1, kBadRowWeights = 2, kBadColumns = 4, kBadColumnWeights = 8 };

// Bytes of the memory that `prepare` writes.
size_t axes_bytes(int64_t columns, int64_t y_size, int64_t x_size);

// Checks two axes over (rows, columns) cells and stores them in `axes`, axes_bytes() bytes. All problems whose masks
// are enlarged alike can share the result. Its first int64 holds bits of AxisError; if it isn't 0, masks are measured
// as empty. Throws std::invalid_argument for sizes that are too large for a GPU.
void prepare(const Axis& y, const Axis& x, int64_t rows, int64_t columns, void* axes, void* stream);

struct Problem {
  const float* logits;  // (n, rows, columns) contiguous
  int64_t n, rows, columns;
  const void* axes;  // from `prepare`
  int64_t y_size, x_size;
  Levels levels;
  Placement placement;
};

// Throws std::invalid_argument for sizes that are too large for a GPU, or levels that are out of order. Doesn't check
// the placement.
void check(const Problem& problem);

// Bytes of `workspace`, in which `measure` leaves what `write` needs.
size_t workspace_bytes(const Problem& problem);

// Measures all masks. lengths (n): number of counts of each mask; boxes (n, 4) and sizes (n, 3): as in masks.h. These
// three may also be in pinned host memory.
void measure(const Problem& problem, void* workspace, int64_t* lengths, int64_t* boxes, int64_t* sizes, void* stream);

// Writes the counts of k of the measured masks: those of mask selected[i], or of mask i if `selected` (k) is null, from
// counts[offsets[i]] on. The logits and the axes must still be unchanged. counts is int32 if `use_int32`, which
// requires an image of fewer than 2^31 pixels; else int64.
void write(const Problem& problem, const void* workspace, const int64_t* selected, int64_t k, const int64_t* offsets,
           void* counts, bool use_int32, void* stream);

}  // namespace fastsam::masks::cuda
