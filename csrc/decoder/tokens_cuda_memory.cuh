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
        chosen_rows(job.prompts * job.chosen_count),
        panels((job.length + 15) / 16),
        parts(count_parts(panels, kPartPanels)),
        few_queries(job.chosen_count <= kTokens / 2),
        base_(reinterpret_cast<uintptr_t>(job.scratch)) {
    constexpr int64_t kElement = 2, kFloat = 4;
    const auto halves = [&](int64_t count) { return allocate(count * kElement); };
    const auto floats = [&](int64_t count) { return static_cast<float*>(allocate(count * kFloat)); };
    const void* const image_parts[] = {job.first_keys, job.first_values, job.image1,
                                       job.values1,    job.image2,       job.values2};
    for (int i = 0; i < kImageParts; ++i) image[i] = const_cast<void*>(image_parts[i]);
    for (int i = 0; i < kImageParts && !job.packed; ++i) image[i] = halves(panels * kBlocksOfPanel[i] * 256);
    const int hidden = std::max({kWidth, job.first.mlp1.n, job.second.mlp1.n});
    for (void** token_buffer : {&input_tokens, &queries, &queries_with_pe, &sum, &q, &k, &v})
      *token_buffer = halves(rows * kWidth);
    mlp = halves(rows * hidden);
    for (void** head_buffer : {&head_queries, &attended, &keys}) *head_buffer = halves(rows * kInner);
    iou1 = halves(job.prompts * job.iou1.n), iou2 = halves(job.prompts * job.iou2.n);
    for (void** vectors : {&packed_keys, &packed_first_cross, &packed_cross, &packed_queries})
      *vectors = halves(job.prompts * kRows * kDim);
    for (void** matrix : {&keys_mix, &first_gram, &cross_mix, &gram}) *matrix = halves(job.prompts * kRows * kRows);
    queries_mix = halves(job.prompts * kRows * 2 * kRows);
    for (float** bias : {&keys_bias, &first_bias, &cross_bias}) *bias = floats(job.prompts * kRows);
    queries_mix_last = floats(job.prompts * kRows * 2);
    const int64_t part_sums = job.prompts * parts, columns = few_queries ? kRows / 2 : kRows;
    max_scores = floats(part_sums * kRows), weight_sums = floats(part_sums * kRows),
    value_sums = floats(part_sums * kHeads * kDim * 8);
    coefficient_sums = floats(part_sums * std::max<int64_t>(kRows * kRows, (2 * kRows + 2) * columns));
  }

  int64_t bytes() const { return used_; }

  int64_t rows, chosen_rows, panels, parts;
  bool few_queries;
  void* image[kImageParts];  // fragments
  // (rows, kWidth) at most. `input_tokens`: the input tokens, if the caller passes them in two pieces.
  void *input_tokens, *queries, *queries_with_pe, *sum, *q, *k, *v;
  void *mlp, *head_queries, *attended, *keys;  // mlp: (rows, hidden or kWidth); others: (rows, kInner), in some order
  void *iou1, *iou2;
  void *packed_keys, *packed_first_cross, *packed_cross, *packed_queries, *keys_mix, *first_gram, *cross_mix, *gram,
      *queries_mix;
  float *keys_bias, *first_bias, *cross_bias, *queries_mix_last, *max_scores, *weight_sums, *value_sums,
      *coefficient_sums;

 private:
  void* allocate(int64_t bytes) {
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
      layer_elements[i] = job.selected_count * job.layers[0][i].n;
      outputs[i] = reinterpret_cast<void*>(at + static_cast<uintptr_t>(bytes));
      bytes += (masks * layer_elements[i] * 2 + 255) / 256 * 256;
    }
  }
  void* output(int layer, int mask) const {
    return reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(outputs[layer]) +
                                   static_cast<uintptr_t>(2 * mask * layer_elements[layer]));
  }

  int masks;
  void* outputs[3];
  int64_t layer_elements[3], bytes = 0;
};

}  // namespace fastsam::decoder::cuda
