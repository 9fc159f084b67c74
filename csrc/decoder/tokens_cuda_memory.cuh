// The division of scratch memory among the intermediate results of a call.
#pragma once

#include <algorithm>

#include "decoder/tokens_cuda.h"

namespace fastsam::decoder::cuda {

// Number of 16 x 16 blocks per panel of each part of the image.
constexpr int kBlocksOfPanel[kImageParts] = {kHeads, kHeads, 4 * kHeads, kHeads, 6 * kHeads, kHeads};

// The scratch memory of `decode_prompts`. If job.scratch is null, the pointers are mere offsets, and only bytes() is
// used.
struct Memory {
  explicit Memory(const Prompts& job)
      : rows(job.prompts * job.tokens),
        chosen(job.prompts * job.chosen_count),
        panels((job.length + 15) / 16),
        parts(parts_of(panels, kPartPanels)),
        narrow(job.chosen_count <= kTokens / 2),
        base_(reinterpret_cast<uintptr_t>(job.scratch)) {
    constexpr int64_t kElement = 2, kFloat = 4;
    const auto halves = [&](int64_t count) { return take(count * kElement); };
    const auto floats = [&](int64_t count) { return static_cast<float*>(take(count * kFloat)); };
    const void* const of_image[] = {job.first_keys, job.first_values, job.image1, job.values1, job.image2, job.values2};
    for (int i = 0; i < kImageParts; ++i) image[i] = const_cast<void*>(of_image[i]);
    for (int i = 0; i < kImageParts && !job.laid_out; ++i) image[i] = halves(panels * kBlocksOfPanel[i] * 256);
    const int hidden = std::max({kWidth, job.first.mlp1.n, job.second.mlp1.n});
    for (void** of_tokens : {&given, &queries, &placed, &sum, &q, &k, &v}) *of_tokens = halves(rows * kWidth);
    mlp = halves(rows * hidden);
    for (void** of_heads : {&look, &seen_rows, &keys}) *of_heads = halves(rows * kInner);
    iou1 = halves(job.prompts * job.iou1.n), iou2 = halves(job.prompts * job.iou2.n);
    for (void** vectors : {&keys_laid, &own_laid, &cross_laid, &look_laid})
      *vectors = halves(job.prompts * kRows * kDim);
    for (void** matrix : {&keys_mix, &own_gram, &cross_mix, &gram}) *matrix = halves(job.prompts * kRows * kRows);
    look_mix = halves(job.prompts * kRows * 2 * kRows);
    for (float** bias : {&keys_bias, &own_bias, &cross_bias}) *bias = floats(job.prompts * kRows);
    look_rest = floats(job.prompts * kRows * 2);
    const int64_t each = job.prompts * parts, columns = narrow ? kRows / 2 : kRows;
    tops = floats(each * kRows), totals = floats(each * kRows), seen = floats(each * kHeads * kDim * 8);
    mixed = floats(each * std::max<int64_t>(kRows * kRows, (2 * kRows + 2) * columns));
  }

  int64_t bytes() const { return used_; }

  int64_t rows, chosen, panels, parts;
  bool narrow;
  void* image[kImageParts];  // fragments
  // (rows, kWidth) at most. `given`: the input tokens, if the caller passes them in two pieces.
  void *given, *queries, *placed, *sum, *q, *k, *v;
  void *mlp, *look, *seen_rows, *keys;  // mlp: (rows, hidden or kWidth); others: (rows, kInner), in some order
  void *iou1, *iou2;
  void *keys_laid, *own_laid, *cross_laid, *look_laid, *keys_mix, *own_gram, *cross_mix, *gram, *look_mix;
  float *keys_bias, *own_bias, *cross_bias, *look_rest, *tops, *totals, *seen, *mixed;

 private:
  void* take(int64_t bytes) {
    void* const piece = reinterpret_cast<void*>(base_ + static_cast<uintptr_t>(used_));
    used_ += (bytes + 255) / 256 * 256;
    return piece;
  }

  uintptr_t base_;
  int64_t used_ = 0;
};

// The scratch memory of `mask_factors`: the output of each of the three layers for each mask token.
struct MaskMemory {
  explicit MaskMemory(const MaskFactors& job) : masks(job.chosen_count - 1) {
    auto at = reinterpret_cast<uintptr_t>(job.scratch);
    for (int i = 0; i < 3; ++i) {
      each[i] = job.asked_count * job.layers[0][i].n;
      made[i] = reinterpret_cast<void*>(at + static_cast<uintptr_t>(bytes));
      bytes += (masks * each[i] * 2 + 255) / 256 * 256;
    }
  }
  void* of(int layer, int mask) const {
    return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(made[layer]) +
                                   static_cast<uintptr_t>(2 * mask * each[layer]));
  }

  int masks;
  void* made[3];
  int64_t each[3], bytes = 0;
};

}  // namespace fastsam::decoder::cuda
